//! `countersign.v1.Administration`, for operators, on its own listener.

use std::sync::Arc;

use countersign_domain::{
    CredentialId, RelyingParty, RelyingPartyId,
    challenge::timestamp,
    limits,
    relying_party::{Command, Credential, CredentialSecret, Refusal, Scope},
    text::Realm,
};
use countersign_envelope::sha256;
use countersign_proto::v1::{self, administration_server};
use futures::{StreamExt, future};
use tonic::{Request, Response, Status};

use super::{Administration, Updates, fields::Fields, messages, status};
use crate::{
    api::auth::{api_key::ApiKey, scope_name},
    decider::{self, Decided},
    live::Reloaded,
    log::{ArchiveReport, ArchiveStep, ArchivedSegment, Corruption, Entry, EntryStream, Position, StreamId},
};

/// A client certificate is a few kilobytes at most.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

#[tonic::async_trait]
impl administration_server::Administration for Administration {
    type ReadLogStream = Updates<v1::LogEntry>;
    type ArchiveLogStream = Updates<v1::ArchiveLogUpdate>;

    async fn register_relying_party(
        &self,
        request: Request<v1::RegisterRelyingPartyRequest>,
    ) -> Result<Response<v1::RelyingParty>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let name = fields.display("name", &request.name, limits::DISPLAY_NAME_CHARACTERS_MAX);
        let realm = fields.take("realm", Realm::parse(&request.realm));
        let allowed = limits::APPLICATIONS;
        let problem = format!("must name {} to {} applications", allowed.start(), allowed.end());
        fields
            .take("applications", allowed.contains(&request.applications.len()).then_some(()).ok_or(problem));
        let applications = request.applications.iter().enumerate().map(|(at, name)| {
            fields.display(&format!("applications[{at}]"), name, limits::DISPLAY_NAME_CHARACTERS_MAX)
        });
        // Each is looked at before any is missed, so that one answer names all that are wrong.
        let applications: Vec<_> = applications.collect();
        let applications: Option<Vec<_>> = applications.into_iter().collect();
        let made = (|| Some((name?, applications?, realm?)))();
        let (name, applications, realm) = fields.done(made)?;
        let id = RelyingPartyId::from_bytes(self.entropy.bytes());
        let decided = self.decide(id, Command::Register { id, name, applications, realm }).await?;
        tracing::info!(relying_party = %id, "registered");
        relying_party(&decided.state).map(Response::new)
    }

    async fn list_relying_parties(
        &self,
        _: Request<v1::ListRelyingPartiesRequest>,
    ) -> Result<Response<v1::ListRelyingPartiesReply>, Status> {
        let mut relying_parties = Vec::new();
        for id in self.index.relying_parties() {
            let state = self.relying_parties.load(id).await.map_err(|error| status::of_log(&error))?;
            relying_parties.push(relying_party(&state)?);
        }
        Ok(Response::new(v1::ListRelyingPartiesReply { relying_parties }))
    }

    async fn issue_credential(
        &self,
        request: Request<v1::IssueCredentialRequest>,
    ) -> Result<Response<v1::IssueCredentialReply>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let owner: Option<RelyingPartyId> = fields.parse("relying_party_id", &request.relying_party_id);
        let scope = fields.take(
            "scope",
            match request.scope() {
                v1::CredentialScope::SignIn => Ok(Scope::SignIn),
                v1::CredentialScope::Enrolment => Ok(Scope::Enrolment),
                v1::CredentialScope::Unspecified => {
                    Err("must be CREDENTIAL_SCOPE_SIGN_IN or CREDENTIAL_SCOPE_ENROLMENT")
                }
            },
        );
        let certificate = &request.client_certificate;
        let problem = format!("must have at most {CERTIFICATE_BYTES_MAX} bytes of DER");
        // DER of a certificate begins with a SEQUENCE.
        let der =
            certificate.is_empty() || certificate.len() <= CERTIFICATE_BYTES_MAX && certificate[0] == 0x30;
        fields.take("client_certificate", der.then_some(()).ok_or(problem));
        let made = (|| Some((owner?, scope?)))();
        let (owner, scope) = fields.done(made)?;
        let id = CredentialId::new(owner, self.entropy.bytes());
        let _one_at_a_time = self.issuing.lock().await;
        let (secret, api_key) = if certificate.is_empty() {
            let key = ApiKey::new(id, self.entropy.bytes());
            (CredentialSecret::ApiKey(key.secret_hash()), key.expose().to_string())
        } else {
            let hash = sha256(certificate);
            if self.index.credential(&hash).is_some() {
                return Err(status::certificate_in_use());
            }
            (CredentialSecret::ClientCertificate(hash), String::new())
        };
        self.decide(owner, Command::IssueCredential { id, scope, secret }).await?;
        tracing::info!(credential = %id, scope = scope_name(scope), "issued");
        Ok(Response::new(v1::IssueCredentialReply { credential_id: id.to_string(), api_key }))
    }

    async fn revoke_credential(
        &self,
        request: Request<v1::RevokeCredentialRequest>,
    ) -> Result<Response<v1::RevokeCredentialReply>, Status> {
        let mut fields = Fields::default();
        let id: Option<CredentialId> = fields.parse("credential_id", &request.into_inner().credential_id);
        let id = fields.done(id)?;
        self.decide(id.relying_party(), Command::RevokeCredential(id)).await?;
        tracing::info!(credential = %id, "revoked");
        Ok(Response::new(v1::RevokeCredentialReply {}))
    }

    async fn read_log(
        &self,
        request: Request<v1::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let stream: Option<Option<StreamId>> = match request.stream.as_str() {
            "" => Some(None),
            text => fields.parse("stream", text).map(Some),
        };
        let stream = fields.done(stream)?;
        let from = match (request.last, self.log.head()) {
            (0, _) => Position::new(request.from).unwrap_or(Position::FIRST),
            (last, Some(head)) => {
                Position::new(head.number().saturating_sub(last - 1)).unwrap_or(Position::FIRST)
            }
            (_, None) => Position::FIRST,
        };
        let entries: EntryStream =
            if request.follow { self.log.follow(from) } else { self.log.read_all(from) };
        let wanted = entries.filter(move |entry| {
            future::ready(
                entry.as_ref().map_or(true, |entry| stream.is_none_or(|stream| entry.stream == stream)),
            )
        });
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            usize::try_from(request.limit).unwrap_or(usize::MAX)
        };
        let messages = wanted
            .take(limit)
            .map(|entry| entry.map(|entry| log_entry(&entry)).map_err(|error| status::of_log(&error.into())))
            .take_until(self.stopping.clone().cancelled_owned());
        Ok(Response::new(Box::pin(messages)))
    }

    async fn reload(&self, _: Request<v1::ReloadRequest>) -> Result<Response<v1::ReloadReply>, Status> {
        let sections = self.live.reload().await.into_iter().map(reloaded).collect();
        Ok(Response::new(v1::ReloadReply { sections }))
    }

    async fn archive_log(
        &self,
        _: Request<v1::ArchiveLogRequest>,
    ) -> Result<Response<Self::ArchiveLogStream>, Status> {
        let before_ms = self.clock.now().minus(self.retention).as_millis();
        let updates = self
            .log
            .archive(before_ms)
            .map(|step| step.map(archive_update).map_err(|error| status::of_log(&error.into())))
            .take_until(self.stopping.clone().cancelled_owned());
        Ok(Response::new(Box::pin(updates)))
    }
}

fn archive_update(step: ArchiveStep) -> v1::ArchiveLogUpdate {
    use v1::archive_log_update::{Progress, Update};
    let update = match step {
        ArchiveStep::Progress { done_bytes, total_bytes } => {
            Update::Progress(Progress { done_bytes, total_bytes })
        }
        ArchiveStep::Done(report) => Update::Report(archive_report(&report)),
    };
    v1::ArchiveLogUpdate { update: Some(update) }
}

/// What archiving has done, as operators are told it.
pub fn archive_report(report: &ArchiveReport) -> v1::archive_log_update::Report {
    use v1::archive_log_update::{Damaged, Positions, Report, Segment};
    let segment = |one: &ArchivedSegment| Segment {
        file: one.file.display().to_string(),
        first: one.first.number(),
        last: one.last.number(),
        bytes_before: one.bytes_before,
        bytes_after: one.bytes_after,
    };
    let damaged = |one: &Corruption| Damaged {
        file: one.file.display().to_string(),
        offset: one.offset,
        position: one.position.number(),
        problem: one.to_string(),
    };
    let left = report.left_store;
    Report {
        folder: report.folder.display().to_string(),
        archived: report.archived.iter().map(segment).collect(),
        waiting: report.waiting,
        left_store: left.map(|(first, last)| Positions { first: first.number(), last: last.number() }),
        journal_bytes_before: report.journal_bytes_before,
        journal_bytes_after: report.journal_bytes_after,
        store_bytes_before: report.store_bytes_before,
        store_bytes_after: report.store_bytes_after,
        damaged: report.damaged.iter().map(damaged).collect(),
    }
}

impl Administration {
    async fn decide(&self, id: RelyingPartyId, command: Command) -> Result<Decided<RelyingParty>, Status> {
        enum Error {
            Refused(Refusal),
            Log(decider::Error),
        }
        impl From<Refusal> for Error {
            fn from(refusal: Refusal) -> Self {
                Self::Refused(refusal)
            }
        }
        impl From<decider::Error> for Error {
            fn from(error: decider::Error) -> Self {
                Self::Log(error)
            }
        }
        let decided = self.relying_parties.decide(id, |_, _| Ok::<_, Error>(command.clone())).await;
        let decided = decided.map_err(|error| match error {
            Error::Refused(refusal) => status::of_relying_party(&refusal),
            Error::Log(error) => status::of_log(&error),
        })?;
        // Whoever is told of it finds it: in the list, or by its certificate.
        self.index.knows(decided.position).await;
        Ok(decided)
    }
}

fn relying_party(state: &Arc<RelyingParty>) -> Result<v1::RelyingParty, Status> {
    let registration = state.registration().ok_or_else(|| status::of_relying_party(&Refusal::Unknown))?;
    Ok(v1::RelyingParty {
        relying_party_id: registration.id.to_string(),
        name: registration.name.to_string(),
        applications: registration.applications.iter().map(ToString::to_string).collect(),
        realm: registration.realm.to_string(),
        credentials: state.credentials().iter().map(credential).collect(),
        registered_at: Some(timestamp(registration.registered_at)),
    })
}

fn credential(credential: &Credential) -> v1::Credential {
    use v1::credential::Kind;
    v1::Credential {
        credential_id: credential.id.to_string(),
        scope: match credential.scope {
            Scope::SignIn => v1::CredentialScope::SignIn,
            Scope::Enrolment => v1::CredentialScope::Enrolment,
        }
        .into(),
        kind: match credential.secret {
            CredentialSecret::ApiKey(_) => Kind::ApiKey,
            CredentialSecret::ClientCertificate(_) => Kind::ClientCertificate,
        }
        .into(),
        issued_at: Some(timestamp(credential.issued_at)),
        revoked_at: credential.revoked_at.map(timestamp),
    }
}

fn reloaded((section, reloaded): (&'static str, Reloaded)) -> v1::reload_reply::Section {
    use v1::reload_reply::Result;
    let (result, problem) = match reloaded {
        Reloaded::Unchanged => (Result::Unchanged, String::new()),
        Reloaded::Changed => (Result::Changed, String::new()),
        Reloaded::Kept { problem } => (Result::Kept, problem),
    };
    v1::reload_reply::Section { section: section.to_owned(), result: result.into(), problem }
}

fn log_entry(entry: &Entry) -> v1::LogEntry {
    v1::LogEntry {
        position: entry.position.number(),
        stream: entry.stream.to_string(),
        recorded_at: Some(messages::millis(entry.recorded_at_ms)),
        previous: entry.previous.map_or(0, Position::number),
        events: entry
            .events
            .iter()
            .map(|event| v1::log_entry::Event {
                kind: event.kind,
                version: event.version,
                may_ignore: event.may_ignore,
                body: event.body.clone(),
                sealed: event.sealed.clone(),
            })
            .collect(),
    }
}
