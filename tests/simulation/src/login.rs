//! A login server and its pages: each sign-in is asked for and followed to its outcome, through lost connections and
//! restarts; some are withdrawn, some left alone, some asked for again in the same session.

use std::{sync::Arc, time::Duration};

use countersign_proto::v1::{
    self, approval_update::Update, approvals_client::ApprovalsClient, open_approval_reply::Result as Opened,
};
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};

use crate::{
    calls::{helps_to_retry, said, with_key},
    chance::Chance,
    stage::{APPLICATION, REALM, Stage, pause},
};

/// Refused so often, a page gives up.
const REFUSED_MAX: u32 = 3;

/// One page of a login server.
struct Page {
    name: String,
    stage: Arc<Stage>,
    channel: Channel,
    key: String,
    chance: Chance,
    request: v1::RequestApprovalRequest,
    refused: u32,
}

/// So many sign-ins, until each is over.
pub(crate) async fn run(
    stage: Arc<Stage>,
    name: String,
    accounts: Vec<String>,
    attempts: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    while !stage.has_begun() {
        pause(Duration::from_millis(100)).await;
    }
    let credentials = stage.credentials().await;
    let channel = crate::net::to_broker();
    let mut chance = Chance::of(&name, stage.seed);
    let mut pages = JoinSet::new();
    let mut session: [u8; 16] = chance.bytes();
    let mut account = accounts[0].clone();
    for attempt in 0..attempts {
        // The same person tries again, or another comes.
        if attempt > 0 && !chance.happens(35) {
            session = chance.bytes();
            account = chance.one_of(&accounts.iter().map(|one| (1, one)).collect::<Vec<_>>()).clone();
        }
        let key: [u8; 8] = chance.bytes();
        let keyed = chance.happens(80);
        let name = format!("{name} page {attempt}");
        let lifetime = prost_types::Duration { seconds: chance.number(15..=25).cast_signed(), nanos: 0 };
        let page = Page {
            chance: Chance::of(&name, stage.seed),
            name,
            stage: Arc::clone(&stage),
            channel: channel.clone(),
            key: credentials.sign_in.clone(),
            request: v1::RequestApprovalRequest {
                account: Some(v1::AccountName { realm: REALM.to_owned(), name: account.clone() }),
                application: APPLICATION.to_owned(),
                context: None,
                session_binding: session.to_vec().into(),
                idempotency_key: if keyed { data_encoding::HEXLOWER.encode(&key) } else { String::new() },
                lifetime: Some(lifetime),
            },
            refused: 0,
        };
        pages.spawn(page.sign_in());
        let gap = chance.millis(0..=6_000);
        pause(gap).await;
    }
    while let Some(done) = pages.join_next().await {
        done?;
    }
    Ok(())
}

impl Page {
    async fn sign_in(mut self) {
        self.stage.witness.note(format!("{} asks", self.name));
        if self.chance.happens(70) {
            self.follow().await;
        } else {
            self.poll().await;
        }
    }

    /// By streams, taken up again where they broke.
    async fn follow(&mut self) {
        let mut known: Option<String> = None;
        let mut after = 0;
        loop {
            let keyed = !self.request.idempotency_key.is_empty();
            let opened = match &known {
                Some(id) if !keyed || self.chance.happens(70) => self.watch(id, after).await,
                _ => {
                    after = 0;
                    let request = with_key(self.request.clone(), &self.key);
                    self.broker().request_approval(request).await.map(tonic::Response::into_inner)
                }
            };
            let broken = match opened {
                Ok(mut updates) => loop {
                    match updates.message().await {
                        Ok(Some(update)) => {
                            if self.takes_in(&update, &mut known, after) {
                                return;
                            }
                            after = update.sequence;
                            if self.chance.happens(4) {
                                // The person closes the page.
                                return self.leaves();
                            }
                        }
                        Ok(None) => {
                            return self.wrong("a stream ended without an outcome");
                        }
                        Err(status) => break status,
                    }
                },
                Err(status) => status,
            };
            if self.gives_up(&broken) {
                return;
            }
            let between = self.chance.millis(100..=1_200);
            pause(between).await;
        }
    }

    /// True when that was the last.
    fn takes_in(&mut self, update: &v1::ApprovalUpdate, known: &mut Option<String>, after: u32) -> bool {
        if update.sequence != after + 1 {
            self.wrong(&format!("step {} came after step {after}", update.sequence));
        }
        match &update.update {
            Some(Update::Issued(issued)) => {
                self.shows(issued);
                match known.replace(issued.approval_id.clone()) {
                    None => self.maybe_cancels(&issued.approval_id),
                    Some(before) if before != issued.approval_id => {
                        self.wrong(&format!("the same request is another approval than {before}"));
                    }
                    Some(_) => {}
                }
            }
            Some(Update::Outcome(outcome)) => {
                self.is_over(outcome);
                *known = Some(outcome.approval_id.clone());
            }
            Some(Update::Progress(_)) | None => {}
        }
        if let Some(id) = known {
            self.stage.witness.update(id, update);
        }
        matches!(update.update, Some(Update::Outcome(_)))
    }

    /// By calls that answer.
    async fn poll(&mut self) {
        let id = loop {
            let request = with_key(self.request.clone(), &self.key);
            match self.broker().open_approval(request).await.map(|reply| reply.into_inner().result) {
                Ok(Some(Opened::Issued(issued))) => {
                    self.shows(&issued);
                    self.maybe_cancels(&issued.approval_id);
                    break issued.approval_id;
                }
                Ok(Some(Opened::Outcome(outcome))) => {
                    return self.is_over(&outcome);
                }
                Ok(None) => return self.wrong("neither issued nor over"),
                Err(status) if self.gives_up(&status) => return,
                Err(_) => {}
            }
            let between = self.chance.millis(100..=1_200);
            pause(between).await;
        };
        loop {
            let max_wait = Some(prost_types::Duration { seconds: 2, nanos: 0 });
            let wait = v1::WaitApprovalRequest { approval_id: id.clone(), max_wait };
            match self.broker().wait_approval(with_key(wait, &self.key)).await {
                Ok(approval) => {
                    let approval = approval.into_inner();
                    for update in &approval.updates {
                        self.stage.witness.update(&id, update);
                    }
                    if let Some(outcome) = approval.outcome {
                        return self.is_over(&outcome);
                    }
                }
                Err(status) if self.gives_up(&status) => return,
                Err(_) => {
                    let between = self.chance.millis(100..=1_200);
                    pause(between).await;
                }
            }
        }
    }

    fn shows(&self, issued: &v1::Issued) {
        self.stage.show(&issued.approval_id, &issued.match_number);
        self.stage.witness.issued(issued);
    }

    /// Its session is this page's: else it is about another browser.
    fn is_over(&self, outcome: &v1::Outcome) {
        if outcome.session_binding != self.request.session_binding {
            self.wrong("was told the outcome of another session");
        }
        self.stage.witness.outcome(&self.name, outcome);
    }

    /// Some people think better of it: often at the very moment at which others answer.
    fn maybe_cancels(&mut self, id: &str) {
        if !self.chance.happens(20) {
            return;
        }
        let after =
            if self.chance.happens(60) { Duration::from_secs(3) } else { self.chance.millis(0..=10_000) };
        let (stage, key, name) = (Arc::clone(&self.stage), self.key.clone(), format!("{} cancel", self.name));
        let (mut broker, id) = (self.broker(), id.to_owned());
        tokio::spawn(async move {
            pause(after).await;
            stage.witness.note(format!("{name}s {id}"));
            let request = with_key(v1::CancelApprovalRequest { approval_id: id }, &key);
            match broker.cancel_approval(request).await {
                Ok(outcome) => stage.witness.outcome(&name, &outcome.into_inner()),
                Err(status) if helps_to_retry(&status) => {}
                Err(status) => stage.witness.wrong(format!("{name}: {}", said(&status))),
            }
        });
    }

    async fn watch(
        &self,
        id: &str,
        after_sequence: u32,
    ) -> Result<tonic::Streaming<v1::ApprovalUpdate>, Status> {
        let watch = v1::WatchApprovalRequest { approval_id: id.to_owned(), after_sequence };
        Ok(self.broker().watch_approval(with_key(watch, &self.key)).await?.into_inner())
    }

    fn broker(&self) -> ApprovalsClient<Channel> {
        ApprovalsClient::new(self.channel.clone())
    }

    /// Whether there is no use in asking again.
    fn gives_up(&mut self, status: &Status) -> bool {
        self.stage.witness.note(format!("{} hears {}", self.name, said(status)));
        self.stage.witness.text("an error for a page", said(status));
        if !helps_to_retry(status) {
            self.wrong(&said(status));
            return true;
        }
        self.refused += u32::from(status.code() == Code::ResourceExhausted);
        self.refused > REFUSED_MAX
    }

    fn leaves(&self) {
        self.stage.witness.note(format!("{} is closed", self.name));
    }

    fn wrong(&self, what: &str) {
        self.stage.witness.wrong(format!("{}: {what}", self.name));
    }
}
