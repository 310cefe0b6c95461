//! Who may ask: registrations and credentials.

use countersign_domain::{
    CredentialId, RelyingParty, limits,
    relying_party::{Command, CredentialSecret, Event, Refusal, Scope},
    testing::{Given, given},
    text::Realm,
};

use crate::cast::{SHOP, at, text};

fn register(realm: &str) -> Command {
    Command::Register {
        id: SHOP,
        name: text("Shop and Sons"),
        applications: vec![text("Web shop")],
        realm: Realm::parse(realm).expect("a realm"),
    }
}

fn registered() -> Event {
    Event::Registered {
        id: SHOP,
        name: text("Shop and Sons"),
        applications: vec![text("Web shop")],
        realm: Realm::parse("staff").expect("a realm"),
    }
}

fn credential(n: u8) -> CredentialId {
    CredentialId::new(SHOP, [n; 8])
}

fn issued(n: u8, scope: Scope) -> Event {
    Event::CredentialIssued { id: credential(n), scope, secret: CredentialSecret::ApiKey([n; 32]) }
}

fn issue(n: u8, scope: Scope) -> Command {
    Command::IssueCredential { id: credential(n), scope, secret: CredentialSecret::ApiKey([n; 32]) }
}

fn shop() -> Given<RelyingParty> {
    given([(at(0), registered())])
}

#[test]
fn a_relying_party_is_registered_once_and_its_realm_stays() {
    let story = given::<RelyingParty>([])
        .at(at(3))
        .when(&register("staff"))
        .then(&[registered()])
        .when(&register("another-realm"))
        .then(&[]);
    let registration = story.as_state().registration().unwrap();
    assert_eq!(registration.realm.as_str(), "staff");
    assert_eq!(registration.registered_at, at(3));
}

#[test]
fn nobody_has_credentials_before_being_registered() {
    let nobody = || given::<RelyingParty>([]);
    nobody().when(&issue(1, Scope::SignIn)).then_refused(&Refusal::Unknown);
    nobody().when(&Command::RevokeCredential(credential(1))).then_refused(&Refusal::Unknown);
    assert!(nobody().as_state().registration().is_none());
}

#[test]
fn a_credential_is_good_for_its_own_scope_and_secret_only() {
    let story = shop()
        .when(&issue(1, Scope::SignIn))
        .then(&[issued(1, Scope::SignIn)])
        .when(&issue(2, Scope::Enrolment))
        .then(&[issued(2, Scope::Enrolment)]);
    let may = |n, secret| story.as_state().authenticate(credential(n), &secret);
    assert_eq!(may(1, CredentialSecret::ApiKey([1; 32])), Some(Scope::SignIn));
    assert_eq!(may(2, CredentialSecret::ApiKey([2; 32])), Some(Scope::Enrolment));
    assert_eq!(may(1, CredentialSecret::ApiKey([2; 32])), None, "another credential's secret");
    assert_eq!(may(1, CredentialSecret::ClientCertificate([1; 32])), None, "a hash of another kind");
    assert_eq!(may(3, CredentialSecret::ApiKey([1; 32])), None);
}

#[test]
fn a_revoked_credential_is_refused_and_revoking_it_again_changes_nothing() {
    let revoke = Command::RevokeCredential(credential(1));
    let story = shop()
        .when(&issue(1, Scope::SignIn))
        .then(&[issued(1, Scope::SignIn)])
        .at(at(50))
        .when(&revoke)
        .then(&[Event::CredentialRevoked(credential(1))])
        .when(&revoke)
        .then(&[]);
    let secret = CredentialSecret::ApiKey([1; 32]);
    assert_eq!(story.as_state().authenticate(credential(1), &secret), None);
    assert_eq!(story.as_state().credentials()[0].revoked_at, Some(at(50)));
}

#[test]
fn a_credential_that_was_never_issued_is_unknown() {
    shop().when(&Command::RevokeCredential(credential(9))).then_refused(&Refusal::UnknownCredential);
}

#[test]
fn at_the_limit_a_credential_must_be_revoked_first() {
    let mut story = shop();
    let most = u8::try_from(limits::CREDENTIALS_MAX).unwrap();
    for n in 0..most {
        story = story.when(&issue(n, Scope::SignIn)).then(&[issued(n, Scope::SignIn)]);
    }
    let full = Given::state(story.as_state().clone(), at(1));
    full.when(&issue(most, Scope::SignIn))
        .then_refused(&Refusal::TooManyCredentials { most: limits::CREDENTIALS_MAX });
    story
        .when(&Command::RevokeCredential(credential(0)))
        .then(&[Event::CredentialRevoked(credential(0))])
        .when(&issue(most, Scope::Enrolment))
        .then(&[issued(most, Scope::Enrolment)]);
}

#[test]
fn what_is_said_of_an_unknown_credential_is_no_reason_to_panic() {
    let story = given::<RelyingParty>([
        (at(0), Event::CredentialRevoked(credential(1))),
        (at(1), issued(2, Scope::SignIn)),
    ]);
    assert!(story.as_state().registration().is_none());
}
