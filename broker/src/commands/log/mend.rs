//! `countersign log verify` and `repair`: whether the log is as it was written, and what can be done if it is not.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use countersign::log::{
    Ending, Report,
    repair::{self, Plan},
};

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
    /// Do what the plan says without asking
    #[arg(long)]
    yes: bool,
}

pub(super) fn verify(options: &Verify) -> anyhow::Result<()> {
    let report = countersign::log::verify(&options.config.load()?.log.folder)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_report(&report);
    }
    if report.is_sound() {
        return Ok(());
    }
    anyhow::bail!("the log is not as it was written; `countersign log repair` says what can be done")
}

fn print_report(report: &Report) {
    println!("{}", report.folder.display());
    for segment in &report.segments {
        let name = segment.file.file_name().unwrap_or(segment.file.as_os_str()).to_string_lossy();
        let sound = if segment.sound { "sound" } else { "DAMAGED" };
        println!(
            "  {name}  {:>12} bytes  {:>8} records  {:>9} entries  {sound}",
            segment.bytes, segment.records, segment.entries
        );
    }
    let head = report.head.map_or_else(|| "none".to_owned(), |head| head.to_string());
    println!("{} entries of {} streams; the last position is {head}", report.entries, report.streams);
    match &report.ending {
        Ending::Nothing => println!("there is no journal"),
        Ending::Closed => println!("it was closed"),
        Ending::Open => println!("it was not closed, or is being written to"),
        Ending::Torn { offset, bytes } => {
            println!(
                "its last write was interrupted (byte {offset}, {bytes} bytes); the next start cuts it off"
            );
        }
        Ending::Corrupt(_) => println!("its last segment cannot be read to its end"),
    }
    for finding in &report.findings {
        println!("  {finding}");
    }
}

pub(super) fn repair(options: &Repair) -> anyhow::Result<()> {
    let plan = repair::plan(&options.config.load()?.log.folder)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    if plan.steps.is_empty() {
        println!("{}: nothing needs to be repaired", plan.folder.display());
        return Ok(());
    }
    print_plan(&plan);
    if !options.yes && !agreed()? {
        println!("Nothing was done.");
        return Ok(());
    }
    repair::apply(&plan)?;
    println!("Done. What was replaced is in {}.", plan.folder.join("replaced").display());
    Ok(())
}

fn print_plan(plan: &Plan) {
    println!("{}", plan.folder.display());
    println!("What is wrong:");
    for finding in &plan.findings {
        println!("  {finding}");
    }
    println!("What would be done:");
    for step in &plan.steps {
        println!("  {step}");
    }
    match plan.lost {
        None => println!("Nothing would be lost."),
        Some((first, last)) => println!("LOST FOR GOOD: positions {first} to {last}."),
    }
}

/// Only a person at a terminal can agree; a program says --yes.
fn agreed() -> anyhow::Result<bool> {
    anyhow::ensure!(std::io::stdin().is_terminal(), "say --yes to do this without being asked");
    print!("Do it? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
