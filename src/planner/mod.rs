//! Asks for plans and decisions. Pure: what was recorded comes in, the answer goes out; who stores it is the caller's affair.

mod inputs;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use inputs::{InputContent, InputError, InputFile, InputLimits, JobInputs};

use crate::{
    canonical::{canonical_json, sha256_hex},
    redact::hide_values,
};

/// Who plans the runs of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannerKind {
    /// The planner that the process is configured with.
    Configured,
    /// Nobody: the commands come from the intent.
    Static,
}

impl PlannerKind {
    /// Reads a recipe's column.
    pub fn of_recipe(text: &str) -> Self {
        if text == "static" {
            Self::Static
        } else {
            Self::Configured
        }
    }
}

/// Where a configured planner's answers come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlannerMode {
    /// From a recording if there is one, else computed from the intent.
    #[default]
    Replay,
}

impl std::str::FromStr for PlannerMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "replay" => Ok(Self::Replay),
            "record" | "live" => Err(format!(
                "`replay`; `{text}` needs an opencode server, which this version cannot talk to yet"
            )),
            _ => Err("`replay`".into()),
        }
    }
}

/// What is asked of a planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CallKind {
    /// How to go about it.
    Plan,
    /// What to change and what to run.
    Decide,
}

/// What a planner is told.
#[derive(Debug, Clone)]
pub struct PlanRequest {
    /// What somebody wants done.
    pub goal: String,
    /// With what.
    pub inputs: Map<String, Value>,
    /// Within which bounds.
    pub constraints: Map<String, Value>,
    /// The recipe.
    pub recipe_name: String,
    /// Its version.
    pub recipe_version: i32,
    /// Who answers.
    pub planner: PlannerKind,
}

/// How to go about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What is to be reached.
    pub goal: String,
    /// The way there.
    pub design: Vec<String>,
    /// Files that are read or written.
    pub files: Vec<String>,
    /// What may go wrong.
    pub risks: Vec<String>,
    /// What will be run to see that it works.
    pub tests: Vec<String>,
}

/// One change of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// The file.
    pub path: String,
    /// The change.
    pub diff: String,
}

/// What to change and what to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Changes.
    pub patch: Vec<Patch>,
    /// One task each.
    pub tests: Vec<String>,
    /// The command that each test is appended to.
    pub test_command: String,
}

impl Decision {
    /// The commands to run: one per test, or the bare command.
    pub fn commands(&self) -> Vec<String> {
        if self.tests.is_empty() {
            return vec![self.test_command.clone()];
        }
        self.tests
            .iter()
            .map(|test| format!("{} {test}", self.test_command))
            .collect()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlannerError {
    /// The intent does not say what a static recipe needs.
    #[error(transparent)]
    Inputs(#[from] InputError),
    /// Strict replay, and nobody has recorded this call.
    #[error("no recording of this call, and OC_STRICT_MODE=1 allows nothing else")]
    RecordingMissing,
    /// What was recorded is no answer to this call.
    #[error("the recording does not fit: {0}")]
    BadRecording(String),
}

impl PlannerError {
    /// The code that a run's error carries.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Inputs(_) => "inputs_invalid",
            Self::RecordingMissing => "recording_missing",
            Self::BadRecording(_) => "recording_invalid",
        }
    }
}

/// Answers one call as JSON text of a [`Plan`] or a [`Decision`], from the recording where a configured planner has one.
///
/// # Errors
/// [`PlannerError`].
pub fn answer(
    kind: CallKind,
    request: &PlanRequest,
    strict: bool,
    recorded: Option<&str>,
) -> Result<Value, PlannerError> {
    let bad = |error: serde_json::Error| PlannerError::BadRecording(error.to_string());
    match (request.planner, recorded) {
        (PlannerKind::Configured, Some(text)) => {
            match kind {
                CallKind::Plan => serde_json::from_str::<Plan>(text).map(|_| ()),
                CallKind::Decide => serde_json::from_str::<Decision>(text).map(|_| ()),
            }
            .map_err(bad)?;
            serde_json::from_str(text).map_err(bad)
        }
        (PlannerKind::Configured, None) if strict => Err(PlannerError::RecordingMissing),
        _ => computed(kind, request),
    }
}

/// The answer that follows from the intent alone.
fn computed(kind: CallKind, request: &PlanRequest) -> Result<Value, PlannerError> {
    let inputs = JobInputs::parse(&request.inputs)?;
    let test_command = match (&inputs.command, request.planner) {
        (Some(command), _) => command.clone(),
        (None, PlannerKind::Static) => {
            return Err(InputError::new("inputs.command", "is required by a static recipe").into());
        }
        (None, PlannerKind::Configured) => format!(
            "echo {}",
            quoted(request.goal.lines().next().unwrap_or_default())
        ),
    };
    Ok(match kind {
        CallKind::Plan => json!(Plan {
            goal: request.goal.clone(),
            design: vec![format!("run `{test_command}`")],
            files: inputs.files.into_iter().map(|file| file.path).collect(),
            risks: Vec::new(),
            tests: inputs.tests,
        }),
        CallKind::Decide => json!(Decision {
            patch: Vec::new(),
            tests: inputs.tests,
            test_command
        }),
    })
}

/// `text` as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What makes two calls the same call.
pub fn request_hash(kind: CallKind, request: &PlanRequest) -> String {
    sha256_hex(canonical_json(&whole_request(kind, request)).as_bytes())
}

/// A call as it is stored: without the values of variables, which may be secrets and are in the intent.
pub fn request_document(kind: CallKind, request: &PlanRequest) -> Value {
    let mut document = whole_request(kind, request);
    hide_values(&mut document, "/inputs/env");
    document
}

fn whole_request(kind: CallKind, request: &PlanRequest) -> Value {
    json!({
        "kind": kind, "goal": request.goal, "inputs": request.inputs, "constraints": request.constraints,
        "recipe": request.recipe_name, "recipeVersion": request.recipe_version,
    })
}

/// The key under which a run's call is kept: a step executed again finds its own answer.
pub fn op_key(run_id: &str, step_id: &str) -> String {
    format!("{run_id}/{step_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(planner: PlannerKind, inputs: Value) -> PlanRequest {
        let Value::Object(inputs) = inputs else {
            panic!("inputs are an object")
        };
        PlanRequest {
            goal: "it's done\nsecond line".into(),
            inputs,
            constraints: Map::new(),
            recipe_name: "r".into(),
            recipe_version: 1,
            planner,
        }
    }

    fn decide(planner: PlannerKind, inputs: Value) -> Result<Decision, PlannerError> {
        answer(CallKind::Decide, &request(planner, inputs), false, None)
            .map(|v| serde_json::from_value(v).unwrap())
    }

    #[test]
    fn without_a_command_the_goal_is_echoed() {
        let decision = decide(PlannerKind::Configured, json!({})).unwrap();
        assert_eq!(decision.commands(), [r"echo 'it'\''s done'"]);
    }

    #[test]
    fn each_test_is_a_command() {
        let decision = decide(
            PlannerKind::Configured,
            json!({"command": "run", "tests": ["a", "b"]}),
        )
        .unwrap();
        assert_eq!(decision.commands(), ["run a", "run b"]);
    }

    #[test]
    fn a_static_recipe_needs_a_command() {
        assert_eq!(
            decide(PlannerKind::Static, json!({})).unwrap_err().code(),
            "inputs_invalid"
        );
    }

    #[test]
    fn a_recording_answers_before_anything_is_computed() {
        let recorded = json!({"patch": [], "tests": [], "test_command": "recorded"}).to_string();
        let request = request(PlannerKind::Configured, json!({"command": "computed"}));
        let answered = answer(CallKind::Decide, &request, true, Some(&recorded)).unwrap();
        assert_eq!(answered["test_command"], "recorded");
        assert_eq!(
            answer(CallKind::Decide, &request, true, None).unwrap_err(),
            PlannerError::RecordingMissing
        );
        assert_eq!(
            answer(CallKind::Decide, &request, true, Some("{}"))
                .unwrap_err()
                .code(),
            "recording_invalid"
        );
    }

    #[test]
    fn modes_that_need_a_server_are_refused() {
        assert!(
            "live"
                .parse::<PlannerMode>()
                .unwrap_err()
                .contains("opencode")
        );
        assert_eq!("replay".parse(), Ok(PlannerMode::Replay));
    }
}
