//! What was found, for people and for programs.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write},
};

use serde_json::{Value, json};

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Result {
    /// As it should be.
    Good,
    /// The broker works, and somebody should know.
    Warning,
    /// The broker does not work, or not for long.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    check: &'static str,
    result: Result,
    says: String,
    todo: Option<String>,
}

/// All that was looked at, in that order.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// As it should be.
    pub(super) fn good(&mut self, check: &'static str, says: impl Display) {
        self.0.push(Finding { check, result: Result::Good, says: says.to_string(), todo: None });
    }

    /// The broker works, and somebody should know.
    pub(super) fn warn(&mut self, check: &'static str, says: impl Display, todo: impl Display) {
        self.found(check, Result::Warning, &says, &todo);
    }

    /// The broker does not work, or not for long.
    pub(super) fn fail(&mut self, check: &'static str, says: impl Display, todo: impl Display) {
        self.found(check, Result::Failure, &says, &todo);
    }

    /// What others have found.
    pub(super) fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether anything is wrong with this so far.
    pub(super) fn is_wrong(&self, check: &str) -> bool {
        self.0.iter().any(|finding| finding.check == check && finding.result == Result::Failure)
    }

    /// How many must be mended.
    pub(super) fn failures(&self) -> usize {
        self.count(Result::Failure)
    }

    fn found(&mut self, check: &'static str, result: Result, says: &dyn Display, todo: &dyn Display) {
        self.0.push(Finding { check, result, says: says.to_string(), todo: Some(todo.to_string()) });
    }

    fn count(&self, result: Result) -> usize {
        self.0.iter().filter(|finding| finding.result == result).count()
    }

    pub(super) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            let all = json!({
                "checks": self.0.iter().map(Finding::json).collect::<Vec<_>>(),
                "failures": self.failures(),
                "warnings": self.count(Result::Warning),
            });
            return writeln!(out, "{all:#}");
        }
        for finding in &self.0 {
            finding.write(&mut out)?;
        }
        match (self.failures(), self.count(Result::Warning)) {
            (0, 0) => writeln!(out, "All is well."),
            (0, 1) => writeln!(out, "Well, with a warning."),
            (0, warnings) => writeln!(out, "Well, with {warnings} warnings."),
            (failures, warnings) => writeln!(out, "To be mended: {failures}. Warnings: {warnings}."),
        }
    }
}

/// Where what is said begins.
const INDENT: usize = 17;

impl Finding {
    fn json(&self) -> Value {
        let result = match self.result {
            Result::Good => "good",
            Result::Warning => "warning",
            Result::Failure => "failure",
        };
        json!({ "check": self.check, "result": result, "says": self.says, "do": self.todo })
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (mark, colour) = match self.result {
            Result::Good => ("✓", "32"),
            Result::Warning => ("!", "33"),
            Result::Failure => ("✗", "31"),
        };
        let mark = if io::stdout().is_terminal() {
            format!("\x1b[1;{colour}m{mark}\x1b[0m")
        } else {
            mark.to_owned()
        };
        let says = self.says.replace('\n', &format!("\n{:INDENT$}", ""));
        writeln!(out, "{mark} {:width$}{says}", self.check, width = INDENT - 2)?;
        match &self.todo {
            Some(todo) => writeln!(out, "{:INDENT$}→ {todo}", ""),
            None => Ok(()),
        }
    }
}
