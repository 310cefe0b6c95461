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
    login::{LoginServer, SignIn, Step},
    phone::{Asked, Decision, Error, Number, Phone},
    wire::{Refusal, Transport},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{Ledger, Stage};

/// So many logins wait at a time.
const LOGINS: usize = 24;
/// Between two tries of a phone whose broker is away.
const PHONE_RETRY: Duration = Duration::from_millis(50);
/// A login that has no outcome so long after the load was told to end will never have one.
const LAST_OUTCOME_MAX: Duration = Duration::from_secs(120);

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    workers: JoinSet<()>,
    stop: Arc<AtomicBool>,
    outcomes: Arc<AtomicUsize>,
}

struct Worker {
    login: LoginServer,
    phones: Vec<(String, Arc<Phone>)>,
    transport: Transport,
    clock: Clock,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    outcomes: Arc<AtomicUsize>,
}

impl Load {
    /// Begins.
    pub fn start(stage: &Stage, ledger: &Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for number in 0..LOGINS {
            let worker = Worker {
                login: stage.world.login.clone(),
                phones: stage.phones.clone(),
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
            self.sign_in(account, phone, turn).await;
            turn += LOGINS + 1;
        }
    }

    /// One sign-in to its outcome, however often the broker goes away meanwhile.
    async fn sign_in(&self, account: &str, phone: &Arc<Phone>, turn: usize) {
        let sign_in = SignIn::new(account, APPLICATION).lasting(Duration::from_secs(60));
        let (issued, to_answer) = mpsc::unbounded_channel();
        let person = Person {
            phone: Arc::clone(phone),
            transport: self.transport.clone(),
            clock: self.clock.clone(),
            ledger: Arc::clone(&self.ledger),
            denies: turn % 5 == 4,
        };
        let person = tokio::spawn(person.answer(to_answer));
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

/// Types the number, or denies; the phone tries until the broker has heard it.
struct Person {
    phone: Arc<Phone>,
    transport: Transport,
    clock: Clock,
    ledger: Arc<Ledger>,
    denies: bool,
}

impl Person {
    async fn answer(self, mut shown: mpsc::UnboundedReceiver<(String, Number)>) {
        while let Some((approval_id, number)) = shown.recv().await {
            self.answer_one(&approval_id, &number).await;
        }
    }

    async fn answer_one(&self, approval_id: &str, number: &Number) {
        loop {
            match self.try_once(approval_id, number).await {
                Ok(outcome) => return self.ledger.ended(approval_id, outcome, "the phone"),
                Err(error) => match error.has_ended() {
                    Some(Some(outcome)) => {
                        return self.ledger.ended(approval_id, outcome, "a phone that came too late");
                    }
                    Some(None) => return,
                    None if error.retry_helps() => tokio::time::sleep(PHONE_RETRY).await,
                    None => return self.ledger.wrong(format!("{approval_id}: a phone was refused: {error}")),
                },
            }
        }
    }

    async fn try_once(&self, approval_id: &str, number: &Number) -> Result<OutcomeKind, Error> {
        let fetched = self.phone.fetch(&self.transport, approval_id, self.clock.now()).await?;
        let Asked::SignIn(challenge) = &fetched.asked else {
            let status = tonic::Status::internal("a trial came where a challenge should");
            return Err(Refusal::from(status).into());
        };
        let decision =
            if self.denies { Decision::Deny } else { Decision::Approve { number: number.expose() } };
        Ok(self.phone.answer(&self.transport, challenge, decision).await?)
    }
}
