//! Signatures, checks, seals.

use std::{hint::black_box, num::NonZeroUsize, thread, time::Duration};

use clap::Args;
use countersign::{
    entropy::{Entropy, OsEntropy},
    keys::seal::{Place, Sealer},
};
use countersign_domain::AccountId;
use countersign_envelope::{SigningKey, payload_type};
use serde::Serialize;

use super::{seconds, stopwatch};

/// As long as a challenge, about.
const PAYLOAD_BYTES: usize = 320;
/// So many between two looks at the clock.
const BATCH: u64 = 32;

/// `countersign bench-parts keys`
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// For how long each is measured, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    round: Duration,
}

/// Microseconds of CPU time, while all cores do the same.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    ed25519_sign_us: f64,
    ed25519_verify_us: f64,
    es256_verify_us: f64,
    seal_us: f64,
    open_us: f64,
}

pub(super) fn run(options: &Options) -> Figures {
    let payload = [7; PAYLOAD_BYTES];
    let entropy: &dyn Entropy = &OsEntropy;
    let ed25519 = SigningKey::ed25519(&entropy.bytes());
    let (es256, _) = SigningKey::generate_es256();
    let sealer = Sealer::new(&entropy.bytes());
    let place = Place { account: AccountId::from_bytes([1; 16]), purpose: "bench", within: b"parts" };
    let sealed = sealer.seal(place, &payload, entropy);
    let verify = |key: &SigningKey| {
        let (public, signature) = (key.public_key(), key.sign(payload_type::ANSWER, &payload));
        each(options.round, || {
            let _ = black_box(public.verify(payload_type::ANSWER, black_box(&payload), &signature));
        })
    };
    Figures {
        ed25519_sign_us: each(options.round, || {
            black_box(ed25519.sign(payload_type::CHALLENGE, black_box(&payload)));
        }),
        ed25519_verify_us: verify(&ed25519),
        es256_verify_us: verify(&es256),
        seal_us: each(options.round, || {
            black_box(sealer.seal(place, black_box(&payload), entropy));
        }),
        open_us: each(options.round, || {
            let _ = black_box(sealer.open(place, black_box(&sealed)));
        }),
    }
}

/// Done on all cores at once, as it is under load: cores that share their parts are slower then.
fn each(round: Duration, work: impl Fn() + Sync) -> f64 {
    let (started, before) = (stopwatch::now(), stopwatch::cpu());
    let on_one_core = || {
        let mut count = 0;
        while stopwatch::now().saturating_sub(started) < round {
            (0..BATCH).for_each(|_| work());
            count += BATCH;
        }
        count
    };
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = thread::scope(|scope| {
        let all: Vec<_> = (0..cores).map(|_| scope.spawn(on_one_core)).collect();
        all.into_iter().filter_map(|core| core.join().ok()).sum()
    });
    stopwatch::each(count, stopwatch::cpu().saturating_sub(before))
}
