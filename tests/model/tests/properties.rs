//! Every way that the protocol can go, and each property seen to fail.

use model::{Broken, Protocol};
use stateright::{Checker, HasDiscoveries, Model};

/// Everything that can be reached, and what was found on the way.
fn check(protocol: Protocol, until: HasDiscoveries) -> impl Checker<Protocol> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    protocol.checker().threads(threads).finish_when(until).spawn_bfs().join()
}

#[test]
fn pages_of_one_session_keep_every_property_whatever_happens() {
    let checked = check(Protocol::new(true), HasDiscoveries::AnyFailures);
    println!("{} states", checked.unique_state_count());
    checked.assert_properties();
}

#[test]
fn pages_of_two_sessions_keep_every_property_whatever_happens() {
    let checked = check(Protocol::new(false), HasDiscoveries::AnyFailures);
    println!("{} states", checked.unique_state_count());
    checked.assert_properties();
}

#[test]
fn pages_that_ask_when_others_are_over_keep_every_property_whatever_happens() {
    let checked = check(Protocol::new(true).longer(), HasDiscoveries::AnyFailures);
    println!("{} states", checked.unique_state_count());
    checked.assert_properties();
}

#[test]
fn each_property_fails_where_its_rule_does_not_hold() {
    for (broken, property) in [
        (Broken::TellsEarly, "nothing is told before it is durable"),
        (Broken::NoVersions, "no two outcomes"),
        (Broken::NumberIgnored, "no approval without the number"),
        (Broken::ClockIgnored, "no answer after its time"),
        (Broken::SupersededLives, "one sign-in of a session waits"),
        (Broken::NothingExpires, "who waits hears of an end"),
        (Broken::CrashForgets, "nothing is told before it is durable"),
        (Broken::KeyIgnored, "one approval for a request, however often it is sent"),
    ] {
        let checked = check(Protocol::new(true).broken(broken), HasDiscoveries::AnyOf([property].into()));
        assert!(checked.discovery(property).is_some(), "{broken:?}: {property} holds all the same");
    }
}
