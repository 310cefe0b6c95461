//! How a fuzzer's bytes become input: a real value with a few changes, or bytes of its own. Random bytes alone would not
//! get past the first length of anything here.
//!
//! Real values are what the code writes today, and the seeds: files in `corpus`, one folder for each target, of which
//! each says by its name what it is. `FUZZ_SEEDS=write` adds what the code writes today to them.

use std::{
    cell::Cell,
    env, fs,
    panic::{AssertUnwindSafe, UnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Once,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a test takes, unless `FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 2;

/// What a target has to see that its parser is broken. It takes most of them less than one.
const SECONDS_TO_FIND: u64 = 30;

thread_local! {
    static SECONDS_NOW: Cell<u64> = const { Cell::new(SECONDS) };
}

/// No parser of a few kilobytes needs so much, nor do all of them at once: whoever believes a length of gigabytes is
/// ended by this.
pub const MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// An input that begins so is what follows the next byte, and no change to a real value. `tests/fuzz` puts it before
/// seeds.
const AS_IT_IS: u8 = u8::MAX;

/// Gives the target what the fuzzer makes of these real values and of the seeds.
///
/// # Panics
///
/// If the target does, after saying with what.
pub fn fuzz(name: &str, real: &[(&str, Vec<u8>)], target: impl Fn(&[u8])) {
    limit_memory();
    if env::var("FUZZ_SEEDS").is_ok_and(|what| what == "write") {
        write_seeds(name, real);
    }
    let mut real: Vec<_> = real.iter().map(|(_, value)| value.clone()).collect();
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "{name} has no seeds: run it with FUZZ_SEEDS=write, and keep what it writes");
    real.extend(seeds.into_iter().map(|(_, bytes)| bytes));
    if let Ok(file) = env::var("FUZZ_INPUT") {
        // What coverage-guided fuzzing has found, once more.
        return target(&input(&real, &fs::read(file).expect("the input can be read")));
    }
    // Unchanged, they come first.
    for value in &real {
        target(value);
    }
    // A target that has panicked is not used again.
    let target = AssertUnwindSafe(target);
    let seconds = env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    bolero::check!()
        .with_max_len(2_048)
        .with_test_time(Duration::from_secs(seconds.unwrap_or(SECONDS_NOW.get())))
        .for_each(|bytes| {
            let target = &target;
            (target.0)(&input(&real, bytes));
        });
}

/// Whether a target fails that is given a broken parser.
pub fn is_found(fault: impl FnOnce() + UnwindSafe) -> bool {
    SECONDS_NOW.set(SECONDS_TO_FIND);
    let found = catch_unwind(fault).is_err();
    SECONDS_NOW.set(SECONDS);
    found
}

/// From here on, an allocation that would take this process beyond [`MEMORY_BYTES_MAX`] fails.
pub fn limit_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = Rlimit { current: Some(MEMORY_BYTES_MAX), ..getrlimit(Resource::Data) };
        setrlimit(Resource::Data, limit).expect("a process may limit itself");
    });
}

/// The seeds of a target, by name.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = fs::read_dir(corpus(target))
        .into_iter()
        .flatten()
        .map(|file| {
            let file = file.expect("a seed").path();
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read(file).expect("a seed can be read"))
        })
        .collect();
    seeds.sort_unstable();
    seeds
}

fn write_seeds(target: &str, real: &[(&str, Vec<u8>)]) {
    fs::create_dir_all(corpus(target)).expect("a folder for seeds");
    for (name, value) in real {
        fs::write(corpus(target).join(name), value).expect("a seed is written");
    }
}

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target].iter().collect()
}

/// One byte chooses the real value, or none; one says how many changes; each change is four bytes.
fn input(real: &[Vec<u8>], bytes: &[u8]) -> Vec<u8> {
    let [which, changes, rest @ ..] = bytes else { return bytes.to_vec() };
    let value = real.get(usize::from(*which) % (real.len() + 1)).filter(|_| *which != AS_IT_IS);
    let Some(value) = value else { return rest.to_vec() };
    let mut value = value.clone();
    for change in rest.chunks_exact(4).take(1 + usize::from(changes % 4)) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        let at = if value.is_empty() { 0 } else { at % value.len() };
        match change[2] % 5 {
            0 => value.insert(at, change[3]),
            1 if !value.is_empty() => drop(value.remove(at)),
            2 => value.truncate(at),
            3 => value.extend_from_within(at..),
            _ => {
                if let Some(byte) = value.get_mut(at) {
                    *byte = if change[2] % 2 == 0 { change[3] } else { *byte ^ (1 << (change[3] % 8)) };
                }
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_value_is_changed_where_the_fuzzer_says() {
        let real = [b"real".to_vec()];
        assert_eq!(input(&real, &[0, 0, 0, 1, 4, b'o']), b"roal");
        assert_eq!(input(&real, &[0, 0, 0, 1, 1, 0]), b"ral");
        assert_eq!(input(&real, &[1, 0, 7, 8]), [7, 8]);
        assert_eq!(input(&[b"a".to_vec(), b"b".to_vec()], &[AS_IT_IS, 0, 7, 8]), [7, 8]);
    }

    #[test]
    fn whoever_believes_a_length_of_gigabytes_does_not_get_them() {
        limit_memory();
        let promised = usize::try_from(2 * MEMORY_BYTES_MAX).expect("64 bits");
        assert!(Vec::<u8>::new().try_reserve_exact(promised).is_err());
        assert!(Vec::<u8>::new().try_reserve_exact(64 * 1024 * 1024).is_ok());
    }
}
