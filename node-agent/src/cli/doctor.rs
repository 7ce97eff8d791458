//! `bunraku-agent doctor`.

use std::path::Path;

use bunraku_common::telemetry;
use bunraku_puppetserver::doctor::{Finding, Fix, Severity, apply};
use clap::Args;
use time::{OffsetDateTime, macros::format_description};

use super::{Failure, read};
use crate::{doctor::examine, node::puppet};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Apply what is safe: a copy of each file is kept, the difference is shown, nothing is restarted
    #[arg(long)]
    fix: bool,
    /// Also show what is right
    #[arg(long)]
    all: bool,
    /// How to print
    #[arg(short, long, value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

impl Doctor {
    pub(super) async fn run(&self, path: &Path) -> Result<(), Failure> {
        telemetry::start("warn", telemetry::Format::Text);
        let config = read(path)?;
        let findings = examine(&config, &puppet(&config), None).await.map_err(Failure::Failed)?;
        if self.output == "json" {
            println!("{}", json(&findings));
        } else {
            print!("{}", self.text(&findings));
        }
        if self.fix {
            // Standard output holds one JSON value or the text, nothing else.
            let report = fix(&findings)?;
            if self.output == "json" {
                eprint!("{}", report.text);
            } else {
                print!("{}", report.text);
            }
            return if report.all_applied { Ok(()) } else { Err(Failure::Silent) };
        }
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(Failure::Silent);
        }
        Ok(())
    }

    fn text(&self, findings: &[Finding]) -> String {
        let mut out = String::new();
        for finding in findings.iter().filter(|finding| self.all || finding.severity != Severity::Ok) {
            out.push_str(&format!("{:<8} {}: {}\n", finding.severity.as_str(), finding.check, finding.found));
            for line in finding.mend.lines() {
                out.push_str(&format!("         {line}\n"));
            }
        }
        let fixable = findings.iter().filter(|finding| finding.fix.is_some()).count();
        if out.is_empty() {
            out.push_str("nothing to mend\n");
        } else if fixable > 0 && !self.fix {
            out.push_str(&format!("\nhint: bunraku-agent doctor --fix mends {fixable} of these\n"));
        }
        out
    }
}

/// What `--fix` did, for people.
struct Report {
    text: String,
    all_applied: bool,
}

fn fix(findings: &[Finding]) -> Result<Report, Failure> {
    let fixes: Vec<Fix> = findings.iter().filter_map(|finding| finding.fix.clone()).collect();
    if fixes.is_empty() {
        let text = "nothing that can be mended without a person\n".to_owned();
        return Ok(Report { text, all_applied: true });
    }
    let format = format_description!("[year][month][day]T[hour][minute][second]");
    let time = OffsetDateTime::now_utc().format(&format).map_err(|error| Failure::failed(&error))?;
    let (applied, refused) = apply(&fixes, &time).map_err(|error| Failure::failed(&error))?;
    let mut text = String::new();
    for done in &applied {
        let copy = done.backup.as_ref().map(|backup| format!("copy: {}", backup.display()));
        let copy = copy.unwrap_or_else(|| "new".to_owned());
        text.push_str(&format!("\n{} ({copy})\n{}due: {}\n", done.file.display(), done.diff, done.due));
    }
    for left in &refused {
        let file = left.file.display();
        text.push_str(&format!("\n{file} was left alone: {}\nadd by hand:\n{}\n", left.why, left.paste));
    }
    Ok(Report { text, all_applied: refused.is_empty() })
}

fn json(findings: &[Finding]) -> String {
    let all: Vec<_> = findings
        .iter()
        .map(|finding| {
            serde_json::json!({
                "check": finding.check,
                "severity": finding.severity.as_str(),
                "found": finding.found,
                "mend": finding.mend,
                "fixable": finding.fix.is_some(),
            })
        })
        .collect();
    serde_json::to_string_pretty(&all).unwrap_or_default()
}
