//! `stepwell doctor`: asks whether every invariant holds on a live database, and changes nothing.

use std::process::ExitCode;

use serde_json::json;

use super::{CliError, say, session::missing_file};
use crate::{
    config::Config,
    store::{
        Database,
        doctor::{Diagnosis, Finding, Settings, examine},
    },
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the findings as one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<ExitCode, CliError> {
    // A database that is not there is not made by looking at it.
    if let Some(path) = missing_file(config) {
        let message = format!("there is no database at {}", path.display());
        return Err(CliError::Unavailable(message));
    }
    let db = Database::connect(&config.database()).await?;
    let schema = migration::status(db.migration_connection()).await?;
    if !schema.is_current() {
        let message = "the schema of this database is not there, or older than this program; `stepwell migrate` brings it up to date";
        return Err(CliError::Failed(message.into()));
    }
    let settings = Settings {
        executor_expiry_ms: config.executor_expiry_ms,
        max_recovery_attempts: config.max_recovery_attempts,
    };
    let diagnosis = examine(&db, settings).await?;
    if arguments.json {
        say(&document(&db, &diagnosis).to_string());
    } else {
        tell(&db, &diagnosis);
    }
    Ok(ExitCode::from(u8::from(!diagnosis.findings.is_empty())))
}

fn document(db: &Database, diagnosis: &Diagnosis) -> serde_json::Value {
    let findings: Vec<_> = diagnosis
        .findings
        .iter()
        .map(|finding| {
            let cases: Vec<_> = finding
                .cases
                .iter()
                .map(|case| json!({"subject": case.subject, "detail": case.detail}))
                .collect();
            json!({
                "check": finding.check.name, "invariant": finding.check.invariant, "sentence": finding.check.sentence,
                "rows": finding.rows, "cases": cases, "sql": finding.sql,
            })
        })
        .collect();
    json!({
        "ok": findings.is_empty(), "database": db.display_url(), "checks": diagnosis.checks, "findings": findings,
    })
}

fn tell(db: &Database, diagnosis: &Diagnosis) {
    let found = match diagnosis.findings.len() {
        0 => "every invariant holds".to_owned(),
        1 => "1 finding".to_owned(),
        several => format!("{several} findings"),
    };
    say(&format!(
        "{}: {} checks, {found}",
        db.display_url(),
        diagnosis.checks
    ));
    for finding in &diagnosis.findings {
        tell_finding(finding);
    }
}

fn tell_finding(finding: &Finding) {
    let rows = match finding.rows {
        1 => "1 row".to_owned(),
        rows => format!("{rows} rows"),
    };
    say("");
    say(&format!(
        "{} (invariant {}): {rows}",
        finding.check.name, finding.check.invariant
    ));
    say(&format!("  {}", finding.check.sentence));
    for case in &finding.cases {
        let detail = case.detail.as_deref().unwrap_or("nothing more is known");
        say(&format!("  - {}: {detail}", case.subject));
    }
    let hidden = finding.rows - i64::try_from(finding.cases.len()).unwrap_or(0);
    if hidden > 0 {
        say(&format!("  - and {hidden} more"));
    }
    say(&format!("  {}", finding.sql));
}
