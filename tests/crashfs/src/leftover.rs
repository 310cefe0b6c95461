//! Mounts whose harness was killed. The kernel keeps them, and answers everything under them with ENOTCONN.

use std::{
    ffi::OsString,
    fmt, fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, unmount};

pub(crate) const FS_TYPE: &str = "fuse.crashfs";

/// Who serves a mount: it is the mount's source, `crashfs-<process>-<start>`. Whether a mount is dead could
/// also be asked of the mount, but one that is alive and frozen would not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    process: u32,
    /// In clock ticks since the machine started; the number of a process is used again.
    started: u64,
}

impl Owner {
    pub(crate) fn this_process() -> io::Result<Self> {
        let process = std::process::id();
        let no_start = || io::Error::other("/proc/self/stat does not say when this process was started");
        let started = start_of_living(process).ok_or_else(no_start)?;
        Ok(Self { process, started })
    }

    fn is_alive(self) -> bool {
        start_of_living(self.process) == Some(self.started)
    }

    fn parse(source: &str) -> Option<Self> {
        let (process, started) = source.strip_prefix("crashfs-")?.split_once('-')?;
        Some(Self { process: process.parse().ok()?, started: started.parse().ok()? })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "crashfs-{}-{}", self.process, self.started)
    }
}

/// Removes all mounts of ours, wherever they are, whose owner is dead.
pub(crate) fn remove_dead_mounts() -> io::Result<()> {
    for Mounted { dir, owner } in mounted()? {
        // Tests that run beside each other find the same leftovers; only the first removes one.
        if owner.is_some_and(|owner| !owner.is_alive())
            && let Err(error) = unmount(&dir, UnmountFlags::DETACH)
            && is_mounted(&dir)?
        {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Whether a file system of this kind is mounted at this full path.
pub(crate) fn is_mounted(dir: &Path) -> io::Result<bool> {
    Ok(mounted()?.iter().any(|mounted| mounted.dir == dir))
}

struct Mounted {
    dir: PathBuf,
    owner: Option<Owner>,
}

fn mounted() -> io::Result<Vec<Mounted>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// proc(5): field 5 is the mount point; type and source follow a lone `-`, before which fields may be added.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let dir = unescape(fields.nth(4)?).into();
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let (fs_type, source) = (fields.next()?, fields.next()?);
    let owner = str::from_utf8(source).ok().and_then(Owner::parse);
    (fs_type == FS_TYPE.as_bytes()).then_some(Mounted { dir, owner })
}

/// proc(5): space, tab, line feed and backslash stand as `\ooo`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'\\'
            && let Some((octal, after)) = after.split_at_checked(3)
            && let Some(value) = str::from_utf8(octal).ok().and_then(|text| u8::from_str_radix(text, 8).ok())
        {
            bytes.push(value);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

/// When a process was started, if there is one that has not ended.
fn start_of_living(process: u32) -> Option<u64> {
    start_from_stat(&fs::read(format!("/proc/{process}/stat")).ok()?)
}

/// proc(5): the second field is a name in parentheses that may contain anything; state and start are fields 3
/// and 22.
fn start_from_stat(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
    let (state, started) = (fields.next()?, fields.nth(18)?);
    // A zombie or a dead process: nobody has asked yet how it ended.
    if matches!(state, "Z" | "X") { None } else { started.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        br"71 26 0:50 / /tmp/a\040b\134c rw,nosuid shared:9 - fuse.crashfs crashfs-12-3456 rw,user_id=0";

    #[test]
    fn a_mount_is_recognised_by_its_type_and_says_whose_it_is() {
        let mounted = parse(LINE).unwrap();
        assert_eq!(mounted.dir, Path::new(r"/tmp/a b\c"));
        assert_eq!(mounted.owner, Some(Owner { process: 12, started: 3456 }));
        assert!(parse(b"71 26 0:50 / /tmp rw - ext4 /dev/vda rw").is_none());
        assert!(parse(b"").is_none());
    }

    #[test]
    fn an_owner_is_read_back_from_the_source_of_its_mount() {
        let owner = Owner::this_process().unwrap();
        assert_eq!(Owner::parse(&owner.to_string()), Some(owner));
        assert!(owner.is_alive());
    }

    #[test]
    fn a_process_that_took_over_the_number_of_a_dead_owner_is_not_taken_for_it() {
        let owner = Owner::this_process().unwrap();
        assert!(!Owner { started: owner.started + 1, ..owner }.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive_and_any_name_can_be_read() {
        let stat = |state| format!("7 (a) b (c) {state} {} 99 0", "0 ".repeat(18).trim_end());
        assert_eq!(start_from_stat(stat("S").as_bytes()), Some(99));
        assert_eq!(start_from_stat(stat("Z").as_bytes()), None);
    }
}
