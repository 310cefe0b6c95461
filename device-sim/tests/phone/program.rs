//! The program as other programs drive it, and as a person reads it through a pipe.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    routing::{get, post},
};
use bytes::Bytes;
use countersign_proto::v1::OutcomeKind;
use data_encoding::BASE64URL_NOPAD;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::broadcast,
};
use tokio_stream::wrappers::BroadcastStream;

use crate::broker::{ACCOUNT, API_KEY, Broker};

/// On a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// `device-sim`, running.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub(crate) fn start<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_device-sim"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("asked for");
        let lines = BufReader::new(child.stdout.take().expect("asked for")).lines();
        Self { child, input, lines }
    }

    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("it says something");
        line.expect("text")
    }

    /// Reads up to the event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        let mut others = Vec::new();
        while let Some(line) = self.line().await {
            let event: Value = serde_json::from_str(&line).expect("each line is one JSON object");
            if event["event"] == name {
                return event;
            }
            others.push(line);
        }
        panic!("no event {name:?}, but {others:?} and {:?}", self.errors().await)
    }

    /// The next event, whatever it is.
    async fn next_event(&mut self) -> Value {
        let line = self.line().await.expect("an event");
        serde_json::from_str(&line).expect("each line is one JSON object")
    }

    pub(crate) async fn types(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
        self.input.flush().await.expect("it reads");
    }

    pub(crate) async fn errors(&mut self) -> String {
        let mut errors = String::new();
        let stderr = self.child.stderr.as_mut().expect("asked for");
        stderr.read_to_string(&mut errors).await.expect("text");
        errors
    }

    async fn status(&mut self) -> i32 {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends");
        status.expect("it can be waited for").code().expect("it ends by itself")
    }

    /// What is left of what it says, after its input has ended.
    pub(crate) async fn rest(mut self) -> String {
        drop(self.input);
        let mut rest = String::new();
        while let Some(line) =
            tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("it ends").expect("text")
        {
            rest.push_str(&line);
            rest.push('\n');
        }
        rest
    }
}

/// A folder with an API key, and room for phones.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, format!("{API_KEY}\n")).expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("set");
    folder
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn phone(folder: &Path, more: &[&str]) -> Program {
    let state = folder.join("phone");
    Program::start(["phone", "--json", "--state", text(&state)].into_iter().chain(more.iter().copied()))
}

fn login(broker: &Broker, folder: &Path, more: &[&str]) -> Program {
    let key = folder.join("key");
    let arguments = ["login", "--json", "--broker", &broker.address, "--api-key-file", text(&key)];
    let who = ["--application", "Webmail", "--account", ACCOUNT];
    Program::start(arguments.into_iter().chain(who).chain(more.iter().copied()))
}

/// An active phone, ready for sign-ins.
async fn ready_phone(broker: &Broker, folder: &Path, more: &[&str]) -> Program {
    let (_, uri) = broker.begin();
    let mut phone = phone(folder, &[&["--enrol", "-"], more].concat());
    phone.types(&uri).await;
    let enrolled = phone.event("enrolled").await;
    phone.event("trial").await;
    let id = enrolled["authenticator_id"].as_str().expect("it has one");
    phone.types(&crate::trial_number(broker, id)).await;
    phone.event("ready").await;
    phone
}

#[tokio::test]
async fn a_program_can_enrol_a_phone_and_approve_with_it() {
    let broker = Broker::start().await;
    let folder = folder();
    let key = folder.path().join("key");
    let arguments = ["enrol", "--json", "--broker", &broker.address, "--api-key-file", text(&key)];
    let mut page = Program::start(arguments.into_iter().chain(["--account", ACCOUNT]));
    let begun = page.event("begun").await;

    let mut phone = phone(folder.path(), &["--enrol", "-", "--algorithm", "ed25519", "--name", "My phone"]);
    phone.types(begun["uri"].as_str().expect("a URI")).await;
    let enrolled = phone.event("enrolled").await;
    assert_eq!((&enrolled["account"], &enrolled["name"]), (&json!(ACCOUNT), &json!("My phone")));
    assert_eq!(phone.event("trial").await["digits"], 2);
    let trial = page.event("trial").await;
    assert_eq!((&trial["device_name"], &trial["platform"]), (&json!("My phone"), &json!("ios")));
    phone.types(trial["number"].as_str().expect("a number")).await;
    assert_eq!(phone.event("answered").await["outcome"], "approved");
    assert_eq!(phone.next_event().await["event"], "active");
    assert_eq!(phone.next_event().await["event"], "ready");
    page.event("active").await;
    assert_eq!(page.status().await, 0);

    let mut login_page = login(&broker, folder.path(), &["--ip", "192.0.2.9"]);
    let issued = login_page.event("issued").await;
    let challenge = phone.event("challenge").await;
    assert_eq!(challenge["approval_id"], issued["approval_id"]);
    assert_eq!(challenge["application"], "Webmail");
    assert_eq!(challenge["source_ip"], "192.0.2.9");
    assert!(challenge.to_string().find("number").is_none(), "the phone does not know it");
    phone.types(issued["number"].as_str().expect("a number")).await;
    assert_eq!(phone.event("answered").await["outcome"], "approved");
    let outcome = login_page.event("outcome").await;
    assert_eq!((&outcome["outcome"], &outcome["lets_in"]), (&json!("approved"), &json!(true)));
    assert_eq!(login_page.status().await, 0);
}

#[tokio::test]
async fn a_phone_that_is_started_again_goes_on() {
    let broker = Broker::start().await;
    let folder = folder();
    let first = ready_phone(&broker, folder.path(), &[]).await;
    first.rest().await;

    let mut again = phone(folder.path(), &[]);
    assert_eq!(again.event("ready").await["account"], ACCOUNT);
    let mut page = login(&broker, folder.path(), &[]);
    page.event("issued").await;
    again.event("challenge").await;
    again.types("nonsense").await;
    assert!(again.event("error").await["message"].as_str().is_some_and(|text| text.contains("2 digits")));
    again.types("r").await;
    assert_eq!(again.event("answered").await["outcome"], "reported");
    let outcome = page.event("outcome").await;
    assert_eq!((&outcome["outcome"], &outcome["lets_in"]), (&json!("reported"), &json!(false)));
    assert_eq!(page.status().await, 1);

    let (_, uri) = broker.begin();
    let mut invited = phone(folder.path(), &["--enrol", &uri]);
    assert!(invited.errors().await.contains("holds a phone already, of åsa"));
    assert_eq!(invited.status().await, 2);
}

#[tokio::test]
async fn two_sign_ins_are_asked_for_one_after_the_other() {
    let broker = Broker::start().await;
    let folder = folder();
    let mut phone = ready_phone(&broker, folder.path(), &[]).await;
    let (first, number) = broker.ask(Duration::from_secs(60));
    assert_eq!(phone.event("challenge").await["approval_id"], *first);
    let (second, _) = broker.ask(Duration::from_secs(60));
    assert_eq!(phone.event("waiting").await["waiting"], 2);
    phone.types(number.expose()).await;
    assert_eq!(phone.event("answered").await["approval_id"], *first);
    assert_eq!(phone.event("challenge").await["approval_id"], *second);
    assert!(broker.state().approvals[&second].outcome.is_none(), "an answer to one does not touch the other");
    // Ignored, it is not asked for again, and goes on waiting.
    phone.types("").await;
    assert_eq!(phone.event("ignored").await["approval_id"], *second);
    let (third, _) = broker.ask(Duration::from_secs(60));
    let asked = phone.event("challenge").await;
    assert_eq!((&asked["approval_id"], &asked["waiting"]), (&json!(third), &json!(2)));
    // What ends elsewhere is taken away.
    broker.end(&third, OutcomeKind::Superseded);
    let ended = phone.event("ended").await;
    assert_eq!((&ended["id"], &ended["outcome"]), (&json!(third), &json!("superseded")));
}

#[tokio::test]
async fn what_was_ignored_can_be_come_back_to() {
    let broker = Broker::start().await;
    let folder = folder();
    let mut phone = ready_phone(&broker, folder.path(), &[]).await;
    let mut page = login(&broker, folder.path(), &[]);
    let issued = page.event("issued").await;
    phone.event("challenge").await;
    phone.types("").await;
    assert_eq!(phone.event("ignored").await["approval_id"], issued["approval_id"]);
    phone.types("l").await;
    assert_eq!(phone.event("challenge").await["approval_id"], issued["approval_id"]);
    phone.types(issued["number"].as_str().expect("a number")).await;
    assert_eq!(phone.event("answered").await["outcome"], "approved");
    assert_eq!(page.status().await, 0);
    phone.types("l").await;
    let said = phone.event("error").await;
    assert_eq!(said["message"], "Nothing waits for an answer.");
}

#[tokio::test]
async fn a_page_says_when_the_broker_is_away_and_when_it_is_back() {
    let broker = Broker::start().await;
    let folder = folder();
    let mut phone = ready_phone(&broker, folder.path(), &[]).await;
    let mut page = login(&broker, folder.path(), &[]);
    page.event("issued").await;
    phone.event("challenge").await;
    broker.cut();
    let trouble = page.event("trouble").await;
    let message = trouble["message"].as_str().expect("a sentence");
    assert!(message.starts_with("The broker does not answer; trying again"), "{message}");
    page.event("recovered").await;
    phone.types("d").await;
    assert_eq!(page.event("outcome").await["outcome"], "denied");
}

/// The fake broker passes on whatever a phone calls itself.
#[tokio::test]
async fn a_page_shows_no_escape_sequence_that_came_from_elsewhere() {
    let broker = Broker::start().await;
    let folder = folder();
    let key = folder.path().join("key");
    let arguments = ["enrol", "--broker", &broker.address, "--api-key-file", text(&key)];
    let mut page = Program::start(arguments.into_iter().chain(["--account", ACCOUNT]));
    let uri = loop {
        let line = page.line().await.expect("the page shows the URI");
        if let Some((_, uri)) = line.split_once("uri") {
            break uri.trim().to_owned();
        }
    };
    let name = "My\u{1b}[2J\u{1b}]0;phone\u{7}\u{202e}";
    let mut phone = phone(folder.path(), &["--enrol", &uri, "--name", name]);
    phone.event("trial").await;
    let line = loop {
        let line = page.line().await.expect("the page shows the phone");
        if line.contains("has used the code") {
            break line;
        }
    };
    assert!(line.contains("My\u{fffd}[2J\u{fffd}]0;phone\u{fffd}\u{fffd} (iOS)"), "{line:?}");
}

#[tokio::test]
async fn what_does_not_pass_the_checks_is_said_once_and_not_shown() {
    let broker = Broker::start().await;
    let folder = folder();
    let mut phone = ready_phone(&broker, folder.path(), &[]).await;
    broker.lies(|_, mut envelope| {
        envelope.signature = vec![0; 64].into();
        envelope
    });
    broker.ask(Duration::from_secs(60));
    let error = phone.next_event().await;
    assert_eq!(error["event"], "error");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("the signature is not the broker's")));
    // There is nothing to answer.
    phone.types("42").await;
    assert_eq!(phone.next_event().await["message"], "Nothing waits for an answer.");
    assert_eq!(phone.rest().await, "");
}

#[tokio::test]
async fn a_wrong_number_at_the_trial_ends_the_phone() {
    let broker = Broker::start().await;
    let folder = folder();
    let (_, uri) = broker.begin();
    let mut phone = phone(folder.path(), &["--enrol", &uri]);
    phone.event("trial").await;
    phone.types("00").await;
    assert_eq!(phone.event("answered").await["outcome"], "wrong-number");
    assert_eq!(phone.status().await, 1);
    assert!(!folder.path().join("phone/phone.json").exists(), "its key is of no use");
}

#[tokio::test]
async fn a_phone_that_was_revoked_says_so_and_ends() {
    let broker = Broker::start().await;
    let folder = folder();
    let mut phone = ready_phone(&broker, folder.path(), &[]).await;
    broker.state().phones.clear();
    assert_eq!(phone.event("removed").await["was_active"], true);
    assert_eq!(phone.status().await, 1);
}

#[tokio::test]
async fn an_error_says_who_must_do_what() {
    let broker = Broker::start().await;
    let folder = folder();
    let key = folder.path().join("key");
    let whose = ["login", "--broker", &broker.address, "--api-key-file", text(&key)];
    let mut nobody = Program::start(whose.into_iter().chain(["--application", "a", "--account", "nobody"]));
    let errors = nobody.errors().await;
    assert!(errors.contains("enrol a phone for it first: device-sim enrol"), "{errors}");
    assert_eq!(nobody.status().await, 2);

    let nowhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", nowhere.local_addr().expect("an address"));
    drop(nowhere);
    let arguments = ["login", "--broker", &address, "--api-key-file", text(&key)];
    let mut refused = Program::start(arguments.into_iter().chain(["--application", "a", "--account", "b"]));
    let errors = refused.errors().await;
    assert!(errors.contains(&format!("cannot reach the broker at {address}")), "{errors}");
    assert!(errors.contains("does it run there?"), "{errors}");
    assert_eq!(refused.status().await, 2);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("set");
    let mut open = login(&broker, folder.path(), &[]);
    let errors = open.errors().await;
    assert!(errors.contains("can be read by others (mode 644)"), "{errors}");
    assert_eq!(open.status().await, 2);
}

#[tokio::test]
async fn through_a_pipe_a_person_reads_plain_lines() {
    let broker = Broker::start().await;
    let folder = folder();
    ready_phone(&broker, folder.path(), &[]).await.rest().await;
    let state = folder.path().join("phone");
    let mut phone = Program::start(["phone", "--state", text(&state)]);
    let (_, number) = broker.ask(Duration::from_secs(60));
    let mut shown = String::new();
    while !shown.contains("Enter ignores.") {
        shown += &(phone.line().await.expect("more") + "\n");
    }
    phone.types(number.expose()).await;
    while !shown.contains("The sign-in was approved.") {
        shown += &(phone.line().await.expect("more") + "\n");
    }
    assert!(
        shown.contains("Sign in to Webmail? (1:00 left)") || shown.contains("Sign in to Webmail? (0:5"),
        "{shown}"
    );
    assert!(
        shown.contains("  asked by  Example College\n  account   åsa\n  address   198.51.100.7\n"),
        "{shown}"
    );
    assert!(!shown.contains('\x1b'), "no colours, no cursor movements: {shown:?}");
}

/// The part of the push services that the phone sees: every device is known, and gets what the test sends.
async fn push_services() -> (String, broadcast::Sender<String>) {
    let (send, _) = broadcast::channel::<String>(16);
    let streams = send.clone();
    let router = Router::new()
        .route(
            "/devices",
            post(|Json(body): Json<Value>| async move {
                assert_eq!(body["service"], "fcm");
                (axum::http::StatusCode::CREATED, Json(json!({ "target": "fid:registration" })))
            }),
        )
        .route("/devices/{target}", get(|| async { Json(json!({ "connected": false, "dead": null })) }))
        .route(
            "/devices/{target}/pushes",
            get(|State(streams): State<broadcast::Sender<String>>| async move {
                let lines = BroadcastStream::new(streams.subscribe());
                Body::from_stream(lines.map(|line| line.map(Bytes::from)))
            }),
        )
        .with_state(streams);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, send)
}

/// A push as an Android phone gets it, on one line.
fn push(kind: &str, id: &str, authenticator: &str) -> String {
    let data = json!({
        "v": "1", "kind": kind, "id": id, "authenticator": authenticator, "expires": "1",
        "token": BASE64URL_NOPAD.encode(b"token"), "nonce": BASE64URL_NOPAD.encode(crate::broker::NONCE),
    });
    let body = json!({ "token": "fid:registration", "data": data });
    format!("{}\n", json!({ "service": "fcm", "target": "fid:registration", "body": body }))
}

#[tokio::test]
async fn a_push_is_acknowledged_fetched_and_shown_once() {
    let broker = Broker::start().await;
    let folder = folder();
    let (url, pushes) = push_services().await;
    let mut phone = ready_phone(&broker, folder.path(), &["--push-control", &url, "--service", "fcm"]).await;
    let me = broker.state().phones.keys().next().cloned().expect("the phone");
    let (id, _) = broker.ask(Duration::from_secs(60));
    for _ in 0..2 {
        pushes.send(push("challenge", &id, &me)).expect("the phone is connected");
    }
    pushes.send(push("challenge", &id, "another-phone")).expect("the phone is connected");
    assert_eq!(phone.event("challenge").await["approval_id"], *id);
    broker.until(|state| (state.acknowledged.len() == 2).then_some(())).await;
    let mut told = broker.state().acknowledged.clone();
    told.sort_unstable();
    assert_eq!(told, [(1, id.clone()), (2, id.clone())], "delivered, opened");

    // Anybody who knows the target can say that something has ended: it has when the broker says so, too.
    pushes.send(push("ended", &id, &me)).expect("the phone is connected");
    pushes.send("no push at all\n".to_owned()).expect("the phone is connected");
    assert_eq!(phone.next_event().await["event"], "error", "only the unreadable one is told");
    broker.end(&id, OutcomeKind::Cancelled);
    pushes.send(push("ended", &id, &me)).expect("the phone is connected");
    let ended = phone.event("ended").await;
    assert_eq!((&ended["id"], &ended["outcome"]), (&json!(id), &json!("cancelled")));
}
