//! Files beside the log: the configuration, and a backup's manifest.

use std::{fs, path::Path};

use countersign::{
    config::Config,
    log::backup::{
        self,
        manifest::{Listed, Manifest, NAME, Of},
    },
};
use fuzzing::fuzz;
use serde_json::Value;

/// A configuration is taken, or refused with words.
#[test]
fn configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("countersign.toml");
    let real = b"public_url = 'http://127.0.0.1:8443'\nserver.listen = '127.0.0.1:0'\nadmin.socket = 'admin.sock'\n\
        keys.folder = 'keys'\nlog.folder = 'log'\n[approvals]\ndigits = 2\nlifetime_s = 60\n[limits]\nconnections = 9\n";
    fuzz("configuration", &[("small", real.to_vec())], |bytes| {
        fs::write(&file, bytes).expect("it is written");
        if let Err(error) = Config::load(&file) {
            assert!(!error.to_string().is_empty());
        }
    });
}

/// A manifest that is read is written as these very bytes, and lists nothing that is not in the backup's folder. One whose
/// sum is as it would be does no harm to who checks the backup.
#[test]
fn manifest() {
    fuzz_manifest("manifest", |folder| Manifest::read(folder).ok().flatten());
}

pub(super) fn fuzz_manifest(name: &str, read: impl Fn(&Path) -> Option<Manifest>) {
    let (dir, again) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("another"));
    let bytes_of = |folder: &Path| fs::read(folder.join(NAME)).expect("it is there");
    let real = [("log", of_log()), ("keys", of_keys())].map(|(name, manifest)| {
        manifest.write(dir.path()).expect("it is written");
        assert_eq!(read(dir.path()), Some(manifest));
        (name, bytes_of(dir.path()))
    });
    fuzz(name, &real, |bytes| {
        fs::write(dir.path().join(NAME), bytes).expect("it is written");
        if let Some(manifest) = read(dir.path()) {
            manifest.write(again.path()).expect("it is written");
            assert_eq!(bytes_of(again.path()), bytes);
        }
        let Some(manifest) = believed(bytes) else { return };
        manifest.write(dir.path()).expect("it is written");
        if let Some(read) = read(dir.path()) {
            assert!(read.files.iter().all(|file| !file.path.starts_with('/') && !file.path.contains("..")));
            assert_eq!(read, manifest);
        }
        assert!(backup::check(dir.path()).is_err(), "there is nothing else in the folder");
    });
}

/// What would be read if nobody looked at the sum.
pub(super) fn believed(bytes: &[u8]) -> Option<Manifest> {
    let mut whole: Value = serde_json::from_slice(bytes).ok()?;
    serde_json::from_value(whole.get_mut("manifest")?.take()).ok()
}

fn of_log() -> Manifest {
    let segment = |first: u64| Listed {
        path: format!("journal/{first:020}.seg"),
        bytes: 4_096,
        sha256: "00".repeat(32),
        first: Some(first),
        entries: 10,
    };
    Manifest {
        format: 1,
        made_at_ms: 1_700_000_000_000,
        of: Of {
            broker_id: "broker".to_owned(),
            journal: Some("09".repeat(16)),
            head: Some(20),
            last_recorded_ms: Some(1_700_000_000_000),
        },
        files: vec![segment(1), segment(11)],
    }
}

fn of_keys() -> Manifest {
    let Manifest { of: Of { broker_id, .. }, files, .. } = of_log();
    let file = Listed { path: "signing.key".to_owned(), first: None, entries: 0, ..files[0].clone() };
    let of = Of { broker_id, journal: None, head: None, last_recorded_ms: None };
    Manifest { format: 1, made_at_ms: 1, of, files: vec![file] }
}
