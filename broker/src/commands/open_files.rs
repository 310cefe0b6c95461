//! Every connection is an open file, and so is what the log writes next. A process that has none left cannot go on.

use std::num::NonZeroUsize;

use anyhow::bail;
use countersign::config::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process needs beside its connections: the log's files, listeners, administration, push services.
pub(crate) const OTHERS: u64 = 256;

/// With fewer connections than this a broker is of no use.
pub(crate) const CONNECTIONS_MIN: u64 = 32;

/// Allows as many open files as the operating system lets us, and takes no more connections than they are enough for.
pub(crate) fn fit(limits: &mut Limits) -> anyhow::Result<()> {
    let most = raise();
    let wanted = limits.connections.get() as u64;
    if wanted.saturating_add(OTHERS) <= most {
        return Ok(());
    }
    let connections = most.saturating_sub(OTHERS);
    if connections < CONNECTIONS_MIN {
        bail!(
            "{most} files may be open, and a broker needs {OTHERS} beside its connections: allow more (`ulimit -Hn`, \
             or LimitNOFILE= of systemd)"
        );
    }
    tracing::warn!(
        configured = wanted,
        taken = connections,
        open_files = most,
        "fewer connections are taken than limits.connections says, since no more files may be open: allow more \
         (`ulimit -Hn`, or LimitNOFILE= of systemd)"
    );
    limits.connections =
        usize::try_from(connections).ok().and_then(NonZeroUsize::new).unwrap_or(limits.connections);
    Ok(())
}

/// How many files may be open, after the limit is as high as we may set it.
fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    now.current.unwrap_or(u64::MAX)
}
