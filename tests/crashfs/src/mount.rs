//! Mounting without fusermount, and never leaving a mount behind.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{getgid, getuid},
};

use crate::{
    fuse::Fuse,
    gate::Gate,
    leftover::{self, FS_TYPE, Owner},
};

const DEVICE: &str = "/dev/fuse";
/// Held operations each keep one of these; the others go on reading what the kernel sends, such as the last
/// references of a process that died.
const THREADS: usize = 4;

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// FUSE cannot be used here.
    #[error(transparent)]
    Unavailable(#[from] Reason),
    /// Something that is alive is mounted there: another harness, or another [`CrashFs`](crate::CrashFs) of
    /// this one.
    #[error("{} is in use by another crashfs", .0.display())]
    InUse(PathBuf),
    /// The mount point could not be made, or something left over from before could not be removed.
    #[error("cannot prepare {}: {source}", dir.display())]
    Directory {
        /// The mount point.
        dir: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why FUSE cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// There is no device.
    #[error("{DEVICE} is missing: this kernel has no FUSE, or this container is not given the device")]
    NoDevice,
    /// The device does not open.
    #[error("{DEVICE} cannot be opened: {0}")]
    NoAccess(#[source] io::Error),
    /// The device opens, but the kernel does not let this process mount, or does not speak our FUSE.
    #[error("a FUSE file system cannot be mounted (this takes root and CAP_SYS_ADMIN): {0}")]
    NotPermitted(#[source] io::Error),
}

/// A mount and the threads that serve it. When it goes, the mount goes, busy or not.
#[derive(Debug)]
pub(crate) struct Mount {
    dir: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mount {
    pub(crate) fn new(dir: &Path, gate: Arc<Gate>) -> Result<Self, Error> {
        let device = open_device()?;
        let dir = prepare(dir)?;
        let refused = |error: rustix::io::Errno| Reason::NotPermitted(error.into());
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        let data = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}", device.as_raw_fd());
        let data = CString::new(data).expect("numbers contain no zero byte");
        let source = Owner::this_process().map(|owner| owner.to_string()).map_err(Reason::NotPermitted)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        mount(&source, &dir, FS_TYPE, flags, data.as_c_str()).map_err(refused)?;
        // From here on the mount is removed whatever happens.
        let mut mount = Self { dir, session: None };
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        let session = Session::from_fd(Fuse(gate), device.into(), SessionACL::Owner, config);
        mount.session = Some(session.and_then(Session::spawn).map_err(Reason::NotPermitted)?);
        Ok(mount)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // FORCE aborts the connection: whoever still waits for an answer or has a file open gets an error,
        // and the threads end. DETACH removes the mount although it is busy.
        let gone = unmount(&self.dir, UnmountFlags::FORCE | UnmountFlags::DETACH).is_ok();
        if let Some(session) = self.session.take()
            && gone
            && let Err(error) = session.join()
        {
            eprintln!("crashfs at {}: {error}", self.dir.display());
        }
    }
}

fn open_device() -> Result<File, Reason> {
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(device) => Ok(device),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Reason::NoDevice),
        Err(error) => Err(Reason::NoAccess(error)),
    }
}

/// Makes the mount point and returns its full path. What killed harnesses left mounted goes, here and
/// elsewhere.
fn prepare(dir: &Path) -> Result<PathBuf, Error> {
    let failed = |source| Error::Directory { dir: dir.to_owned(), source };
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "a mount point needs a name of its own");
    let name = dir.file_name().ok_or_else(no_name).map_err(failed)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    leftover::remove_dead_mounts().map_err(failed)?;
    fs::create_dir_all(parent).map_err(failed)?;
    // Not the mount point itself: under a frozen file system it would not answer.
    let dir = parent.canonicalize().map_err(failed)?.join(name);
    if leftover::is_mounted(&dir).map_err(failed)? {
        return Err(Error::InUse(dir));
    }
    fs::create_dir_all(&dir).map_err(failed)?;
    Ok(dir)
}
