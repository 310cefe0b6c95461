//! What is made of files that may be replaced while the broker runs: certificates with their keys, credentials of push
//! services. The files are read again when they have changed, or when an operator asks. What cannot be used changes
//! nothing, and is said once.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use countersign_envelope::sha256;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::key_file;

/// Files are looked at so often. They are a few kilobytes, and whoever renews one does so days ahead.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Files, and what is made of them.
pub trait Source: Send + Sync + 'static {
    /// What is made of them.
    type Made: Send + Sync;
    /// Why nothing is: the file, and what is wrong with it.
    type Error: fmt::Display;

    /// The section of the configuration that names them.
    fn section(&self) -> &'static str;
    /// What they hold now; that they cannot be read is something, too.
    fn fingerprint(&self) -> Fingerprint;
    /// Reads them.
    fn read(&self) -> Result<Self::Made, Self::Error>;
}

/// SHA-256 over what files hold.
pub type Fingerprint = [u8; 32];

/// The fingerprint of these files, and of what else counts.
pub fn fingerprint<'a>(files: impl IntoIterator<Item = &'a Path>, more: &str) -> Fingerprint {
    let mut all = sha256(more.as_bytes()).to_vec();
    for file in files {
        let held = match key_file::read_any(file) {
            // Its mode is part of whether it can be used.
            Ok((bytes, mode)) => {
                let bytes = Zeroizing::new(bytes);
                all.extend_from_slice(&mode.to_be_bytes());
                sha256(&bytes)
            }
            Err(error) => sha256(error.to_string().as_bytes()),
        };
        all.extend_from_slice(&held);
    }
    sha256(&all)
}

/// What was made of files, as they were read last.
pub struct Live<S: Source> {
    source: S,
    current: RwLock<Arc<S::Made>>,
    last: Mutex<Last>,
}

/// How the files were seen last. Held while they are read; nobody who uses what they hold waits for that.
struct Last {
    seen: Fingerprint,
    /// Why what was seen is not what is in use.
    problem: Option<String>,
}

/// What came of reading files again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// They hold what they held.
    Unchanged,
    /// What begins from now on gets what they hold now.
    Changed,
    /// They cannot be used. What was read before stays.
    Kept {
        /// Which file, and what is wrong with it.
        problem: String,
    },
}

impl<S: Source> Live<S> {
    /// Reads the files.
    pub fn read(source: S) -> Result<Self, S::Error> {
        // Before they are read: what changes in between is seen by the next look.
        let seen = source.fingerprint();
        let current = RwLock::new(Arc::new(source.read()?));
        Ok(Self { source, current, last: Mutex::new(Last { seen, problem: None }) })
    }

    /// For what begins now.
    pub fn current(&self) -> Arc<S::Made> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Source> fmt::Debug for Live<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("section", &self.source.section()).finish_non_exhaustive()
    }
}

/// Whatever it is made into.
pub trait Reload: Send + Sync + fmt::Debug {
    /// The section of the configuration that names the files.
    fn section(&self) -> &'static str;
    /// Reads them again, if they hold something else than when they were read last, and says so in the log. May wait for
    /// the disk.
    fn reload(&self) -> Reloaded;
}

impl<S: Source> Reload for Live<S> {
    fn section(&self) -> &'static str {
        self.source.section()
    }

    fn reload(&self) -> Reloaded {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (section, seen) = (self.source.section(), self.source.fingerprint());
        if last.seen == seen {
            return match &last.problem {
                None => Reloaded::Unchanged,
                Some(problem) => Reloaded::Kept { problem: problem.clone() },
            };
        }
        let read = self.source.read();
        *last = Last { seen, problem: read.as_ref().err().map(ToString::to_string) };
        match read {
            Ok(made) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                tracing::info!(section, "files were read again: what begins from now on uses them");
                Reloaded::Changed
            }
            Err(error) => {
                let problem = error.to_string();
                tracing::warn!(
                    section,
                    problem,
                    "files have changed and cannot be used: what was read before stays in use"
                );
                Reloaded::Kept { problem }
            }
        }
    }
}

/// All that is read again.
#[derive(Debug, Clone, Default)]
pub struct AllLive(Arc<[Arc<dyn Reload>]>);

impl AllLive {
    /// Of these.
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Reload>>) -> Self {
        Self(all.into_iter().collect())
    }

    /// Reads what has changed: each section of the configuration, and what came of it.
    pub async fn reload(&self) -> Vec<(&'static str, Reloaded)> {
        let all = Arc::clone(&self.0);
        let reload = move || all.iter().map(|one| (one.section(), one.reload())).collect();
        // Files may be on a volume that takes its time.
        tokio::task::spawn_blocking(reload).await.unwrap_or_default()
    }

    /// Reads what has changed whenever something has, until told to stop.
    pub async fn watch(self, stopping: CancellationToken) {
        while !self.0.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stopping.cancelled() => return,
            }
            self.reload().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// A number in a file.
    struct Number(PathBuf);

    impl Source for Number {
        type Made = u32;
        type Error = String;

        fn section(&self) -> &'static str {
            "number"
        }

        fn fingerprint(&self) -> Fingerprint {
            fingerprint([self.0.as_path()], "")
        }

        fn read(&self) -> Result<u32, String> {
            let text = fs::read_to_string(&self.0).map_err(|error| error.to_string())?;
            text.parse().map_err(|_| format!("{}: is no number", self.0.display()))
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_and_changes_nothing_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        fs::write(&file, "1").unwrap();
        let live = Live::read(Number(file.clone())).unwrap();
        assert_eq!(live.reload(), Reloaded::Unchanged);
        fs::write(&file, "two").unwrap();
        for _ in 0..2 {
            let Reloaded::Kept { problem } = live.reload() else { panic!("it is no number") };
            assert!(problem.ends_with("number: is no number") && *live.current() == 1, "{problem}");
        }
        fs::write(&file, "2").unwrap();
        let before = live.current();
        assert_eq!(live.reload(), Reloaded::Changed);
        assert_eq!((*before, *live.current()), (1, 2), "who has begun goes on with what there was");
        fs::remove_file(&file).unwrap();
        assert!(matches!(live.reload(), Reloaded::Kept { .. }));
        fs::write(&file, "2").unwrap();
        assert_eq!(live.reload(), Reloaded::Changed, "it is there again");
    }
}
