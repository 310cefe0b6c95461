//! Logins and phones that go on through kills and power cuts, as real ones do: what was not answered is tried again,
//! and every login gets its outcome in the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use countersign_proto::v1::OutcomeKind;
use countersign_tests::world::APPLICATION;
use device_sim::{
    clock::Clock,
    login::{EnrollingPage, LoginServer, Opened, SignIn, Step},
    phone::{self, Asked, Decision, Error, Number, Phone, PushTarget},
    wire::{Refusal, Transport},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{Ledger, Stage};

/// So many logins wait at a time.
const LOGINS: usize = 24;
/// How long a phone has.
const LIFETIME: Duration = Duration::from_secs(60);
/// Between two tries of somebody whose broker is away.
const RETRY: Duration = Duration::from_millis(50);
/// A login that has no outcome so long after the load was told to end will never have one.
const LAST_OUTCOME_MAX: Duration = Duration::from_secs(120);

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    workers: JoinSet<()>,
    stop: Arc<AtomicBool>,
    outcomes: Arc<AtomicUsize>,
}

/// One who signs in again and again, and now and then begins an account.
pub(crate) struct Worker {
    pub(crate) login: LoginServer,
    pub(crate) page: EnrollingPage,
    phones: Vec<(String, Arc<Phone>)>,
    pub(crate) targets: Vec<PushTarget>,
    pub(crate) newcomers: Arc<AtomicUsize>,
    pub(crate) broker: Arc<phone::Broker>,
    pub(crate) transport: Transport,
    pub(crate) clock: Clock,
    pub(crate) ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    outcomes: Arc<AtomicUsize>,
}

/// What somebody does about a sign-in that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Approve,
    Deny,
    Report,
    WrongNumber,
    /// The login server withdraws it.
    Cancel,
    /// The browser asks once more, and that one is approved.
    Supersede,
}

/// What comes in turn; nothing stands for an account that begins. Wrong numbers are typed by those: three of one account
/// would pause it.
const DEEDS: [Option<Deed>; 8] = [
    Some(Deed::Approve),
    Some(Deed::Deny),
    Some(Deed::Supersede),
    Some(Deed::Approve),
    None,
    Some(Deed::Cancel),
    Some(Deed::Report),
    Some(Deed::Approve),
];

impl Load {
    /// Begins.
    pub fn start(stage: &Stage, ledger: &Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for number in 0..LOGINS {
            let worker = Worker {
                login: stage.world.login.clone(),
                page: stage.world.page.clone(),
                phones: stage.phones.clone(),
                targets: stage.targets.clone(),
                newcomers: Arc::clone(&stage.newcomers),
                broker: Arc::clone(stage.phones[0].1.broker()),
                transport: stage.world.transport.clone(),
                clock: stage.world.clock.clone(),
                ledger: Arc::clone(ledger),
                stop: Arc::clone(&stop),
                outcomes: Arc::clone(&outcomes),
            };
            workers.spawn(worker.run(number));
        }
        Self { workers, stop, outcomes }
    }

    /// Begins no more sign-ins, and waits until every login has its outcome; how many there were.
    pub async fn finish(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::SeqCst);
        let all = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_OUTCOME_MAX, all).await.is_err() {
            bail!("a login waits for ever");
        }
        Ok(self.outcomes.load(Ordering::SeqCst))
    }
}

impl Worker {
    async fn run(self, number: usize) {
        let mut turn = number;
        while !self.stop.load(Ordering::SeqCst) {
            let (account, phone) = &self.phones[turn % self.phones.len()];
            match DEEDS[turn % DEEDS.len()] {
                Some(deed) => self.sign_in(account, phone, deed).await,
                None => self.newcomer().await,
            }
            turn += LOGINS + 1;
        }
    }

    /// One sign-in to its outcome, however often the broker goes away meanwhile.
    pub(crate) async fn sign_in(&self, account: &str, phone: &Arc<Phone>, deed: Deed) {
        let sign_in = SignIn::new(account, APPLICATION).lasting(LIFETIME);
        let (issued, to_answer) = mpsc::unbounded_channel();
        let person = Person {
            login: self.login.clone(),
            newer: SignIn::new(account, APPLICATION)
                .in_session(sign_in.session_binding.clone())
                .lasting(LIFETIME),
            phone: Arc::clone(phone),
            transport: self.transport.clone(),
            clock: self.clock.clone(),
            ledger: Arc::clone(&self.ledger),
            deed,
        };
        let person = tokio::spawn(person.act(to_answer));
        let mut approval = None;
        let followed = self.login.until_outcome(&sign_in, &self.clock, |update| match &update.step {
            Step::Issued(shown) => {
                approval = Some(shown.approval_id.clone());
                self.ledger.issued(&shown.approval_id);
                let _ = issued.send((shown.approval_id.clone(), shown.number.clone()));
            }
            Step::Outcome(outcome) => self.ledger.ended(outcome.approval_id(), outcome.kind(), "the login"),
            _ => {}
        });
        match followed.await {
            Ok(outcome) => {
                self.outcomes.fetch_add(1, Ordering::SeqCst);
                let id = outcome.approval_id().to_owned();
                // Asked again, the same.
                match self.login.get(&id).await {
                    Ok(standing) => match standing.outcome {
                        Some(again) => self.ledger.ended(&id, again.kind(), "who asked again"),
                        None => self.ledger.wrong(format!("{id}: had an outcome and has none")),
                    },
                    Err(refusal) if refusal.retry_helps() || refusal.is_lost() => {}
                    Err(refusal) => self.ledger.wrong(format!("{id}: asked again: {refusal}")),
                }
            }
            Err(refusal) => {
                let which = approval.unwrap_or_else(|| format!("{account}, no approval yet"));
                self.ledger.wrong(format!("{which}: a login was refused: {refusal}"));
            }
        }
        drop(issued);
        let _ = person.await;
    }
}

/// Does something about what the page shows; phone and login server try until the broker has heard it.
struct Person {
    login: LoginServer,
    /// The same browser, once more.
    newer: SignIn,
    phone: Arc<Phone>,
    transport: Transport,
    clock: Clock,
    ledger: Arc<Ledger>,
    deed: Deed,
}

impl Person {
    async fn act(self, mut shown: mpsc::UnboundedReceiver<(String, Number)>) {
        while let Some((approval_id, number)) = shown.recv().await {
            match self.deed {
                Deed::Approve => {
                    self.answer(&approval_id, Decision::Approve { number: number.expose() }).await;
                }
                Deed::WrongNumber => {
                    let other = number.other();
                    self.answer(&approval_id, Decision::Approve { number: other.expose() }).await;
                }
                Deed::Deny => self.answer(&approval_id, Decision::Deny).await,
                Deed::Report => self.answer(&approval_id, Decision::Report).await,
                Deed::Cancel => self.cancel(&approval_id).await,
                Deed::Supersede => self.supersede(&approval_id).await,
            }
        }
    }

    async fn cancel(&self, approval_id: &str) {
        match until_answered(|| self.login.cancel(approval_id)).await {
            Ok(outcome) => self.ledger.ended(approval_id, outcome.kind(), "who cancelled"),
            Err(refusal) => self.ledger.wrong(format!("{approval_id}: not cancelled: {refusal}")),
        }
    }

    async fn supersede(&self, older: &str) {
        match until_answered(|| self.login.open(&self.newer)).await {
            Ok(Some(Opened::Issued(issued))) => {
                self.ledger.issued(&issued.approval_id);
                let decision = Decision::Approve { number: issued.number.expose() };
                self.answer(&issued.approval_id, decision).await;
            }
            Ok(Some(Opened::Outcome(outcome))) => {
                self.ledger.ended(outcome.approval_id(), outcome.kind(), "who asked once more");
            }
            Ok(None) => self.ledger.wrong(format!("{older}: asked once more, an empty reply")),
            Err(refusal) => self.ledger.wrong(format!("{older}: asked once more: {refusal}")),
        }
    }

    async fn answer(&self, approval_id: &str, decision: Decision<'_>) {
        loop {
            match self.try_once(approval_id, decision).await {
                Ok(outcome) => return self.ledger.ended(approval_id, outcome, "the phone"),
                Err(error) => match error.has_ended() {
                    Some(Some(outcome)) => {
                        return self.ledger.ended(approval_id, outcome, "a phone that came too late");
                    }
                    Some(None) => return,
                    None if error.retry_helps() => tokio::time::sleep(RETRY).await,
                    None => return self.ledger.wrong(format!("{approval_id}: a phone was refused: {error}")),
                },
            }
        }
    }

    async fn try_once(&self, approval_id: &str, decision: Decision<'_>) -> Result<OutcomeKind, Error> {
        let fetched = self.phone.fetch(&self.transport, approval_id, self.clock.now()).await?;
        let Asked::SignIn(challenge) = &fetched.asked else {
            let status = tonic::Status::internal("a trial came where a challenge should");
            return Err(Refusal::from(status).into());
        };
        Ok(self.phone.answer(&self.transport, challenge, decision).await?)
    }
}

/// Calls until the broker has answered, however often it goes away meanwhile.
pub(crate) async fn until_answered<T, F>(call: impl Fn() -> F) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, Refusal>>,
{
    loop {
        match call().await {
            Err(refusal) if refusal.retry_helps() => {
                tokio::time::sleep(refusal.retry_after().unwrap_or(RETRY)).await;
            }
            answered => return answered,
        }
    }
}
