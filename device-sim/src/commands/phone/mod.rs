//! `device-sim phone`: one phone in the terminal, for a person; with `--json`, for a program.

mod pushes;
mod session;
mod view;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use countersign_envelope::Algorithm;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use device_sim::{
    clock::Clock,
    entropy,
    phone::{Asked, EnrolError, Invitation, NewPhone, NotTheBroker, Phone, PushTarget},
    wire::Transport,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::{
    pushes::{Control, ServiceName},
    session::Session,
    view::{Event, View},
};
use super::terminal::{self, Screen};

const SETTINGS_FILE: &str = "settings.json";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With nothing but --state, the phone of an earlier run goes on; a new one asks for the enrolment URI.

Answers are lines of the input: the number approves, d denies, r denies and reports, an empty line
ignores, and then l shows it again. One sign-in is asked for at a time. The end of the input (Ctrl-D) ends the phone.

Ends with status 0 when it is told to end, 1 if the phone was not enrolled or is not taken any more,
2 if something else went wrong.")]
pub(crate) struct Args {
    /// Keeps the phone here: its key, and what it learnt at its enrolment
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Enrols with this URI, as the QR code holds it; - reads it from the first line of the input
    #[arg(long, value_name = "URI", conflicts_with_all = ["code", "address"])]
    enrol: Option<String>,
    /// Enrols with this code, as typed; - reads it from the first line of the input
    #[arg(long, value_name = "CODE", requires = "address")]
    code: Option<String>,
    /// The broker's address, beside a typed code
    #[arg(long, value_name = "URL", requires = "code")]
    address: Option<String>,
    /// How the new phone signs
    #[arg(long, value_enum, default_value = "es256")]
    algorithm: AlgorithmName,
    /// Gets pushes from simulated push services: the URL of their control API. Without it, the phone asks every few
    /// seconds what waits
    #[arg(long, value_name = "URL")]
    push_control: Option<String>,
    /// What the new phone is
    #[arg(long, value_enum, default_value = "apns")]
    service: ServiceName,
    /// Trusts these certificate authorities (PEM) to vouch for the broker
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// What the person calls the phone
    #[arg(long, value_name = "NAME", default_value = "Phone in a terminal")]
    name: String,
    /// Prints one JSON object a line for each event
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AlgorithmName {
    Ed25519,
    Es256,
}

/// What the program keeps beside the phone.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Settings {
    /// Who vouches for the broker.
    ca_pem: Option<String>,
    /// The control API of the phone's push services.
    push_control: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut input = terminal::typed_lines();
    let clock = Clock::new();
    let mut view = View::new(Screen::new(args.json));
    let (mut settings, known) = (Settings::load(&args.state)?, Phone::load(&args.state)?);
    if let Some(file) = &args.ca_file {
        settings.ca_pem = Some(terminal::read_pem(file)?);
    }
    if args.push_control.is_some() {
        settings.push_control.clone_from(&args.push_control);
    }
    let control = settings.push_control.as_deref().map(Control::new).transpose()?;

    let is_invited = args.enrol.is_some() || args.code.is_some();
    let (phone, transport, trial) = match known {
        Some(phone) if is_invited => bail!(
            "{} holds a phone already, of {}; leave --enrol and --code out, or name another folder with --state",
            args.state.display(),
            phone.account_name()
        ),
        Some(phone) => {
            let transport = terminal::trusting(phone.broker().address(), settings.ca_pem.clone())?;
            (phone, transport, None)
        }
        None => {
            let invitation = invitation(&args, &mut input).await?;
            let transport = terminal::trusting(invitation.address(), settings.ca_pem.clone())?;
            let target = match &control {
                Some(control) => control.new_target(args.service).await?,
                None => no_target(args.service),
            };
            let new = NewPhone::new(&args.name, target, args.algorithm.into());
            let enrolled = new.enrol(&transport, &invitation, clock.now()).await;
            let (phone, trial) = enrolled.map_err(|error| explained(error, &transport))?;
            phone.save(&args.state)?;
            view.show(&Event::Enrolled(&phone), clock.now())?;
            (phone, transport, Some(Asked::Trial(trial)))
        }
    };
    settings.save(&args.state)?;
    let pushes = match &control {
        Some(control) => Some(connect(control, &phone, &transport, &args.state).await?),
        None => None,
    };
    Session::new(phone, transport, clock, args.state, view).run(trial, input, pushes).await
}

/// Connects the phone to its push service. Simulated services that were started anew do not know it: then it gets a new
/// target, and tells the broker.
async fn connect(
    control: &Control,
    phone: &Phone,
    transport: &Transport,
    folder: &Path,
) -> anyhow::Result<mpsc::Receiver<pushes::FromService>> {
    if !control.is_good(&phone.push_target()).await? {
        let target = control.new_target(ServiceName::of(&phone.push_target())).await?;
        let replaced = phone.replace_push_target(transport, target).await;
        replaced.map_err(|refusal| anyhow!(terminal::advice(&refusal, transport.address())))?;
        phone.save(folder)?;
    }
    let (pushes, _connection) = control.connect(phone.push_target());
    Ok(pushes)
}

/// What the person scanned or typed. Asked for until it is one, if somebody is there to ask.
async fn invitation(args: &Args, input: &mut mpsc::Receiver<String>) -> anyhow::Result<Invitation> {
    let mut line = async || input.recv().await.context("the input ended before the enrolment URI came");
    if let (Some(code), Some(address)) = (&args.code, &args.address) {
        let code = if code == "-" { line().await? } else { code.clone() };
        return Ok(Invitation::typed(address, &code)?);
    }
    match args.enrol.as_deref() {
        Some("-") => Ok(Invitation::scanned(&line().await?)?),
        Some(uri) => Ok(Invitation::scanned(uri)?),
        None if args.json => {
            bail!(
                "{} holds no phone yet; enrol one with --enrol URI, or - to read it from the input",
                args.state.display()
            )
        }
        None => {
            terminal::line(
                "This phone is not enrolled yet. Paste the enrolment URI (countersign://enrol?...):",
            )?;
            loop {
                match Invitation::scanned(&line().await?) {
                    Ok(invitation) => return Ok(invitation),
                    Err(error) => terminal::line(&format!("{error}. Paste it once more, or Ctrl-C:"))?,
                }
            }
        }
    }
}

/// A target that nobody pushes to: the phone lists what waits.
fn no_target(service: ServiceName) -> PushTarget {
    let mut random = [0; 96];
    entropy::fill(&mut random);
    service.target(match service {
        ServiceName::Apns => HEXLOWER.encode(&random[..32]),
        ServiceName::Fcm => {
            format!("{}:{}", BASE64URL_NOPAD.encode(&random[..16]), BASE64URL_NOPAD.encode(&random[16..]))
        }
    })
}

fn explained(error: EnrolError, transport: &Transport) -> anyhow::Error {
    match error {
        EnrolError::Refused(refusal) | EnrolError::NotTheBroker(NotTheBroker::Refused(refusal)) => {
            match refusal.reason() {
                Some("ENROLMENT_CODE_INVALID") => anyhow!(
                    "the broker does not take this enrolment code: it is used, over, or wrong; begin again on the \
                     enrolling page"
                ),
                _ => anyhow!(terminal::advice(&refusal, transport.address())),
            }
        }
        other => other.into(),
    }
}

impl Settings {
    fn load(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(SETTINGS_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged; remove it", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(SETTINGS_FILE);
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::Ed25519 => Self::Ed25519,
            AlgorithmName::Es256 => Self::Es256,
        }
    }
}
