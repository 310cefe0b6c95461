//! A log with a past: accounts that are enrolled, and sign-ins of the last weeks, sealed and in their streams as a broker
//! writes them. Only what phones and login servers would have signed or asked for is made up; the keys of phones are real.

mod phone;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use countersign::{
    broker::Foundations,
    clock::{Clock, ManualClock, SystemClock},
    config::Config,
    decider::{
        self, Decider,
        codec::{
            AccountCodec, Codec as _, delivery,
            delivery::{Delivery, DeliveryStep, Subject},
        },
    },
    entropy::{Entropy, OsEntropy},
    keys::Keys,
    log::{Append, EventLog, Expected, Urgency},
};
use countersign_domain::{
    AccountId, ApprovalId, AuthenticatorId, Command, EnrolmentId, Event, RelyingPartyId, Timestamp,
    challenge::{Names, challenge, trial_challenge},
    command::Refusal,
    event::{
        AuthenticatorBound, Context, EnrolmentBegun, Identity, Question, Request, SignedMessage,
        TrialRequested,
    },
    limits,
    number::{MatchNumber, Salt},
    policy::Policy,
    text::{DisplayText, Realm},
};
use countersign_envelope::EnrolmentCode;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use serde::Serialize;
use zeroize::Zeroizing;

use self::phone::Phone;
use super::stopwatch;
use crate::{
    ConfigFile,
    commands::{admin::write_private, serve::foundations},
};

/// So many accounts have something happen to them at a time.
const AT_A_TIME: usize = 2_048;
/// What a sign-in leaves: that it was asked for, that a push service took it, and that it was withdrawn.
const EVENTS_PER_SIGN_IN: u64 = 3;
/// The first sign-ins are so long ago, the last ones so long: the numbers of these rest no more.
const PAST: Duration = Duration::from_secs(60 * 24 * 60 * 60);
const SINCE: Duration = Duration::from_secs(60 * 60);
/// Memory is looked at after so many events, and each time that there are twice as many.
const MEMORY_FROM_EVENTS: u64 = 100_000;
const RELYING_PARTY: RelyingPartyId = RelyingPartyId::from_bytes(*b"of bench-parts..");
const LOGIN: &str = "Bench";

/// `countersign bench-parts seed`
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    config: ConfigFile,
    /// So many accounts are enrolled: bench-0, bench-1, ...
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    accounts: u64,
    /// Their realm: a relying party of this realm can ask for them
    #[arg(long, value_name = "REALM", default_value = "bench", value_parser = realm)]
    realm: Realm,
    /// Each with so many authenticators
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=10))]
    authenticators: u8,
    /// They sign in until the log has so many events of theirs, in the order of two months
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    events: u64,
    /// Writes here what their phones hold, private keys and all, for people of `device-sim` to sign in with: for each phone a
    /// line of JSON, as `device-sim phone` keeps one, those of an account together (mode 0600; there must be no such file)
    #[arg(long, value_name = "FILE")]
    phones: Option<PathBuf>,
    /// The phones of the first N accounts; of all, if they are fewer
    #[arg(long, value_name = "N", default_value_t = 1_000, requires = "phones")]
    phones_of: u64,
}

fn realm(text: &str) -> Result<Realm, String> {
    Realm::parse(text).map_err(|error| error.to_string())
}

/// What was put into the log.
#[derive(Debug, Serialize)]
pub(crate) struct Seeded {
    accounts: u64,
    authenticators: u64,
    events: u64,
    entries: u64,
    /// The position of the last of them.
    last_position: u64,
    /// Bytes of the events, as they stand in the log.
    event_bytes: u64,
    seconds: f64,
    /// What this process, which has lived through all of it, had in memory on the way.
    memory: Vec<Memory>,
}

/// Resident memory after so many events.
#[derive(Debug, Serialize)]
struct Memory {
    events: u64,
    resident_bytes: u64,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Seeded> {
    let config = options.config.load()?;
    let Foundations { log, keys, .. } = foundations(&config).await?;
    let seeder = Seeder::new(log, keys, options);
    let started = stopwatch::now();
    let held = seeder.enrol(options, &config).await?;
    if let Some(file) = &options.phones {
        write_private(file, held.trim_end())?;
    }
    drop(held);
    let bar = ProgressBar::new(options.events);
    let (rounds, mut memory, mut look_at) = (Seeder::rounds(options), Vec::new(), MEMORY_FROM_EVENTS);
    for round in 0..rounds {
        seeder.sign_in(options.accounts, round, rounds).await?;
        let there = events(options, round + 1);
        bar.set_position(there);
        if there >= look_at || round + 1 == rounds {
            memory.push(Memory { events: there, resident_bytes: resident_bytes()? });
            look_at += look_at;
        }
    }
    bar.finish_and_clear();
    let seconds = stopwatch::now().saturating_sub(started).as_secs_f64();
    let seeded = Seeded { memory, ..seeder.told(options, rounds, seconds).await? };
    seeder.log.close().await;
    Ok(seeded)
}

struct Seeder {
    log: Arc<dyn EventLog>,
    keys: Arc<Keys>,
    codec: AccountCodec,
    realm: Realm,
    accounts: Decider<AccountCodec>,
    clock: Arc<ManualClock>,
    now: Timestamp,
    first: u64,
}

impl Seeder {
    fn new(log: Arc<dyn EventLog>, keys: Arc<Keys>, options: &Options) -> Self {
        let now = SystemClock.now();
        let clock = Arc::new(ManualClock::at(now.minus(PAST)));
        let codec = AccountCodec::new(Arc::clone(&keys), Arc::new(OsEntropy));
        let cached = usize::try_from(options.accounts).unwrap_or(usize::MAX).min(100_000);
        let cached = cached.try_into().unwrap_or(std::num::NonZeroUsize::MIN);
        let accounts = Decider::new(Arc::clone(&log), Arc::clone(&clock) as _, codec.clone(), cached);
        let first = log.head().map_or(0, countersign::log::Position::number);
        Self { log, keys, codec, realm: options.realm.clone(), accounts, clock, now, first }
    }

    fn rounds(options: &Options) -> u64 {
        let left = options.events.saturating_sub(events(options, 0));
        left.div_ceil(options.accounts * EVENTS_PER_SIGN_IN)
    }

    async fn told(&self, options: &Options, rounds: u64, seconds: f64) -> anyhow::Result<Seeded> {
        let head = self.log.head();
        let (mut entries, mut event_bytes) = (0, 0);
        let mut all = self.log.read_all(countersign::log::Position::FIRST);
        while let Some(entry) = all.try_next().await? {
            let bytes = |event: &countersign::log::EventRecord| event.body.len() + event.sealed.len();
            event_bytes += entry.events.iter().map(bytes).sum::<usize>() as u64;
            entries += 1;
        }
        debug_assert_eq!(Some(entries), head.map(countersign::log::Position::number));
        Ok(Seeded {
            accounts: options.accounts,
            authenticators: options.accounts * u64::from(options.authenticators),
            events: events(options, rounds),
            entries: entries - self.first,
            last_position: entries,
            event_bytes,
            seconds,
            memory: Vec::new(),
        })
    }

    /// Each account opens with its authenticators, in one entry. What those phones hold that are to be written down.
    async fn enrol(&self, options: &Options, config: &Config) -> anyhow::Result<Zeroizing<String>> {
        let held_of = if options.phones.is_some() { options.phones_of } else { 0 };
        let bar = ProgressBar::new(options.accounts);
        let enrolled = stream::iter(0..options.accounts).map(async |number| {
            let (account, identity) = self.account(number);
            let mut events = vec![Event::Opened(identity.clone())];
            let mut held = Zeroizing::new(String::new());
            for phone in 0..options.authenticators {
                let phone = Phone::draw(number, phone);
                let authenticator = AuthenticatorId::new(account, bytes());
                events.extend(self.bound(&phone, authenticator, &identity, number));
                if number < held_of {
                    held.push_str(&phone.held((config, &self.keys), &identity, authenticator));
                }
            }
            let append = Append {
                stream: self.codec.stream(account),
                expected: Expected::Empty,
                urgency: Urgency::Now,
                recorded_at_ms: self.clock.now().as_millis(),
                events: events.iter().map(|event| self.codec.encode(account, event)).collect(),
            };
            self.log.append(append).await.with_context(|| format!("account {number}"))?;
            bar.inc(1);
            Ok::<_, anyhow::Error>(held)
        });
        let together = async |mut all: Zeroizing<String>, held: Zeroizing<String>| {
            all.push_str(&held);
            Ok(all)
        };
        let held = enrolled.buffered(AT_A_TIME).try_fold(Zeroizing::default(), together).await?;
        bar.finish_and_clear();
        Ok(held)
    }

    fn account(&self, number: u64) -> (AccountId, Identity) {
        let name = DisplayText::recorded(&format!("bench-{number}"));
        (self.keys.account_id(&self.realm, &name), Identity { realm: self.realm.clone(), name })
    }

    fn bound(
        &self,
        phone: &Phone,
        authenticator: AuthenticatorId,
        identity: &Identity,
        number: u64,
    ) -> [Event; 4] {
        let now = self.clock.now();
        let enrolment = EnrolmentId::new(authenticator.account(), bytes());
        let expires_at = now.plus(limits::ENROLMENT_LIFETIME);
        let (match_number, salt) = number_and_salt(number);
        let (payload, commitment) = trial_challenge(
            self.keys.broker_id(),
            identity,
            (enrolment, authenticator),
            (match_number, &salt),
            (now, expires_at),
        );
        let question =
            Question { number: match_number, salt, commitment, challenge: unsigned(&self.keys, payload) };
        [
            Event::EnrolmentBegun(EnrolmentBegun {
                enrolment,
                code: EnrolmentCode::from_random(&bytes()),
                expires_at,
                relying_party: RELYING_PARTY,
            }),
            Event::AuthenticatorBound(AuthenticatorBound {
                authenticator,
                enrolment,
                key: phone.key.clone(),
                platform: phone.platform,
                device_name: DisplayText::recorded(phone::NAME),
                push_target: phone.push_target.clone(),
                claim_hash: bytes(),
            }),
            Event::TrialRequested(TrialRequested { enrolment, authenticator, question, expires_at }),
            Event::AuthenticatorActivated { authenticator, enrolment, answer_hash: bytes() },
        ]
    }

    /// Every account signs in once.
    async fn sign_in(&self, accounts: u64, round: u64, rounds: u64) -> anyhow::Result<()> {
        let since_first = PAST.saturating_sub(SINCE).mul_f64(fraction(round, rounds));
        self.clock.set(self.now.minus(PAST).plus(since_first).plus(limits::ENROLMENT_LIFETIME));
        let signed_in = stream::iter(0..accounts).map(async |number| {
            let (account, identity) = self.account(number);
            let request = request(account);
            let approval = request.approval;
            self.accounts
                .decide(account, |state, now| {
                    let free = |number| !state.number_is_taken(number, now);
                    let question = self.question(&identity, &request, now, free);
                    Ok::<_, Error>(Command::RequestApproval {
                        request: request.clone(),
                        question: Some(question),
                    })
                })
                .await?;
            self.log.append(accepted(approval, self.clock.now())).await.map_err(decider::Error::Append)?;
            self.accounts
                .decide(account, |_, _| {
                    Ok::<_, Error>(Command::CancelApproval { approval, relying_party: RELYING_PARTY })
                })
                .await?;
            Ok::<_, anyhow::Error>(())
        });
        signed_in.buffer_unordered(AT_A_TIME).try_collect().await
    }

    fn question(
        &self,
        identity: &Identity,
        request: &Request,
        now: Timestamp,
        free: impl Fn(MatchNumber) -> bool,
    ) -> Question {
        let (_, salt) = number_and_salt(0);
        let number = MatchNumber::draw(2, |number| !free(number), || (&OsEntropy as &dyn Entropy).bits());
        let relying_party = DisplayText::recorded(LOGIN);
        let names =
            Names { broker_id: self.keys.broker_id(), account: identity, relying_party: &relying_party };
        let (payload, commitment) = challenge(names, request, number, &salt, now);
        Question { number, salt, commitment, challenge: unsigned(&self.keys, payload) }
    }
}

/// How many events there are after so many rounds.
fn events(options: &Options, rounds: u64) -> u64 {
    options.accounts * (1 + 4 * u64::from(options.authenticators) + rounds * EVENTS_PER_SIGN_IN)
}

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Decider(#[from] decider::Error),
    #[error("{0:?}")]
    Refused(Refusal),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn request(account: AccountId) -> Request {
    Request {
        approval: ApprovalId::new(account, bytes()),
        relying_party: RELYING_PARTY,
        application: DisplayText::recorded("Webmail"),
        context: Context {
            source_ip: Some([192, 0, 2, 7].into()),
            place: Some(DisplayText::recorded("Gothenburg, Sweden")),
            browser: Some(DisplayText::recorded("Firefox on Linux")),
        },
        session_binding: Bytes::copy_from_slice(&bytes::<32>()),
        idempotency: None,
        policy: Policy::default(),
    }
}

/// A push service took the challenge.
fn accepted(approval: ApprovalId, at: Timestamp) -> Append {
    let delivery = Delivery {
        subject: Subject::Approval(approval),
        authenticator: AuthenticatorId::new(approval.account(), [1; 8]),
        step: DeliveryStep::Accepted { push_id: data_encoding::HEXLOWER.encode(&bytes::<16>()) },
    };
    Append {
        stream: delivery::stream(approval.account()),
        expected: Expected::Any,
        urgency: Urgency::Rides,
        recorded_at_ms: at.as_millis(),
        events: vec![delivery::encode(&delivery)],
    }
}

/// As long as one that is signed.
fn unsigned(keys: &Keys, payload: Vec<u8>) -> SignedMessage {
    SignedMessage {
        payload: payload.into(),
        signature: Bytes::copy_from_slice(&bytes::<64>()),
        key_id: keys.public_key().fingerprint(),
    }
}

fn number_and_salt(number: u64) -> (MatchNumber, Salt) {
    let value = u32::try_from(number % 100).expect("less than 100");
    (MatchNumber::new(value, 2).expect("two digits"), Salt::from_bytes(bytes()))
}

fn resident_bytes() -> anyhow::Result<u64> {
    Ok(procfs::process::Process::myself()?.stat()?.rss * procfs::page_size())
}

fn bytes<const N: usize>() -> [u8; N] {
    (&OsEntropy as &dyn Entropy).bytes()
}

#[expect(clippy::cast_precision_loss, reason = "a moment in two months needs no more digits")]
fn fraction(round: u64, rounds: u64) -> f64 {
    round as f64 / rounds.max(1) as f64
}
