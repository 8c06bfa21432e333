//! Owns the inputs of an ordinary job: what of an intent's `inputs` the planner and the tasks understand. Other keys are free.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Most tests of one run; the recipe's cap is usually lower.
const MOST_TESTS: usize = 1_000;
/// Most files handed in.
const MOST_FILES: usize = 1_000;

/// What is wrong with the inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InputError {
    /// Where, as a path.
    pub field: String,
    /// What, and what is accepted.
    pub problem: String,
}

impl InputError {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

/// A file that the task finds in its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Relative to the directory.
    pub path: String,
    /// Its content.
    pub inline: String,
}

/// The inputs of an ordinary job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobInputs {
    /// The command.
    pub command: Option<String>,
    /// One task each.
    pub tests: Vec<String>,
    /// Files for every task.
    pub files: Vec<InputFile>,
    /// Environment for every task.
    pub env: BTreeMap<String, String>,
    /// Milliseconds that a task may take.
    pub timeout_ms: Option<u64>,
}

impl JobInputs {
    /// Reads an intent's `inputs`.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn parse(inputs: &Map<String, Value>) -> Result<Self, InputError> {
        let present = |key: &str| inputs.get(key).filter(|value| !value.is_null());
        let mut job = Self::default();
        if let Some(value) = present("command") {
            job.command = Some(text(value, "inputs.command")?);
        }
        if let Some(value) = present("tests") {
            for (n, test) in array(value, "inputs.tests", MOST_TESTS)?.iter().enumerate() {
                job.tests.push(text(test, &format!("inputs.tests[{n}]"))?);
            }
        }
        if let Some(value) = present("files") {
            for (n, file) in array(value, "inputs.files", MOST_FILES)?.iter().enumerate() {
                job.files
                    .push(input_file(file, &format!("inputs.files[{n}]"))?);
            }
        }
        if let Some(value) = present("env") {
            let map = value
                .as_object()
                .ok_or_else(|| InputError::new("inputs.env", "must be an object of strings"))?;
            for (name, value) in map {
                job.env.insert(
                    variable(name)?,
                    string(value, &format!("inputs.env.{name}"))?,
                );
            }
        }
        if let Some(value) = present("timeoutMs") {
            let positive = value.as_u64().filter(|ms| *ms > 0);
            job.timeout_ms = Some(positive.ok_or_else(|| {
                InputError::new(
                    "inputs.timeoutMs",
                    "must be a positive number of milliseconds",
                )
            })?);
        }
        Ok(job)
    }
}

fn array<'a>(value: &'a Value, field: &str, most: usize) -> Result<&'a Vec<Value>, InputError> {
    let items = value
        .as_array()
        .ok_or_else(|| InputError::new(field, "must be an array"))?;
    if items.len() > most {
        return Err(InputError::new(
            field,
            format!("has {} items, at most {most} are accepted", items.len()),
        ));
    }
    Ok(items)
}

fn string(value: &Value, field: &str) -> Result<String, InputError> {
    let text = value
        .as_str()
        .ok_or_else(|| InputError::new(field, "must be a string"))?;
    if text.contains('\0') {
        return Err(InputError::new(field, "must not contain NUL"));
    }
    Ok(text.to_owned())
}

fn text(value: &Value, field: &str) -> Result<String, InputError> {
    let text = string(value, field)?;
    if text.trim().is_empty() {
        return Err(InputError::new(field, "must not be blank"));
    }
    Ok(text)
}

fn variable(name: &str) -> Result<String, InputError> {
    let mut characters = name.chars();
    let starts = characters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if starts && characters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(name.to_owned());
    }
    Err(InputError::new(
        "inputs.env",
        format!("has a name that is no variable: {name:?}"),
    ))
}

fn input_file(value: &Value, field: &str) -> Result<InputFile, InputError> {
    let map = value
        .as_object()
        .ok_or_else(|| InputError::new(field, "must be an object {path, inline}"))?;
    if let Some(key) = map
        .keys()
        .find(|key| !matches!(key.as_str(), "path" | "inline"))
    {
        return Err(InputError::new(
            format!("{field}.{key}"),
            "is not known; a file has path and inline",
        ));
    }
    let part = |key: &str| {
        map.get(key)
            .ok_or_else(|| InputError::new(format!("{field}.{key}"), "is required"))
    };
    let path = text(part("path")?, &format!("{field}.path"))?;
    if path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(InputError::new(
            format!("{field}.path"),
            "must be a relative path without . or ..",
        ));
    }
    Ok(InputFile {
        path,
        inline: string(part("inline")?, &format!("{field}.inline"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(inputs: Value) -> Result<JobInputs, InputError> {
        let Value::Object(map) = inputs else {
            panic!("inputs are an object")
        };
        JobInputs::parse(&map)
    }

    #[test]
    fn the_inputs_of_a_job_are_read() {
        let job = parse(json!({"command": "wc", "tests": ["a"], "files": [{"path": "d/f", "inline": "x"}], "env": {"A_1": "b"}, "timeoutMs": 5, "mine": 1})).unwrap();
        assert_eq!(
            (
                job.command.as_deref(),
                job.tests.len(),
                job.files.len(),
                job.timeout_ms
            ),
            (Some("wc"), 1, 1, Some(5))
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (inputs, field) in [
            (json!({"command": " "}), "inputs.command"),
            (json!({"command": 1}), "inputs.command"),
            (json!({"command": "a\u{0}b"}), "inputs.command"),
            (json!({"tests": "a"}), "inputs.tests"),
            (json!({"tests": ["a", ""]}), "inputs.tests[1]"),
            (
                json!({"files": [{"path": "../x", "inline": ""}]}),
                "inputs.files[0].path",
            ),
            (
                json!({"files": [{"path": "/x", "inline": ""}]}),
                "inputs.files[0].path",
            ),
            (json!({"files": [{"path": "x"}]}), "inputs.files[0].inline"),
            (
                json!({"files": [{"path": "x", "inline": "", "mode": 1}]}),
                "inputs.files[0].mode",
            ),
            (json!({"env": {"1A": "b"}}), "inputs.env"),
            (json!({"env": {"A": 1}}), "inputs.env.A"),
            (json!({"timeoutMs": 0}), "inputs.timeoutMs"),
        ] {
            assert_eq!(parse(inputs).unwrap_err().field, field);
        }
    }
}
