//! What the phone shows: text for people, one JSON object a line for programs.

use std::fmt::Write as _;

use countersign_proto::v1::{self, OutcomeKind};
use device_sim::{
    clock::Timestamp,
    phone::{Asked, Challenge, Notice, Phone, Trial, text::shown},
};
use serde_json::{Value, json};

use crate::commands::terminal::{
    self, Ink, Screen, for_programs, forget_typed, in_words, outcome_for_programs, until,
};

/// What happened.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The phone is bound, and has its trial before it.
    Enrolled(&'a Phone),
    /// The trial asks for the number.
    Trial(&'a Trial),
    /// The trial is passed.
    Active(&'a Phone),
    /// The phone waits for sign-ins.
    Ready { phone: &'a Phone, is_pushed: bool },
    /// A sign-in asks for an answer; so many wait in all.
    Challenge { challenge: &'a Challenge, waiting: usize },
    /// Another one came while one is asked for.
    Another { waiting: usize },
    /// The broker took the answer.
    Answered { asked: &'a Asked, outcome: OutcomeKind },
    /// The person turned away from it; it goes on waiting.
    Ignored { asked: &'a Asked },
    /// It ended otherwise; perhaps the broker says how.
    Ended { id: &'a str, outcome: Option<OutcomeKind> },
    /// Something about the account changed.
    Notice(&'a Notice),
    /// The broker does not know the phone any more.
    Removed { was_active: bool },
    /// The push service or the broker cannot be reached; it is tried again.
    Trouble { problem: &'a str },
    /// They can again.
    Recovered { what: &'a str },
    /// Something is not shown, or an answer makes no sense.
    Error { problem: &'a str },
}

/// Shows events, and on a terminal keeps a line to type on below them.
#[derive(Debug)]
pub(super) struct View {
    screen: Screen,
    /// The line to type on, if one is there.
    prompt: Option<Prompt>,
}

#[derive(Clone, Debug)]
struct Prompt {
    expires_at: Timestamp,
    text: String,
}

impl View {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen, prompt: None }
    }

    /// Shows an event. What stands on the line to type on goes, and the line comes again below, if it is still wanted.
    pub(super) fn show(&mut self, event: &Event<'_>, now: Timestamp) -> anyhow::Result<()> {
        if self.screen.is_json {
            return terminal::json(&object(event));
        }
        let is_typing = self.prompt.is_some() && self.screen.is_terminal;
        let text = self.text(event, now);
        if is_typing {
            terminal::write(&format!("\r\x1b[2K{text}\n"))?;
            forget_typed();
        } else {
            terminal::line(&text)?;
        }
        self.write_prompt(now)
    }

    /// Puts the line to type on below what is shown.
    pub(super) fn ask(&mut self, asked: &Asked, now: Timestamp) -> anyhow::Result<()> {
        let text = match asked {
            Asked::SignIn(challenge) => {
                format!("{} digits, d, r or Enter", challenge.digits())
            }
            Asked::Trial(trial) => format!("{} digits, or d to decline", trial.digits()),
        };
        self.prompt = Some(Prompt { expires_at: asked.expires_at(), text });
        forget_typed();
        self.write_prompt(now)
    }

    /// The line to type on is not wanted any more. `is_entered`: the cursor is below it already.
    pub(super) fn settle(&mut self, is_entered: bool) -> anyhow::Result<()> {
        if self.prompt.take().is_some() && self.screen.is_terminal && !is_entered {
            terminal::write("\r\x1b[2K")?;
        }
        Ok(())
    }

    /// The line was entered and something is still asked: another line below.
    pub(super) fn ask_again(&self, now: Timestamp) -> anyhow::Result<()> {
        self.write_prompt(now)
    }

    /// A second has gone: only the time on the line to type on changes, what is being typed there stays.
    pub(super) fn tick(&self, now: Timestamp) -> anyhow::Result<()> {
        match &self.prompt {
            Some(prompt) if self.screen.is_terminal => {
                terminal::write(&format!("\x1b7\r{}\x1b8", self.time_left(prompt, now)))
            }
            _ => Ok(()),
        }
    }

    fn write_prompt(&self, now: Timestamp) -> anyhow::Result<()> {
        match &self.prompt {
            Some(prompt) if self.screen.is_terminal => terminal::write(&format!(
                "{} {} {} ",
                self.time_left(prompt, now),
                self.screen.paint(Ink::Dim, &prompt.text),
                self.screen.paint(Ink::Bold, "›")
            )),
            _ => Ok(()),
        }
    }

    fn time_left(&self, prompt: &Prompt, now: Timestamp) -> String {
        let left = prompt.expires_at.since(now);
        let ink = if left.as_secs() < 10 { Ink::Red } else { Ink::Cyan };
        self.screen.paint(ink, format!("{:>6}", until(prompt.expires_at, now)))
    }

    fn text(&self, event: &Event<'_>, now: Timestamp) -> String {
        let screen = self.screen;
        let mark = |ink, sign: &str, text: String| format!("{} {text}", screen.paint(ink, sign));
        match event {
            Event::Enrolled(phone) => {
                let text = format!(
                    "{} is bound to {} at {}; one trial, and it is active.",
                    phone.name(),
                    screen.paint(Ink::Bold, phone.account_name()),
                    phone.broker().address()
                );
                mark(Ink::Green, "✓", text)
            }
            Event::Trial(trial) => format!(
                "\n{}\n  {} {}\n\nType the {} digits that the enrolling page shows, or d to decline.",
                self.title("Enrol this phone?", trial.expires_at(), now),
                screen.paint(Ink::Dim, "account"),
                trial.account_name(),
                trial.digits()
            ),
            Event::Active(phone) => {
                let name = screen.paint(Ink::Bold, phone.account_name());
                mark(Ink::Green, "✓", format!("Active: {} signs in for {name} from now on.", phone.name()))
            }
            Event::Ready { phone, is_pushed } => {
                let how = if *is_pushed { "by push" } else { "by asking every few seconds (no push)" };
                format!(
                    "\n{}\n{}",
                    screen.paint(Ink::Bold, format!("{} · {}", phone.name(), phone.account_name())),
                    screen.paint(Ink::Dim, format!("Waiting for sign-ins {how}. Ctrl-C ends it."))
                )
            }
            Event::Challenge { challenge, waiting } => self.challenge(challenge, *waiting, now),
            Event::Another { waiting } => mark(Ink::Yellow, "!", screen.paint(Ink::Yellow, others(*waiting))),
            Event::Answered { asked: Asked::SignIn(_), outcome } => self.answered(*outcome),
            Event::Answered { asked: Asked::Trial(_), outcome } => match outcome {
                OutcomeKind::Approved => mark(Ink::Green, "✓", "The number is right.".to_owned()),
                OutcomeKind::Denied => {
                    mark(Ink::Yellow, "•", "Declined: this phone was not enrolled.".to_owned())
                }
                _ => mark(
                    Ink::Red,
                    "✗",
                    "The number is wrong, and the enrolment has ended. Begin again on the enrolling page."
                        .to_owned(),
                ),
            },
            Event::Ignored { .. } => mark(
                Ink::Dim,
                "•",
                "Ignored: it waits for another phone, or expires. l shows it again.".to_owned(),
            ),
            Event::Ended { outcome, .. } => match outcome {
                Some(kind) => mark(
                    Ink::Yellow,
                    "•",
                    format!("Over without this phone: the sign-in {}.", in_words(*kind)),
                ),
                None => mark(
                    Ink::Yellow,
                    "•",
                    "Over without this phone: nothing of it waits any more.".to_owned(),
                ),
            },
            Event::Notice(notice) => self.notice(notice),
            Event::Removed { was_active: true } => mark(
                Ink::Red,
                "✗",
                "The broker does not take this phone any more: it was revoked. Its state is of no use now."
                    .to_owned(),
            ),
            Event::Removed { was_active: false } => mark(
                Ink::Red,
                "✗",
                "The enrolment has ended before the number was typed. Begin again on the enrolling page."
                    .to_owned(),
            ),
            Event::Trouble { problem } => {
                mark(Ink::Yellow, "!", format!("{} (trying again)", shown(problem)))
            }
            Event::Recovered { what } => mark(Ink::Green, "✓", format!("{what} again.")),
            Event::Error { problem } => mark(Ink::Red, "!", shown(problem).into_owned()),
        }
    }

    fn title(&self, text: &str, expires_at: Timestamp, now: Timestamp) -> String {
        let title = self.screen.paint(Ink::Bold, text);
        if self.screen.is_terminal {
            // The line to type on has the time.
            return title;
        }
        format!("{title} ({} left)", until(expires_at, now))
    }

    fn challenge(&self, challenge: &Challenge, waiting: usize, now: Timestamp) -> String {
        let v1::Context { source_ip, place, browser } = challenge.context();
        let facts = [
            ("asked by", challenge.relying_party_name()),
            ("account", challenge.account_name()),
            ("place", place),
            ("browser", browser),
            ("address", source_ip),
        ];
        let title = format!("Sign in to {}?", challenge.application_name());
        let mut text = format!("\n{}\n", self.title(&title, challenge.expires_at(), now));
        for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
            let name = self.screen.paint(Ink::Dim, format!("{name:<9}"));
            let _ = writeln!(text, "  {name} {value}");
        }
        if waiting > 1 {
            let mark = self.screen.paint(Ink::Yellow, "!");
            let _ = writeln!(text, "\n{mark} {}", self.screen.paint(Ink::Yellow, others(waiting)));
        }
        let _ = write!(
            text,
            "\nType the {} digits that the sign-in page shows to approve it;\n\
             d denies, r denies and reports, Enter ignores.",
            challenge.digits()
        );
        text
    }

    fn answered(&self, outcome: OutcomeKind) -> String {
        let (ink, sign, more) = match outcome {
            OutcomeKind::Approved => (Ink::Green, "✓", ""),
            OutcomeKind::WrongNumber => (
                Ink::Red,
                "✗",
                " Begin again on the page; if you did not begin it, tell whoever runs the sign-in.",
            ),
            _ => (Ink::Yellow, "•", ""),
        };
        let sentence = format!("The sign-in {}.", in_words(outcome));
        format!("{} {}{more}", self.screen.paint(ink, sign), self.screen.paint(ink, sentence))
    }

    fn notice(&self, notice: &Notice) -> String {
        let device = self.screen.paint(Ink::Bold, &notice.subject_device_name);
        let what = match notice.kind {
            v1::notice::Kind::AuthenticatorRemoved => format!("{device} was taken away from your account."),
            v1::notice::Kind::AuthenticatorAdded | v1::notice::Kind::Unspecified => {
                format!("{device} was added to your account. If that was not you, have it revoked at once.")
            }
        };
        format!("{} {what}", self.screen.paint(Ink::Yellow, "!"))
    }
}

/// An event for programs: what people read, by name.
fn object(event: &Event<'_>) -> Value {
    match event {
        Event::Enrolled(phone) => json!({
            "event": "enrolled",
            "account": phone.account_name(),
            "realm": phone.realm(),
            "authenticator_id": phone.authenticator_id(),
            "broker": phone.broker().address(),
            "name": phone.name(),
        }),
        Event::Trial(trial) => json!({
            "event": "trial",
            "enrolment_id": trial.enrolment_id(),
            "account": trial.account_name(),
            "digits": trial.digits(),
            "expires_at_ms": trial.expires_at(),
        }),
        Event::Active(phone) => json!({
            "event": "active",
            "account": phone.account_name(),
            "authenticator_id": phone.authenticator_id(),
        }),
        Event::Ready { phone, is_pushed } => json!({
            "event": "ready",
            "account": phone.account_name(),
            "authenticator_id": phone.authenticator_id(),
            "push": is_pushed,
        }),
        Event::Challenge { challenge, waiting } => {
            let context = challenge.context();
            json!({
                "event": "challenge",
                "approval_id": challenge.approval_id(),
                "application": challenge.application_name(),
                "relying_party": challenge.relying_party_name(),
                "account": challenge.account_name(),
                "source_ip": context.source_ip,
                "place": context.place,
                "browser": context.browser,
                "digits": challenge.digits(),
                "issued_at_ms": challenge.issued_at(),
                "expires_at_ms": challenge.expires_at(),
                "waiting": waiting,
            })
        }
        Event::Another { waiting } => json!({ "event": "waiting", "waiting": waiting }),
        Event::Answered { asked, outcome } => {
            named(asked, json!({ "event": "answered", "outcome": outcome_for_programs(*outcome) }))
        }
        Event::Ignored { asked } => named(asked, json!({ "event": "ignored" })),
        Event::Ended { id, outcome } => json!({
            "event": "ended",
            "id": id,
            "outcome": outcome.map(outcome_for_programs),
        }),
        Event::Notice(notice) => json!({
            "event": "notice",
            "kind": for_programs(notice.kind.as_str_name(), "KIND_"),
            "device_name": notice.subject_device_name,
            "authenticator_id": notice.subject_authenticator_id,
            "at_ms": notice.at,
        }),
        Event::Removed { was_active } => json!({ "event": "removed", "was_active": was_active }),
        Event::Trouble { problem } => json!({ "event": "trouble", "message": problem }),
        Event::Recovered { what } => json!({ "event": "recovered", "what": what }),
        Event::Error { problem } => json!({ "event": "error", "message": problem }),
    }
}

fn named(asked: &Asked, mut object: Value) -> Value {
    match asked {
        Asked::SignIn(challenge) => object["approval_id"] = challenge.approval_id().into(),
        Asked::Trial(trial) => object["enrolment_id"] = trial.enrolment_id().into(),
    }
    object
}

fn others(waiting: usize) -> String {
    match waiting {
        2 => "Another sign-in of this account waits. Answer only what you began yourself.".to_owned(),
        more => {
            format!("{} other sign-ins of this account wait. Answer only what you began yourself.", more - 1)
        }
    }
}
