//! `countersign demo`: a whole sign-in on this machine. The broker is the real one, on a log and with keys of its own;
//! APNs, FCM, the phones and the person who types are played by the sibling program `device-sim`.

mod children;
mod people;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use countersign::{broker::Broker, config::Config, telemetry};
use countersign_proto::v1;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use children::{DeviceSim, Phone, PushServices};
use people::{Attempt, EnrollingPage, LoginServer, Operator};

/// How the demo runs.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// End after the first approved sign-in
    #[arg(long)]
    once: bool,
    /// Keep the demo's files in this folder; a temporary one otherwise
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What the demo makes in its folder, first of all.
const PARTS: [&str; 2] = ["push-services", "broker"];

/// Pushes that have not come by then are not waited for: the phone lists what waits all the same.
const PUSHES_MAX: Duration = Duration::from_secs(10);

/// Who signs in.
const ACCOUNT: &str = "alice";
const REALM: &str = "example.org";
const APPLICATION: &str = "Webmail";

/// The phones: one of each service, one of each kind of key.
const PHONES: [PhoneOfDemo; 2] = [
    PhoneOfDemo { name: "Alice's iPhone", service: "apns", algorithm: "es256" },
    PhoneOfDemo { name: "Alice's Pixel", service: "fcm", algorithm: "ed25519" },
];

pub(crate) struct PhoneOfDemo {
    name: &'static str,
    service: &'static str,
    algorithm: &'static str,
}

impl PhoneOfDemo {
    fn service_name(&self) -> &'static str {
        if self.service == "apns" { "APNs" } else { "FCM" }
    }
}

/// What runs, so that it can be ended in order wherever the demo is.
#[derive(Default)]
struct Running {
    push_services: Option<PushServices>,
    broker: Option<Broker>,
    phones: Vec<Phone>,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    // Asked for before anything is begun: a signal may come at any time from here on.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let files = Files::make(options.dir.as_deref())?;
    let mut running = Running::default();
    let played = {
        let played = play(options, files.path(), &mut running);
        tokio::select! {
            played = played => played.map(|()| Ended::ByItself),
            _ = interrupt.recv() => Ok(Ended::Stopped),
            _ = terminate.recv() => Ok(Ended::Stopped),
        }
    };
    running.stop().await;
    let left = files.close()?;
    match played {
        Ok(Ended::Stopped) => say(&format!("\nStopped; {left}.")).or_else(unread),
        Ok(Ended::ByItself) => Ok(()),
        Err(error) => unread(error),
    }
}

enum Ended {
    ByItself,
    Stopped,
}

/// Nobody reads what the demo says any more: that is an end like another.
fn unread(error: anyhow::Error) -> anyhow::Result<()> {
    match error.downcast_ref::<io::Error>() {
        Some(closed) if closed.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}

async fn play(options: &Options, dir: &Path, running: &mut Running) -> anyhow::Result<()> {
    let device_sim = DeviceSim::find()?;

    step("APNs and FCM, played by device-sim")?;
    let push_services =
        running.push_services.insert(device_sim.push_services(&dir.join("push-services")).await?);
    detail(&format!("APNs {}, FCM {}", push_services.apns, push_services.fcm))?;

    step("The broker, on a log and with keys of its own")?;
    let (config, file, broker) = start_broker(dir, push_services).await?;
    let address = format!("http://{}", running.broker.insert(broker).public);
    detail(&format!(
        "gRPC on {address}, administration on {}",
        config.admin.socket.as_deref().unwrap_or(Path::new("")).display()
    ))?;

    step("An operator registers a login server, and gives it a key for each thing that it does")?;
    let keys = Operator::connect(&config).await?.register(dir, REALM, APPLICATION).await?;
    detail(&format!("sign-in {}, enrolment {}", keys.sign_in_file.display(), keys.enrolment_file.display()))?;

    let mut page = EnrollingPage::connect(&address, &keys.enrolment).await?;
    for phone in &PHONES {
        step(&format!("{ACCOUNT} enrols {} ({}, {})", phone.name, phone.service_name(), phone.algorithm))?;
        running.phones.push(enrol(&device_sim, &mut page, push_services, dir, phone).await?);
    }

    let mut login = LoginServer::connect(&address, &keys.sign_in).await?;
    sign_in(&mut login, &mut running.phones).await?;
    say(&format!("\n{ACCOUNT} is signed in."))?;
    if options.once {
        return Ok(());
    }
    // Their state is there for whoever tries them.
    for phone in running.phones.drain(..) {
        phone.stop().await;
    }
    invite(&device_sim, dir, &file, &address, push_services)?;
    std::future::pending().await
}

impl Running {
    async fn stop(self) {
        for phone in self.phones {
            phone.stop().await;
        }
        if let Some(broker) = self.broker {
            broker.stop().await;
        }
        if let Some(push_services) = self.push_services {
            push_services.stop().await;
        }
    }
}

/// Where the demo's files are: a folder of the person's, or one that goes away.
enum Files {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Files {
    fn make(dir: Option<&Path>) -> anyhow::Result<Self> {
        let Some(dir) = dir else { return Ok(Self::Temporary(tempfile::tempdir()?)) };
        if PARTS.iter().any(|part| dir.join(part).exists()) {
            bail!("{} holds an earlier demo: delete it or name another", dir.display());
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        // Commands that are printed shall work from anywhere.
        Ok(Self::Kept(dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// What has become of them.
    fn close(self) -> anyhow::Result<String> {
        match self {
            Self::Kept(path) => Ok(format!("the demo's files stay in {}", path.display())),
            Self::Temporary(folder) => {
                let said = format!("the demo's files in {} are removed", folder.path().display());
                folder.close().context("cannot remove the demo's files")?;
                Ok(said)
            }
        }
    }
}

async fn start_broker(dir: &Path, push: &PushServices) -> anyhow::Result<(Config, PathBuf, Broker)> {
    let folder = dir.join("broker");
    // Phones that are started again later must find the broker where it was.
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    let file = super::init::make(&folder, &format!("http://{address}"), address.parse()?)?;
    let mut text = fs::read_to_string(&file)?;
    text = text
        .replace("free_text = false", "free_text = true")
        .replace("filter = \"info\"", "filter = \"warn\"");
    text.push_str(&push.configuration);
    fs::write(&file, text)?;
    let config = Config::load(&file)?;
    telemetry::start(&config.telemetry, None);
    let foundations = super::serve::foundations(&config).await?;
    let broker = Broker::start(&config, foundations).await?;
    Ok((config, file, broker))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn enrol(
    device_sim: &DeviceSim,
    page: &mut EnrollingPage,
    push: &PushServices,
    dir: &Path,
    phone: &'static PhoneOfDemo,
) -> anyhow::Result<Phone> {
    let begun = page.begin(ACCOUNT).await?;
    detail(&format!("the page shows a QR code, or to type: {}", begun.code))?;
    let state = dir.join(phone.service);
    let mut running = device_sim.phone(&state, push, phone, &begun.uri).await?;
    let trial = page.trial(&begun.enrolment_id).await?;
    running.authenticator_id = trial.authenticator_id;
    let number = trial.match_number;
    detail(&format!(
        "the phone is bound; its trial: the page shows {number}, {ACCOUNT} types it on the phone"
    ))?;
    running.type_number("trial", &number).await?;
    page.active(&begun.enrolment_id).await?;
    detail("active")?;
    Ok(running)
}

/// A sign-in in the order in which a person sees it: the number, the pushes, the typing, the outcome.
async fn sign_in(login: &mut LoginServer, phones: &mut [Phone]) -> anyhow::Result<()> {
    step(&format!("{ACCOUNT} signs in to {APPLICATION}; the login server asks the broker"))?;
    let mut attempt = login.request(ACCOUNT, APPLICATION).await?;
    let issued = attempt.issued().await?;
    say(&format!(
        "
      ┌────────────────────────────┐
      │  The login page shows  {}  │
      └────────────────────────────┘
",
        issued.match_number
    ))?;
    detail(&format!("approval {}", issued.approval_id))?;
    let through =
        |attempt: &Attempt| phones.iter().all(|phone| attempt.is_through_to(&phone.authenticator_id));
    // What has come by then is told, and what comes later is not waited for.
    let _ = tokio::time::timeout(PUSHES_MAX, attempt.until(through)).await;
    for phone in &*phones {
        let service = phone.of_demo.service_name();
        let said = attempt.progress(&phone.authenticator_id, service);
        let said = if said.is_empty() { "no push yet; it lists what waits".to_owned() } else { said };
        detail(&format!("{}: {said}", phone.of_demo.name))?;
    }
    let approver = phones.first_mut().context("no phone is enrolled")?;
    detail(&format!("{ACCOUNT} types {} on {}, and approves", issued.match_number, approver.of_demo.name))?;
    approver.type_number("challenge", &issued.match_number).await?;
    let outcome = attempt.outcome().await?;
    step(&format!("The outcome: {}", people::outcome(&outcome)))?;
    anyhow::ensure!(outcome.kind() == v1::OutcomeKind::Approved, "the sign-in was not approved");
    Ok(())
}

fn invite(
    device_sim: &DeviceSim,
    dir: &Path,
    config: &Path,
    address: &str,
    push: &PushServices,
) -> anyhow::Result<()> {
    let sim = device_sim.program().display();
    let me = std::env::current_exe().unwrap_or_else(|_| "countersign".into());
    let (me, dir, config, control) = (me.display(), dir.display(), config.display(), &push.control);
    say(&format!(
        "
Everything goes on running until Ctrl-C. To try it yourself, each in a terminal of its own; start the phone first:

  1. a phone
     {sim} phone --state {dir}/fcm --push-control {control}
  2. a sign-in, whose number you type on that phone
     {sim} login --broker {address} --api-key-file {dir}/sign-in.key \\
         --application {APPLICATION} --account {ACCOUNT} --place 'Gothenburg, Sweden' --browser Firefox
  3. the log, as it is written
     {me} log tail --config {config} --follow
  4. another phone for {ACCOUNT}: the page that enrols it
     {sim} enrol --broker {address} --api-key-file {dir}/enrolment.key \\
         --account {ACCOUNT} --push-control {control}
  5. and that phone: paste the URI that the page shows
     {sim} phone --state {dir}/another --push-control {control} --name 'Another phone'"
    ))
}

fn step(text: &str) -> anyhow::Result<()> {
    say(&format!("▸ {text}"))
}

fn detail(text: &str) -> anyhow::Result<()> {
    say(&format!("    {text}"))
}

/// A line, or an error where `println!` would panic: whoever reads it may have gone.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(format!("{text}\n").as_bytes())?;
    Ok(stdout.flush()?)
}
