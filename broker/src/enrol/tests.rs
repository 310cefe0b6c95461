//! What watching costs, and leaves behind.

use std::time::Duration;

use countersign_domain::{
    EnrolmentId, Event,
    command::Refusal,
    event::{EnrolmentEnd, Identity, PushServiceKind, PushTarget},
    limits,
    text::{DisplayText, Realm},
};
use futures::StreamExt;
use tokio::time::timeout;

use super::{Enrol, watch::Step};
use crate::signin::Error;
use crate::signin::tests::stage::{ACCOUNT, RELYING_PARTY, Stage};

#[tokio::test(start_paused = true)]
async fn a_watcher_reads_what_came_since_and_no_more() {
    let stage = Stage::new().await;
    let phone = stage.account(1).await[0];
    let replaced = |counter: u64| Event::PushTargetReplaced {
        authenticator: phone,
        push_target: PushTarget::recorded(PushServiceKind::Fcm, "another"),
        counter,
    };
    for counter in 0..100 {
        stage.append(vec![replaced(counter)]).await;
    }
    let enrol = Enrol::new(stage.sign_in.clone(), "http://127.0.0.1".to_owned());
    let identity =
        Identity { realm: Realm::recorded("example.org"), name: DisplayText::recorded("Alice Alison") };
    let enrolment = enrol.begin(ACCOUNT, identity, RELYING_PARTY).await.unwrap().enrolment;
    let before = stage.log.entries_read();
    let mut steps = Box::pin(enrol.watch(RELYING_PARTY, enrolment, 0).await.unwrap());
    assert!(matches!(steps.next().await.unwrap().unwrap().step, Step::Begun { .. }));
    assert_eq!(stage.log.entries_read() - before, 1, "back to where it began");
    for attempts_left in [4, 3, 2] {
        let before = stage.log.entries_read();
        stage.append(vec![replaced(100)]).await;
        stage.append(vec![Event::EnrolmentCodeRefused { enrolment }]).await;
        let update = steps.next().await.unwrap().unwrap();
        assert!(matches!(update.step, Step::CodeRefused { attempts_left: left } if left == attempts_left));
        assert_eq!(update.sequence, 6 - u32::from(attempts_left));
        assert_eq!(stage.log.entries_read() - before, 2);
    }
    let ended = Event::EnrolmentEnded { enrolment, reason: EnrolmentEnd::Cancelled, answer_hash: None };
    stage.append(vec![ended]).await;
    let update = steps.next().await.unwrap().unwrap();
    assert!(matches!(update.step, Step::Ended { reason: EnrolmentEnd::Cancelled }) && update.sequence == 5);
    assert!(steps.next().await.is_none());

    assert!(enrol.watch(RELYING_PARTY, enrolment, 0).await.is_ok());
    tokio::time::advance(limits::TOLD_FOR + Duration::from_secs(1)).await;
    let before = stage.log.entries_read();
    let unknown = enrol.watch(RELYING_PARTY, enrolment, 0).await.err().unwrap();
    assert_eq!(unknown, Error::Refused(Refusal::UnknownEnrolment));
    assert_eq!(stage.log.entries_read() - before, 1, "nothing that old is read");
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_while_the_log_is_read_leaves_no_place_on_the_board() {
    let stage = Stage::new().await;
    let enrol = Enrol::new(stage.sign_in.clone(), "http://127.0.0.1".to_owned());
    let never = EnrolmentId::new(ACCOUNT, [9; 8]);
    stage.log.hold_reads(true);
    let watching = timeout(Duration::from_secs(1), enrol.watch(RELYING_PARTY, never, 0)).await;
    assert!(watching.is_err(), "it reads");
    assert!(stage.sign_in.models.enrolments.is_empty());
    stage.log.hold_reads(false);
    assert!(enrol.watch(RELYING_PARTY, never, 0).await.is_err());
    assert!(stage.sign_in.models.enrolments.is_empty());
}
