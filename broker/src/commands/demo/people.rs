//! Who calls the broker in the demo: an operator, an enrolling page, a login server. Each is a client of the public
//! interface, as anybody's would be.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use countersign::config::Config;
use countersign_proto::v1::{
    self, administration_client::AdministrationClient, approval_update::Update,
    approvals_client::ApprovalsClient, enrolments_client::EnrolmentsClient,
};
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::commands::{
    admin::write_private,
    admin_client::{self, said},
};

pub(super) struct Operator(AdministrationClient<Channel>);

/// A login server's keys, and where a person finds them.
pub(super) struct Keys {
    pub(super) sign_in: String,
    pub(super) sign_in_file: PathBuf,
    pub(super) enrolment: String,
    pub(super) enrolment_file: PathBuf,
}

impl Operator {
    pub(super) async fn connect(config: &Config) -> anyhow::Result<Self> {
        Ok(Self(admin_client::connect(config).await?))
    }

    pub(super) async fn register(
        mut self,
        dir: &Path,
        realm: &str,
        application: &str,
    ) -> anyhow::Result<Keys> {
        let request = v1::RegisterRelyingPartyRequest {
            name: "Example College".to_owned(),
            applications: vec![application.to_owned()],
            realm: realm.to_owned(),
        };
        let registered =
            self.0.register_relying_party(request).await.map_err(|status| said(&status))?.into_inner();
        let id = registered.relying_party_id;
        let (sign_in_file, enrolment_file) = (dir.join("sign-in.key"), dir.join("enrolment.key"));
        let sign_in = self.issue(&id, v1::CredentialScope::SignIn, &sign_in_file).await?;
        let enrolment = self.issue(&id, v1::CredentialScope::Enrolment, &enrolment_file).await?;
        Ok(Keys { sign_in, sign_in_file, enrolment, enrolment_file })
    }

    async fn issue(&mut self, id: &str, scope: v1::CredentialScope, file: &Path) -> anyhow::Result<String> {
        let request = v1::IssueCredentialRequest {
            relying_party_id: id.to_owned(),
            scope: scope.into(),
            client_certificate: bytes::Bytes::new(),
        };
        let issued = self.0.issue_credential(request).await.map_err(|status| said(&status))?.into_inner();
        write_private(file, &issued.api_key)?;
        Ok(issued.api_key)
    }
}

/// The page that enrols phones.
pub(super) struct EnrollingPage {
    client: EnrolmentsClient<Channel>,
    authorization: MetadataValue<Ascii>,
}

impl EnrollingPage {
    pub(super) async fn connect(address: &str, api_key: &str) -> anyhow::Result<Self> {
        let client = EnrolmentsClient::new(channel(address).await?);
        Ok(Self { client, authorization: bearer(api_key)? })
    }

    pub(super) async fn begin(&mut self, account: &str) -> anyhow::Result<v1::BeginEnrolmentReply> {
        let request = v1::BeginEnrolmentRequest { account: Some(named(account)) };
        let request = with(request, &self.authorization);
        Ok(self.client.begin_enrolment(request).await.map_err(|status| said(&status))?.into_inner())
    }

    /// The trial, once a phone has claimed the code.
    pub(super) async fn trial(&mut self, enrolment: &str) -> anyhow::Result<v1::enrolment_update::Trial> {
        use v1::enrolment_update::Update;
        self.wait_for(enrolment, |update| match update {
            Update::Trial(trial) => Some(trial),
            _ => None,
        })
        .await
    }

    pub(super) async fn active(&mut self, enrolment: &str) -> anyhow::Result<()> {
        use v1::enrolment_update::Update;
        self.wait_for(enrolment, |update| matches!(update, Update::Active(_)).then_some(())).await
    }

    async fn wait_for<T>(
        &mut self,
        enrolment: &str,
        wanted: impl Fn(v1::enrolment_update::Update) -> Option<T>,
    ) -> anyhow::Result<T> {
        let request = v1::WatchEnrolmentRequest { enrolment_id: enrolment.to_owned(), after_sequence: 0 };
        let request = with(request, &self.authorization);
        let mut updates =
            self.client.watch_enrolment(request).await.map_err(|status| said(&status))?.into_inner();
        while let Some(update) = updates.message().await? {
            if let Some(found) = update.update.and_then(&wanted) {
                return Ok(found);
            }
        }
        anyhow::bail!("the enrolment ended before its time")
    }
}

/// The login server.
pub(super) struct LoginServer {
    client: ApprovalsClient<Channel>,
    authorization: MetadataValue<Ascii>,
}

impl LoginServer {
    pub(super) async fn connect(address: &str, api_key: &str) -> anyhow::Result<Self> {
        let client = ApprovalsClient::new(channel(address).await?);
        Ok(Self { client, authorization: bearer(api_key)? })
    }

    pub(super) async fn request(&mut self, account: &str, application: &str) -> anyhow::Result<Attempt> {
        let request = v1::RequestApprovalRequest {
            account: Some(named(account)),
            application: application.to_owned(),
            context: Some(v1::Context {
                source_ip: "192.0.2.7".to_owned(),
                place: "Gothenburg, Sweden".to_owned(),
                browser: "Firefox on Linux".to_owned(),
            }),
            session_binding: bytes::Bytes::from_static(b"the browser's session, hashed"),
            ..Default::default()
        };
        let request = with(request, &self.authorization);
        let updates =
            self.client.request_approval(request).await.map_err(|status| said(&status))?.into_inner();
        Ok(Attempt { updates, progress: Vec::new() })
    }
}

/// A sign-in attempt, as the login server follows it.
pub(super) struct Attempt {
    updates: Streaming<v1::ApprovalUpdate>,
    /// What came of the pushes so far.
    progress: Vec<v1::Progress>,
}

impl Attempt {
    async fn next(&mut self) -> anyhow::Result<Update> {
        loop {
            let next = self.updates.message().await.map_err(|status| said(&status))?;
            let next = next.context("the stream ended without an outcome")?;
            if let Some(update) = next.update {
                return Ok(update);
            }
        }
    }

    /// The number, which comes first.
    pub(super) async fn issued(&mut self) -> anyhow::Result<v1::Issued> {
        match self.next().await? {
            Update::Issued(issued) => Ok(issued),
            Update::Outcome(ended) => anyhow::bail!("not asked: {}", outcome(&ended)),
            Update::Progress(_) => anyhow::bail!("a push went out before there was a number"),
        }
    }

    /// Follows what comes of the pushes until it is enough.
    pub(super) async fn until(&mut self, enough: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        while !enough(self) {
            match self.next().await? {
                Update::Progress(progress) => self.progress.push(progress),
                Update::Outcome(ended) => anyhow::bail!("ended before anybody answered: {}", outcome(&ended)),
                Update::Issued(_) => {}
            }
        }
        Ok(())
    }

    pub(super) async fn outcome(&mut self) -> anyhow::Result<v1::Outcome> {
        loop {
            if let Update::Outcome(outcome) = self.next().await? {
                return Ok(outcome);
            }
        }
    }

    fn of<'a>(&'a self, authenticator_id: &'a str) -> impl Iterator<Item = &'a v1::Progress> {
        self.progress.iter().filter(move |progress| progress.authenticator_id == authenticator_id)
    }

    /// Accepted, delivered and shown, in whatever order that is heard of.
    pub(super) fn is_through_to(&self, authenticator_id: &str) -> bool {
        use v1::progress::Kind;
        [Kind::AcceptedByPushService, Kind::Delivered, Kind::Opened]
            .iter()
            .all(|kind| self.of(authenticator_id).any(|progress| progress.kind() == *kind))
    }

    /// How far the push to one phone has come, in a few words.
    pub(super) fn progress(&self, authenticator_id: &str, service: &str) -> String {
        use v1::progress::Kind;
        // Each is told as it is heard of, by ways of its own: the phone may be faster than the push service's word.
        let mut heard: Vec<_> = self.of(authenticator_id).collect();
        heard.sort_by_key(|progress| progress.kind);
        let words = heard.into_iter().map(|progress| match progress.kind() {
            Kind::AcceptedByPushService => format!("accepted by {service}"),
            Kind::Delivered => "delivered".to_owned(),
            Kind::Opened => "shown".to_owned(),
            Kind::PushFailed => {
                format!("no push ({}); it lists what waits when it is opened", progress.reason)
            }
            Kind::PushDelayed => format!("{service} is out of reach ({}); tried again", progress.reason),
            Kind::Unspecified => "something that this release does not know".to_owned(),
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn outcome(outcome: &v1::Outcome) -> String {
    let name =
        outcome.kind().as_str_name().trim_start_matches("OUTCOME_KIND_").to_lowercase().replace('_', " ");
    if outcome.amr.is_empty() {
        name
    } else {
        format!("{name}, by a second factor (amr: {})", outcome.amr.join(", "))
    }
}

fn named(account: &str) -> v1::AccountName {
    v1::AccountName { realm: String::new(), name: account.to_owned() }
}

async fn channel(address: &str) -> anyhow::Result<Channel> {
    Endpoint::from_shared(address.to_owned())?.connect().await.context("the broker does not answer")
}

fn bearer(api_key: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    let mut value = MetadataValue::try_from(format!("Bearer {api_key}"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn with<T>(message: T, authorization: &MetadataValue<Ascii>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.clone());
    request
}
