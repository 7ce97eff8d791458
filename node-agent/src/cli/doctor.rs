//! `bunraku-agent doctor`.

use std::path::Path;

use bunraku_common::telemetry;
use bunraku_puppetserver::doctor::{Finding, Fix, Severity, apply};
use clap::Args;
use time::{OffsetDateTime, macros::format_description};

use super::{Failure, read};
use crate::{agent::puppet, doctor::examine};

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
            fix(&findings)?;
        }
        if findings.iter().any(|finding| finding.severity == Severity::Error) && !self.fix {
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
            out.push_str(&format!("\n{fixable} of these can be mended with: bunraku-agent doctor --fix\n"));
        }
        out
    }
}

fn fix(findings: &[Finding]) -> Result<(), Failure> {
    let fixes: Vec<Fix> = findings.iter().filter_map(|finding| finding.fix.clone()).collect();
    if fixes.is_empty() {
        println!("nothing that can be mended without a person");
        return Ok(());
    }
    let format = format_description!("[year][month][day]T[hour][minute][second]");
    let time = OffsetDateTime::now_utc().format(&format).map_err(|error| Failure::failed(&error))?;
    let (applied, refused) = apply(&fixes, &time).map_err(|error| Failure::failed(&error))?;
    for done in &applied {
        match &done.backup {
            Some(backup) => println!("\n{} (copy: {})", done.file.display(), backup.display()),
            None => println!("\n{} (new)", done.file.display()),
        }
        print!("{}", done.diff);
        println!("due: {}", done.due);
    }
    for not_done in &refused {
        println!(
            "\n{} was left alone: {}\nadd by hand:\n{}",
            not_done.file.display(),
            not_done.why,
            not_done.paste
        );
    }
    if refused.is_empty() { Ok(()) } else { Err(Failure::Silent) }
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
