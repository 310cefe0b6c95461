//! What the commands for people share: colours where they can be seen, lines that are flushed, JSON for programs, and
//! words for what the broker says.

use std::{
    fmt::Display,
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

use anyhow::Context as _;
use countersign_proto::v1::OutcomeKind;
use device_sim::{
    clock::Timestamp,
    phone::text::shown,
    wire::{AddressError, Refusal, Transport},
};
use serde_json::Value;
use tokio::sync::mpsc;

/// Lines that were typed and not read yet; who writes more waits.
const TYPED_MAX: usize = 64;
/// A longer line is nobody's answer.
const LINE_BYTES_MAX: usize = 4_096;

/// Where a command writes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// One JSON object a line, and nothing else.
    pub(crate) is_json: bool,
    /// Somebody looks at it.
    pub(crate) is_terminal: bool,
    /// And wants colours.
    pub(crate) is_coloured: bool,
}

/// A colour, or a weight.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ink {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
    /// Black on white, whatever the terminal's own colours are: what a camera can read.
    Paper,
}

impl Screen {
    pub(crate) fn new(is_json: bool) -> Self {
        let is_terminal = !is_json && io::stdout().is_terminal();
        // https://no-color.org: any value but the empty one.
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { is_json, is_terminal, is_coloured: is_terminal && !is_unwanted }
    }

    pub(crate) fn paint(self, ink: Ink, text: impl Display) -> String {
        if !self.is_coloured {
            return text.to_string();
        }
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Red => "1;31",
            Ink::Green => "1;32",
            Ink::Yellow => "1;33",
            Ink::Cyan => "36",
            Ink::Paper => "30;107",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// An outcome in a word, painted: only one is good news.
    pub(crate) fn outcome(self, kind: OutcomeKind) -> String {
        let ink = match kind {
            OutcomeKind::Approved => Ink::Green,
            OutcomeKind::Denied | OutcomeKind::Reported | OutcomeKind::WrongNumber | OutcomeKind::Refused => {
                Ink::Red
            }
            OutcomeKind::Unspecified
            | OutcomeKind::Expired
            | OutcomeKind::Cancelled
            | OutcomeKind::Superseded
            | OutcomeKind::Unreachable => Ink::Yellow,
        };
        self.paint(ink, in_a_word(kind))
    }
}

/// Writes to standard output, and does not wait for more.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Writes a line.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    write(&format!("{text}\n"))
}

/// Writes an event for programs.
pub(crate) fn json(event: &Value) -> anyhow::Result<()> {
    line(&event.to_string())
}

/// An outcome, in a sentence about the sign-in.
pub(crate) fn in_words(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Approved => "was approved",
        OutcomeKind::Denied => "was denied",
        OutcomeKind::Reported => "was denied and reported",
        OutcomeKind::WrongNumber => "has ended: the number that was typed is wrong",
        OutcomeKind::Expired => "has expired",
        OutcomeKind::Cancelled => "was cancelled by the login server",
        OutcomeKind::Superseded => "gave way to a newer attempt of the same browser",
        OutcomeKind::Unreachable => "reached nobody: the account has no active phone",
        OutcomeKind::Refused => "was refused",
        OutcomeKind::Unspecified => "has ended in a way that this program does not know",
    }
}

/// An outcome in a word or two.
fn in_a_word(kind: OutcomeKind) -> String {
    outcome_for_programs(kind).replace('-', " ")
}

/// The name of a message's enum value for programs: `OUTCOME_KIND_WRONG_NUMBER` is `wrong-number`.
pub(crate) fn for_programs(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// The same for an outcome.
pub(crate) fn outcome_for_programs(kind: OutcomeKind) -> String {
    for_programs(kind.as_str_name(), "OUTCOME_KIND_")
}

/// Minutes and seconds.
pub(crate) fn minutes(left: std::time::Duration) -> String {
    let seconds = left.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// The same until a moment, rounded up: while there is time left, it does not say 0:00.
pub(crate) fn until(moment: Timestamp, now: Timestamp) -> String {
    minutes(moment.since(now) + std::time::Duration::from_millis(999))
}

/// A way to the broker, with what is trusted there from a file.
pub(crate) fn transport(address: &str, ca_file: Option<&Path>) -> anyhow::Result<Transport> {
    let pem = ca_file.map(read_pem).transpose()?;
    Ok(trusting(address, pem)?)
}

/// The same from what the file held.
pub(crate) fn trusting(address: &str, pem: Option<String>) -> Result<Transport, AddressError> {
    let builder = Transport::to(address);
    match pem {
        Some(pem) => builder.trusting(pem),
        None => builder,
    }
    .open()
}

pub(crate) fn read_pem(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path)
        .with_context(|| format!("cannot read the certificate authorities in {}", path.display()))
}

/// An error with its causes, for the person. Some errors hold the text of their cause; it is said once. No line of it
/// does anything to a terminal.
pub(crate) fn in_full(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said.lines().map(shown).collect::<Vec<_>>().join("\n")
}

/// What a refusal says to the person who must act.
pub(crate) fn advice(refusal: &Refusal, address: &str) -> String {
    let message = refusal.message();
    match refusal.reason() {
        None if message.contains("certificate") || message.contains("InvalidContentType") => {
            tls_advice(message, address)
        }
        // What a server that waits for TLS says to plain HTTP/2 is no HTTP/2.
        None if refusal.is_lost() && is_no_http2(message) && address.starts_with("http://") => format!(
            "{address} does not answer in plain HTTP/2; does it speak TLS? try https://{}",
            address.trim_start_matches("http://")
        ),
        None if refusal.is_lost() => {
            format!("cannot reach the broker at {address}: {message}; does it run there?")
        }
        None => format!("{address} answers, but not as a Countersign broker: {refusal}"),
        Some("CREDENTIAL_INVALID" | "CREDENTIAL_MISSING") => format!(
            "the broker does not know this API key ({message}); have a new credential issued if it was revoked"
        ),
        Some("SCOPE_MISSING") => format!(
            "this API key is for something else ({message}); sign-ins and enrolments need a credential each"
        ),
        Some("ACCOUNT_NOT_FOUND") => {
            format!("{message}; enrol a phone for it first: device-sim enrol --broker {address} ...")
        }
        Some(_) => refusal.to_string(),
    }
}

/// What stands before a TLS connection, in rustls' words, as a sentence with what to do.
fn tls_advice(message: &str, address: &str) -> String {
    let is = |name: &str| message.contains(name);
    if is("UnknownIssuer") {
        format!(
            "the certificate of {address} is from an authority that is not trusted; name the right one with --ca-file"
        )
    } else if is("CaUsedAsEndEntity") {
        format!(
            "{address} shows the certificate of an authority as its own, as self-signed ones often are; have it show \
             one that is no authority's (basicConstraints CA:FALSE), signed by the authority of --ca-file"
        )
    } else if is("NotValidForName") || is("not valid for name") {
        format!(
            "the certificate of {address} is for other names; take one of those in --broker, or have a certificate \
             issued for this one"
        )
    } else if is("NotValidYet") || is("not valid yet") {
        format!("the certificate of {address} is not valid yet; are the clocks here and there right?")
    } else if is("Expired") || is("expired") {
        format!(
            "the certificate of {address} has expired; have it renewed there (or is the clock here wrong?)"
        )
    } else if is("InvalidContentType") {
        format!("{address} does not speak TLS; try http:// if it is on this machine")
    } else {
        format!("{address} does not speak TLS as it should: {message}")
    }
}

fn is_no_http2(message: &str) -> bool {
    ["http2", "h2", "HTTP", "frame", "broken pipe", "Broken pipe", "reset", "closed"]
        .iter()
        .any(|word| message.contains(word))
}

/// The lines that come on standard input; the channel closes at its end.
///
/// A thread of its own reads them: nothing can interrupt a read from a terminal, and the program must not wait for one
/// when it ends.
pub(crate) fn typed_lines() -> mpsc::Receiver<String> {
    let (give, take) = mpsc::channel(TYPED_MAX);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            match io::Read::take(&mut input, LINE_BYTES_MAX as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if give.blocking_send(text).is_err() {
                return;
            }
        }
    });
    take
}

/// Throws away what was typed and not sent: it was meant for what stood there before.
pub(crate) fn forget_typed() {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        // Nothing is lost where it fails but the tidiness.
        let _ = rustix::termios::tcflush(&stdin, rustix::termios::QueueSelector::IFlush);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_left_is_never_rounded_down_to_nothing() {
        let now = Timestamp::from_seconds(100);
        assert_eq!(until(now.plus(Duration::from_secs(61)), now), "1:01");
        assert_eq!(until(now.plus(Duration::from_millis(1)), now), "0:01");
        assert_eq!(until(now, now), "0:00");
    }

    #[test]
    fn an_error_and_its_causes_are_said_once_and_move_no_cursor() {
        let denied = || io::Error::other("denied\u{1b}[2J");
        let error = anyhow::Error::new(denied()).context(format!("cannot read x: {}", denied()));
        assert_eq!(in_full(&error), "cannot read x: denied\u{fffd}[2J");
        let error = anyhow::Error::new(denied()).context("cannot read x");
        assert_eq!(in_full(&error), "cannot read x: denied\u{fffd}[2J");
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_a_sentence_with_what_to_do() {
        for (said, advised) in [
            ("UnknownIssuer", "--ca-file"),
            ("Other(OtherError(CaUsedAsEndEntity))", "CA:FALSE"),
            ("certificate not valid for name \"a\"; certificate is only valid for b", "other names"),
            (
                "certificate expired: verification time 2 (UNIX), but certificate is not valid after 1",
                "renewed",
            ),
        ] {
            let status =
                tonic::Status::unavailable(format!("transport error: invalid peer certificate: {said}"));
            let advice = advice(&status.into(), "https://a.example");
            assert!(advice.contains(advised) && !advice.contains("OtherError"), "{advice}");
        }
        let plain = tonic::Status::unavailable("h2 protocol error: http2 error");
        let advice = advice(&plain.into(), "http://127.0.0.1:1");
        assert!(advice.ends_with("does it speak TLS? try https://127.0.0.1:1"), "{advice}");
    }

    #[test]
    fn outcomes_have_a_name_for_programs() {
        assert_eq!(outcome_for_programs(OutcomeKind::WrongNumber), "wrong-number");
        assert_eq!(outcome_for_programs(OutcomeKind::Approved), "approved");
    }
}
