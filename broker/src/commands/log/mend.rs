//! `countersign log verify` and `repair`: whether the log is as it was written, and what can be done if it is not.

use std::io::{self, IsTerminal as _, Write};

use clap::Args;
use countersign::log::{
    Ending, Report, StartError,
    repair::{self, Plan, RepairError},
};

use super::{as_far_as_it_is_read, hint, must_exist};
use crate::ConfigFile;

/// `countersign log verify`
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    config: ConfigFile,
    /// The whole report as JSON
    #[arg(long)]
    json: bool,
}

/// `countersign log repair`
#[derive(Debug, Args)]
pub(crate) struct Repair {
    #[command(flatten)]
    config: ConfigFile,
    /// The plan as JSON; nothing is done
    #[arg(long, conflicts_with = "yes")]
    json: bool,
    /// Do what the plan says without asking, unless something would be lost for good
    #[arg(long)]
    yes: bool,
    /// Do it even so
    #[arg(long, requires = "yes")]
    accept_loss: bool,
}

pub(super) fn verify(options: &Verify) -> anyhow::Result<()> {
    let folder = options.config.load()?.log.folder;
    must_exist(&folder)?;
    let report = countersign::log::verify(&folder)?;
    let mut out = io::stdout().lock();
    let printed = if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)
    } else {
        print_report(&mut out, &report)
    };
    if report.is_sound() {
        return as_far_as_it_is_read(printed.map_err(Into::into));
    }
    anyhow::bail!("the log is not as it was written; {}", hint(&options.config))
}

fn print_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "{}", report.folder.display())?;
    for segment in &report.segments {
        let name = segment.file.file_name().unwrap_or(segment.file.as_os_str()).to_string_lossy();
        let sound = if segment.sound { "sound" } else { "DAMAGED" };
        writeln!(
            out,
            "  {name}  {:>12} bytes  {:>8} records  {:>9} entries  {sound}",
            segment.bytes, segment.records, segment.entries
        )?;
    }
    let head = report.head.map_or_else(|| "none".to_owned(), |head| head.to_string());
    writeln!(out, "{} entries of {} streams; the last position is {head}", report.entries, report.streams)?;
    writeln!(out, "{}", ending(report))?;
    for finding in &report.findings {
        writeln!(out, "  {finding}")?;
    }
    for contradiction in &report.contradictions {
        writeln!(out, "  {contradiction}")?;
    }
    match report.findings.len() + report.contradictions.len() {
        0 => writeln!(out, "{}", coloured("Sound.", GREEN)),
        1 => writeln!(out, "{}", coloured("NOT SOUND: the finding is above.", RED)),
        findings => {
            writeln!(out, "{}", coloured(&format!("NOT SOUND: the {findings} findings are above."), RED))
        }
    }
}

fn ending(report: &Report) -> String {
    match &report.ending {
        Ending::Nothing => "there is no journal".to_owned(),
        Ending::Closed => "it was closed".to_owned(),
        Ending::Open | Ending::Torn { .. } if report.in_use => "a broker is running on it".to_owned(),
        Ending::Open => "it was not closed properly; the next start takes what is there".to_owned(),
        Ending::Torn { offset, bytes } if report.is_sound() => format!(
            "its last write was interrupted (byte {offset}, {bytes} bytes): nobody was told of it, and the next start \
             cuts it off"
        ),
        Ending::Torn { offset, bytes } => {
            format!("its last {bytes} bytes, from byte {offset} on, cannot be read")
        }
        Ending::Corrupt(_) => "its last segment cannot be read to its end".to_owned(),
    }
}

pub(super) fn repair(options: &Repair) -> anyhow::Result<()> {
    let folder = options.config.load()?.log.folder;
    must_exist(&folder)?;
    let plan = repair::plan(&folder).map_err(in_words)?;
    let mut out = io::stdout().lock();
    if options.json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&plan)?)?);
    }
    if plan.is_sound() {
        return Ok(writeln!(out, "{}: nothing needs to be repaired", plan.folder.display())?);
    }
    print_plan(&mut out, &plan)?;
    anyhow::ensure!(!plan.steps.is_empty(), "there is nothing here that a repair could do");
    if !agreed(&mut out, options, &plan)? {
        return Ok(writeln!(out, "Nothing was done.")?);
    }
    let kept = repair::apply(&plan).map_err(in_words)?;
    writeln!(out, "{}", coloured("Done.", GREEN))?;
    for file in kept {
        writeln!(out, "  what was replaced is kept: {}", file.display())?;
    }
    Ok(())
}

fn in_words(error: RepairError) -> anyhow::Error {
    match error {
        RepairError::Start(in_use @ StartError::InUse { .. }) => {
            anyhow::anyhow!("{in_use}: stop the broker first")
        }
        error => error.into(),
    }
}

fn print_plan(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    writeln!(out, "{}", plan.folder.display())?;
    writeln!(out, "What is wrong:")?;
    for finding in &plan.findings {
        writeln!(out, "  {finding}")?;
    }
    for contradiction in &plan.contradictions {
        writeln!(out, "  {contradiction}")?;
    }
    if plan.steps.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "What would be done (what is replaced is kept in {}):",
        plan.folder.join("replaced").display()
    )?;
    for step in &plan.steps {
        writeln!(out, "  {step}")?;
    }
    match &plan.lost {
        None => writeln!(out, "Nothing would be lost."),
        Some(loss) => writeln!(out, "{} {loss}.", coloured("LOST FOR GOOD:", RED)),
    }
}

/// Whether to do it. A program may answer, too; who does not answer has not agreed.
fn agreed(out: &mut impl Write, options: &Repair, plan: &Plan) -> anyhow::Result<bool> {
    let loses = plan.lost.is_some();
    if options.yes {
        anyhow::ensure!(
            !loses || options.accept_loss,
            "something would be lost for good: nothing was done; --yes does it only together with --accept-loss"
        );
        return Ok(true);
    }
    let question = if loses { "Do it, and lose that? [type yes in full] " } else { "Do it? [y/N] " };
    write!(out, "{question}")?;
    out.flush()?;
    let mut answer = String::new();
    anyhow::ensure!(io::stdin().read_line(&mut answer)? > 0, "nobody has answered: nothing was done");
    Ok(matches!((answer.trim(), loses), ("yes", _) | ("y" | "Y", false)))
}

const GREEN: u8 = 32;
const RED: u8 = 31;

/// In a colour where somebody sees it and wants it.
fn coloured(text: &str, colour: u8) -> String {
    let wanted = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if wanted { format!("\x1b[1;{colour}m{text}\x1b[0m") } else { text.to_owned() }
}
