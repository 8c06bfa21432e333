//! Owns the questions of `stepwell doctor`: one per way in which an invariant of docs/reliability.md can be broken. Each returns the rows that
//! break it, so that none is the answer hoped for, and reads as a statement that an operator can run and change.

mod checks;

use sea_orm::FromQueryResult;

use super::{
    backend::{Database, statement},
    dialect::dialect,
    error::StoreError,
    status::{OPEN_RUN, UNFINISHED},
};

/// Rows that are shown of each finding; all are counted.
const SHOWN: u32 = 20;
/// How long the rounds of the reconciler, the projector and the tidying may take to mend what another client, or a crash, has left. What is
/// younger is no finding.
const SETTLED_MS: i64 = 60_000;

/// A question about an invariant.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, for programs.
    pub name: &'static str,
    /// The number of the invariant.
    pub invariant: u8,
    /// What must be true, and what it means if it is not.
    pub sentence: &'static str,
    /// Selects `subject` and `detail` of what breaks it; with the placeholders that [`Settings`] fills.
    sql: &'static str,
}

/// What the processes on this database are configured with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Milliseconds without a heartbeat after which a process is dead.
    pub executor_expiry_ms: i64,
    /// Claims without progress after which a workflow is given up.
    pub max_recovery_attempts: i64,
}

/// A row that breaks an invariant.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Case {
    /// The workflow, run, queue or whatever it is about.
    pub subject: String,
    /// What was found.
    pub detail: Option<String>,
    /// How many there are.
    total: i64,
}

/// An invariant that does not hold.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was asked.
    pub check: Check,
    /// How many rows break it.
    pub rows: i64,
    /// The first of them.
    pub cases: Vec<Case>,
    /// The statement that finds them.
    pub sql: String,
}

/// What an examination found.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// How many questions were asked.
    pub checks: usize,
    /// Those that have rows, in the order of the invariants.
    pub findings: Vec<Finding>,
}

/// Asks every question in one transaction that only reads, and sees one instant of the database.
pub async fn examine(db: &Database, settings: Settings) -> Result<Diagnosis, StoreError> {
    let tx = db.snapshot().await?;
    let now = dialect(&tx).now();
    let mut findings = Vec::new();
    for check in checks::ALL {
        let sql = check
            .sql
            .replace("{ours}", "s.application_name = 'stepwell'")
            .replace("{open}", UNFINISHED)
            .replace("{open_run}", OPEN_RUN)
            .replace(
                "{steps}",
                "('CompileST', 'ApplyPatchST', 'DecideST', 'ExecuteST')",
            )
            .replace("{settled}", &format!("{now} - {SETTLED_MS}"))
            .replace(
                "{dead}",
                &format!("{now} - {}", SETTLED_MS + settings.executor_expiry_ms),
            )
            .replace("{attempts}", &settings.max_recovery_attempts.to_string());
        let text = format!(
            "SELECT CAST(q.subject AS text) AS subject, CAST(q.detail AS text) AS detail, count(*) OVER () AS total FROM ({sql}) AS q \
             ORDER BY 1 LIMIT {SHOWN}"
        );
        let cases: Vec<Case> =
            sea_orm::ConnectionTrait::query_all_raw(&tx, statement(&tx, text, []))
                .await
                .map_err(|error| explained(check, &StoreError::from(error)))?
                .iter()
                .map(|row| Case::from_query_result(row, ""))
                .collect::<Result<_, _>>()?;
        if let Some(first) = cases.first() {
            findings.push(Finding {
                check: *check,
                rows: first.total,
                cases,
                sql,
            });
        }
    }
    tx.rollback().await?;
    Ok(Diagnosis {
        checks: checks::ALL.len(),
        findings,
    })
}

/// The same error, with the question that could not be asked.
fn explained(check: &Check, error: &StoreError) -> StoreError {
    match error {
        StoreError::Connection(message) => StoreError::Connection(message.clone()),
        other => StoreError::Database(format!("the check {} cannot be made: {other}", check.name)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_and_an_invariant() {
        let names: BTreeSet<&str> = checks::ALL.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), checks::ALL.len());
        assert!(
            checks::ALL
                .iter()
                .all(|check| (1..=12).contains(&check.invariant))
        );
        assert!(checks::ALL.is_sorted_by_key(|check| check.invariant));
    }
}
