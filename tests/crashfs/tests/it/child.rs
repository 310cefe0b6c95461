//! Programs under test: this very test binary, started again with a role.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use crashfs::{CrashFs, Options};

use crate::common::sync_dir;

const ROLE: &str = "CRASHFS_TEST_ROLE";
const DIR: &str = "CRASHFS_TEST_DIR";
const ACK: &str = "ack ";

/// What a started process does until it is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Role {
    /// Appends numbered records to one file, each synced before it is acknowledged.
    PlainFile,
    /// Puts numbers into sled, and syncs sled's files itself before it acknowledges.
    SledSynced,
    /// Puts numbers into sled, and takes its `flush` for an fsync.
    SledFlushed,
    /// Acknowledges up to which number sled holds them all, and ends.
    SledReader,
    /// Mounts a file system.
    Harness,
}

const ROLES: [Role; 5] =
    [Role::PlainFile, Role::SledSynced, Role::SledFlushed, Role::SledReader, Role::Harness];

pub(crate) struct Started {
    pub(crate) process: Child,
    acks: BufReader<ChildStdout>,
}

impl Role {
    pub(crate) fn start(self, dir: &Path) -> Started {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::plays_its_role", "--ignored", "--nocapture"])
            .env(ROLE, format!("{self:?}"))
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acks = BufReader::new(process.stdout.take().unwrap());
        Started { process, acks }
    }
}

impl Started {
    /// The next number that the process acknowledged; `None` once it is dead and all is read.
    pub(crate) fn next_ack(&mut self) -> Option<u64> {
        loop {
            let mut line = String::new();
            if self.acks.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test runner prints lines of its own, and one without an end.
            if let Some((_, number)) = line.split_once(ACK) {
                return Some(number.trim().parse().unwrap());
            }
        }
    }

    pub(crate) fn last_ack(&mut self) -> u64 {
        std::iter::from_fn(|| self.next_ack()).last().unwrap_or(0)
    }
}

#[test]
#[ignore = "not a test: what other tests start as a process"]
fn plays_its_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    match ROLES.into_iter().find(|known| format!("{known:?}") == role).unwrap() {
        Role::PlainFile => append_to_a_plain_file(&dir),
        Role::SledSynced => put_into_sled(&dir, true),
        Role::SledFlushed => put_into_sled(&dir, false),
        Role::SledReader => {
            let db = open_sled(&dir);
            let held = |number: &u64| db.get(number.to_be_bytes()).unwrap().is_some();
            acknowledge((1..=u64::MAX).take_while(held).last().unwrap_or(0));
        }
        Role::Harness => {
            let _fs = CrashFs::mount(&dir, Options::default()).unwrap();
            acknowledge(1);
            loop {
                std::thread::park();
            }
        }
    }
}

fn acknowledge(number: u64) {
    println!("{ACK}{number}");
}

fn append_to_a_plain_file(dir: &Path) {
    let mut file = File::options().append(true).create(true).open(dir.join("log")).unwrap();
    sync_dir(dir).unwrap();
    for number in file.metadata().unwrap().len() / 8 + 1.. {
        file.write_all(&number.to_be_bytes()).unwrap();
        file.sync_data().unwrap();
        acknowledge(number);
    }
}

fn open_sled(dir: &Path) -> sled::Db {
    sled::Config::new().path(dir.join("sled")).flush_every_ms(None).open().unwrap()
}

fn put_into_sled(dir: &Path, synced: bool) {
    let path = dir.join("sled");
    let db = open_sled(dir);
    for number in db.len() as u64 + 1.. {
        db.insert(number.to_be_bytes(), &number.to_be_bytes()).unwrap();
        db.flush().unwrap();
        if synced {
            for entry in std::fs::read_dir(&path).unwrap() {
                File::open(entry.unwrap().path()).unwrap().sync_all().unwrap();
            }
            sync_dir(&path).unwrap();
            sync_dir(dir).unwrap();
        }
        acknowledge(number);
    }
}
