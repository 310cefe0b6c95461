//! `device-sim push-services`: both services by themselves, for a person or for a client in any language.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::ValueEnum;
use device_sim::push_services::{
    Config, Counters, Death, Environment, Identity, PushServices, Service, identity::SavedFiles, scenario,
};
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::terminal;

const TARGETS_FILE: &str = "targets.json";
/// What the other app and the other project of the sample targets are called.
const OTHER_APP: &str = "com.example.other";
const OTHER_PROJECT: &str = "another-project";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where APNs listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen_apns: SocketAddr,
    /// Where FCM and its token endpoint listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen_fcm: SocketAddr,
    /// Where the control API listens: a loopback address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Keeps keys, certificate and targets here, and uses those of an earlier run; without it they are made anew and
    /// removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Arms the faults of this file (TOML)
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Which of Apple's two APNs is played
    #[arg(long, value_enum, default_value = "sandbox")]
    environment: EnvironmentName,
    /// The app that may be pushed to: bundle identifier and package name
    #[arg(long, value_name = "ID", default_value = "dev.countersign.demo")]
    app: String,
    /// FCM's project, when keys are made
    #[arg(long, value_name = "PROJECT", default_value = "countersign-demo")]
    project: String,
    /// Prints one JSON object on one line instead of text
    #[arg(long)]
    json: bool,
    /// Ends when its standard input does: when the program that started it is gone, however that ended
    #[arg(long)]
    until_input_ends: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EnvironmentName {
    Sandbox,
    Production,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // Asked for before anything is printed: who reads the output may send one at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut input = args.until_input_ends.then(terminal::typed_lines);

    let faults = args.scenario.as_deref().map(scenario::read).transpose()?.unwrap_or_default();
    let folder = Folder::open(args.dir)?;
    let identity = match Identity::load(folder.path())? {
        Some(identity) => identity,
        None => Identity::generate(&args.project)?,
    };
    let services = PushServices::start(Config {
        apns_listen: args.listen_apns,
        fcm_listen: args.listen_fcm,
        control_listen: Some(args.control),
        environment: match args.environment {
            EnvironmentName::Sandbox => Environment::Sandbox,
            EnvironmentName::Production => Environment::Production,
        },
        apps: vec![args.app],
        faults,
        ..Config::with_identity(identity.clone())
    })
    .await?;
    let files = identity.save(folder.path(), &services.token_uri())?;
    let targets = Targets::open(folder.path(), &services)?;
    let guide = Guide::new(&services, args.environment, &files, targets);
    if args.json {
        say(&(serde_json::to_string(&guide)? + "\n"))?;
    } else {
        say(&guide.to_string())?;
    }

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = end_of(&mut input) => {}
    }
    let counters = services.counters();
    services.shutdown().await;
    if !args.json {
        say(&summary(counters))?;
    }
    folder.close()
}

/// Waits for the end of the input, if it is listened to.
async fn end_of(input: &mut Option<mpsc::Receiver<String>>) {
    match input {
        Some(input) => while input.recv().await.is_some() {},
        None => std::future::pending().await,
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

fn summary(counters: Counters) -> String {
    let Counters { requests, accepted, refused, delivered, .. } = counters;
    format!(
        "\nEnded. {requests} pushes asked for: {accepted} accepted, {refused} refused; {delivered} delivered.\n"
    )
}

/// Where the files are: a folder of the person's, or one that goes away.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn open(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        match dir {
            Some(dir) => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&dir)
                    .with_context(|| format!("cannot make the folder {}", dir.display()))?;
                // Commands that are printed shall work from anywhere.
                let dir = dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?;
                Ok(Self::Kept(dir))
            }
            None => tempfile::Builder::new()
                .prefix("device-sim-")
                .tempdir()
                .map(Self::Temporary)
                .context("cannot make a temporary folder; name one with --dir"),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Temporary(folder) => folder.close().context("cannot remove the temporary folder"),
        }
    }
}

/// Push targets to try the services with.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Targets {
    apns: ApnsTargets,
    fcm: FcmTargets,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ApnsTargets {
    good: String,
    /// 410 `Unregistered`.
    dead: String,
    /// 400 `DeviceTokenNotForTopic`.
    other_app: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FcmTargets {
    good: String,
    /// 404 `UNREGISTERED`.
    dead: String,
    /// 403 `SENDER_ID_MISMATCH`.
    other_project: String,
}

impl Targets {
    /// Makes the targets of an earlier run again, or new ones.
    fn open(folder: &Path, services: &PushServices) -> anyhow::Result<Self> {
        let file = folder.join(TARGETS_FILE);
        let targets = if file.exists() {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let targets: Self = serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged; remove it", file.display()))?;
            for (service, app, target) in targets.all() {
                services.restore_target(service, app, target)?;
            }
            targets
        } else {
            let new = |service, app| services.new_target(service, app).map(|target| target.to_string());
            let targets = Self {
                apns: ApnsTargets {
                    good: new(Service::Apns, None)?,
                    dead: new(Service::Apns, None)?,
                    other_app: new(Service::Apns, Some(OTHER_APP))?,
                },
                fcm: FcmTargets {
                    good: new(Service::Fcm, None)?,
                    dead: new(Service::Fcm, None)?,
                    other_project: new(Service::Fcm, Some(OTHER_PROJECT))?,
                },
            };
            std::fs::write(&file, serde_json::to_string_pretty(&targets)? + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
            targets
        };
        services.kill(&targets.apns.dead, Death::Unregistered);
        services.kill(&targets.fcm.dead, Death::Unregistered);
        Ok(targets)
    }

    fn all(&self) -> [(Service, Option<&'static str>, &str); 6] {
        [
            (Service::Apns, None, &self.apns.good),
            (Service::Apns, None, &self.apns.dead),
            (Service::Apns, Some(OTHER_APP), &self.apns.other_app),
            (Service::Fcm, None, &self.fcm.good),
            (Service::Fcm, None, &self.fcm.dead),
            (Service::Fcm, Some(OTHER_PROJECT), &self.fcm.other_project),
        ]
    }
}

/// What a client needs to know.
#[derive(Debug, Serialize)]
struct Guide {
    apns_url: String,
    environment: String,
    fcm_url: String,
    token_uri: String,
    control_url: String,
    ca_file: PathBuf,
    p8_file: PathBuf,
    key_id: String,
    team_id: String,
    topic: String,
    service_account_file: PathBuf,
    project_id: String,
    broker_configuration: String,
    targets: Targets,
}

impl Guide {
    fn new(
        services: &PushServices,
        environment: EnvironmentName,
        files: &SavedFiles,
        targets: Targets,
    ) -> Self {
        Self {
            apns_url: services.apns_url(),
            environment: format!("{environment:?}").to_lowercase(),
            fcm_url: services.fcm_url(),
            token_uri: services.token_uri(),
            control_url: services.control_url().expect("the control API was asked for"),
            ca_file: files.ca.clone(),
            p8_file: files.p8.clone(),
            key_id: services.provider_key().key_id().to_owned(),
            team_id: services.provider_key().team_id().to_owned(),
            topic: services.topic().to_owned(),
            service_account_file: files.service_account.clone(),
            project_id: services.project_id().to_owned(),
            broker_configuration: services.broker_configuration(files),
            targets,
        }
    }
}

/// For a person: headings in bold where the output is a terminal that shows it.
impl fmt::Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = !io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
        let (bold, normal) = if is_plain { ("", "") } else { ("\x1b[1m", "\x1b[0m") };
        let Self { apns_url, environment, fcm_url, token_uri, control_url, topic, project_id, .. } = self;
        let (ca, p8) = (self.ca_file.display(), self.p8_file.display());
        let account = self.service_account_file.display();
        let (key_id, team_id) = (&self.key_id, &self.team_id);
        let Targets { apns, fcm } = &self.targets;
        write!(
            f,
            r#"Simulated push services are running; Ctrl-C ends them.

{bold}Addresses{normal}
  APNs ({environment})     {apns_url}
  FCM                {fcm_url}
  FCM's tokens       {token_uri}
  control API        {control_url}

{bold}What a client needs{normal}
  trust              {ca}
  APNs key           {p8}
    key id, team id  {key_id}, {team_id}
    topic            {topic}
  FCM account        {account}
    project          {project_id}

{bold}In the configuration of a broker{normal}
{}
{bold}Targets{normal}
  APNs   good (200)                     {}
         dead (410 Unregistered)        {}
         another app's (400 DeviceTokenNotForTopic)
                                        {}
  FCM    good (200)                     {}
         dead (404 UNREGISTERED)        {}
         another project's (403 SENDER_ID_MISMATCH)
                                        {}

{bold}Try it{normal}
  # see the pushes that the iPhone gets (in another terminal; leave it running)
  curl -sN {control_url}/devices/{}/pushes

  # push to it
  curl -i --http2 --cacert {ca} \
    -H "authorization: bearer $(curl -s {control_url}/provider-token)" \
    -H "apns-topic: {topic}" -H "apns-push-type: alert" \
    -d '{{"aps":{{"alert":"Hello"}}}}' \
    {apns_url}/3/device/{}

  # push to the Android phone
  curl -i --cacert {ca} \
    -H "authorization: Bearer $(curl -s {control_url}/access-token)" \
    -H "content-type: application/json" \
    -d '{{"message":{{"token":"{}","data":{{"hello":"world"}}}}}}' \
    {fcm_url}/v1/projects/{project_id}/messages:send

  # let both services fail twice
  curl -H "content-type: application/json" \
    -d '{{"effect":"answer","status":503,"retry_after_s":2,"times":2}}' {control_url}/faults

  # see everything else that can be done
  curl {control_url}/
"#,
            self.broker_configuration,
            apns.good,
            apns.dead,
            apns.other_app,
            fcm.good,
            fcm.dead,
            fcm.other_project,
            apns.good,
            apns.good,
            fcm.good,
        )
    }
}
