//! `countersign backup` and `countersign restore`: copies of log and keys, checked when they are made and before they
//! are used.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};
use countersign::{
    clock::{Clock as _, SystemClock},
    keys::{self, identity},
    log::backup::{self, manifest::Manifest},
};
use countersign_domain::{Timestamp, challenge::timestamp};

use crate::ConfigFile;

/// The keys' folder in a backup that holds both.
const KEYS_FOLDER: &str = "keys";

/// `countersign backup`
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Copy the log, while the broker runs or not; again, to the same folder, what is new
    Create(Create),
    /// Read all of a backup and say whether it is as it was written (status 1 if not)
    Verify {
        /// Its folder
        folder: PathBuf,
        /// The folder of the keys' backup, if it is elsewhere
        #[arg(long, value_name = "FOLDER")]
        keys: Option<PathBuf>,
    },
}

/// `countersign backup create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    config: ConfigFile,
    /// Where to: an empty folder, or that of the last backup
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Copy the keys, too, to a folder apart from the log's
    #[arg(long, value_name = "FOLDER")]
    keys_to: Option<PathBuf>,
    /// Copy the keys, too, beside the log: whoever has this folder then has everything
    #[arg(long, conflicts_with = "keys_to")]
    with_keys: bool,
}

/// `countersign restore`
///
/// Everything is checked before anything is put into place, and nothing is ever overwritten.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    config: ConfigFile,
    /// The backup's folder
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// The folder of the keys' backup, if it is elsewhere. Without one, the keys are left as they are
    #[arg(long, value_name = "FOLDER")]
    keys_from: Option<PathBuf>,
}

pub(crate) fn run(command: BackupCommand) -> anyhow::Result<()> {
    match command {
        BackupCommand::Create(create) => self::create(&create),
        BackupCommand::Verify { folder, keys } => verify(&folder, keys),
    }
}

fn create(options: &Create) -> anyhow::Result<()> {
    let config = options.config.load()?;
    let now_ms = SystemClock.now().as_millis();
    let log = &config.log.folder;
    let logged = identity::logged(log).map_err(|error| anyhow!("damage is not copied: {error}"))?;
    let broker = logged.and_then(|event| identity::broker_of(&event)).with_context(|| {
        format!("{}: there is no log yet that tells its broker: `countersign serve` makes it", log.display())
    })?;
    let keys_to =
        if options.with_keys { Some(options.to.join(KEYS_FOLDER)) } else { options.keys_to.clone() };
    ensure!(
        options.with_keys || !keys_to.as_deref().is_some_and(|keys| is_within(keys, &options.to)),
        "--keys-to leads into --to: whoever has that folder would have everything; take another place, or say --with-keys"
    );
    let made = backup::create(log, &options.to, &broker, now_ms)?;
    let (files, bytes) = made.written;
    println!("{}: {}", options.to.display(), told(&made.manifest));
    println!("  {files} of {} files were written, {} KiB", made.manifest.files.len(), bytes.div_ceil(1024));
    match keys_to {
        Some(to) => {
            keys::backup::create(&config.keys.folder, &to, now_ms)?;
            println!("  keys: {}", to.display());
            if options.with_keys {
                eprintln!(
                    "Log and keys lie together: whoever has this folder can open all that the log has sealed."
                );
            }
        }
        None => eprintln!(
            "The keys are not in it (--keys-to FOLDER): without them nobody can read what it has sealed."
        ),
    }
    Ok(())
}

fn verify(folder: &Path, keys: Option<PathBuf>) -> anyhow::Result<()> {
    let manifest = backup::check(folder)?;
    println!("{}: sound; {}", folder.display(), told(&manifest));
    if let Some(keys) = keys.or_else(|| beside(folder)) {
        let of = keys::backup::check(&keys)?.of;
        belong_together(&manifest, &of.broker_id)?;
        println!("{}: sound; its keys", keys.display());
    }
    Ok(())
}

pub(crate) fn restore(options: &Restore) -> anyhow::Result<()> {
    let config = options.config.load()?;
    let (log, keys) = (&config.log.folder, &config.keys.folder);
    let keys_from = options.keys_from.clone().or_else(|| beside(&options.from));
    // All that can be wrong is found before anything is put into place.
    backup::must_be_free(log)?;
    let manifest = backup::check(&options.from)?;
    match &keys_from {
        Some(from) => {
            keys::backup::are_there(from, keys)?;
            belong_together(&manifest, &keys::backup::check(from)?.of.broker_id)?;
        }
        None if keys::folder::exists(keys) => {
            belong_together(&manifest, keys::folder::load(keys)?.broker_id())?;
        }
        None => {}
    }
    // Before the keys: with them alone, a start would begin a new log in this one's name.
    backup::begin_restore(log)?;
    if let Some(from) = &keys_from {
        keys::backup::restore(from, keys)?;
        println!("{}: the keys", keys.display());
    }
    backup::restore(&options.from, &manifest, log)?;
    println!("{}: {}", log.display(), told(&manifest));
    if !keys::folder::exists(keys) {
        eprintln!(
            "There are no keys in {} yet: put those of this broker there before it starts.",
            keys.display()
        );
    }
    eprintln!(
        "What was told after that moment is not in it: read 'Going back to a backup' in docs/operations.md, then start it: \
         countersign serve --config {}",
        config.file().display()
    );
    Ok(())
}

fn belong_together(log: &Manifest, keys: &str) -> anyhow::Result<()> {
    let logs = &log.of.broker_id;
    ensure!(
        logs == keys,
        "the log is that of the broker {logs}, and the keys are those of the broker {keys}: nothing was done"
    );
    Ok(())
}

/// The keys of a backup that holds both.
fn beside(log: &Path) -> Option<PathBuf> {
    Some(log.join(KEYS_FOLDER)).filter(|keys| keys.is_dir())
}

/// Whether a folder that need not be there yet would be in another one.
fn is_within(folder: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let there = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
        match there {
            Some((above, real)) => real.join(path.strip_prefix(above).unwrap_or(Path::new(""))),
            None => path.to_owned(),
        }
    };
    real(folder).starts_with(real(other))
}

fn told(manifest: &Manifest) -> String {
    let of = &manifest.of;
    let head = of.head.map_or_else(|| "no entry".to_owned(), |head| format!("all up to position {head}"));
    let at = of.last_recorded_ms.map(|at| format!(", recorded {}", timestamp(Timestamp::from_millis(at))));
    format!("broker {}, {head}{}", of.broker_id, at.unwrap_or_default())
}
