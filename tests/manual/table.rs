//! What is printed at the end: lab × database, and under it every block that was not run or failed, with the reason.

use std::fmt::Write;
use std::time::Duration;

use super::reader::{Outcome, Row};

/// What one database's reader brought home.
pub(crate) struct Column {
    pub(crate) database: &'static str,
    pub(crate) rows: Vec<Row>,
    /// What became of the gates, and of the closing.
    pub(crate) end: Result<String, String>,
}

impl Column {
    /// Did everything that was run hold?
    pub(crate) fn holds(&self) -> bool {
        self.end.is_ok() && self.rows.iter().all(|row| row.outcome.is_ok())
    }

    fn cell(&self, lab: &str) -> String {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.lab == lab).collect();
        let held = rows
            .iter()
            .filter(|row| matches!(row.outcome, Ok(Outcome::Held)))
            .count();
        let failed = rows.iter().any(|row| row.outcome.is_err());
        let took: Duration = rows.iter().map(|row| row.took).sum();
        let word = match held {
            _ if failed => "FAILED".to_owned(),
            0 => return "not run".to_owned(),
            _ if held < rows.len() => format!("ok, {held} of {} blocks", rows.len()),
            _ => "ok".to_owned(),
        };
        format!("{word} ({:.1} s)", took.as_secs_f32())
    }
}

/// The table of these databases.
pub(crate) fn table(extent: &str, columns: &[Column]) -> String {
    let mut text = format!("\nThe manual, {extent}:\n\nlab    ");
    let mut labs: Vec<&str> = Vec::new();
    for column in columns {
        let _ = write!(text, "{:<28}", column.database);
        for row in &column.rows {
            if !labs.contains(&row.lab.as_str()) {
                labs.push(&row.lab);
            }
        }
    }
    for lab in labs {
        let name = if lab.parse::<u8>().is_ok() {
            format!("§{lab}")
        } else {
            lab.to_owned()
        };
        let _ = write!(text, "\n{name:<7}");
        for column in columns {
            let _ = write!(text, "{:<28}", column.cell(lab));
        }
    }
    text.push('\n');
    for column in columns {
        for row in &column.rows {
            let (what, why) = match &row.outcome {
                Ok(Outcome::Held) => continue,
                Ok(Outcome::NotRun(why)) => ("not run", *why),
                Err(why) => ("FAILED", why.as_str()),
            };
            let _ = write!(
                text,
                "\n{}, {} block {}, {what}: {why}",
                column.database, row.lab, row.block
            );
        }
        match &column.end {
            Ok(notes) => notes.lines().for_each(|note| {
                let _ = write!(text, "\n{}, gate {note}", column.database);
            }),
            Err(why) => {
                let _ = write!(text, "\n{}, at the end, FAILED: {why}", column.database);
            }
        }
    }
    text + "\n"
}
