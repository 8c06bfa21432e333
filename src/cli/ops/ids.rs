//! Owns the ids on standard input that a batch acts on.

use std::{
    collections::HashSet,
    io::{BufRead, IsTerminal},
};

use crate::cli::{CliError, note};

/// Most ids of one batch; more are several batches.
const MOST: usize = 1_000_000;

/// The ids of a batch, each once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) ids: Vec<String>,
    /// Lines that named an id again.
    pub(super) repeated: usize,
}

/// Reads ids, one a line; blank lines count for nothing, an id that comes again counts once.
pub(super) fn read(input: impl BufRead) -> Result<Ids, CliError> {
    let mut seen = HashSet::new();
    let mut read = Ids {
        ids: Vec::new(),
        repeated: 0,
    };
    for line in input.lines() {
        let line = line.map_err(|e| CliError::Usage(format!("cannot read ids: {e}")))?;
        let id = line.trim();
        if id.is_empty() {
            continue;
        }
        if !seen.insert(id.to_owned()) {
            read.repeated += 1;
            continue;
        }
        if read.ids.len() == MOST {
            return Err(CliError::Usage(format!(
                "more than {MOST} ids; split them into several batches"
            )));
        }
        read.ids.push(id.to_owned());
    }
    if read.ids.is_empty() {
        return Err(CliError::Usage(
            "no ids on standard input; give one workflow id a line, for example from `stepwell ops ls --ids`".into(),
        ));
    }
    Ok(read)
}

/// The ids on standard input. A person who types them is asked before anything is done to them.
pub(super) fn from_standard_input(what: &str, harmless: bool) -> Result<Ids, CliError> {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        note("workflow ids, one a line; Ctrl-D ends them");
    }
    let read = read(std::io::stdin().lock())?;
    if terminal && !harmless {
        note(&format!(
            "{what} {} workflows? Type yes to go on:",
            read.ids.len()
        ));
        let mut answer = String::new();
        let asked = std::io::stdin().lock().read_line(&mut answer);
        asked.map_err(|e| CliError::Usage(format!("cannot read an answer: {e}")))?;
        if !matches!(answer.trim(), "yes" | "y") {
            return Err(CliError::Usage("nothing was done".into()));
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_counts_once_and_blank_lines_for_nothing() {
        let read = read("a\n\n  b \r\na\n".as_bytes()).unwrap();
        assert_eq!(
            read,
            Ids {
                ids: vec!["a".into(), "b".into()],
                repeated: 1
            }
        );
    }

    #[test]
    fn no_ids_are_an_error() {
        for input in ["", "\n \n"] {
            assert!(matches!(read(input.as_bytes()), Err(CliError::Usage(_))));
        }
    }
}
