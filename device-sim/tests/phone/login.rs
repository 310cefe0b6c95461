//! A login that waits gets its outcome, whatever becomes of the connection.

use std::time::Duration;

use countersign_proto::v1::OutcomeKind;
use device_sim::login::{ApiKey, LoginServer, SignIn, Step};

use crate::broker::{ACCOUNT, Broker};

#[tokio::test]
async fn a_login_whose_stream_is_cut_goes_on_where_it_was() {
    let broker = Broker::start().await;
    let login = LoginServer::new(&broker.transport(), Some(Broker::api_key()));
    let sign_in = SignIn::new(ACCOUNT, "Webmail");
    let waiting = tokio::spawn({
        let (login, sign_in, clock) = (login.clone(), sign_in.clone(), broker.clock.clone());
        async move {
            let mut told = Vec::new();
            let outcome = login.until_outcome(&sign_in, &clock, |update| told.push(update.clone())).await;
            (outcome, told)
        }
    });
    let id = broker.until(|state| state.approvals.keys().next().cloned()).await;
    for _ in 0..3 {
        broker.cut();
        tokio::task::yield_now().await;
    }
    broker.end(&id, OutcomeKind::Denied);
    let (outcome, told) = waiting.await.expect("no panic");
    let outcome = outcome.expect("an outcome");
    assert_eq!(outcome.kind(), OutcomeKind::Denied);
    assert!(!outcome.lets_in(&sign_in.session_binding, broker.clock.now()));
    assert_eq!(told.iter().map(|update| update.sequence).collect::<Vec<_>>(), [1, 2], "each step once");
    assert!(matches!(told[0].step, Step::Issued(_)));
    assert_eq!(broker.state().approvals.len(), 1, "it asked once and watched after that");
    // Who comes later is told the same.
    let again = login.watch_until_outcome(&id, 0, &broker.clock, |_| ()).await.expect("an outcome");
    assert_eq!(again, outcome);
}

#[tokio::test]
async fn what_a_retry_cannot_help_is_told_at_once() {
    let broker = Broker::start().await;
    let stranger = LoginServer::new(&broker.transport(), Some(ApiKey::new("csk_wrong")));
    let sign_in = SignIn::new(ACCOUNT, "Webmail");
    let refused = stranger.until_outcome(&sign_in, &broker.clock, |_| ()).await.expect_err("no such key");
    assert_eq!(refused.reason(), Some("CREDENTIAL_INVALID"));
    let nobody = SignIn::new("nobody", "Webmail");
    let login = LoginServer::new(&broker.transport(), Some(Broker::api_key()));
    let refused = login.until_outcome(&nobody, &broker.clock, |_| ()).await.expect_err("no such account");
    assert_eq!(refused.reason(), Some("ACCOUNT_NOT_FOUND"));
}

#[tokio::test]
async fn a_request_that_is_sent_again_carries_the_same_key() {
    let sign_in = SignIn::new(ACCOUNT, "Webmail").lasting(Duration::from_secs(30)).from_ip("192.0.2.1");
    assert_eq!(sign_in.to_message(), sign_in.clone().to_message());
    let other = SignIn::new(ACCOUNT, "Webmail");
    assert_ne!(sign_in.idempotency_key, other.idempotency_key);
    assert_ne!(sign_in.session_binding, other.session_binding);
    assert_eq!(sign_in.session_binding.len(), 16);
}

#[tokio::test]
async fn nothing_of_a_login_prints_the_number() {
    let broker = Broker::start().await;
    let (id, number) = broker.ask(Duration::from_secs(60));
    let login = LoginServer::new(&broker.transport(), Some(Broker::api_key()));
    let mut updates = login.watch(&id, 0).await.expect("a stream");
    let update = updates.next().await.expect("an update").expect("the first");
    let Step::Issued(issued) = &update.step else { panic!("the first is the number") };
    assert_eq!(issued.number, number);
    let printed =
        format!("{update:?}").replace(&issued.expires_at.expect("a moment").millis().to_string(), "");
    assert!(!printed.contains(&format!("\"{}\"", number.expose())), "{printed}");
}
