//! The only file that asks the operating system for randomness. Everybody else is given it.
#![allow(clippy::disallowed_methods, reason = "this is where they are allowed")]

use std::fmt::Debug;

/// Gives random bytes fit for keys.
pub trait Entropy: Debug + Send + Sync + 'static {
    /// Fills the buffer.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Entropy {
    /// So many random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// 32 uniform random bits.
    pub fn bits(&self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes)
            .expect("without randomness no key and no number may be made: better to end");
    }
}
