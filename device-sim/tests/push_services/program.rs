//! `device-sim push-services`, as a program.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::client::soon;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_device-sim"));
    command.arg("push-services").args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn fails(args: &[&str]) -> String {
    let Output { status, stderr, .. } = soon(command(args).output()).await.expect("it runs");
    assert!(!status.success());
    String::from_utf8(stderr).expect("text")
}

/// The program, and the JSON that it printed.
struct Program {
    child: Child,
    guide: Value,
}

impl Program {
    async fn start(args: &[&str]) -> Self {
        // The test itself speaks HTTP too, and no other test of its process may have installed one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut child = command(&[args, &["--json"]].concat()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = soon(lines.next_line()).await.expect("readable").expect("a line");
        Self { child, guide: serde_json::from_str(&line).expect("one JSON object") }
    }

    fn text(&self, name: &str) -> &str {
        self.guide[name].as_str().expect(name)
    }

    /// Ends it as a service manager would.
    async fn stop(mut self) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs").success());
        assert!(soon(self.child.wait()).await.expect("it ends").success());
    }
}

#[tokio::test]
async fn json_tells_a_client_all_it_needs_and_the_files_are_private() {
    let program = Program::start(&[]).await;
    for name in ["ca_file", "p8_file", "service_account_file"] {
        let mode = fs::metadata(program.text(name)).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for name in
        ["apns_url", "fcm_url", "token_uri", "control_url", "key_id", "team_id", "topic", "project_id"]
    {
        assert!(!program.text(name).is_empty(), "{name}");
    }
    for (service, kinds) in
        [("apns", ["good", "dead", "other_app"]), ("fcm", ["good", "dead", "other_project"])]
    {
        for kind in kinds {
            assert!(program.guide["targets"][service][kind].is_string(), "{service} {kind}");
        }
    }
    let broker: toml::Table = program.text("broker_configuration").parse().expect("TOML");
    for (service, key, name) in [
        ("apns", "endpoint", "apns_url"),
        ("apns", "key_file", "p8_file"),
        ("apns", "ca_file", "ca_file"),
        ("fcm", "endpoint", "fcm_url"),
        ("fcm", "service_account_file", "service_account_file"),
    ] {
        assert_eq!(broker["push"][service][key].as_str(), Some(program.text(name)), "{service} {key}");
    }
    let account: Value = serde_json::from_str(
        &fs::read_to_string(program.text("service_account_file")).expect("the file is there"),
    )
    .expect("JSON");
    assert_eq!(account["token_uri"], program.guide["token_uri"]);

    let folder = Path::new(program.text("ca_file")).parent().expect("a folder").to_owned();
    program.stop().await;
    assert!(!folder.exists(), "a folder that was not asked for is removed");
}

#[tokio::test]
async fn a_folder_keeps_keys_and_targets_for_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("push").display().to_string();
    let first = Program::start(&["--dir", &dir]).await;
    let guide = first.guide.clone();
    let ca = fs::read(first.text("ca_file")).expect("readable");
    first.stop().await;
    let second = Program::start(&["--dir", &dir]).await;
    for name in ["key_id", "team_id", "targets", "p8_file"] {
        assert_eq!(second.guide[name], guide[name], "{name}");
    }
    assert_eq!(fs::read(second.text("ca_file")).expect("readable"), ca);
    let target = format!(
        "{}/devices/{}",
        second.text("control_url"),
        guide["targets"]["fcm"]["dead"].as_str().expect("text")
    );
    let state: Value = reqwest::get(target).await.expect("an answer").json().await.expect("JSON");
    assert_eq!(state["dead"]["reason"], "unregistered");
    second.stop().await;
}

#[tokio::test]
async fn a_scenario_is_armed_from_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = folder.path().join("outage.toml");
    fs::write(&scenario, "[[fault]]\neffect = \"answer\"\nstatus = 503\n").expect("written");
    let program = Program::start(&["--scenario", &scenario.display().to_string()]).await;
    let faults = format!("{}/faults", program.text("control_url"));
    let faults: Value = reqwest::get(faults).await.expect("an answer").json().await.expect("JSON");
    assert_eq!(faults[0]["status"], 503);
    program.stop().await;
}

#[tokio::test]
async fn a_wrong_scenario_is_refused_with_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = folder.path().join("outage.toml").display().to_string();
    for (text, line) in [
        ("seed = 1\n[[fault]]\neffect = \"explode\"\n", "line 3"),
        ("seed = 1\n\n[[fault]]\neffect = \"latency\"\n", "line 3"),
        ("seed = \"one\"\n", "line 1"),
    ] {
        fs::write(&scenario, text).expect("written");
        let error = fails(&["--scenario", &scenario]).await;
        assert!(error.contains(&scenario) && error.contains(line), "{error}");
    }
    fs::remove_file(&scenario).expect("removed");
    let error = fails(&["--scenario", &scenario]).await;
    assert!(error.contains("cannot read the scenario") && error.contains(&scenario), "{error}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let error = fails(&["--listen-apns", &address]).await;
    assert!(error.contains(&address) && error.contains("port 0"), "{error}");
    let error = fails(&["--control", "0.0.0.0:0"]).await;
    assert!(error.contains("loopback"), "{error}");
}

#[tokio::test]
async fn text_for_a_person_has_commands_to_try() {
    let mut child = command(&[]).spawn().expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut text = String::new();
    while !text.contains("# see everything else") {
        assert_ne!(soon(stdout.read_line(&mut text)).await.expect("readable"), 0, "{text}");
    }
    for expected in ["trust", "AuthKey_", "curl -i --http2 --cacert", "messages:send"] {
        assert!(text.contains(expected), "{expected}");
    }
    assert!(!text.contains('\u{1b}'), "no colours where nobody sees them");
    let id = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.expect("kill runs").success());
    assert!(soon(child.wait()).await.expect("it ends").success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.expect("readable");
    assert!(rest.contains("Ended."), "{rest}");
}
