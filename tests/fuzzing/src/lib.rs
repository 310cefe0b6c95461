//! How a fuzzer's bytes become input: a real value with a few changes, or bytes of its own. Random bytes alone would not
//! get past the first length of anything here.

use std::{panic::AssertUnwindSafe, time::Duration};

/// What a test takes, unless `FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 2;

/// Gives the target what the fuzzer makes of these real values.
pub fn fuzz(real: &[Vec<u8>], target: impl Fn(&[u8])) {
    // Unchanged, they come first.
    for value in real {
        target(value);
    }
    // A target that has panicked is not used again.
    let target = AssertUnwindSafe(target);
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    bolero::check!()
        .with_max_len(2_048)
        .with_test_time(Duration::from_secs(seconds.unwrap_or(SECONDS)))
        .for_each(|bytes| {
            let target = &target;
            (target.0)(&input(real, bytes));
        });
}

/// One byte chooses the real value, or none; one says how many changes; each change is four bytes.
fn input(real: &[Vec<u8>], bytes: &[u8]) -> Vec<u8> {
    let [which, changes, rest @ ..] = bytes else { return bytes.to_vec() };
    let Some(value) = real.get(usize::from(*which) % (real.len() + 1)) else { return rest.to_vec() };
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
    }
}
