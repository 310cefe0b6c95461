//! Path patterns: `journal/*`, `sled/**`.

use std::fmt;

/// A pattern for paths below the mount point. `?` is one character and `*` any number of them, neither a
/// slash; `**` is anything, slashes too. There is nothing to escape, and nothing that does not parse.
///
/// ```
/// use crashfs::Glob;
///
/// assert!(Glob::new("journal/*.seg").matches("journal/7.seg"));
/// assert!(!Glob::new("journal/*").matches("journal/old/7.seg"));
/// assert!(Glob::new("sled/**").matches("sled/blobs/1"));
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Glob(String);

impl Glob {
    /// A pattern from its text.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether the whole path fits the pattern.
    pub fn matches(&self, path: &str) -> bool {
        matches(self.0.as_bytes(), path.as_bytes())
    }
}

impl From<&str> for Glob {
    fn from(pattern: &str) -> Self {
        Self::new(pattern)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match (pattern, path) {
        ([], _) => path.is_empty(),
        ([b'*', b'*', rest @ ..], _) => (0..=path.len()).any(|skipped| matches(rest, &path[skipped..])),
        ([b'*', rest @ ..], _) => {
            let within = path.iter().take_while(|byte| **byte != b'/').count();
            (0..=within).any(|skipped| matches(rest, &path[skipped..]))
        }
        ([b'?', rest @ ..], [byte, after @ ..]) => *byte != b'/' && matches(rest, after),
        ([literal, rest @ ..], [byte, after @ ..]) => literal == byte && matches(rest, after),
        (_, []) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_star_stays_within_one_folder_and_a_double_star_does_not() {
        for (pattern, path, fits) in [
            ("journal/*", "journal/1", true),
            ("journal/*", "journal/", true),
            ("journal/*", "journal", false),
            ("journal/*", "journal/a/b", false),
            ("journal/**", "journal/a/b", true),
            ("**", "", true),
            ("**", "anything/at/all", true),
            ("**/db", "sled/db", true),
            ("*.tmp", "a.tmp", true),
            ("*.tmp", "a.tmp2", false),
            ("seg-??", "seg-01", true),
            ("seg-??", "seg-1", false),
            ("a?b", "a/b", false),
            ("", "x", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(path), fits, "{pattern} on {path}");
        }
    }
}
