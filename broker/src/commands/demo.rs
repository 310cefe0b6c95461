//! `countersign demo`: a whole sign-in on this machine. The broker is the real one, on a log and with keys of its own;
//! APNs, FCM, the phones and the person who types are played by the sibling program `device-sim`.

mod children;
mod people;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use countersign::{broker::Broker, config::Config, telemetry};
use countersign_proto::v1;

use children::{DeviceSim, Phone, PushServices};
use people::{EnrollingPage, LoginServer, Operator};

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

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let temporary = options.dir.is_none().then(tempfile::tempdir).transpose()?;
    let dir = match (&options.dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of the two was made"),
    };
    let device_sim = DeviceSim::find()?;

    step("APNs and FCM, played by device-sim");
    let push_services = device_sim.push_services(&dir.join("push-services")).await?;
    detail(&format!("APNs {}, FCM {}", push_services.apns, push_services.fcm));

    step("The broker, on a log and with keys of its own");
    let (config, file, broker) = start_broker(&dir, &push_services).await?;
    let address = format!("http://{}", broker.public);
    detail(&format!(
        "gRPC on {address}, administration on {}",
        config.admin.socket.as_deref().unwrap_or(Path::new("")).display()
    ));

    step("An operator registers a login server, and gives it a key for each thing that it does");
    let keys = Operator::connect(&config).await?.register(&dir, REALM, APPLICATION).await?;
    detail(&format!("sign-in {}, enrolment {}", keys.sign_in_file.display(), keys.enrolment_file.display()));

    let mut page = EnrollingPage::connect(&address, &keys.enrolment).await?;
    let mut phones = Vec::new();
    for phone in &PHONES {
        step(&format!("{ACCOUNT} enrols {} ({}, {})", phone.name, phone.service, phone.algorithm));
        phones.push(enrol(&device_sim, &mut page, &push_services, &dir, phone).await?);
    }

    let mut login = LoginServer::connect(&address, &keys.sign_in).await?;
    let approved = sign_in(&mut login, &mut phones).await?;
    println!();
    println!("{ACCOUNT} is signed in.");
    for phone in phones {
        phone.stop().await;
    }
    if !options.once && approved {
        invite(&device_sim, &dir, &file, &address, &push_services);
        tokio::signal::ctrl_c().await?;
    }
    broker.stop().await;
    push_services.stop().await;
    Ok(())
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
    text.push_str(&push.configuration());
    fs::write(&file, text)?;
    let config = Config::load(&file)?;
    telemetry::start(&config.telemetry);
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
    phone: &PhoneOfDemo,
) -> anyhow::Result<Phone> {
    let begun = page.begin(ACCOUNT).await?;
    detail(&format!("the page shows a QR code, or to type: {}", begun.code));
    let state = dir.join(phone.service);
    let mut running = device_sim.phone(&state, push, phone, Some(&begun.uri)).await?;
    let number = page.trial_number(&begun.enrolment_id).await?;
    detail(&format!(
        "the phone is bound; its trial: the page shows {number}, {ACCOUNT} types it on the phone"
    ));
    running.type_number("trial", &number).await?;
    page.active(&begun.enrolment_id).await?;
    detail("active");
    Ok(running)
}

async fn sign_in(login: &mut LoginServer, phones: &mut [Phone]) -> anyhow::Result<bool> {
    use v1::approval_update::Update;
    step(&format!("{ACCOUNT} signs in to {APPLICATION}; the login server asks the broker"));
    let mut updates = login.request(ACCOUNT, APPLICATION).await?;
    let mut approver = Some(phones.first_mut().context("no phone is enrolled")?);
    while let Some(update) = updates.message().await? {
        match update.update {
            Some(Update::Issued(issued)) => {
                println!();
                println!("      ┌────────────────────────────┐");
                println!("      │  The login page shows  {}  │", issued.match_number);
                println!("      └────────────────────────────┘");
                println!();
                detail(&format!("approval {}", issued.approval_id));
                if let Some(phone) = approver.take() {
                    detail(&format!(
                        "{} rings; {ACCOUNT} types {} and approves",
                        PHONES[0].name, issued.match_number
                    ));
                    phone.type_number("challenge", &issued.match_number).await?;
                }
            }
            Some(Update::Progress(progress)) => detail(people::progress(&progress)),
            Some(Update::Outcome(outcome)) => {
                let approved = outcome.kind() == v1::OutcomeKind::Approved;
                step(&format!("The outcome: {}", people::outcome(&outcome)));
                anyhow::ensure!(approved, "the sign-in was not approved");
                return Ok(true);
            }
            None => {}
        }
    }
    anyhow::bail!("the stream ended without an outcome")
}

fn invite(device_sim: &DeviceSim, dir: &Path, config: &Path, address: &str, push: &PushServices) {
    let sim = device_sim.program().display();
    let me = std::env::current_exe().unwrap_or_else(|_| "countersign".into());
    let me = me.display();
    let dir = dir.display();
    println!();
    println!("Everything goes on running until Ctrl-C. To try it yourself, in other terminals:");
    println!();
    println!("  a phone");
    println!("    {sim} phone --state {dir}/fcm --push-control {}", push.control);
    println!("  a sign-in, whose number you type on that phone");
    println!("    {sim} login --broker {address} --api-key-file {dir}/sign-in.key \\");
    println!(
        "        --application {APPLICATION} --account {ACCOUNT} --place 'Gothenburg, Sweden' --browser Firefox"
    );
    println!("  the log, as it is written");
    println!("    {me} log tail --config {} --follow", config.display());
    println!("  another phone for {ACCOUNT}: the page that enrols it");
    println!("    {sim} enrol --broker {address} --api-key-file {dir}/enrolment.key --account {ACCOUNT}");
}

fn step(text: &str) {
    println!("▸ {text}");
}

fn detail(text: &str) {
    println!("    {text}");
}
