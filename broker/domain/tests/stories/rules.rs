//! The rules that never break, under everything that can be thrown at an account at any time and in any order; and the
//! race of two sign-ins, a victim's and an attacker's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use bytes::Bytes;
use countersign_domain::{
    Account, Aggregate, ApprovalId, AuthenticatorId, Command, Event, Timestamp,
    answer::VerifiedAnswer,
    approval::{Assessment, Outcome, assess},
    command::Refusal,
    event::{
        ApprovalRefused, ApprovalRequested, EnrolmentEnd, Question, RefusedBecause, RevokedBy, SignedMessage,
    },
    limits,
    number::{MatchNumber, Salt},
    policy::Policy,
};
use countersign_envelope::payload_type;
use countersign_proto::v1;
use proptest::prelude::*;
use prost::Message;

use crate::cast::{ACCOUNT, BANK, BROKER_ID, Phone, SHOP, SignIn, account_with, at, given};

// ---- everything at once ----

/// Two phones of the first day, and one that comes and goes.
static PHONES: LazyLock<[Phone; 3]> =
    LazyLock::new(|| [Phone::ed25519(1), Phone::es256(2), Phone::ed25519(3)]);

/// One thing that happens to the account.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    /// The clock was ahead, and is set right.
    SetBack(u64),
    Request(Ask),
    /// A phone answers one of the sign-ins so far.
    Answer {
        sign_in: usize,
        phone: usize,
        what: What,
    },
    /// An answer of before comes once more: retried by a phone, or replayed by somebody.
    Resend(usize),
    /// An answer that was checked before comes to be decided only now.
    Stale(usize),
    Cancel {
        sign_in: usize,
        by_bank: bool,
    },
    Expire(usize),
    /// The third phone's enrolment is done, or it is revoked.
    Enrol,
    Revoke(usize),
}

#[derive(Debug, Clone)]
struct Ask {
    session: u8,
    by_bank: bool,
    key: Option<(u8, u8)>,
    /// The number is drawn from here upwards: few numbers, so that they would meet.
    from: u32,
    /// The number was drawn from a state that nobody kept up to date.
    blindly: bool,
    lifetime_s: u64,
}

/// What the person does.
#[derive(Debug, Clone)]
enum What {
    TypeIts,
    /// The number of another page.
    TypeThatOf(usize),
    Type(u32),
    Deny,
    Report,
}

fn step() -> impl Strategy<Value = Step> {
    let wait =
        prop_oneof![3 => Just(0), 3 => 1..5_000u64, 2 => 10_000..90_000u64, 1 => 500_000..1_000_000u64];
    let ask =
        (0..3u8, any::<bool>(), proptest::option::of((0..2u8, 0..2u8)), 0..5u32, any::<bool>(), 15..60u64)
            .prop_map(|(session, by_bank, key, from, blindly, lifetime_s)| Ask {
                session,
                by_bank,
                key,
                from,
                blindly,
                lifetime_s,
            });
    let what = prop_oneof![
        4 => Just(What::TypeIts),
        4 => any::<usize>().prop_map(What::TypeThatOf),
        1 => (0..10u32).prop_map(What::Type),
        1 => Just(What::Deny),
        1 => Just(What::Report),
    ];
    let answer = (0..8usize, 0..3usize, what);
    prop_oneof![
        4 => wait.prop_map(Step::Wait),
        1 => prop_oneof![9 => 0..60_000u64, 1 => 0..2_000_000u64].prop_map(Step::SetBack),
        6 => ask.prop_map(Step::Request),
        6 => answer.prop_map(|(sign_in, phone, what)| Step::Answer { sign_in, phone, what }),
        2 => (0..8usize).prop_map(Step::Resend),
        2 => (0..8usize).prop_map(Step::Stale),
        1 => (0..8usize, any::<bool>()).prop_map(|(sign_in, by_bank)| Step::Cancel { sign_in, by_bank }),
        2 => (0..8usize).prop_map(Step::Expire),
        1 => Just(Step::Enrol),
        1 => (0..3usize).prop_map(Step::Revoke),
    ]
}

/// What a bystander writes down about an approval, from the events alone.
#[derive(Debug)]
struct Fate {
    sign_in: SignIn,
    number: MatchNumber,
    /// The phones that were active when it was asked for.
    asked: BTreeSet<AuthenticatorId>,
    ended: Option<(Timestamp, Outcome)>,
    /// Since when its number rests, by the clock as it was set since.
    rests_since: Option<Timestamp>,
    /// Its time was over when something happened to the account.
    seen_over: bool,
}

impl Fate {
    /// Over by the clock, or from ahead of it.
    fn is_over(&self, now: Timestamp) -> bool {
        let it = &self.sign_in;
        self.seen_over || it.expires_at() <= now || it.at > now.plus(limits::CLOCK_STEP)
    }

    fn see_clock(&mut self, now: Timestamp) {
        self.seen_over = self.is_over(now);
        // One that has rested may be shown, whatever becomes of the clock afterwards.
        self.rests_since = self.rests_since.map(|since| match since {
            since if since > now.plus(limits::CLOCK_STEP) => now,
            since if since.plus(limits::NUMBER_REST) <= now => Timestamp::default(),
            since => since,
        });
    }
}

/// The account, and the bystander who believes nothing that it says of itself.
#[derive(Debug)]
struct World {
    now: Timestamp,
    account: Account,
    log: Vec<(Timestamp, Event)>,
    fates: BTreeMap<ApprovalId, Fate>,
    /// In the order in which they were asked for.
    sign_ins: Vec<SignIn>,
    active: BTreeSet<AuthenticatorId>,
    envelopes: Vec<v1::Envelope>,
    checked: Vec<VerifiedAnswer>,
    requests: u32,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: at(100),
            account: Account::default(),
            log: Vec::new(),
            fates: BTreeMap::new(),
            sign_ins: Vec::new(),
            active: BTreeSet::new(),
            envelopes: Vec::new(),
            checked: Vec::new(),
            requests: 0,
        };
        for (at, event) in account_with(&[&PHONES[0], &PHONES[1]]) {
            world.record(at, event);
        }
        world
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Wait(millis) => self.now = self.now.plus(Duration::from_millis(*millis)),
            Step::SetBack(millis) => self.now = self.now.minus(Duration::from_millis(*millis)),
            Step::Request(ask) => self.request(ask),
            Step::Answer { sign_in, phone, what } => {
                if let Some(it) = self.pick(*sign_in) {
                    let envelope = self.answer(&it, &PHONES[*phone], what);
                    self.envelopes.push(envelope.clone());
                    self.submit(&envelope);
                }
            }
            Step::Resend(which) => {
                if let Some(envelope) = recent(&self.envelopes, *which) {
                    self.submit(&envelope);
                }
            }
            Step::Stale(which) => {
                if let Some(answer) = recent(&self.checked, *which) {
                    self.submit_checked(answer);
                }
            }
            Step::Cancel { sign_in, by_bank } => {
                if let Some(it) = self.pick(*sign_in) {
                    let relying_party = if *by_bank { BANK } else { SHOP };
                    let asked_by_it = relying_party == it.request.relying_party;
                    let events = self.decide(&Command::CancelApproval { approval: it.id(), relying_party });
                    for event in events.unwrap_or_default() {
                        assert!(asked_by_it, "another relying party's approval was ended: {event:?}");
                        assert_eq!(ending(&event).map(|(id, _)| id), Some(it.id()));
                    }
                }
            }
            Step::Expire(sign_in) => {
                if let Some(it) = self.pick(*sign_in) {
                    for event in self.decide(&it.expire()).unwrap_or_default() {
                        assert_eq!(ending(&event), Some((it.id(), Outcome::Expired)));
                        assert!(self.fates[&it.id()].is_over(self.now), "before its time");
                    }
                }
            }
            Step::Enrol => {
                let phone = &PHONES[2];
                if self.account.authenticator(phone.id).is_none() {
                    for (at, event) in phone.enrolled(self.now) {
                        self.record(at, event);
                    }
                }
            }
            Step::Revoke(phone) => {
                let authenticator = PHONES[*phone].id;
                let _ = self.decide(&Command::RevokeAuthenticator { authenticator, relying_party: SHOP });
            }
        }
    }

    /// One of the last eight.
    fn pick(&self, which: usize) -> Option<SignIn> {
        recent(&self.sign_ins, which)
    }

    fn request(&mut self, ask: &Ask) {
        self.requests += 1;
        let mut it = SignIn::new(self.requests, "00", self.now);
        it.request.relying_party = if ask.by_bank { BANK } else { SHOP };
        it.request.session_binding = Bytes::from(vec![ask.session; 16]);
        it.request.policy.lifetime = Duration::from_secs(ask.lifetime_s);
        it.request.policy.waiting_max = 3;
        if let Some((key, body)) = ask.key {
            it = it.keyed(&format!("{key}"), &format!("{body}"));
        }
        let mut bits = ask.from..;
        let is_taken = |number| !ask.blindly && self.account.number_is_taken(number, self.now);
        it.number = MatchNumber::draw(2, is_taken, || bits.next().expect("there is no end"));

        let Ok(events) = self.decide(&it.command()) else { return };
        for event in events {
            match &event {
                Event::ApprovalRequested(requested) => {
                    assert_eq!(requested.request.approval, it.id());
                    self.sign_ins.push(it.clone());
                }
                Event::ApprovalRefused(refused) => assert_eq!(refused.request.approval, it.id()),
                Event::ApprovalSuperseded { approval, by } => {
                    let older = &self.fates[approval].sign_in.request;
                    assert_eq!(*by, it.id());
                    assert_eq!(older.relying_party, it.request.relying_party);
                    assert_eq!(older.session_binding, it.request.session_binding);
                }
                Event::ApprovalExpired { approval } => {
                    assert!(self.fates[approval].is_over(self.now));
                }
                other => panic!("nothing that a request does: {other:?}"),
            }
        }
    }

    fn answer(&self, it: &SignIn, phone: &Phone, what: &What) -> v1::Envelope {
        match what {
            What::TypeIts => phone.approves(it, &it.number.to_text()),
            What::TypeThatOf(other) => {
                let other = self.pick(*other).unwrap_or_else(|| it.clone());
                phone.approves(it, &other.number.to_text())
            }
            What::Type(number) => phone.approves(it, &format!("{number:02}")),
            What::Deny => phone.denies(it),
            What::Report => phone.reports(it),
        }
    }

    fn submit(&mut self, envelope: &v1::Envelope) {
        if let Ok(answer) = VerifiedAnswer::verify(&self.account, BROKER_ID, envelope) {
            self.checked.push(answer.clone());
            self.submit_checked(answer);
        }
    }

    fn submit_checked(&mut self, answer: VerifiedAnswer) {
        let to = answer.approval();
        for event in self.decide(&Command::SubmitAnswer(answer)).unwrap_or_default() {
            if let Some((ended, _)) = ending(&event) {
                assert_eq!(ended, to, "an answer to one approval ended another");
            } else {
                assert!(matches!(event, Event::PushPaused { .. }), "nothing that an answer does: {event:?}");
            }
        }
    }

    fn decide(&mut self, command: &Command) -> Result<Vec<Event>, Refusal> {
        let result = self.account.decide(command, self.now);
        assert_eq!(
            result,
            self.account.decide(command, self.now),
            "a decision depends on state and time alone"
        );
        for event in result.iter().flatten() {
            self.record(self.now, event.clone());
        }
        result
    }

    /// The bystander looks at an event, and then the account takes it in.
    fn record(&mut self, at: Timestamp, event: Event) {
        match &event {
            Event::AuthenticatorActivated { authenticator, .. } => {
                self.active.insert(*authenticator);
            }
            Event::AuthenticatorRevoked { authenticator, .. } => {
                self.active.remove(authenticator);
            }
            Event::ApprovalRequested(requested) => self.see_request(requested, at),
            Event::ApprovalApproved { approval, answer, .. } => {
                let fate = &self.fates[approval];
                let signed = v1::Answer::decode(answer.payload.clone()).expect("it was checked");
                assert_eq!(signed.decision(), v1::Decision::Approve);
                assert_eq!(signed.approval_id, approval.to_string());
                assert!(signed.number == fate.number.to_text(), "approved with a wrong number");
                assert!(fate.asked.contains(&answer.authenticator), "approved by one who was not asked");
                assert!(self.active.contains(&answer.authenticator), "approved by one who may not any more");
                assert!(!fate.is_over(at), "approved after its end");
                let to_go = at.until(fate.sign_in.expires_at());
                assert!(to_go <= fate.sign_in.request.policy.lifetime + limits::CLOCK_STEP);
            }
            _ => {}
        }
        if let Some((id, outcome)) = ending(&event) {
            let fate = self.fates.get_mut(&id).expect("it was asked for");
            assert_eq!(fate.ended, None, "a second ending: {event:?}");
            fate.ended = Some((at, outcome));
            fate.rests_since = Some(at);
        }
        for fate in self.fates.values_mut() {
            fate.see_clock(at);
        }
        self.account.evolve(&event, at);
        self.log.push((at, event));
        self.compare();
    }

    fn see_request(&mut self, requested: &ApprovalRequested, at: Timestamp) {
        let number = requested.question.number;
        for other in self.fates.values() {
            let until = other.rests_since.map(|since| since.plus(limits::NUMBER_REST));
            let rested = until.is_some_and(|until| until <= at);
            assert!(rested || other.number != number, "a number that is live or rests was shown again");
        }
        assert_eq!(requested.authenticators_addressed as usize, self.active.len());
        let mut sign_in = SignIn::new(0, &number.to_text(), at);
        sign_in.request = requested.request.clone();
        let fate = Fate {
            sign_in,
            number,
            asked: self.active.clone(),
            ended: None,
            rests_since: None,
            seen_over: false,
        };
        let before = self.fates.insert(requested.request.approval, fate);
        assert!(before.is_none(), "one id, two approvals");
    }

    /// The account says of each approval what the bystander wrote down.
    fn compare(&self) {
        for (id, fate) in &self.fates {
            match self.account.approval(*id) {
                Some(known) => {
                    let said = known.ending.as_ref().map(|ending| (ending.at, ending.outcome));
                    assert_eq!(said, fate.ended, "another ending than the one that was recorded");
                }
                None => assert!(fate.ended.is_some(), "an approval that waits was forgotten"),
            }
        }
        let live: BTreeSet<_> = self.account.live_approvals().map(|one| one.id).collect();
        let waiting = self.fates.iter().filter(|(_, fate)| fate.ended.is_none()).map(|(id, _)| *id);
        assert_eq!(live, waiting.collect());
    }

    /// The same history makes the same state, however often and in however many goes it is folded.
    fn fold_again(&self) {
        let events = || self.log.iter().map(|(at, event)| (*at, event));
        assert_eq!(Account::fold(events()), self.account);
        let mut resumed = Account::fold(events().take(self.log.len() / 2));
        for (at, event) in events().skip(self.log.len() / 2) {
            resumed.evolve(event, at);
        }
        assert_eq!(resumed, self.account);
    }

    /// A state that was kept in the middle of the history, and read back, goes on as if it had been folded.
    fn go_on_from_what_was_kept(&self, at: usize) {
        let (before, after) = self.log.split_at(at % (self.log.len() + 1));
        let folded = Account::fold(before.iter().map(|(at, event)| (*at, event)));
        let mut read = Account::from_kept(&folded.to_kept()).expect("it was kept");
        assert_eq!(read, folded);
        for (at, event) in after {
            read.evolve(event, *at);
        }
        assert_eq!(read, self.account);
    }
}

fn recent<T: Clone>(all: &[T], which: usize) -> Option<T> {
    let last = &all[all.len().saturating_sub(8)..];
    if last.is_empty() { None } else { last.get(which % last.len()).cloned() }
}

/// Which approval an event ends, and how.
fn ending(event: &Event) -> Option<(ApprovalId, Outcome)> {
    Some(match event {
        Event::ApprovalApproved { approval, user_verified, .. } => {
            (*approval, Outcome::Approved { user_verified: *user_verified })
        }
        Event::ApprovalDenied { approval, reported: false, .. } => (*approval, Outcome::Denied),
        Event::ApprovalDenied { approval, reported: true, .. } => (*approval, Outcome::Reported),
        Event::NumberWrong { approval, .. } => (*approval, Outcome::WrongNumber),
        Event::ApprovalExpired { approval } => (*approval, Outcome::Expired),
        Event::ApprovalCancelled { approval, .. } => (*approval, Outcome::Cancelled),
        Event::ApprovalSuperseded { approval, .. } => (*approval, Outcome::Superseded),
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_no_rule_breaks(
        steps in proptest::collection::vec(step(), 1..80),
        kept_at: usize,
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.fold_again();
        world.go_on_from_what_was_kept(kept_at);
    }
}

#[test]
fn the_steps_of_the_property_reach_every_outcome() {
    // A property that never gets anywhere holds always.
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let steps = proptest::collection::vec(step(), 80);
    let mut seen = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        let mut world = World::new();
        for step in steps.new_tree(&mut runner).expect("it generates").current() {
            world.take(&step);
        }
        for (_, event) in &world.log {
            let name = match event {
                Event::ApprovalRefused(refused) => format!("{:?}", refused.because),
                Event::PushPaused { .. } => "PushPaused".to_owned(),
                other => ending(other).map(|(_, outcome)| format!("{outcome:?}")).unwrap_or_default(),
            };
            *seen.entry(name).or_default() += 1;
        }
    }
    for outcome in [
        "Approved { user_verified: false }",
        "Denied",
        "Reported",
        "WrongNumber",
        "Expired",
        "Cancelled",
        "Superseded",
        "Unreachable",
        "TooManyWaiting",
        "PushPaused",
    ] {
        assert!(seen.get(outcome).is_some_and(|times| *times >= 3), "{outcome} in {seen:?}");
    }
}

// ---- evolve is total ----

/// An event of any kind about any of a few ids, known or not, in an order that no decision would take.
fn any_event(kind: u8, a: u8, b: u8, moment: Timestamp) -> Event {
    let phone = Phone::ed25519(a);
    let approval = ApprovalId::new(ACCOUNT, [a; 16]);
    let mut it = SignIn::new(0, "42", moment);
    it.request.approval = approval;
    it.number = MatchNumber::new(u32::from(b), [1, 2, 3, 9][usize::from(b % 4)]).unwrap_or(it.number);
    it.request.policy = any_policy(b);
    it.request.session_binding = Bytes::from(vec![b % 2; 16]);
    let answer = countersign_domain::event::RecordedAnswer {
        authenticator: phone.id,
        answer_hash: [b; 32],
        payload: Bytes::new(),
        signature: Bytes::new(),
    };
    let question = unsigned_question(approval, it.number);
    match kind % 20 {
        0 => Event::Opened(crate::cast::identity()),
        1 => phone.begun(moment).1,
        2 => Event::EnrolmentCodeRefused { enrolment: phone.enrolment },
        3 => Event::EnrolmentEnded {
            enrolment: phone.enrolment,
            reason: EnrolmentEnd::Expired,
            answer_hash: (b.is_multiple_of(2)).then_some([b; 32]),
        },
        4 => phone.bound_and_asked(&v1::Envelope::default(), moment)[0].clone(),
        5 => phone.bound_and_asked(&v1::Envelope::default(), moment)[1].clone(),
        6 => phone.activated([b; 32]),
        7 => Event::AuthenticatorRevoked {
            authenticator: phone.id,
            by: if b.is_multiple_of(2) {
                RevokedBy::Trial
            } else {
                RevokedBy::Unenrolment { counter: u64::MAX }
            },
            was_active: b.is_multiple_of(3),
        },
        8 => Event::PushTargetReplaced {
            authenticator: phone.id,
            push_target: phone.push_target(),
            counter: u64::from(b),
        },
        9 => Event::PushTargetDied { authenticator: phone.id, target_hash: [b; 32], reason: String::new() },
        10 | 11 => Event::ApprovalRequested(ApprovalRequested {
            request: it.request,
            question,
            expires_at: moment.plus(Duration::from_secs(u64::from(b))),
            authenticators_addressed: u32::from(b),
        }),
        12 => Event::ApprovalRefused(ApprovalRefused {
            request: it.request,
            because: RefusedBecause::NumbersExhausted,
        }),
        13 => Event::ApprovalApproved { approval, answer, user_verified: b.is_multiple_of(2) },
        14 => Event::ApprovalDenied { approval, answer, reported: b.is_multiple_of(2) },
        15 => Event::NumberWrong { approval, authenticator: phone.id, answer_hash: [b; 32] },
        16 => Event::ApprovalExpired { approval },
        17 => Event::ApprovalCancelled { approval, by: BANK },
        18 => Event::ApprovalSuperseded { approval, by: approval },
        _ => Event::PushPaused { until: moment },
    }
}

fn any_policy(b: u8) -> Policy {
    match b % 3 {
        0 => Policy::default(),
        1 => Policy {
            digits: b,
            lifetime: Duration::MAX,
            waiting_max: u32::MAX,
            requests_max: u32::MAX,
            requests_window: Duration::MAX,
            wrong_numbers_max: u32::MAX,
            wrong_numbers_window: Duration::MAX,
            push_pause: Duration::MAX,
        },
        _ => Policy {
            digits: 0,
            lifetime: Duration::ZERO,
            waiting_max: 0,
            requests_max: 0,
            requests_window: Duration::ZERO,
            wrong_numbers_max: 0,
            wrong_numbers_window: Duration::ZERO,
            push_pause: Duration::ZERO,
        },
    }
}

fn unsigned_question(approval: ApprovalId, number: MatchNumber) -> Question {
    Question {
        number,
        salt: Salt::from_bytes([0; 32]),
        commitment: [0; 32],
        challenge: SignedMessage {
            payload: Bytes::copy_from_slice(approval.as_bytes()),
            signature: Bytes::new(),
            key_id: String::new(),
        },
    }
}

fn any_moment() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        1 => Just(Timestamp::default()),
        1 => Just(Timestamp::from_millis(u64::MAX)),
        8 => (0..3_000u64).prop_map(at),
    ]
}

/// Every command that needs no phone's signature.
fn commands(a: u8, b: u8, now: Timestamp) -> Vec<Command> {
    let phone = Phone::ed25519(a);
    let mut it = SignIn::new(u32::from(b), "17", now).of(BANK);
    it.request.policy = any_policy(b);
    it.request.approval = ApprovalId::new(ACCOUNT, [b; 16]);
    vec![
        phone.begin(),
        Command::ExpireEnrolment(phone.enrolment),
        Command::CancelEnrolment(phone.enrolment),
        Command::RevokeAuthenticator { authenticator: phone.id, relying_party: SHOP },
        Command::RecordDeadTarget {
            authenticator: phone.id,
            target_hash: phone.push_target().hash(),
            dead_since: Some(now),
            reason: String::new(),
        },
        Command::RequestApproval { request: it.request.clone(), question: None },
        Command::RequestApproval {
            question: Some(unsigned_question(it.id(), it.number)),
            request: it.request.clone(),
        },
        it.expire(),
        it.cancel(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A newer release, an older one, or a fault wrote it: it applies; and one can still decide on it.
    #[test]
    fn any_sequence_of_any_events_applies_and_the_first_ending_stands(
        events in proptest::collection::vec((any::<u8>(), 0..4u8, any::<u8>(), any_moment()), 0..60),
        now in any_moment(),
        a in 0..4u8,
        b in any::<u8>(),
    ) {
        let mut account = Account::default();
        for (kind, a, b, moment) in events {
            let before: Vec<_> = (0..4)
                .filter_map(|n| account.approval(ApprovalId::new(ACCOUNT, [n; 16])).cloned())
                .filter(|one| one.ending.is_some())
                .collect();
            let event = any_event(kind, a, b, moment);
            account.evolve(&event, moment);
            for ended in before {
                if let Some(after) = account.approval(ended.id) {
                    prop_assert_eq!(&after.ending, &ended.ending);
                }
            }
        }
        let kept = Account::from_kept(&account.to_kept());
        prop_assert_eq!(kept.as_ref(), Some(&account));
        for command in commands(a, b, now) {
            for event in account.decide(&command, now).unwrap_or_default() {
                let mut after = account.clone();
                after.evolve(&event, now);
            }
        }
    }
}

// ---- two sign-ins at once ----

/// 32 bits at a time, the same on every run.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u32 {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) >> 32).expect("32 bits are left")
    }
}

/// How a number is drawn for the account as it stands.
type Draw = fn(&Account, Timestamp, &mut Dice) -> MatchNumber;

/// As the broker draws: again, while the account says that the number is taken.
const DRAW: Draw =
    |account, now, dice| MatchNumber::draw(2, |number| account.number_is_taken(number, now), || dice.roll());

/// With the redraw taken out.
const DRAW_ONCE: Draw = |_, _, dice| MatchNumber::draw(2, |_| false, || dice.roll());

/// An account on which nothing has happened for a while, and its phone.
static FRESH: LazyLock<(Account, Phone)> = LazyLock::new(|| {
    let phone = Phone::ed25519(1);
    (given(account_with(&[&phone])).as_state().clone(), phone)
});

/// A sign-in of a browser session of its own, issued to the account with a number drawn for it.
fn issue(
    account: &mut Account,
    n: u8,
    now: Timestamp,
    draw: Draw,
    dice: &mut Dice,
) -> Result<SignIn, Refusal> {
    let mut it = SignIn::new(u32::from(n), "00", now);
    assert!(matches!(assess(account, &it.request, now)?, Assessment::Issue { .. }), "there is room for two");
    it.number = draw(account, now, dice);
    let question = unsigned_question(it.id(), it.number);
    let command = Command::RequestApproval { request: it.request.clone(), question: Some(question) };
    for event in account.decide(&command, now)? {
        account.evolve(&event, now);
    }
    Ok(it)
}

/// The victim's phone answers `it` with the number that stands on the victim's own page.
fn victim_types(account: &mut Account, it: &SignIn, number: MatchNumber, now: Timestamp) {
    let (_, phone) = &*FRESH;
    let answer = v1::Answer {
        broker_id: BROKER_ID.to_owned(),
        approval_id: it.id().to_string(),
        challenge_hash: unsigned_question(it.id(), number).challenge.payload_hash().to_vec().into(),
        authenticator_id: phone.id.to_string(),
        decision: v1::Decision::Approve.into(),
        number: number.to_text(),
        user_verified: false,
        nonce: vec![0; 16].into(),
    };
    let envelope = phone.sign(payload_type::ANSWER, &answer);
    let answer = VerifiedAnswer::verify(account, BROKER_ID, &envelope).expect("it is genuine");
    let events = account.decide(&Command::SubmitAnswer(answer), now).expect("it waits");
    for event in events {
        account.evolve(&event, now);
    }
}

/// One round: `Ok` if the numbers differ and the victim's answer ends what it answers and nothing else. The victim
/// answers their own challenge, or takes the attacker's for it: then it must come to nothing.
fn round(draw: Draw, answers: bool, dice: &mut Dice) -> Result<(), &'static str> {
    let mut account = FRESH.0.clone();
    let victim_first = dice.roll().is_multiple_of(2);
    let (first, second) = (at(1_000), at(1_000 + u64::from(dice.roll() % 50)));
    let taken = "the broker would issue a number that the account refuses: NumberTaken";
    let one = issue(&mut account, 1, first, draw, dice).map_err(|_| taken)?;
    let two = issue(&mut account, 2, second, draw, dice).map_err(|_| taken)?;
    let (victims, attackers) = if victim_first { (one, two) } else { (two, one) };
    if victims.number == attackers.number {
        return Err("one number on two pages");
    }
    if !answers {
        return Ok(());
    }
    let mistaken = dice.roll().is_multiple_of(2);
    let (answered, other) = if mistaken { (&attackers, &victims) } else { (&victims, &attackers) };
    victim_types(&mut account, answered, victims.number, second);
    let outcome = |it: &SignIn| {
        account.approval(it.id()).and_then(|one| one.ending.as_ref()).map(|ending| ending.outcome)
    };
    let expected = if mistaken { Outcome::WrongNumber } else { Outcome::Approved { user_verified: false } };
    if outcome(answered) != Some(expected) {
        return Err("the answer did not do what it should");
    }
    if outcome(other).is_some() || !account.live_approvals().any(|one| one.id == other.id()) {
        return Err("an answer to one sign-in ended the other");
    }
    Ok(())
}

/// Plays so many rounds on as many threads as there are cores. Which of them were lost, and why.
fn race(rounds: u32, draw: Draw, answers: bool) -> Vec<(u32, &'static str)> {
    let threads = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    (first..rounds)
                        .step_by(threads as usize)
                        .filter_map(|n| {
                            let lost = round(draw, answers, &mut Dice(u64::from(n))).err()?;
                            Some((n, lost))
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        runs.into_iter().flat_map(|run| run.join().expect("no round panics")).collect()
    })
}

/// 100,000 times a victim and an attacker sign in at once, each to an account on which nothing has happened, and the
/// victim answers one of the two challenges with the number of their own page.
///
/// To see it fail, put `DRAW_ONCE` in place of `DRAW`: about one round in a hundred is lost, since the domain refuses
/// the second number (NumberTaken). Take that check out of `approval::request`, too, and the same rounds are lost with
/// "one number on two pages".
#[test]
fn in_a_hundred_thousand_races_no_two_pages_show_one_number_and_no_answer_ends_the_others_sign_in() {
    let lost = race(100_000, DRAW, true);
    assert!(lost.is_empty(), "{} rounds are lost, the first: {:?}", lost.len(), lost[0]);
}

/// So that the race can be lost: without the redraw it is, as often as chance has it.
#[test]
fn without_the_redraw_the_race_is_lost() {
    let lost = race(20_000, DRAW_ONCE, false).len();
    assert!(
        (140..=260).contains(&lost),
        "{lost} rounds of 20,000 are lost, where one in a hundred should be"
    );
}
