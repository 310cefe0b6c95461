//! Faults as a person writes them: in a scenario file (TOML) or a request to the control API (JSON).
//!
//! ```toml
//! seed = 42                      # of all faults with a probability and without a seed of their own
//!
//! [[fault]]
//! effect = "answer"              # APNs and FCM both answer 503 ...
//! status = 503
//! retry_after_s = 2
//! after_s = 10                   # ... from 10 s after the start
//! lasting_s = 5                  # ... for 5 s
//!
//! [[fault]]
//! effect = "answer"
//! reason = "ExpiredProviderToken"   # a reason of APNs or an error code of FCM
//! times = 1
//!
//! [[fault]]
//! effect = "reset"
//! on = "fcm"
//! delivered_first = true         # the phone gets the push, the sender no answer
//! probability = 0.1
//! ```

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use toml::Spanned;

use super::{ArmedFault, Effect, ErrorCode, Fault, Place, Reason};

/// A fault in writing. What is not given is as [`Fault`] has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// What goes wrong.
    pub effect: EffectName,
    /// Where: `apns`, `fcm` or `fcm-token`. Not given: pushes at both services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Place>,
    /// Only pushes to this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// With `latency`: how long, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// With `answer`: the HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// With `answer`: a reason of APNs or an error code of FCM. With `goaway`: a reason of APNs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonName>,
    /// With `answer`: the header `Retry-After`, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// Lets the first so many requests go by.
    #[serde(default)]
    pub skip: u64,
    /// Strikes so many times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Strikes with this probability, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What the probability is drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Delivers the push before the fault strikes.
    #[serde(default)]
    pub delivered_first: bool,
    /// Begins so many seconds after it was armed.
    #[serde(default)]
    pub after_s: u64,
    /// Lasts so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting_s: Option<u64>,
}

/// The name of an [`Effect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectName {
    /// [`Effect::Latency`].
    Latency,
    /// [`Effect::Status`], [`Effect::Apns`] or [`Effect::Fcm`].
    Answer,
    /// [`Effect::DeadTarget`].
    DeadTarget,
    /// [`Effect::Reset`].
    Reset,
    /// [`Effect::GoAway`]; without a reason it is `Shutdown`.
    Goaway,
    /// [`Effect::Silence`].
    Silence,
}

/// A reason of APNs or an error code of FCM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ReasonName {
    /// APNs.
    Apns(Reason),
    /// FCM.
    Fcm(ErrorCode),
}

impl<'de> Deserialize<'de> for ReasonName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let apns = Reason::named(&name).map(Self::Apns);
        apns.or_else(|| ErrorCode::named(&name).map(Self::Fcm)).ok_or_else(|| {
            D::Error::custom(format!("{name:?} is neither a reason of APNs nor an error code of FCM"))
        })
    }
}

/// Why a [`FaultSpec`] is no [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// `latency` without a length.
    #[error("effect \"latency\" needs latency_ms")]
    LatencyMissing,
    /// `answer` without an answer.
    #[error("effect \"answer\" needs either status or reason")]
    AnswerMissing,
    /// A field that another effect has.
    #[error("{0} does not go with this effect")]
    NotOfThisEffect(&'static str),
    /// A status that the service does not answer with.
    #[error("the service documents no status {0}")]
    UnknownStatus(u16),
    /// A reason at the service that does not have it.
    #[error("the reason is not one of the service that \"on\" names")]
    ReasonElsewhere,
    /// A probability out of range.
    #[error("probability is to be between 0 and 1")]
    Probability,
}

impl TryFrom<FaultSpec> for Fault {
    type Error = SpecError;

    fn try_from(spec: FaultSpec) -> Result<Self, SpecError> {
        let probability = spec.probability.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&probability) {
            return Err(SpecError::Probability);
        }
        Ok(Self {
            effect: effect(&spec)?,
            place: spec.on,
            target: spec.target,
            retry_after: spec.retry_after_s.map(Duration::from_secs),
            skip: spec.skip,
            times: spec.times,
            probability,
            seed: spec.seed.unwrap_or_default(),
            delivered_first: spec.delivered_first,
            after: Duration::from_secs(spec.after_s),
            lasting: spec.lasting_s.map(Duration::from_secs),
        })
    }
}

fn effect(spec: &FaultSpec) -> Result<Effect, SpecError> {
    let is_answer = spec.effect == EffectName::Answer;
    for (name, given, allowed) in [
        ("latency_ms", spec.latency_ms.is_some(), spec.effect == EffectName::Latency),
        ("status", spec.status.is_some(), is_answer),
        ("retry_after_s", spec.retry_after_s.is_some(), is_answer),
        ("reason", spec.reason.is_some(), is_answer || spec.effect == EffectName::Goaway),
    ] {
        if given && !allowed {
            return Err(SpecError::NotOfThisEffect(name));
        }
    }
    match spec.effect {
        EffectName::Latency => {
            spec.latency_ms.map(Duration::from_millis).map(Effect::Latency).ok_or(SpecError::LatencyMissing)
        }
        EffectName::Answer => answer(spec),
        EffectName::DeadTarget => Ok(Effect::DeadTarget),
        EffectName::Reset => Ok(Effect::Reset),
        EffectName::Goaway => match spec.reason {
            None => Ok(Effect::GoAway(Reason::Shutdown)),
            Some(ReasonName::Apns(reason)) => Ok(Effect::GoAway(reason)),
            Some(ReasonName::Fcm(_)) => Err(SpecError::ReasonElsewhere),
        },
        EffectName::Silence => Ok(Effect::Silence),
    }
}

fn answer(spec: &FaultSpec) -> Result<Effect, SpecError> {
    match (spec.status, spec.reason, spec.on) {
        (Some(status), None, on) => {
            let (apns, fcm) = (Reason::of_status(status).is_some(), ErrorCode::of_status(status).is_some());
            let is_known = match on {
                None => apns || fcm,
                Some(Place::Apns) => apns,
                Some(Place::Fcm | Place::FcmToken) => fcm,
            };
            if is_known { Ok(Effect::Status(status)) } else { Err(SpecError::UnknownStatus(status)) }
        }
        (None, Some(ReasonName::Apns(reason)), None | Some(Place::Apns)) => Ok(Effect::Apns(reason)),
        (None, Some(ReasonName::Fcm(code)), None | Some(Place::Fcm)) => Ok(Effect::Fcm(code)),
        (None, Some(_), Some(_)) => Err(SpecError::ReasonElsewhere),
        (None, None, _) | (Some(_), Some(_), _) => Err(SpecError::AnswerMissing),
    }
}

impl From<&ArmedFault> for FaultSpec {
    fn from(armed: &ArmedFault) -> Self {
        let fault = &armed.fault;
        let (effect, latency, status, reason) = match fault.effect {
            Effect::Latency(latency) => (EffectName::Latency, Some(latency), None, None),
            Effect::Status(status) => (EffectName::Answer, None, Some(status), None),
            Effect::Apns(reason) => (EffectName::Answer, None, None, Some(ReasonName::Apns(reason))),
            Effect::Fcm(code) => (EffectName::Answer, None, None, Some(ReasonName::Fcm(code))),
            Effect::DeadTarget => (EffectName::DeadTarget, None, None, None),
            Effect::Reset => (EffectName::Reset, None, None, None),
            Effect::GoAway(reason) => (EffectName::Goaway, None, None, Some(ReasonName::Apns(reason))),
            Effect::Silence => (EffectName::Silence, None, None, None),
        };
        Self {
            effect,
            on: fault.place,
            target: fault.target.clone(),
            latency_ms: latency.map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            status,
            reason,
            retry_after_s: fault.retry_after.map(|wait| wait.as_secs()),
            skip: fault.skip,
            times: fault.times,
            probability: Some(fault.probability),
            seed: Some(fault.seed),
            delivered_first: fault.delivered_first,
            after_s: fault.after.as_secs(),
            lasting_s: fault.lasting.map(|lasting| lasting.as_secs()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    fault: Vec<Spanned<FaultSpec>>,
}

/// Reads the faults of a scenario file.
pub fn read(path: &Path) -> Result<Vec<Fault>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|what| Error::Wrong { path: path.to_owned(), what })
}

/// Reads the faults of a scenario file's text.
pub fn parse(text: &str) -> Result<Vec<Fault>, Wrong> {
    let scenario: Scenario = toml::from_str(text).map_err(Box::new).map_err(Wrong::Toml)?;
    let faults = scenario.fault.into_iter().zip(scenario.seed..).map(|(spec, seed)| {
        let line = text[..spec.span().start].matches('\n').count() + 1;
        let mut spec = spec.into_inner();
        spec.seed.get_or_insert(seed);
        Fault::try_from(spec).map_err(|error| Wrong::Fault { line, error })
    });
    faults.collect()
}

/// Why a scenario file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the scenario {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is wrong.
    #[error("{}: {what}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where and why.
        what: Wrong,
    },
}

/// What is wrong in a scenario's text.
#[derive(Debug)]
pub enum Wrong {
    /// It is no TOML, or has unknown or mistyped keys; the error shows line and column.
    Toml(Box<toml::de::Error>),
    /// A fault does not make sense.
    Fault {
        /// The line where it begins.
        line: usize,
        /// Why.
        error: SpecError,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toml(error) => write!(f, "{error}"),
            Self::Fault { line, error } => write!(f, "line {line}: {error}"),
        }
    }
}

impl std::error::Error for Wrong {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_documentation_is_a_scenario() {
        let example: String = include_str!("scenario.rs")
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n")
            .collect();
        let faults = parse(&example).expect("the example is right");
        assert_eq!(faults.len(), 3);
        assert_eq!(faults[0].effect, Effect::Status(503));
        assert_eq!(faults[1].effect, Effect::Apns(Reason::ExpiredProviderToken));
        assert_eq!((faults[2].probability, faults[2].seed), (0.1, 44));
    }

    #[test]
    fn an_unknown_key_or_value_is_shown_with_its_line() {
        for (wrong, words) in [
            ("effect = \"reset\"\nlatncy_ms = 5", "latncy_ms"),
            ("effect = \"explode\"\n", "explode"),
            ("effect = \"answer\"\nreason = \"Sorry\"", "neither a reason of APNs nor"),
            ("effect = \"answer\"\nstatus = \"503\"", "invalid type"),
        ] {
            let text = format!("seed = 1\n\n[[fault]]\n{wrong}\n");
            let message = parse(&text).expect_err(wrong).to_string();
            let line = if wrong.contains("explode") { "line 4" } else { "line 5" };
            assert!(message.contains(line) && message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_fault_that_makes_no_sense_is_named_by_its_first_line() {
        for (wrong, error) in [
            ("effect = \"latency\"", SpecError::LatencyMissing),
            ("effect = \"answer\"", SpecError::AnswerMissing),
            ("effect = \"answer\"\nstatus = 418", SpecError::UnknownStatus(418)),
            ("effect = \"answer\"\non = \"fcm\"\nstatus = 410", SpecError::UnknownStatus(410)),
            ("effect = \"reset\"\nstatus = 503", SpecError::NotOfThisEffect("status")),
            ("effect = \"reset\"\nprobability = 1.5", SpecError::Probability),
            ("effect = \"answer\"\non = \"fcm\"\nreason = \"Shutdown\"", SpecError::ReasonElsewhere),
            ("effect = \"goaway\"\nreason = \"INTERNAL\"", SpecError::ReasonElsewhere),
        ] {
            let text = format!("seed = 1\n\n[[fault]]\n{wrong}\n");
            match parse(&text) {
                Err(Wrong::Fault { line: 3, error: given }) => assert_eq!(given, error, "{wrong}"),
                other => panic!("{wrong}: {other:?}"),
            }
        }
    }
}
