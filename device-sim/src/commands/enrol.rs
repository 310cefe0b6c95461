//! `device-sim enrol`: the page that enrols a phone, in the terminal.

use std::{path::PathBuf, process::ExitCode};

use anyhow::anyhow;
use countersign_proto::v1::{EnrolmentEnd, Platform};
use device_sim::{
    clock::{Clock, Timestamp},
    login::{ApiKey, Begun, EnrollingPage, EnrolmentStep, EnrolmentUpdate},
    phone::text::shown,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    big,
    terminal::{self, Ink, Screen, for_programs, until},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with status 0 if the phone was enrolled, 1 if not, 2 if something else went wrong."
)]
pub(crate) struct Args {
    /// The broker's address, such as https://approve.example.org:8443
    #[arg(long, value_name = "URL")]
    broker: String,
    /// Trusts these certificate authorities (PEM) to vouch for the broker
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Holds the API key of the page, of the scope enrolment; nobody else may read it
    #[arg(long, value_name = "FILE")]
    api_key_file: PathBuf,
    /// Whose phone is enrolled; the account is opened if this is its first
    #[arg(long, value_name = "NAME")]
    account: String,
    /// The account's realm, if it is not the relying party's own
    #[arg(long, value_name = "REALM", default_value = "", hide_default_value = true)]
    realm: String,
    /// The control API of the simulated push services that the phone will use: shown with the phone's command
    #[arg(long, value_name = "URL")]
    push_control: Option<String>,
    /// Prints one JSON object a line for each event
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let transport = terminal::transport(&args.broker, args.ca_file.as_deref())?;
    let enrolling =
        EnrollingPage::new(&transport, Some(ApiKey::from_file(&args.api_key_file)?)).in_realm(args.realm);
    let clock = Clock::new();
    let explained =
        |refusal: device_sim::wire::Refusal| anyhow!(terminal::advice(&refusal, transport.address()));

    let begun = enrolling.begin(&args.account).await.map_err(explained)?;
    let mut page = Page { screen: Screen::new(args.json), push_control: args.push_control, failure: None };
    page.begun(&args.account, &begun, clock.now())?;
    let done = {
        let watched =
            enrolling.until_done(&begun.enrolment_id, &clock, |update| page.told(update, clock.now()));
        tokio::select! {
            done = watched => Some(done),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        }
    };
    if let Some(failure) = page.failure {
        return Err(failure);
    }
    let Some(last) = done else {
        // The person closed the page: the code must not wait for anybody else.
        enrolling.cancel(&begun.enrolment_id).await.map_err(explained)?;
        return Ok(ExitCode::FAILURE);
    };
    match last.map_err(explained)? {
        EnrolmentStep::Active { .. } => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// What the browser shows.
struct Page {
    screen: Screen,
    push_control: Option<String>,
    /// Standard output is gone.
    failure: Option<anyhow::Error>,
}

impl Page {
    fn begun(&self, account: &str, begun: &Begun, now: Timestamp) -> anyhow::Result<()> {
        let screen = self.screen;
        if screen.is_json {
            return terminal::json(&json!({
                "event": "begun",
                "enrolment_id": begun.enrolment_id,
                "uri": *begun.uri,
                "code": *begun.code,
                "address": begun.address,
                "expires_at_ms": begun.expires_at,
            }));
        }
        terminal::line(&format!("A phone for {}.", screen.paint(Ink::Bold, account)))?;
        if screen.is_terminal {
            if let Some(code) = big::qr_code(&begun.uri, screen.is_coloured) {
                terminal::line("\nScan this with the phone:\n")?;
                for line in code.lines() {
                    terminal::line(&format!("    {}", screen.paint(Ink::Paper, line)))?;
                }
            }
            let control = self.push_control.iter().map(|url| format!(" --push-control {url}"));
            let command = format!("device-sim phone --state DIR{}", control.collect::<String>());
            terminal::line(&format!("\nor paste this into {command}\n"))?;
        }
        let left = begun.expires_at.map(|at| format!(" within {}", until(at, now))).unwrap_or_default();
        let name = |name: &str| screen.paint(Ink::Dim, format!("{name:<8}"));
        terminal::line(&format!("{} {}", name("uri"), shown(&begun.uri)))?;
        terminal::line(&format!("\nor type both{left}:\n"))?;
        terminal::line(&format!("{} {}", name("address"), shown(&begun.address)))?;
        terminal::line(&format!("{} {}\n", name("code"), screen.paint(Ink::Bold, shown(&begun.code))))
    }

    fn told(&mut self, update: &EnrolmentUpdate, now: Timestamp) {
        let shown = if self.screen.is_json { tell_program(update) } else { self.text(update, now) };
        if let Err(error) = shown {
            self.failure.get_or_insert(error);
        }
    }

    fn text(&self, update: &EnrolmentUpdate, now: Timestamp) -> anyhow::Result<()> {
        let screen = self.screen;
        let line = |ink, sign, text: String| terminal::line(&format!("{} {text}", screen.paint(ink, sign)));
        match &update.step {
            EnrolmentStep::Begun { .. } => line(Ink::Dim, "•", "The code waits for a phone.".to_owned()),
            EnrolmentStep::CodeRefused { attempts_left } => {
                let text = format!(
                    "A wrong code was tried; {attempts_left} more and this one ends. If that was not you, begin again."
                );
                line(Ink::Yellow, "!", text)
            }
            EnrolmentStep::Trial { device_name, platform, number, expires_at, .. } => {
                let runs = match platform {
                    Platform::Ios => "iOS",
                    Platform::Android => "Android",
                    Platform::Unspecified => "unknown",
                };
                let device = screen.paint(Ink::Bold, shown(device_name));
                line(Ink::Green, "✓", format!("{device} ({runs}) has used the code. Is that your phone?"))?;
                if screen.is_terminal {
                    let drawn = big::digits(number.expose(), |line| screen.paint(Ink::Bold, line));
                    terminal::line(&format!("\n{drawn}\n"))?;
                }
                let left = expires_at.map(|at| format!(" within {}", until(at, now))).unwrap_or_default();
                terminal::line(&format!(
                    "Then type {} on it{left}.",
                    screen.paint(Ink::Bold, shown(number.expose()))
                ))
            }
            EnrolmentStep::Active { .. } => {
                line(Ink::Green, "✓", "Enrolled: the phone approves sign-ins from now on.".to_owned())
            }
            EnrolmentStep::Ended { reason } => {
                line(Ink::Red, "✗", format!("Not enrolled: {}. Begin again.", in_words(*reason)))
            }
            EnrolmentStep::Unknown => Ok(()),
        }
    }
}

fn tell_program(update: &EnrolmentUpdate) -> anyhow::Result<()> {
    let event = match &update.step {
        // Said already, with the code.
        EnrolmentStep::Begun { .. } | EnrolmentStep::Unknown => return Ok(()),
        EnrolmentStep::CodeRefused { attempts_left } => {
            json!({ "event": "code-refused", "attempts_left": attempts_left })
        }
        EnrolmentStep::Trial { authenticator_id, device_name, platform, number, expires_at } => json!({
            "event": "trial",
            "number": number.expose(),
            "device_name": device_name,
            "platform": for_programs(platform.as_str_name(), "PLATFORM_"),
            "authenticator_id": authenticator_id,
            "expires_at_ms": expires_at,
        }),
        EnrolmentStep::Active { authenticator_id } => {
            json!({ "event": "active", "authenticator_id": authenticator_id })
        }
        EnrolmentStep::Ended { reason } => {
            json!({ "event": "ended", "reason": for_programs(reason.as_str_name(), "ENROLMENT_END_") })
        }
    };
    terminal::json(&event)
}

fn in_words(reason: EnrolmentEnd) -> &'static str {
    match reason {
        EnrolmentEnd::CodeRefused => "wrong codes were tried too often",
        EnrolmentEnd::Expired => "the time is up",
        EnrolmentEnd::WrongNumber => "another number was typed on the phone",
        EnrolmentEnd::Declined => "it was declined on the phone",
        EnrolmentEnd::Cancelled => "it was cancelled",
        EnrolmentEnd::Revoked => "the phone was revoked",
        EnrolmentEnd::Unspecified => "it ended in a way that this program does not know",
    }
}
