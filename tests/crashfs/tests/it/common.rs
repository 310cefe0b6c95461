//! A disk to test, and the few operations that std does not have.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crashfs::{CrashFs, CutMode, CutReport, Options};
use tempfile::TempDir;

/// Far more than anything here takes: only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PAGE: usize = 4096;

pub(crate) struct Disk {
    // Unmounted before its directory is removed.
    pub(crate) fs: CrashFs,
    _dir: TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fs = CrashFs::mount(dir.path().join("disk"), options).expect("these tests need FUSE");
        Self { fs, _dir: dir }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.fs.dir().join(path)
    }

    /// Empties it for another round: a mount costs more than all that most rounds do.
    pub(crate) fn clear(&self) {
        for entry in std::fs::read_dir(self.path("")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                std::fs::remove_dir_all(entry.path()).unwrap();
            } else {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        self.fs.sync_all();
    }

    /// A new file with these bytes, not synced.
    pub(crate) fn create(&self, path: &str, bytes: &[u8]) -> File {
        let file = File::options().read(true).write(true).create_new(true).open(self.path(path)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    /// A file that is there from before the test.
    pub(crate) fn create_durably(&self, path: &str, bytes: &[u8]) -> File {
        let file = self.create(path, bytes);
        self.fs.sync_all();
        file
    }

    pub(crate) fn open(&self, path: &str) -> File {
        File::options().read(true).write(true).open(self.path(path)).unwrap()
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).try_exists().unwrap()
    }

    pub(crate) fn sync_dir(&self, path: &str) {
        sync_dir(&self.path(path)).unwrap();
    }

    /// The power goes and comes back.
    pub(crate) fn cut(&self, mode: CutMode, seed: u64) -> CutReport {
        let report = self.fs.cut(mode, seed);
        self.fs.thaw();
        report
    }

    pub(crate) fn cut_and_forget(&self) -> CutReport {
        self.cut(CutMode::ForgetAll, 0)
    }
}

pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// For what the kernel tells the file system some time after the call, such as that a file was closed.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..10_000_000 {
        if condition() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("what was waited for did not come");
}

pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("this must fail").raw_os_error().expect("the operating system says why")
}
