//! Owns the inputs of an ordinary job: what of an intent's `inputs` the planner and the tasks understand. Other keys are free.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

/// Most tests of one run; the recipe's cap is usually lower.
const MOST_TESTS: usize = 1_000;
/// Most files handed in.
const MOST_FILES: usize = 1_000;
/// Most paths and globs of files to be taken out.
const MOST_OUT: usize = 1_000;
/// Fewest open files that a shell and what it starts can do with.
const FEWEST_OPEN_FILES: u64 = 32;

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

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputContent {
    /// Text, as it stands in the intent.
    Inline(String),
    /// Bytes, of a `data:` URI.
    Data(Vec<u8>),
    /// The id of an artifact, `artifact://…`.
    Artifact(String),
}

/// A file that the task finds in its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Relative to the directory.
    pub path: String,
    /// Its content.
    pub content: InputContent,
}

/// What a task may use; what is not said has a default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InputLimits {
    /// Processors.
    pub cpu: Option<f64>,
    /// Megabytes of memory.
    pub mem_mb: Option<u64>,
    /// Seconds of processor time.
    pub cpu_seconds: Option<u64>,
    /// Megabytes of each file.
    pub file_mb: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Processes at once.
    pub processes: Option<u64>,
    /// Megabytes of the directory.
    pub disk_mb: Option<u64>,
    /// Files and directories in it.
    pub entries: Option<u64>,
}

/// The inputs of an ordinary job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobInputs {
    /// The command.
    pub command: Option<String>,
    /// One task each.
    pub tests: Vec<String>,
    /// Files for every task.
    pub files: Vec<InputFile>,
    /// Paths and globs of the files that are taken out of every task.
    pub out: Vec<String>,
    /// Environment for every task.
    pub env: BTreeMap<String, String>,
    /// The directory that every task starts in, below its own.
    pub workdir: Option<String>,
    /// Milliseconds that a task may take.
    pub timeout_ms: Option<u64>,
    /// Whether tasks may use the network.
    pub net: Option<bool>,
    /// What every task may use.
    pub limits: InputLimits,
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
        if let Some(value) = present("out") {
            for (n, pattern) in array(value, "inputs.out", MOST_OUT)?.iter().enumerate() {
                job.out
                    .push(pattern_of(pattern, &format!("inputs.out[{n}]"))?);
            }
        }
        if let Some(value) = present("workdir") {
            job.workdir = Some(relative_path(value, "inputs.workdir")?);
        }
        if let Some(value) = present("net") {
            let net = value.as_bool();
            job.net =
                Some(net.ok_or_else(|| InputError::new("inputs.net", "must be true or false"))?);
        }
        if let Some(value) = present("limits") {
            job.limits = limits(value)?;
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

/// An object that has no other keys than `known`.
fn object<'a>(
    value: &'a Value,
    field: &str,
    known: &[&str],
    accepted: &str,
) -> Result<&'a Map<String, Value>, InputError> {
    let map = value
        .as_object()
        .ok_or_else(|| InputError::new(field, format!("must be an object: {accepted}")))?;
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(InputError::new(
            format!("{field}.{key}"),
            format!("is not known; accepted: {accepted}"),
        )),
        None => Ok(map),
    }
}

fn input_file(value: &Value, field: &str) -> Result<InputFile, InputError> {
    let accepted = "path, and one of inline and uri";
    let map = object(value, field, &["path", "inline", "uri"], accepted)?;
    let path = map
        .get("path")
        .ok_or_else(|| InputError::new(format!("{field}.path"), "is required"))?;
    let path = relative_path(path, &format!("{field}.path"))?;
    let content = match (map.get("inline"), map.get("uri")) {
        (Some(inline), None) => InputContent::Inline(string(inline, &format!("{field}.inline"))?),
        (None, Some(uri)) => of_uri(uri, &format!("{field}.uri"))?,
        (None, None) => {
            return Err(InputError::new(
                format!("{field}.inline"),
                "is required, or uri instead of it",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(InputError::new(
                format!("{field}.uri"),
                "must not be there beside inline",
            ));
        }
    };
    Ok(InputFile { path, content })
}

fn of_uri(value: &Value, field: &str) -> Result<InputContent, InputError> {
    let uri = text(value, field)?;
    if uri.starts_with("artifact://") {
        return Ok(InputContent::Artifact(uri));
    }
    let encoded = uri
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','))
        .and_then(|(kind, encoded)| kind.ends_with(";base64").then_some(encoded));
    let encoded =
        encoded.ok_or_else(|| InputError::new(field, "must be artifact://… or data:…;base64,…"))?;
    BASE64_STANDARD
        .decode(encoded)
        .map(InputContent::Data)
        .map_err(|e| InputError::new(field, format!("holds no base64: {e}")))
}

fn relative_path(value: &Value, field: &str) -> Result<String, InputError> {
    let path = text(value, field)?;
    if is_relative(&path) {
        return Ok(path);
    }
    Err(InputError::new(
        field,
        "must be a relative path without . or ..",
    ))
}

fn pattern_of(value: &Value, field: &str) -> Result<String, InputError> {
    let pattern = text(value, field)?;
    if !is_relative(&pattern) {
        return Err(InputError::new(
            field,
            "must be a relative path or glob without . or ..",
        ));
    }
    match globset::Glob::new(&pattern) {
        Ok(_) => Ok(pattern),
        Err(error) => Err(InputError::new(field, format!("is no glob: {error}"))),
    }
}

fn is_relative(path: &str) -> bool {
    !path.split('/').any(|part| matches!(part, "" | "." | ".."))
}

fn limits(value: &Value) -> Result<InputLimits, InputError> {
    let known = [
        "cpu",
        "memMB",
        "cpuSeconds",
        "fileMB",
        "openFiles",
        "processes",
        "diskMB",
        "entries",
    ];
    let map = object(value, "inputs.limits", &known, &known.join(", "))?;
    let number = |key: &str, least: u64| {
        let Some(value) = map.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let number = value.as_u64().filter(|number| *number >= least);
        number.map(Some).ok_or_else(|| {
            InputError::new(
                format!("inputs.limits.{key}"),
                format!("must be a whole number from {least}"),
            )
        })
    };
    let cpu = match map.get("cpu").filter(|value| !value.is_null()) {
        None => None,
        Some(value) => {
            let cpu = value.as_f64().filter(|cpu| *cpu > 0.0);
            Some(cpu.ok_or_else(|| {
                InputError::new(
                    "inputs.limits.cpu",
                    "must be a number of processors above 0",
                )
            })?)
        }
    };
    Ok(InputLimits {
        cpu,
        mem_mb: number("memMB", 1)?,
        cpu_seconds: number("cpuSeconds", 1)?,
        file_mb: number("fileMB", 1)?,
        open_files: number("openFiles", FEWEST_OPEN_FILES)?,
        processes: number("processes", 1)?,
        disk_mb: number("diskMB", 1)?,
        entries: number("entries", 1)?,
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
    fn files_come_as_text_as_bytes_and_from_artifacts() {
        let job = parse(json!({"files": [
            {"path": "a", "inline": "x"},
            {"path": "b", "uri": "data:application/octet-stream;base64,AP8="},
            {"path": "c", "uri": "artifact://run/r/step/s/task/t/stdout"}
        ]}))
        .unwrap();
        let contents: Vec<InputContent> = job.files.into_iter().map(|file| file.content).collect();
        assert_eq!(
            contents,
            [
                InputContent::Inline("x".into()),
                InputContent::Data(vec![0, 255]),
                InputContent::Artifact("artifact://run/r/step/s/task/t/stdout".into()),
            ]
        );
    }

    #[test]
    fn what_a_task_may_do_is_read() {
        let job = parse(json!({
            "out": ["a.txt", "dist/**"], "workdir": "src", "net": false,
            "limits": {"cpu": 0.5, "memMB": 64, "processes": 8, "fileMB": null}
        }))
        .unwrap();
        assert_eq!(
            (job.out.len(), job.workdir.as_deref(), job.net),
            (2, Some("src"), Some(false))
        );
        let limits = InputLimits {
            cpu: Some(0.5),
            mem_mb: Some(64),
            processes: Some(8),
            ..InputLimits::default()
        };
        assert_eq!(job.limits, limits);
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
                json!({"files": [{"path": "x", "inline": "", "uri": "artifact://a"}]}),
                "inputs.files[0].uri",
            ),
            (
                json!({"files": [{"path": "x", "uri": "https://x"}]}),
                "inputs.files[0].uri",
            ),
            (
                json!({"files": [{"path": "x", "uri": "data:;base64,*"}]}),
                "inputs.files[0].uri",
            ),
            (json!({"out": "a"}), "inputs.out"),
            (json!({"out": ["a", "../b"]}), "inputs.out[1]"),
            (json!({"out": ["/a"]}), "inputs.out[0]"),
            (json!({"out": ["a["]}), "inputs.out[0]"),
            (json!({"workdir": ".."}), "inputs.workdir"),
            (json!({"net": "no"}), "inputs.net"),
            (json!({"limits": 1}), "inputs.limits"),
            (json!({"limits": {"memory": 1}}), "inputs.limits.memory"),
            (json!({"limits": {"memMB": 0}}), "inputs.limits.memMB"),
            (json!({"limits": {"cpu": 0}}), "inputs.limits.cpu"),
            (
                json!({"limits": {"openFiles": 3}}),
                "inputs.limits.openFiles",
            ),
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
