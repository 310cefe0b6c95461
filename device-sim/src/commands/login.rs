//! `device-sim login`: a login server and its page in the terminal.

use std::{path::PathBuf, process::ExitCode};

use anyhow::anyhow;
use countersign_proto::v1::{self, OutcomeKind, progress};
use device_sim::{
    clock::{Clock, Timestamp},
    login::{ApiKey, Issued, LoginServer, News, Outcome, Progress, SignIn, Step, Update},
    phone::text::shown,
    wire::Refusal,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    big,
    terminal::{self, Ink, Screen, for_programs, in_words, outcome_for_programs, until},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with status 0 if the sign-in was approved, 1 if not, 2 if something else went wrong."
)]
pub(crate) struct Args {
    /// The broker's address, such as https://approve.example.org:8443
    #[arg(long, value_name = "URL")]
    broker: String,
    /// Trusts these certificate authorities (PEM) to vouch for the broker
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Holds the login server's API key, of the scope sign-in; nobody else may read it
    #[arg(long, value_name = "FILE")]
    api_key_file: PathBuf,
    /// The application that somebody signs in to, as registered with the broker
    #[arg(long, value_name = "NAME")]
    application: String,
    /// Who signs in
    #[arg(long, value_name = "NAME")]
    account: String,
    /// The account's realm, if it is not the relying party's own
    #[arg(long, value_name = "REALM", default_value = "", hide_default_value = true)]
    realm: String,
    /// The browser's IP address
    #[arg(long, value_name = "ADDRESS", default_value = "198.51.100.7")]
    ip: String,
    /// Where the browser is; brokers take it only if they are configured to
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    place: String,
    /// What the browser is; brokers take it only if they are configured to
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    browser: String,
    /// How long the phone has; the broker's default if left out
    #[arg(long, value_name = "SECONDS")]
    lifetime: Option<u64>,
    /// Prints one JSON object a line for each event
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let transport = terminal::transport(&args.broker, args.ca_file.as_deref())?;
    let login = LoginServer::new(&transport, Some(ApiKey::from_file(&args.api_key_file)?));
    let explained = |refusal: Refusal| anyhow!(terminal::advice(&refusal, transport.address()));
    // Once somebody waits, a broker that goes away is waited for; one that was never there is not.
    let described = transport.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await;
    described.map_err(|status| explained(status.into()))?;
    let mut sign_in = SignIn::new(args.account, args.application).in_realm(args.realm);
    sign_in.context = v1::Context { source_ip: args.ip, place: args.place, browser: args.browser };
    sign_in.lifetime = args.lifetime.map(std::time::Duration::from_secs);

    let clock = Clock::new();
    let mut page = Page {
        screen: Screen::new(args.json),
        began_at: clock.now(),
        waits: None,
        phones: Vec::new(),
        addressed: 0,
        is_away: false,
        failure: None,
    };
    page.asking(&sign_in)?;
    let outcome = {
        let asked = login.follow_to_outcome(&sign_in, &clock, |news| page.told(&news, clock.now()));
        tokio::select! {
            outcome = asked => Some(outcome),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        }
    };
    if let Some(failure) = page.failure {
        return Err(failure);
    }
    let outcome = match outcome {
        Some(outcome) => outcome,
        // The person closed the page: the phone need not ask any more.
        None => match &page.waits {
            Some(id) => login.cancel(id).await,
            None => return Ok(ExitCode::FAILURE),
        },
    };
    let outcome = outcome.map_err(explained)?;
    page.ended(&sign_in, &outcome, clock.now())?;
    let lets_in = outcome.lets_in(&sign_in.session_binding, clock.now());
    Ok(if lets_in { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the browser shows.
struct Page {
    screen: Screen,
    began_at: Timestamp,
    /// The approval that waits.
    waits: Option<String>,
    /// The phones that something was heard of, in that order: so they are called.
    phones: Vec<String>,
    addressed: u32,
    /// The broker did not answer when it was last asked.
    is_away: bool,
    /// Standard output is gone.
    failure: Option<anyhow::Error>,
}

impl Page {
    fn asking(&self, sign_in: &SignIn) -> anyhow::Result<()> {
        if self.screen.is_json {
            return Ok(());
        }
        let application = self.screen.paint(Ink::Bold, &sign_in.application);
        terminal::line(&format!(
            "{} signs in to {application}.",
            self.screen.paint(Ink::Bold, &sign_in.account)
        ))
    }

    fn told(&mut self, news: &News<'_>, now: Timestamp) {
        let is_away = matches!(news, News::Away(_));
        let was_away = std::mem::replace(&mut self.is_away, is_away);
        let shown = match news {
            News::Away(_) if was_away => Ok(()),
            News::Away(refusal) => self.away(refusal, now),
            News::There if was_away => self.back(now),
            News::There => Ok(()),
            News::Update(update) => self.updated(update, now),
        };
        if let Err(error) = shown {
            self.failure.get_or_insert(error);
        }
    }

    fn away(&self, refusal: &Refusal, now: Timestamp) -> anyhow::Result<()> {
        let problem = "The broker does not answer; trying again";
        if self.screen.is_json {
            return terminal::json(
                &json!({ "event": "trouble", "message": format!("{problem}: {}", refusal.message()) }),
            );
        }
        self.step(now, &self.screen.paint(Ink::Yellow, format!("! {problem}")))
    }

    fn back(&self, now: Timestamp) -> anyhow::Result<()> {
        if self.screen.is_json {
            return terminal::json(&json!({ "event": "recovered", "what": "The broker is there" }));
        }
        self.step(now, "the broker is there again")
    }

    fn updated(&mut self, update: &Update, now: Timestamp) -> anyhow::Result<()> {
        if let Step::Issued(issued) = &update.step {
            self.waits = Some(issued.approval_id.clone());
            self.addressed = issued.authenticators_addressed;
        }
        if let Step::Progress(progress) = &update.step
            && !self.phones.contains(&progress.authenticator_id)
        {
            self.phones.push(progress.authenticator_id.clone());
        }
        if self.screen.is_json { tell_program(update) } else { self.text(update, now) }
    }

    fn text(&self, update: &Update, now: Timestamp) -> anyhow::Result<()> {
        match &update.step {
            Step::Issued(issued) => self.number(issued, now),
            Step::Progress(progress) => self.progress(progress, now),
            // Told at the end, with all that belongs to it.
            Step::Outcome(_) | Step::Unknown => Ok(()),
        }
    }

    fn number(&self, issued: &Issued, now: Timestamp) -> anyhow::Result<()> {
        let number = issued.number.expose();
        if self.screen.is_terminal {
            terminal::line(&format!(
                "\n{}\n",
                big::digits(number, |line| self.screen.paint(Ink::Bold, line))
            ))?;
        }
        let left = issued.expires_at.map(|at| format!(" within {}", until(at, now))).unwrap_or_default();
        terminal::line(&format!(
            "Type {} on your phone{left}.",
            self.screen.paint(Ink::Bold, shown(number))
        ))?;
        let phones = issued.authenticators_addressed;
        self.step(now, &format!("asked {phones} phone{}", if phones == 1 { "" } else { "s" }))
    }

    fn progress(&self, progress: &Progress, now: Timestamp) -> anyhow::Result<()> {
        use progress::Kind;
        let phone = self.phone(&progress.authenticator_id);
        let what = match progress.kind {
            Kind::AcceptedByPushService => format!("accepted by the push service{}", phone(" for ")),
            Kind::Delivered => format!("delivered to{}", phone(" ")),
            Kind::Opened => format!("opened on{}", phone(" ")),
            Kind::PushFailed => {
                let text = format!(
                    "no push reaches{} ({}); it shows the sign-in when it is opened",
                    phone(" "),
                    shown(&progress.reason)
                );
                self.screen.paint(Ink::Yellow, text)
            }
            Kind::PushDelayed => {
                let text = format!(
                    "no push reaches{} yet ({}); it is tried again, and the phone shows the sign-in when it is opened",
                    phone(" "),
                    shown(&progress.reason)
                );
                self.screen.paint(Ink::Yellow, text)
            }
            Kind::Unspecified => return Ok(()),
        };
        self.step(now, &what)
    }

    /// What a phone is called, after some word: by a number, where there are several.
    fn phone(&self, authenticator_id: &str) -> impl Fn(&str) -> String {
        let at = self.phones.iter().position(|known| known == authenticator_id).unwrap_or_default() + 1;
        let is_one = self.addressed < 2;
        move |before| if is_one { format!("{before}the phone") } else { format!("{before}phone {at}") }
    }

    /// A line with how long it took to get there.
    fn step(&self, now: Timestamp, what: &str) -> anyhow::Result<()> {
        let millis = now.since(self.began_at).as_millis();
        let when = format!("{:>4}.{:02} s", millis / 1_000, millis % 1_000 / 10);
        terminal::line(&format!("{}  {what}", self.screen.paint(Ink::Dim, when)))
    }

    fn ended(&self, sign_in: &SignIn, outcome: &Outcome, now: Timestamp) -> anyhow::Result<()> {
        let kind = outcome.kind();
        if self.screen.is_json {
            let message = outcome.message();
            return terminal::json(&json!({
                "event": "outcome",
                "outcome": outcome_for_programs(kind),
                "approval_id": outcome.approval_id(),
                "authenticator_id": outcome.authenticator_id(),
                "decided_at_ms": outcome.decided_at(),
                "valid_until_ms": outcome.valid_until(),
                "amr": message.amr,
                "user_verified": message.user_verified,
                "phishing_resistant": message.phishing_resistant,
                "refusal_reason": (kind == OutcomeKind::Refused).then(|| refusal_reason(outcome)),
                "lets_in": outcome.lets_in(&sign_in.session_binding, now),
            }));
        }
        if kind == OutcomeKind::Approved && !outcome.is_for(&sign_in.session_binding) {
            let text = "approved, but for another browser session: nobody is let in";
            return self.step(now, &self.screen.paint(Ink::Red, text));
        }
        let why = match kind {
            OutcomeKind::Refused => format!(": {}", refusal_reason(outcome)),
            _ => String::new(),
        };
        self.step(now, &format!("{}{why}", self.screen.outcome(kind)))?;
        let sentence = match kind {
            OutcomeKind::Approved => format!("\nWelcome, {}.", sign_in.account),
            _ => format!("\nNot signed in: the attempt {}.", in_words(kind)),
        };
        terminal::line(&sentence)
    }
}

fn tell_program(update: &Update) -> anyhow::Result<()> {
    let event = match &update.step {
        Step::Issued(issued) => json!({
            "event": "issued",
            "approval_id": issued.approval_id,
            "number": issued.number.expose(),
            "expires_at_ms": issued.expires_at,
            "authenticators_addressed": issued.authenticators_addressed,
        }),
        Step::Progress(progress) => json!({
            "event": "progress",
            "kind": for_programs(progress.kind.as_str_name(), "KIND_"),
            "authenticator_id": progress.authenticator_id,
            "reason": progress.reason,
        }),
        Step::Outcome(_) | Step::Unknown => return Ok(()),
    };
    terminal::json(&event)
}

fn refusal_reason(outcome: &Outcome) -> String {
    for_programs(outcome.refusal_reason().as_str_name(), "REFUSAL_REASON_")
}
