//! `device-sim load`: Monday morning, on this machine.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use device_sim::{
    load::{
        self, Mix, Pace, People, Plan, Progress, Report, Stage, compare::compare, logged::Logged, plot,
        stage::Running,
    },
    login::ApiKey,
    push_services::{Config, Identity},
    wire::Transport,
};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(200);
/// Connections to a broker that runs already.
const CONNECTIONS: usize = 32;

/// Puts a load on a broker that it starts itself, or on one that runs already, and checks every sign-in from three
/// sides: what the page was told, what the phone was told, and what the log says.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("pace").required(true)))]
pub(crate) struct Args {
    /// How many people, each with one phone: iPhones and Androids, keys of both algorithms
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    phones: u32,
    /// How many sign-ins
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    approvals: u32,
    /// So many sign-ins begin each second, whatever becomes of them (open loop)
    #[arg(long, value_name = "R", group = "pace")]
    rate: Option<f64>,
    /// So many are under way at a time (closed loop)
    #[arg(long, value_name = "K", group = "pace", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: Option<u32>,
    /// Who answers how, and how long people think (TOML: weights in [profiles], median_ms and p95_ms in [think])
    #[arg(long, value_name = "FILE")]
    mix: Option<PathBuf>,
    /// Seconds that a phone has: sign-ins that nobody answers last so long
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u16).range(15..=300))]
    lifetime: u16,
    /// Kills the broker (kill -9) so often meanwhile, and starts it again
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "config")]
    kill_broker: u32,
    /// Where chance begins; printed, so that a run can be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the report here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws latency by percentile here, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// The broker's program; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    countersign: Option<PathBuf>,

    /// A broker that runs already: its configuration, to read its log with. It must push to the services that this
    /// command starts (--push-dir, --listen-apns, --listen-fcm, as of `device-sim push-services`)
    #[arg(long, value_name = "FILE", requires_all = ["broker", "sign_in_key_file", "enrolment_key_file", "push_dir"])]
    config: Option<PathBuf>,
    /// Its address
    #[arg(long, value_name = "URL", requires = "config")]
    broker: Option<String>,
    /// The certificate authority of that address, if it is https (PEM)
    #[arg(long, value_name = "FILE", requires = "config")]
    ca: Option<PathBuf>,
    /// A key of the scope sign-in
    #[arg(long, value_name = "FILE", requires = "config")]
    sign_in_key_file: Option<PathBuf>,
    /// A key of the scope enrolment, of the same relying party
    #[arg(long, value_name = "FILE", requires = "config")]
    enrolment_key_file: Option<PathBuf>,
    /// An application of that relying party
    #[arg(long, value_name = "NAME", default_value = "Webmail")]
    application: String,
    /// Keys and certificate of the push services (`device-sim push-services --dir`)
    #[arg(long, value_name = "DIR", requires = "config")]
    push_dir: Option<PathBuf>,
    /// The id of its process, if it runs on this machine: its CPU time and memory are in the report then
    #[arg(long, value_name = "PID", requires = "config")]
    pid: Option<u32>,
    /// Where APNs listens
    #[arg(long, value_name = "ADDRESS", requires = "config")]
    listen_apns: Option<SocketAddr>,
    /// Where FCM listens
    #[arg(long, value_name = "ADDRESS", requires = "config")]
    listen_fcm: Option<SocketAddr>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<std::process::ExitCode> {
    let plan = plan(&args)?;
    // Known now, not when all of it is over.
    for file in [&args.json, &args.plot].into_iter().flatten() {
        can_be_written(file)?;
    }
    println!("{plan}, seed {}", plan.seed);
    let mut stage = match &args.config {
        None => Stage::make(&program(args.countersign.as_deref())?).await?,
        Some(config) => Stage::join(running(&args, config)?).await?,
    };
    let progress = Progress::default();
    let count = usize::try_from(args.phones)?;

    let bar = bar(args.phones.into(), "enrolling {pos} of {len} phones {wide_bar} {rate}, {eta} left")?;
    let people =
        with_bar(&bar, || bar.set_position(progress.enrolled()), People::enrol(&stage, count, &progress))
            .await?;

    let before = stage.usage();
    let bar = bar_of_sign_ins(plan.approvals)?;
    let draw = || {
        bar.set_position(progress.ended());
        let outcomes: Vec<_> = progress
            .outcomes()
            .iter()
            .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
            .collect();
        bar.set_message(outcomes.join(", "));
        bar.set_prefix((progress.begun() - progress.ended()).to_string());
    };
    let records = with_bar(&bar, draw, load::run(&plan, &mut stage, &people, &progress)).await?;
    let used = before.zip(stage.usage()).map(|(before, after)| after.since(before));

    println!("reading the log …");
    let logged = Logged::read(&stage).await?;
    let compared = compare(records.all(), &logged, records.outages());
    let report = Report::new(&records, &compared, used, progress.sent_away());
    println!("\n{report}");
    write(args.json.as_deref(), || Ok(serde_json::to_string_pretty(&report)? + "\n"))?;
    write(args.plot.as_deref(), || Ok(plot::svg(&report)))?;
    Ok(if report.mismatches == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::from(1) })
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let mix = match &args.mix {
        None => Mix::default(),
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
            Mix::parse(&text).with_context(|| format!("{}", file.display()))?
        }
    };
    let pace = match (args.rate, args.in_flight) {
        (Some(rate), None) => {
            ensure!(
                rate.is_finite() && rate > 0.0 && rate <= 1e6,
                "--rate must be more than 0, and at most 1,000,000"
            );
            Pace::Rate(rate)
        }
        (None, Some(at_a_time)) => Pace::InFlight(usize::try_from(at_a_time)?),
        _ => bail!("one of --rate and --in-flight is needed"),
    };
    Ok(Plan {
        approvals: args.approvals.into(),
        pace,
        mix,
        lifetime: Duration::from_secs(args.lifetime.into()),
        kills: args.kill_broker,
        survives: args.kill_broker > 0,
        gives_up: false,
        seed: args.seed.unwrap_or_else(|| device_sim::entropy::Names::new().next()),
    })
}

/// The broker's program: the one that was named, or the one beside this program.
pub(crate) fn program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match named {
        Some(program) => program.to_owned(),
        None => std::env::current_exe()
            .context("this program's own path is not known")?
            .with_file_name("countersign"),
    };
    ensure!(
        program.exists(),
        "{}: is not there; build it with: cargo build --release -p countersign, or name it with --countersign",
        program.display()
    );
    Ok(program)
}

fn running(args: &Args, config: &Path) -> anyhow::Result<Running> {
    let given = |what: &Option<PathBuf>| what.clone().context("clap asks for it");
    let mut transport =
        Transport::to(args.broker.clone().context("clap asks for it")?).connections(CONNECTIONS);
    if let Some(ca) = &args.ca {
        transport = transport.trusting(fs::read_to_string(ca).with_context(|| format!("{}", ca.display()))?);
    }
    // It is read when all is over: to miss it then would be late.
    ensure!(
        config.exists(),
        "{}: is not there; it is the configuration of the broker that runs",
        config.display()
    );
    let push_dir = given(&args.push_dir)?;
    let identity = Identity::load(&push_dir)?.with_context(|| {
        format!(
            "{0}: has no keys of push services; make them: device-sim push-services --dir {0}",
            push_dir.display()
        )
    })?;
    let mut push = Config::with_identity(identity);
    push.apns_listen = args.listen_apns.unwrap_or(push.apns_listen);
    push.fcm_listen = args.listen_fcm.unwrap_or(push.fcm_listen);
    Ok(Running {
        program: program(args.countersign.as_deref())?,
        config_file: config.to_owned(),
        transport: transport.open()?,
        sign_in: ApiKey::from_file(&given(&args.sign_in_key_file)?)?,
        enrolment: ApiKey::from_file(&given(&args.enrolment_key_file)?)?,
        application: args.application.clone(),
        process: args.pid,
        push,
    })
}

fn bar(length: u64, template: &str) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template(template)?.progress_chars("█▉▊▋▌▍▎▏ ").with_key(
        "rate",
        |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{:.0}/s", state.per_sec());
        },
    );
    Ok(ProgressBar::new(length).with_style(style))
}

fn bar_of_sign_ins(length: u64) -> anyhow::Result<ProgressBar> {
    bar(length, "{pos} of {len} sign-ins {wide_bar} {rate}, {eta} left, {prefix} wait\n{msg}")
}

/// Does some work while the bar is drawn.
async fn with_bar<T>(bar: &ProgressBar, draw: impl Fn(), work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut redraw = tokio::time::interval(REDRAW);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = redraw.tick() => draw(),
        }
    };
    draw();
    bar.finish_and_clear();
    done
}

/// Whether the file can be made or written anew; what is in it stays.
fn can_be_written(file: &Path) -> anyhow::Result<()> {
    let opened = fs::OpenOptions::new().append(true).create(true).open(file);
    opened.with_context(|| format!("{}: cannot be written", file.display())).map(drop)
}

fn write(file: Option<&Path>, content: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    fs::write(file, content()?).with_context(|| format!("{}: cannot be written", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}
