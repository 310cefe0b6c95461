//! The phone at work: what comes is checked and asked for, one at a time; what is typed answers what is asked.

mod typed;

use std::{
    collections::{HashSet, VecDeque},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use countersign_proto::v1::OutcomeKind;
use device_sim::{
    clock::{Clock, Timestamp},
    phone::{Asked, Error, Phone, Push, PushKind, Received},
    wire::{Refusal, Transport},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    pushes::FromService,
    view::{Event, View},
};
use crate::commands::terminal::advice;

/// Without push the phone asks so often what waits.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// And with push, in case one got lost.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The time on the screen.
const TICK: Duration = Duration::from_secs(1);
/// An answer that did not get through is sent again, the same bytes, until the challenge is over by so much.
const SEND_UNTIL_AFTER: Duration = Duration::from_secs(5);
const SEND_EVERY: Duration = Duration::from_millis(500);
/// What is over by this clock is looked up at the broker, whose clock decides.
const LOOK_UP_AFTER: Duration = Duration::from_millis(300);

pub(super) struct Session {
    phone: Arc<Phone>,
    transport: Transport,
    clock: Clock,
    folder: PathBuf,
    view: View,
    /// Pushes come, but for the time that the push service is out of reach.
    is_pushed: bool,
    /// What the person is asked, if anything.
    asking: Option<Item>,
    /// What comes after it.
    queue: VecDeque<Item>,
    /// What was answered, ignored or has ended, while the broker still lists it.
    settled: HashSet<String>,
    /// What the person turned away from, and may come back to.
    ignored: HashSet<String>,
    /// Approvals that the broker listed last.
    waiting: usize,
    /// The broker, or the push service, was out of reach when last tried.
    is_unreachable: bool,
    is_unpushed: bool,
    /// The last thing that was not shown: said once.
    not_shown: String,
    look_at: Timestamp,
}

struct Item {
    asked: Asked,
    push: Option<Push>,
    look_up_at: Timestamp,
}

/// Whether the phone goes on.
enum Next {
    GoOn,
    End(ExitCode),
}

impl Session {
    pub(super) fn new(phone: Phone, transport: Transport, clock: Clock, folder: PathBuf, view: View) -> Self {
        let look_at = clock.now();
        Self {
            phone: Arc::new(phone),
            transport,
            clock,
            folder,
            view,
            is_pushed: false,
            asking: None,
            queue: VecDeque::new(),
            settled: HashSet::new(),
            ignored: HashSet::new(),
            waiting: 0,
            is_unreachable: false,
            is_unpushed: false,
            not_shown: String::new(),
            look_at,
        }
    }

    /// Runs until the input ends, a signal comes, or the phone is of no use any more.
    pub(super) async fn run(
        mut self,
        trial: Option<Asked>,
        mut input: mpsc::Receiver<String>,
        mut pushes: Option<mpsc::Receiver<FromService>>,
    ) -> anyhow::Result<ExitCode> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut tick = tokio::time::interval(TICK);
        self.is_pushed = pushes.is_some();
        if let Some(trial) = trial {
            self.enqueue(trial, None)?;
        } else if self.phone.is_active() {
            self.ready()?;
        }
        loop {
            self.ask_next()?;
            let over_at = self.asking.as_ref().map_or(Timestamp(u64::MAX), |item| item.look_up_at);
            let next = tokio::select! {
                line = input.recv() => match line {
                    Some(line) => self.typed(&line).await?,
                    None => Next::End(ExitCode::SUCCESS),
                },
                from = next_push(&mut pushes) => {
                    self.came(from).await?;
                    Next::GoOn
                }
                () = self.clock.wait_until(self.look_at) => self.look().await?,
                () = self.clock.wait_until(over_at), if self.asking.is_some() => self.over().await?,
                _ = tick.tick() => {
                    self.view.tick(self.clock.now())?;
                    Next::GoOn
                }
                _ = interrupt.recv() => Next::End(ExitCode::SUCCESS),
                _ = terminate.recv() => Next::End(ExitCode::SUCCESS),
            };
            if let Next::End(code) = next {
                self.view.settle(false)?;
                return Ok(code);
            }
        }
    }

    fn show(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        self.view.show(event, self.clock.now())
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        let ready = Event::Ready { phone: &self.phone, is_pushed: self.is_pushed };
        self.view.show(&ready, self.clock.now())
    }

    async fn came(&mut self, from: FromService) -> anyhow::Result<()> {
        match from {
            FromService::Connected => {
                if std::mem::take(&mut self.is_unpushed) {
                    self.show(&Event::Recovered { what: "The push service is there" })?;
                }
                // What was pushed while the line was down may be lost.
                self.look_at = self.clock.now();
            }
            FromService::Lost(why) => {
                if !std::mem::replace(&mut self.is_unpushed, true) {
                    let problem = format!("No pushes: {why}; until then, this phone asks what waits");
                    self.show(&Event::Trouble { problem: &problem })?;
                }
                self.look_at = self.clock.now();
            }
            FromService::Unreadable(why) => self.not_shown(&format!("A push is not shown: {why}"))?,
            FromService::Push(push) => self.pushed(push).await?,
        }
        Ok(())
    }

    async fn pushed(&mut self, push: Push) -> anyhow::Result<()> {
        if self.phone.receive(&push) != Received::New {
            return Ok(());
        }
        match push.kind {
            PushKind::Challenge | PushKind::Trial => {
                self.acknowledge(&push, false);
                if self.asking.as_ref().is_some_and(|item| item.asked.id() == push.id) {
                    // The list was faster.
                    self.acknowledge(&push, true);
                } else if let Some(item) = self.queue.iter_mut().find(|item| item.asked.id() == push.id) {
                    item.push = Some(push);
                } else if !self.settled.contains(&push.id) {
                    self.fetch(push).await?;
                }
            }
            // Anybody could have written it: the broker is asked.
            PushKind::Ended => self.look_up(&push.id).await?,
            PushKind::Notice => self.look_at = self.clock.now(),
        }
        Ok(())
    }

    /// Tells the page that waits how far the push has come; the phone does not wait for it.
    fn acknowledge(&self, push: &Push, is_opened: bool) {
        if push.token.is_empty() {
            return;
        }
        let (phone, transport, push) = (Arc::clone(&self.phone), self.transport.clone(), push.clone());
        tokio::spawn(async move {
            let told = if is_opened {
                phone.acknowledge_opened(&transport, &push).await
            } else {
                phone.acknowledge_delivered(&transport, &push).await
            };
            if let Err(refusal) = told {
                tracing::debug!(id = %push.id, %refusal, "not acknowledged");
            }
        });
    }

    async fn fetch(&mut self, push: Push) -> anyhow::Result<()> {
        match self.phone.fetch(&self.transport, &push.id, self.clock.now()).await {
            Ok(fetched) => {
                self.waiting = fetched.waiting as usize;
                self.enqueue(fetched.asked, Some(push))
            }
            // It was over before it was there.
            Err(error) if error.has_ended().is_some() => Ok(()),
            Err(Error::NotShown(why)) => self.not_shown(&format!("A challenge is not shown: {why}")),
            // The list has it, as soon as the broker can be reached.
            Err(Error::Refused(_)) => {
                self.look_at = self.clock.now().plus(SEND_EVERY);
                Ok(())
            }
        }
    }

    fn enqueue(&mut self, asked: Asked, push: Option<Push>) -> anyhow::Result<()> {
        let look_up_at = asked.expires_at().plus(LOOK_UP_AFTER);
        self.queue.push_back(Item { asked, push, look_up_at });
        if self.asking.is_some() {
            let waiting = self.waiting.max(2);
            self.show(&Event::Another { waiting })?;
        }
        Ok(())
    }

    fn knows(&self, id: &str) -> bool {
        let is_here = |item: &Item| item.asked.id() == id;
        self.asking.as_ref().is_some_and(is_here)
            || self.queue.iter().any(is_here)
            || self.settled.contains(id)
    }

    /// Asks the broker what waits.
    async fn look(&mut self) -> anyhow::Result<Next> {
        let pause = if self.is_pushed && !self.is_unpushed { LOOK_EVERY } else { ASK_EVERY };
        let waiting = self.phone.list_waiting(&self.transport, self.clock.now()).await;
        self.look_at = self.clock.now().plus(pause);
        let waiting = match waiting {
            Ok(waiting) => waiting,
            Err(refusal) => return self.unlisted(&refusal),
        };
        if std::mem::take(&mut self.is_unreachable) {
            self.show(&Event::Recovered { what: "The broker is there" })?;
        }
        if let Some(why) = waiting.not_shown.first() {
            self.not_shown(&format!("Something that waits is not shown: {why}"))?;
        }
        for notice in &waiting.notices {
            self.show(&Event::Notice(notice))?;
        }
        if !waiting.notices.is_empty() {
            self.phone.save(&self.folder)?;
        }
        let trial = waiting.trial.map(Asked::Trial);
        let challenges: Vec<_> = waiting.challenges.into_iter().map(Asked::SignIn).collect();
        self.waiting = challenges.len();
        let listed: Vec<Asked> = trial.into_iter().chain(challenges).collect();
        self.forget_unlisted(&listed).await?;
        for asked in listed {
            if !self.knows(asked.id()) {
                self.enqueue(asked, None)?;
            }
        }
        self.next()
    }

    fn unlisted(&mut self, refusal: &Refusal) -> anyhow::Result<Next> {
        if refusal.reason() == Some("SIGNATURE_INVALID") {
            return self.removed();
        }
        if !std::mem::replace(&mut self.is_unreachable, true) {
            let problem = advice(refusal, self.transport.address());
            self.show(&Event::Trouble { problem: &problem })?;
        }
        Ok(Next::GoOn)
    }

    /// What is not listed any more has ended, or never ends here.
    async fn forget_unlisted(&mut self, listed: &[Asked]) -> anyhow::Result<()> {
        let is_listed = |id: &str| listed.iter().any(|asked| asked.id() == id);
        self.settled.retain(|id| is_listed(id));
        let here = self.asking.iter().chain(&self.queue).map(|item| item.asked.id().to_owned());
        let gone: Vec<String> = here.filter(|id| !is_listed(id)).collect();
        for id in gone {
            self.look_up(&id).await?;
        }
        Ok(())
    }

    /// Asks the broker if something has ended, and how.
    async fn look_up(&mut self, id: &str) -> anyhow::Result<()> {
        match self.phone.fetch(&self.transport, id, self.clock.now()).await {
            Err(error) => match error.has_ended() {
                Some(outcome) => self.ended(id, outcome),
                None => Ok(()),
            },
            Ok(_) => Ok(()),
        }
    }

    fn ended(&mut self, id: &str, outcome: Option<OutcomeKind>) -> anyhow::Result<()> {
        let is_asked = self.asking.as_ref().is_some_and(|item| item.asked.id() == id);
        let is_queued = self.queue.iter().any(|item| item.asked.id() == id);
        self.settled.insert(id.to_owned());
        if is_asked {
            let item = self.asking.take();
            self.view.settle(false)?;
            if matches!(item, Some(Item { asked: Asked::Trial(_), .. })) {
                // The phone itself has ended: `next` says so.
                return Ok(());
            }
        }
        self.queue.retain(|item| item.asked.id() != id);
        if is_asked || is_queued {
            self.show(&Event::Ended { id, outcome })?;
        }
        Ok(())
    }

    /// What is asked is over by this phone's clock; the broker's decides.
    async fn over(&mut self) -> anyhow::Result<Next> {
        let Some(item) = &mut self.asking else { return Ok(Next::GoOn) };
        item.look_up_at = self.clock.now().plus(TICK);
        let (id, expires_at) = (item.asked.id().to_owned(), item.asked.expires_at());
        self.look_up(&id).await?;
        let is_asked = self.asking.is_some();
        if is_asked && self.clock.now() > expires_at.plus(SEND_UNTIL_AFTER) {
            // The broker cannot be asked. Nothing can be answered any more all the same.
            self.ended(&id, Some(OutcomeKind::Expired))?;
        }
        self.next()
    }

    /// A phone whose trial has ended without a yes is of no use.
    fn next(&mut self) -> anyhow::Result<Next> {
        let has_trial =
            self.asking.iter().chain(&self.queue).any(|item| matches!(item.asked, Asked::Trial(_)));
        if self.phone.is_active() || has_trial {
            return Ok(Next::GoOn);
        }
        self.removed()
    }

    fn removed(&mut self) -> anyhow::Result<Next> {
        let was_active = self.phone.is_active();
        self.asking = None;
        self.view.settle(false)?;
        self.show(&Event::Removed { was_active })?;
        if !was_active {
            Phone::forget(&self.folder)?;
        }
        Ok(Next::End(ExitCode::FAILURE))
    }

    fn not_shown(&mut self, problem: &str) -> anyhow::Result<()> {
        if self.not_shown == problem {
            return Ok(());
        }
        problem.clone_into(&mut self.not_shown);
        self.show(&Event::Error { problem })
    }
}

async fn next_push(pushes: &mut Option<mpsc::Receiver<FromService>>) -> FromService {
    match pushes {
        Some(pushes) => match pushes.recv().await {
            Some(from) => from,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
