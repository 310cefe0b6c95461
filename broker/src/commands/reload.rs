//! `countersign reload`: has a running broker read files again that were replaced.

use anyhow::bail;
use countersign_proto::v1::{
    ReloadRequest,
    reload_reply::{Result, Section},
};

use super::admin_client::{connect, said};
use crate::ConfigFile;

pub(crate) async fn run(config: &ConfigFile) -> anyhow::Result<()> {
    let mut broker = connect(&config.load()?).await?;
    let reply = broker.reload(ReloadRequest {}).await.map_err(|status| said(&status))?.into_inner();
    if reply.sections.is_empty() {
        println!(
            "The broker was started with neither TLS nor a push service: there is nothing to read again.\n\
             What is new in the configuration needs a new start."
        );
    }
    let mut kept = 0;
    for section in &reply.sections {
        println!("{}", line(section));
        kept += usize::from(section.result() == Result::Kept);
    }
    if kept > 0 {
        bail!(
            "not all of it can be used: mend the files and call this again; meanwhile what was read before is used"
        )
    }
    Ok(())
}

fn line(reloaded: &Section) -> String {
    let Section { section, problem, .. } = reloaded;
    match reloaded.result() {
        Result::Changed => format!("[{section}] read again: what begins from now on uses it"),
        Result::Unchanged => format!("[{section}] holds what it held"),
        Result::Kept => format!("[{section}] kept as it was: {problem}"),
        Result::Unspecified => format!("[{section}] ?"),
    }
}
