//! The simulation itself: that it finds what is broken, and goes the same way twice. `tests/run simulation` runs many
//! more seeds.

use std::process::Command;

fn simulate(arguments: &[&str]) -> String {
    // Built beside it, and started by it.
    assert!(std::path::Path::new(env!("CARGO_BIN_EXE_one-seed")).exists());
    let done = Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().expect("it runs");
    let said = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat();
    assert!(done.status.success(), "{said}");
    said
}

#[test]
fn each_rule_that_is_broken_on_purpose_is_found_within_sixty_seeds() {
    let said = simulate(&["--mutations", "--seeds", "60"]);
    assert_eq!(said.lines().count(), simulation::Mutation::all().len(), "{said}");
}

#[test]
fn seeds_keep_every_rule_and_go_the_same_way_twice() {
    let said = simulate(&["--seeds", "60"]);
    assert!(said.contains("every rule kept"), "{said}");
}
