//! The story with a log that is slow, full or gone, which no test by real processes can have at will.
#![expect(clippy::disallowed_methods, reason = "tokio's paused clock is the time of these tests")]

pub(crate) mod log;
pub(crate) mod stage;

use std::{
    io::Write,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use countersign_domain::{
    ApprovalId, AuthenticatorId, EnrolmentId, Event, RelyingPartyId,
    command::Refusal,
    event::{ApprovalRefused, Context, EnrolmentEnd, RefusedBecause, Request, RevokedBy},
    limits,
    policy::Policy,
    text::DisplayText,
};
use futures::future::{join_all, try_join_all};
use serde_json::Value;
use tokio::time::{advance, timeout};

use self::stage::{ACCOUNT, RELYING_PARTY, Setting, Stage, a_while, answer, until};
use super::{Error, expiry};
use crate::{
    decider::codec::delivery::{Delivery, DeliveryStep},
    push::PushKind,
    rates::{PerSecond, Rates},
    shares::{Full, Most},
};

fn texts(phones: &[AuthenticatorId]) -> Vec<String> {
    phones.iter().map(ToString::to_string).collect()
}

fn count(deliveries: &[Delivery], step: &DeliveryStep) -> usize {
    deliveries.iter().filter(|one| one.step == *step).count()
}

#[tokio::test(start_paused = true)]
async fn what_is_due_while_the_disk_is_full_ends_when_there_is_room_however_much_it_is() {
    const MANY: usize = 60;
    let mut stage = Stage::set(Setting { expiries_waiting: 2, ..Setting::default() }).await;
    tokio::spawn(expiry::run(stage.sign_in.clone(), stage.due.take().unwrap(), 2));
    stage.account(1).await;
    for _ in 0..MANY {
        stage.request(None).await.unwrap();
    }
    let waiting = || stage.sign_in.models.index.live_approvals_count();
    until(|| waiting() == MANY).await;
    stage.log.inner.set_full(true);
    advance(Policy::default().lifetime).await;
    a_while().await;
    assert_eq!(waiting(), MANY);
    stage.log.inner.set_full(false);
    until(|| waiting() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_comes_many_times_at_once_is_one_event() {
    let stage = Stage::new().await;
    let phone = stage.account(1).await[0];
    let id = stage.shown(1).await;
    let account = stage.sign_in.accounts.load(ACCOUNT).await.unwrap();
    let expires_at = account.approval(id).unwrap().issued.as_ref().unwrap().expires_at;
    let token = stage.sign_in.keys.acknowledgements.token(id, phone, expires_at);
    let say = |step| stage.sign_in.acknowledge(id, phone, &token, step);

    try_join_all((0..600).map(|_| say(DeliveryStep::Delivered))).await.unwrap();
    assert_eq!(count(&stage.deliveries().await, &DeliveryStep::Delivered), 1);

    stage.log.inner.set_full(true);
    let refused = join_all((0..3).map(|_| say(DeliveryStep::Opened))).await;
    assert!(refused.iter().any(Result::is_err), "{refused:?}");
    stage.log.inner.set_full(false);
    say(DeliveryStep::Opened).await.unwrap();
    // Somebody who goes away while it is written does not let another in.
    let _ = timeout(Duration::ZERO, say(DeliveryStep::Opened)).await;
    say(DeliveryStep::Opened).await.unwrap();
    a_while().await;
    assert_eq!(
        count(&stage.deliveries().await, &DeliveryStep::Opened),
        1,
        "when it failed, it may be said again"
    );
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_while_the_account_is_read_leaves_no_place_on_the_board() {
    let stage = Stage::new().await;
    stage.account(1).await;
    let never = ApprovalId::new(ACCOUNT, [9; 16]);
    stage.log.hold_reads(true);
    let watching = timeout(Duration::from_secs(1), stage.sign_in.watch(RELYING_PARTY, never, 0)).await;
    assert!(watching.is_err(), "it reads");
    let waiting = timeout(Duration::from_secs(1), stage.sign_in.ended(RELYING_PARTY, never)).await;
    assert!(waiting.is_err(), "it reads");
    assert!(stage.sign_in.models.approvals.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_phones_show_of_an_approval_that_ended_before_a_crash_is_replaced_after_it() {
    let mut stage = Stage::new().await;
    let phones = stage.account(3).await;
    let answered = stage.shown(3).await;
    stage.crash().await;
    let approved =
        Event::ApprovalApproved { approval: answered, answer: answer(phones[0]), user_verified: true };
    stage.append(vec![approved]).await;

    let mut stage = stage.next().await;
    until(|| stage.phones.pushed(PushKind::Ended).len() >= 2).await;
    a_while().await;
    assert_eq!(stage.phones.pushed(PushKind::Ended), texts(&phones[1..]), "the one that answered knows");
    assert!(stage.phones.pushed(PushKind::Challenge).is_empty());
    stage.stop().await;

    let mut stage = stage.next().await;
    a_while().await;
    assert!(stage.phones.pushed(PushKind::Ended).is_empty(), "after a stop nothing is done twice");
    let expired = stage.shown(3).await;
    stage.crash().await;
    stage.append(vec![Event::ApprovalExpired { approval: expired }]).await;
    advance(Duration::from_secs(10 * 60)).await;
    let stage = stage.next().await;
    a_while().await;
    assert!(stage.phones.pushed(PushKind::Ended).is_empty(), "nobody looks at that any more");
}

#[tokio::test(start_paused = true)]
async fn what_phones_show_is_replaced_when_the_approval_ends() {
    let stage = Stage::new().await;
    let phones = stage.account(3).await;
    let id = stage.shown(3).await;
    stage
        .append(vec![Event::ApprovalDenied { approval: id, answer: answer(phones[2]), reported: true }])
        .await;
    until(|| stage.phones.pushed(PushKind::Ended).len() >= 2).await;
    a_while().await;
    assert_eq!(stage.phones.pushed(PushKind::Ended), texts(&phones[..2]));
}

#[tokio::test(start_paused = true)]
async fn no_more_pushes_go_out_than_may_wait_to_be_recorded() {
    const MANY: usize = 10;
    let stage = Stage::set(Setting { pushes_max: 4, ..Setting::default() }).await;
    stage.account(1).await;
    a_while().await;
    stage.log.hold_deliveries(true);
    for _ in 0..MANY {
        stage.request(None).await.unwrap();
    }
    a_while().await;
    assert_eq!(stage.phones.pushed(PushKind::Challenge).len(), 4);
    stage.log.hold_deliveries(false);
    a_while().await;
    let deliveries = stage.deliveries().await;
    let full = DeliveryStep::Failed { reason: "QUEUE_FULL".to_owned() };
    assert_eq!((deliveries.len(), count(&deliveries, &full)), (MANY, MANY - 4), "{deliveries:?}");
    stage.shown(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_died_is_known_to_be_dead_even_if_progress_cannot_be_recorded() {
    let stage = Stage::new().await;
    let phone = stage.account(1).await[0];
    stage.phones.dead.store(true, Ordering::SeqCst);
    stage.log.refuse_deliveries();
    stage.request(None).await.unwrap();
    a_while().await;
    let account = stage.sign_in.accounts.load(ACCOUNT).await.unwrap();
    assert!(account.authenticator(phone).unwrap().push_target_dead);
}

#[tokio::test(start_paused = true)]
async fn a_full_broker_knows_the_approvals_that_stand() {
    let stage = Stage::set(Setting::waiting(1)).await;
    stage.account(1).await;
    let first = stage.request(Some(1)).await.unwrap();
    until(|| stage.sign_in.models.index.is_live(first.id)).await;
    assert_eq!(stage.request(Some(1)).await.unwrap().id, first.id);
    for key in [Some(2), None] {
        is_full(&stage, key, 1).await;
    }
}

/// No other approval is taken, since so many wait.
async fn is_full(stage: &Stage, key: Option<u8>, waiting: usize) {
    assert_eq!(stage.request(key).await.unwrap_err(), Error::TooManyLive(Full::InAll(waiting)));
}

#[tokio::test(start_paused = true)]
async fn no_more_approvals_wait_than_may_however_many_are_asked_for_at_once() {
    const MAX: usize = 5;
    let stage = Stage::set(Setting::waiting(MAX)).await;
    stage.account(1).await;
    for _ in 0..3 {
        let asked = join_all((0..400).map(|_| stage.request(None))).await;
        let (made, refused): (Vec<_>, Vec<_>) = asked.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), MAX);
        let full = |one: &Result<_, _>| matches!(one, Err(Error::TooManyLive(Full::InAll(MAX))));
        assert!(refused.iter().all(full), "{refused:?}");
        for opened in made {
            stage.sign_in.cancel(RELYING_PARTY, opened.unwrap().id).await.unwrap();
        }
        until(|| stage.sign_in.models.index.live_approvals_count() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_relying_party_has_no_more_approvals_than_its_share_and_leaves_the_others_theirs() {
    const OTHER: RelyingPartyId = RelyingPartyId::from_bytes([7; 16]);
    let live_max = Most { in_all: 8, of_one: 5 };
    let stage = Stage::set(Setting { live_max, ..Setting::default() }).await;
    stage.account(1).await;
    let ask = async |relying_party| {
        let session = || stage.sign_in.entropy.bytes();
        let asked = join_all((0..100).map(|_| stage.request_of(relying_party, session(), None))).await;
        asked.into_iter().partition::<Vec<_>, _>(Result::is_ok)
    };
    let (made, refused) = ask(RELYING_PARTY).await;
    assert_eq!(made.len(), 5);
    let has_its_share = |one: &Result<_, _>| matches!(one, Err(Error::TooManyLive(Full::OfOne(5))));
    assert!(refused.iter().all(has_its_share), "{refused:?}");
    let (others, refused) = ask(OTHER).await;
    assert_eq!(others.len(), 3);
    let is_full = |one: &Result<_, _>| matches!(one, Err(Error::TooManyLive(Full::InAll(8))));
    assert!(refused.iter().all(is_full), "{refused:?}");
    // What one gives back, the other can have.
    for opened in made {
        stage.sign_in.cancel(RELYING_PARTY, opened.unwrap().id).await.unwrap();
    }
    until(|| stage.sign_in.models.index.live_approvals_count() == 3).await;
    assert_eq!(ask(OTHER).await.0.len(), 2);
    assert_eq!(ask(RELYING_PARTY).await.0.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_does_not_come_about_keeps_no_place() {
    let stage = Stage::set(Setting::waiting(2)).await;
    stage.account(0).await;
    for key in [None, Some(1), None] {
        let refused = stage.request(key).await.unwrap();
        assert!(refused.approval().unwrap().ending.is_some(), "there is nobody to ask");
    }
    stage.account(1).await;
    stage.log.inner.set_full(true);
    for key in [None, Some(2), None] {
        let error = stage.request(key).await.unwrap_err();
        assert!(matches!(error, Error::Log(_)), "{error}");
    }
    stage.log.inner.set_full(false);
    // All but one are the same request again; while that one is on its way, the others may be told to come again.
    let asked = join_all((0..20).map(|_| stage.request(Some(3)))).await;
    let (made, refused): (Vec<_>, Vec<_>) = asked.into_iter().partition(Result::is_ok);
    let made: Vec<_> = made.into_iter().map(|opened| opened.unwrap().id).collect();
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    assert!(refused.iter().all(|one| matches!(one, Err(Error::TooManyLive(_)))), "{refused:?}");
    let other = stage.request(None).await.unwrap().id;
    is_full(&stage, None, 2).await;
    for id in [made[0], other] {
        stage.sign_in.cancel(RELYING_PARTY, id).await.unwrap();
    }
    until(|| stage.sign_in.models.index.live_approvals_count() == 0).await;
    try_join_all([None, None].map(|key| stage.request(key))).await.unwrap();
    is_full(&stage, None, 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_approval_whose_caller_goes_away_while_it_is_written_has_its_place() {
    let stage = Stage::set(Setting::waiting(1)).await;
    stage.account(1).await;
    let gone = timeout(Duration::ZERO, stage.request(None)).await;
    assert!(gone.is_err(), "it is being written");
    is_full(&stage, None, 1).await;
    until(|| stage.sign_in.models.index.live_approvals_count() == 1).await;
    is_full(&stage, None, 1).await;
    let (id, _) = stage.sign_in.models.index.live_approvals()[0];
    stage.sign_in.cancel(RELYING_PARTY, id).await.unwrap();
    until(|| stage.sign_in.models.index.live_approvals_count() == 0).await;
    stage.request(None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_supersedes_an_approval_has_its_place_and_no_other() {
    let stage = Stage::set(Setting::waiting(1)).await;
    stage.account(1).await;
    for _ in 0..3 {
        let newer = stage.request_in([1; 16], None).await.unwrap();
        is_full(&stage, None, 1).await;
        until(|| stage.sign_in.models.index.is_live(newer.id)).await;
        is_full(&stage, None, 1).await;
    }
    let both = join_all([stage.request_in([1; 16], None), stage.request_in([1; 16], None)]).await;
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    until(|| stage.sign_in.models.index.live_approvals_count() == 1).await;
    is_full(&stage, None, 1).await;
}

#[tokio::test(start_paused = true)]
async fn approvals_that_wait_have_their_places_after_a_restart_too() {
    let mut stage = Stage::set(Setting::waiting(3)).await;
    stage.account(1).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(stage.request(None).await.unwrap().id);
    }
    // The log is read again from its beginning, and then from what the index kept of itself when it was stopped.
    for stops in [false, true] {
        if stops {
            stage.stop().await;
        } else {
            stage.crash().await;
        }
        stage = stage.next_set(Setting::waiting(2)).await;
        is_full(&stage, None, 3).await;
    }
    for id in &ids[..2] {
        stage.sign_in.cancel(RELYING_PARTY, *id).await.unwrap();
    }
    until(|| stage.sign_in.models.index.live_approvals_count() == 1).await;
    stage.request(None).await.unwrap();
    is_full(&stage, None, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_login_is_told_of_an_approval_for_days_and_an_id_that_nobody_has_costs_no_more_reading() {
    const IN_TIME: u32 = 10;
    let stage = Stage::new().await;
    stage.account(1).await;
    let request_and_cancel = async || {
        let id = stage.request(None).await.unwrap().id;
        stage.sign_in.cancel(RELYING_PARTY, id).await.unwrap();
        id
    };
    let first = request_and_cancel().await;
    for _ in 0..3 * IN_TIME {
        advance(limits::TOLD_FOR / IN_TIME).await;
        request_and_cancel().await;
    }
    let last = request_and_cancel().await;
    let standing = stage.sign_in.standing(RELYING_PARTY, last).await.unwrap();
    assert!(standing.approval.ending.is_some());
    let unknown = Error::Refused(Refusal::UnknownApproval);
    assert_eq!(stage.sign_in.standing(RELYING_PARTY, first).await.unwrap_err(), unknown);
    let before = stage.log.entries_read();
    let nobodys = ApprovalId::new(ACCOUNT, [9; 16]);
    assert_eq!(stage.sign_in.standing(RELYING_PARTY, nobodys).await.unwrap_err(), unknown);
    // A request and its end, each; and the one at which the time is over.
    let (read, in_time) = (stage.log.entries_read() - before, IN_TIME as usize);
    assert!((2 * in_time..=2 * in_time + 5).contains(&read), "{read} entries");
}

#[tokio::test(start_paused = true)]
async fn a_relying_party_that_looks_back_too_often_is_sent_away_and_one_that_watches_is_not() {
    let stage = Stage::new().await;
    stage.account(1).await;
    let live = stage.request(None).await.unwrap().id;
    let one_a_second = PerSecond { relying_party: 1, ..PerSecond::default() };
    let rates = Arc::new(Rates::new(one_a_second, &stage.sign_in.clock));
    let sign_in = stage.sign_in.clone().limited(rates);
    let look_back =
        async || sign_in.standing(RELYING_PARTY, ApprovalId::new(ACCOUNT, [9; 16])).await.unwrap_err();
    for _ in 0..10 {
        assert_eq!(look_back().await, Error::Refused(Refusal::UnknownApproval));
    }
    assert!(matches!(look_back().await, Error::TooOften(_)));
    assert!(sign_in.standing(RELYING_PARTY, live).await.is_ok());
    advance(Duration::from_secs(1)).await;
    assert_eq!(look_back().await, Error::Refused(Refusal::UnknownApproval));
}

#[tokio::test(start_paused = true)]
async fn one_phone_that_cannot_be_recorded_keeps_no_push_from_the_next() {
    let stage = Stage::new().await;
    let phones = stage.account(3).await;
    let died = |phone: AuthenticatorId| Event::PushTargetDied {
        authenticator: phone,
        target_hash: [0; 32],
        reason: "Unregistered".to_owned(),
    };
    stage.append(vec![died(phones[0])]).await;
    stage.log.refuse_deliveries();
    stage.request(None).await.unwrap();
    a_while().await;
    assert_eq!(stage.phones.pushed(PushKind::Challenge), texts(&phones[1..]));
}

/// Where log lines go.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Takes down what this thread says, until what is given is dropped.
    fn read(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
        tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish())
    }

    fn said(&self, message: &str) -> Vec<Value> {
        let bytes = self.0.lock().unwrap();
        let lines = std::str::from_utf8(&bytes).unwrap().lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["message"] == message).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_about_a_push_that_could_not_be_recorded_has_the_approvals_id() {
    let lines = Lines::default();
    let _reading = lines.read();
    let stage = Stage::new().await;
    stage.account(1).await;
    stage.log.refuse_deliveries();
    let id = stage.request(None).await.unwrap().id;
    let said = || lines.said("what became of a push could not be recorded");
    until(|| !said().is_empty()).await;
    assert_eq!(said()[0]["approval"], id.to_string(), "{}", said()[0]);
}

#[tokio::test(start_paused = true)]
async fn each_ending_is_one_line_with_the_approval_its_outcome_and_who() {
    let lines = Lines::default();
    let _reading = lines.read();

    let stage = Stage::new().await;
    let phones = stage.account(2).await;
    let mut live = Vec::new();
    for _ in 0..7 {
        live.push(stage.request(None).await.unwrap().id);
    }
    let by = phones[0];
    let refused = Request {
        approval: ApprovalId::new(ACCOUNT, [7; 16]),
        relying_party: RELYING_PARTY,
        application: DisplayText::recorded("Webmail"),
        context: Context::default(),
        session_binding: bytes::Bytes::from_static(&[0; 16]),
        idempotency: None,
        policy: Policy::default(),
    };
    let refused_id = refused.approval;
    let endings = vec![
        Event::ApprovalApproved { approval: live[0], answer: answer(by), user_verified: true },
        Event::ApprovalDenied { approval: live[1], answer: answer(by), reported: false },
        Event::ApprovalDenied { approval: live[2], answer: answer(by), reported: true },
        Event::NumberWrong { approval: live[3], authenticator: by, answer_hash: [0; 32] },
        Event::ApprovalExpired { approval: live[4] },
        Event::ApprovalCancelled { approval: live[5], by: RELYING_PARTY },
        Event::ApprovalSuperseded { approval: live[6], by: live[0] },
        Event::ApprovalRefused(ApprovalRefused { request: refused, because: RefusedBecause::PushPaused }),
    ];
    for ending in endings {
        stage.append(vec![ending]).await;
    }
    let expected = [
        (live[0], "approved", Some(by), "INFO"),
        (live[1], "denied", Some(by), "INFO"),
        (live[2], "reported", Some(by), "WARN"),
        (live[3], "wrong_number", Some(by), "WARN"),
        (live[4], "expired", None, "INFO"),
        (live[5], "cancelled", None, "INFO"),
        (live[6], "superseded", None, "INFO"),
        (refused_id, "refused", None, "INFO"),
    ];
    until(|| lines.said("approval ended").len() >= expected.len()).await;
    let said = lines.said("approval ended");
    assert_eq!(said.len(), expected.len(), "{said:?}");
    for (line, (approval, outcome, authenticator, level)) in said.iter().zip(expected) {
        assert_eq!(line["approval"], approval.to_string(), "{line}");
        assert_eq!((&line["outcome"], &line["level"]), (&outcome.into(), &level.into()), "{line}");
        assert_eq!(line["relying_party"], RELYING_PARTY.to_string(), "{line}");
        assert_eq!(
            line.get("authenticator"),
            authenticator.map(|by| by.to_string().into()).as_ref(),
            "{line}"
        );
    }
    assert_eq!(said.last().unwrap()["because"], "push_paused");

    let until_then = stage.sign_in.clock.now();
    let enrolment = EnrolmentId::new(ACCOUNT, [9; 8]);
    let relying_party = RevokedBy::RelyingParty(RELYING_PARTY);
    stage
        .append(vec![
            Event::PushPaused { until: until_then },
            Event::EnrolmentEnded { enrolment, reason: EnrolmentEnd::WrongNumber, answer_hash: None },
            Event::PushTargetDied {
                authenticator: by,
                target_hash: [0; 32],
                reason: "Unregistered".to_owned(),
            },
            Event::AuthenticatorRevoked { authenticator: phones[1], by: relying_party, was_active: true },
        ])
        .await;
    // The other phone cannot be told of it by push.
    let unpushed = "a notice was not pushed; the phone lists it";
    until(|| !lines.said(unpushed).is_empty()).await;
    let unpushed = &lines.said(unpushed)[0];
    assert_eq!((&unpushed["reason"], &unpushed["level"]), (&"NO_PUSH_TARGET".into(), &"WARN".into()));
    let one = |message| {
        let said = lines.said(message);
        assert_eq!(said.len(), 1, "{said:?}");
        said[0].clone()
    };
    assert_eq!(one("push is paused after wrong numbers")["level"], "WARN");
    let revoked = one("authenticator revoked");
    assert_eq!(
        (&revoked["by"], &revoked["authenticator"]),
        (&"relying_party".into(), &phones[1].to_string().into())
    );
    let ended = lines.said("enrolment ended");
    let outcomes: Vec<_> = ended.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["active", "active", "wrong_number"]);
    let everything = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!everything.contains("Alice") && !everything.contains("example.org"), "{everything}");
}
