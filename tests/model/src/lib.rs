//! The protocol of a sign-in as a model, to be checked in every way that it can go (stateright): two pages, one of which
//! asks again; two phones that approve, mistype or deny; withdrawals; the clock; a network that delivers late, never, or
//! again; a broker that may crash at any point.
//!
//! What decides in it is the domain itself: each step of the broker calls `Account::decide` and `evolve`. What the model
//! adds is the decider's way round it (decide on what is durable, append at that version, begin anew after a conflict),
//! the log's promise, and who is told what when.

mod cast;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    sync::{Arc, RwLock},
};

use countersign_domain::{Account, Aggregate as _, Command, Event, approval::Outcome, command::Refusal};
use countersign_proto::v1;
use prost::Message as _;
use stateright::{Model, Property};

use cast::{Cast, moment};

/// Appends that are under way at a time.
const IN_FLIGHT_MAX: usize = 2;

/// A request: of the first page, of the first page again (sent again because no reply came: the broker draws another id
/// for it), of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asking {
    /// The first page asks.
    First,
    /// The first page asks again.
    FirstAgain,
    /// The second page asks.
    Second,
}

/// A phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phone {
    /// One.
    One,
    /// The other.
    Other,
}

/// What a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Types the number.
    Approve,
    /// Types another.
    Mistype,
    /// Says no.
    Deny,
}

/// What reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// A page asks.
    Ask(Asking),
    /// A phone answers.
    Answer(Phone, Asking, What),
    /// A page withdraws.
    Cancel(Asking),
    /// The broker's own clock.
    Expire(Asking),
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The clock moves.
    Tick,
    /// Something that somebody has sent arrives, perhaps not for the first time; the broker decides on what is durable.
    Take(Call),
    /// An append becomes durable, and whoever caused it is told; or is not, since the reply gets lost.
    Commit(usize, bool),
    /// An append finds that somebody else was first.
    Conflict(usize),
    /// A page that waits hears how it ended.
    Tell(u8),
    /// The broker crashes: what is under way is gone.
    Crash,
}

/// An event, by its number.
type Fact = u8;

/// An append under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Append {
    call: Call,
    clock: u8,
    facts: Vec<Fact>,
    expected: usize,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    clock: u8,
    /// What is durable: entries, each with when it was decided.
    log: Vec<(u8, Vec<Fact>)>,
    /// The fold of that.
    account: Folded,
    in_flight: Vec<Append>,
    arrived: BTreeSet<Call>,
    /// What whoever was told first of an outcome was told.
    told: BTreeMap<Asking, u8>,
    pages_told: BTreeSet<u8>,
    crashes: u8,
    /// The rules that something has broken on the way here.
    broken: BTreeSet<Rule>,
}

/// What is looked at as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rule {
    OneOutcome,
    Number,
    InTime,
}

/// An account that follows from the log beside it, and so says nothing of its own.
#[derive(Debug, Clone)]
struct Folded(Arc<Account>);

impl PartialEq for Folded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Folded {}

impl Hash for Folded {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A rule that does not hold, to see that its property can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The reply goes out before the append is durable.
    TellsEarly,
    /// Appends are not compared with the version that they were decided on.
    NoVersions,
    /// Any number will do.
    NumberIgnored,
    /// The clock is not looked at when an answer comes.
    ClockIgnored,
    /// A newer request of the session leaves the older one alive.
    SupersededLives,
    /// Nothing is ended by the clock.
    NothingExpires,
    /// A crash takes the last entry that was acknowledged.
    CrashForgets,
    /// A request that is sent again is a new one.
    KeyIgnored,
}

/// See above.
pub struct Protocol {
    cast: Cast,
    broken: Option<Broken>,
    crashes_max: u8,
    answers_max: usize,
    /// The clock moves so often, each time by more than a lifetime. The last time nobody asks any more: so all that was
    /// asked for is over then.
    clock_max: u8,
    facts: RwLock<Vec<Event>>,
}

impl Protocol {
    /// With pages of one session, or of two. All ask while the first approval lives. Of two sessions, one answer comes and
    /// not two: none of them ends the other, so there are many more ways.
    pub fn new(same_session: bool) -> Self {
        Self {
            cast: Cast::new(same_session),
            broken: None,
            crashes_max: 1,
            answers_max: if same_session { 2 } else { 1 },
            clock_max: 1,
            facts: RwLock::default(),
        }
    }

    /// Some may also ask when what others asked for is over; for that, one answer comes and not two.
    #[must_use]
    pub fn longer(mut self) -> Self {
        self.clock_max = 2;
        self.answers_max = 1;
        self
    }

    /// The same with a rule that does not hold.
    #[must_use]
    pub fn broken(mut self, broken: Broken) -> Self {
        self.broken = Some(broken);
        self
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// The log folded anew.
    fn fold(&self, log: &[(u8, Vec<Fact>)]) -> Folded {
        let mut account = self.cast.enrolled.clone();
        let known = self.facts.read().expect("nobody panics");
        for (clock, facts) in log {
            for fact in facts {
                account.evolve(&known[usize::from(*fact)], moment(*clock));
            }
        }
        Folded(Arc::new(account))
    }

    /// An entry becomes durable: the rules are held against it, and it is folded.
    fn commit(&self, state: &mut State, clock: u8, facts: Vec<Fact>) {
        let known = self.facts.read().expect("nobody panics");
        let account = Arc::make_mut(&mut state.account.0);
        for event in facts.iter().map(|fact| &known[usize::from(*fact)]) {
            if let Some(rule) = self.breaks(account, event, clock) {
                state.broken.insert(rule);
            }
            account.evolve(event, moment(clock));
        }
        state.log.push((clock, facts));
    }

    fn breaks(&self, account: &Account, event: &Event, clock: u8) -> Option<Rule> {
        let approval = account.approval(ends(event)?)?;
        if approval.ending.is_some() {
            return Some(Rule::OneOutcome);
        }
        let answered = matches!(
            event,
            Event::ApprovalApproved { .. } | Event::ApprovalDenied { .. } | Event::NumberWrong { .. }
        );
        if answered && approval.issued.as_ref()?.expires_at <= moment(clock) {
            return Some(Rule::InTime);
        }
        let Event::ApprovalApproved { answer, .. } = event else { return None };
        let asking = Asking::ALL.into_iter().find(|asking| asking.approval() == approval.id)?;
        let typed = v1::Answer::decode(answer.payload.clone()).ok()?.number;
        (typed != self.cast.number(asking)).then_some(Rule::Number)
    }

    fn fact(&self, event: Event) -> Fact {
        let mut known = self.facts.write().expect("nobody panics");
        let at = known.iter().position(|one| *one == event).unwrap_or_else(|| {
            known.push(event);
            known.len() - 1
        });
        Fact::try_from(at).expect("there are not so many events")
    }

    fn command(&self, call: Call) -> Command {
        match call {
            Call::Ask(asking) => {
                let mut command = self.cast.ask(asking);
                if let (true, Command::RequestApproval { request, .. }) =
                    (self.is(Broken::KeyIgnored), &mut command)
                {
                    request.idempotency = None;
                }
                command
            }
            Call::Answer(phone, asking, what) => self.cast.answer(phone, asking, what),
            Call::Cancel(asking) => Cast::cancel(asking),
            Call::Expire(asking) => Command::ExpireApproval(asking.approval()),
        }
    }

    /// The broker decides; without events it answers at once.
    fn take(&self, state: &mut State, call: Call) {
        let account = Arc::clone(&state.account.0);
        let clock =
            if self.is(Broken::ClockIgnored) && matches!(call, Call::Answer(..)) { 0 } else { state.clock };
        let decided = account.decide(&self.command(call), moment(clock));
        let mut events = match decided {
            Ok(events) if !events.is_empty() => events,
            Ok(_) | Err(Refusal::ApprovalEnded(_)) => return reply(state, &account, call),
            Err(_) => return,
        };
        if self.is(Broken::SupersededLives) {
            events.retain(|event| !matches!(event, Event::ApprovalSuperseded { .. }));
        }
        if let (true, [Event::NumberWrong { approval, .. }]) = (self.is(Broken::NumberIgnored), &events[..]) {
            let answer = self.cast.recorded(call);
            events = vec![Event::ApprovalApproved { approval: *approval, answer, user_verified: false }];
        }
        if self.is(Broken::TellsEarly) {
            let mut ahead = Account::clone(&account);
            for event in &events {
                ahead.evolve(event, moment(state.clock));
            }
            reply(state, &ahead, call);
        }
        let facts = events.into_iter().map(|event| self.fact(event)).collect();
        state.in_flight.push(Append { call, clock: state.clock, facts, expected: state.log.len() });
        state.in_flight.sort_unstable();
    }

    /// What may arrive: what has arrived before, and what somebody may have sent.
    fn calls(&self, state: &State) -> BTreeSet<Call> {
        let account = &state.account.0;
        let mut calls = BTreeSet::new();
        if state.clock < self.clock_max {
            calls.extend(Asking::ALL.map(Call::Ask));
        }
        let answers = state.arrived.iter().filter(|call| matches!(call, Call::Answer(..))).count();
        let cancelled = state.arrived.iter().any(|call| matches!(call, Call::Cancel(_)));
        for asking in Asking::ALL {
            let Some(approval) = account.approval(asking.approval()) else { continue };
            if answers < self.answers_max {
                for phone in Phone::ALL {
                    calls.extend(What::ALL.map(|what| Call::Answer(phone, asking, what)));
                }
            }
            if !cancelled {
                calls.insert(Call::Cancel(asking));
            }
            if approval.ending.is_none() && !self.is(Broken::NothingExpires) {
                calls.insert(Call::Expire(asking));
            }
        }
        calls.extend(&state.arrived);
        calls
    }

    /// The approval that the page's request became.
    fn approval_of(&self, account: &Account, page: u8) -> Option<Asking> {
        let asked = Asking::ALL.into_iter().filter(|asking| asking.page() == page);
        let first = asked.into_iter().next()?;
        let (id, _) = account.by_idempotency_key(&self.cast.key_of(first))?;
        Asking::ALL.into_iter().find(|asking| asking.approval() == id)
    }

    /// Whether nothing can happen any more that has not.
    fn is_over(&self, state: &State) -> bool {
        let mut steps = Vec::new();
        self.actions(state, &mut steps);
        steps.into_iter().all(|step| self.next_state(state, step).is_none())
    }
}

/// Whoever called is told how it stands.
fn reply(state: &mut State, account: &Account, call: Call) {
    if let Call::Answer(_, asking, _) | Call::Cancel(asking) = call {
        tell(state, account, asking);
    }
}

fn tell(state: &mut State, account: &Account, asking: Asking) {
    let ending = account.approval(asking.approval()).and_then(|one| one.ending.as_ref());
    let Some(outcome) = ending.map(|ending| number(ending.outcome)) else { return };
    let first = *state.told.entry(asking).or_insert(outcome);
    if first != outcome {
        state.broken.insert(Rule::OneOutcome);
    }
}

fn number(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Approved { .. } => 0,
        Outcome::Denied => 1,
        Outcome::Reported => 2,
        Outcome::WrongNumber => 3,
        Outcome::Expired => 4,
        Outcome::Cancelled => 5,
        Outcome::Superseded => 6,
        Outcome::Refused(_) => 7,
    }
}

impl Asking {
    const ALL: [Self; 3] = [Self::First, Self::FirstAgain, Self::Second];

    /// Whose it is.
    fn page(self) -> u8 {
        u8::from(self == Self::Second)
    }
}

impl Phone {
    const ALL: [Self; 2] = [Self::One, Self::Other];
}

impl What {
    const ALL: [Self; 3] = [Self::Approve, Self::Mistype, Self::Deny];
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 0,
            log: Vec::new(),
            account: self.fold(&[]),
            in_flight: Vec::new(),
            arrived: BTreeSet::new(),
            told: BTreeMap::new(),
            pages_told: BTreeSet::new(),
            crashes: 0,
            broken: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.clock < self.clock_max {
            steps.push(Step::Tick);
        }
        if state.in_flight.len() < IN_FLIGHT_MAX {
            let idle = |call: &Call| state.in_flight.iter().all(|append| append.call != *call);
            steps.extend(self.calls(state).into_iter().filter(idle).map(Step::Take));
        }
        for (at, append) in state.in_flight.iter().enumerate() {
            if append.expected != state.log.len() && !self.is(Broken::NoVersions) {
                steps.push(Step::Conflict(at));
                continue;
            }
            steps.push(Step::Commit(at, false));
            if matches!(append.call, Call::Answer(..) | Call::Cancel(_)) {
                steps.push(Step::Commit(at, true));
            }
        }
        steps.extend([0, 1].into_iter().filter(|page| !state.pages_told.contains(page)).map(Step::Tell));
        if state.crashes < self.crashes_max && (!state.in_flight.is_empty() || self.is(Broken::CrashForgets))
        {
            steps.push(Step::Crash);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Tick => state.clock += 1,
            Step::Take(call) => {
                self.take(&mut state, call);
                if matches!(call, Call::Answer(..) | Call::Cancel(_)) {
                    state.arrived.insert(call);
                }
            }
            Step::Commit(at, told) => {
                let append = state.in_flight.remove(at);
                self.commit(&mut state, append.clock, append.facts);
                if told {
                    let account = Arc::clone(&state.account.0);
                    reply(&mut state, &account, append.call);
                }
            }
            Step::Conflict(at) => drop(state.in_flight.remove(at)),
            Step::Tell(page) => {
                let account = Arc::clone(&state.account.0);
                let asking = self.approval_of(&account, page)?;
                account.approval(asking.approval())?.ending.as_ref()?;
                tell(&mut state, &account, asking);
                state.pages_told.insert(page);
            }
            Step::Crash => {
                state.crashes += 1;
                state.in_flight.clear();
                if self.is(Broken::CrashForgets) {
                    state.log.pop();
                    state.account = self.fold(&state.log);
                }
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no two outcomes", |_, state: &State| !state.broken.contains(&Rule::OneOutcome)),
            Property::always("nothing is told before it is durable", |_, state: &State| {
                state.told.iter().all(|(asking, told)| {
                    let approval = state.account.0.approval(asking.approval());
                    let ending = approval.and_then(|one| one.ending.as_ref());
                    ending.is_some_and(|ending| number(ending.outcome) == *told)
                })
            }),
            Property::always("no approval without the number", |_, state: &State| {
                !state.broken.contains(&Rule::Number)
            }),
            Property::always("no answer after its time", |_, state: &State| {
                !state.broken.contains(&Rule::InTime)
            }),
            Property::always("one sign-in of a session waits", |_, state: &State| {
                let mut sessions = BTreeSet::new();
                state.account.0.live_approvals().all(|one| sessions.insert(one.session_binding.clone()))
            }),
            Property::always("one approval for a request, however often it is sent", |_, state: &State| {
                let asked = |asking: &Asking| state.account.0.approval(asking.approval()).is_some();
                [Asking::First, Asking::FirstAgain].iter().filter(|asking| asked(asking)).count() < 2
            }),
            // Nothing comes twice: the log grows, the clock goes on, what is sent is sent. So every way ends, and what
            // must happen in the end must have happened there.
            Property::always("who waits hears of an end", |model: &Self, state: &State| {
                let account = &state.account.0;
                let waits = |page: u8| {
                    model.approval_of(account, page).is_some() && !state.pages_told.contains(&page)
                };
                !(waits(0) || waits(1)) || !model.is_over(state)
            }),
            // Ways that it must be possible to go: else the others would say nothing.
            Property::sometimes("approved", |_, state: &State| state.told.values().any(|told| *told == 0)),
            Property::sometimes("denied", |_, state: &State| state.told.values().any(|told| *told == 1)),
            Property::sometimes("wrong number", |_, state: &State| {
                state.told.values().any(|told| *told == 3)
            }),
            Property::sometimes("expired", |_, state: &State| state.told.values().any(|told| *told == 4)),
            Property::sometimes("cancelled", |_, state: &State| state.told.values().any(|told| *told == 5)),
            Property::sometimes("both pages told, after a crash", |_, state: &State| {
                state.crashes > 0 && state.pages_told.len() == 2
            }),
        ]
    }
}

fn ends(event: &Event) -> Option<countersign_domain::ApprovalId> {
    match event {
        Event::ApprovalApproved { approval, .. }
        | Event::ApprovalDenied { approval, .. }
        | Event::NumberWrong { approval, .. }
        | Event::ApprovalExpired { approval }
        | Event::ApprovalCancelled { approval, .. }
        | Event::ApprovalSuperseded { approval, .. } => Some(*approval),
        _ => None,
    }
}

impl std::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protocol").field("broken", &self.broken).finish_non_exhaustive()
    }
}
