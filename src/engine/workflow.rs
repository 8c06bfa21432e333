//! Owns what a workflow is: a named async function, and the registry that finds it by name.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::{
    context::Context,
    error::{EngineError, WorkflowError},
};

/// A durable function. It runs from the top each time it is claimed, and each operation of its [`Context`] that is recorded answers from
/// the record: so everything that can differ between two runs (time, randomness, input and output) goes through the context.
pub trait Workflow: Send + Sync + 'static {
    /// The name it is stored under; `stepwell.` is our prefix. A name that runs anywhere is never given to another function.
    const NAME: &'static str;
    /// What it is started with.
    type Input: Serialize + DeserializeOwned + Send;
    /// What it ends with.
    type Output: Serialize + DeserializeOwned + Send;

    /// Runs it. Once this has returned and the completion is committed, the workflow never runs again.
    fn run(
        &self,
        ctx: &Context,
        input: Self::Input,
    ) -> impl Future<Output = Result<Self::Output, WorkflowError>> + Send;
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<String, WorkflowError>> + Send + 'a>>;

/// A workflow whose types are forgotten.
pub(super) trait AnyWorkflow: Send + Sync {
    /// Runs it on stored inputs; the output is JSON text.
    fn run<'a>(&'a self, ctx: &'a Context, inputs: Option<&str>) -> Running<'a>;
}

struct Erased<W>(W);

impl<W: Workflow> AnyWorkflow for Erased<W> {
    fn run<'a>(&'a self, ctx: &'a Context, inputs: Option<&str>) -> Running<'a> {
        let input = decode_input::<W::Input>(inputs);
        Box::pin(async move {
            let output = self.0.run(ctx, input?).await?;
            serde_json::to_string(&output).map_err(|e| {
                WorkflowError::new("output_encoding", format!("output is not JSON: {e}"))
            })
        })
    }
}

/// The input as DBOS's portable JSON writes arguments.
pub(super) fn encode_input(input: &impl Serialize) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Arguments<'a, I> {
        positional_args: [&'a I; 1],
        named_args: HashMap<(), ()>,
    }
    serde_json::to_string(&Arguments {
        positional_args: [input],
        named_args: HashMap::new(),
    })
}

fn decode_input<I: DeserializeOwned>(inputs: Option<&str>) -> Result<I, WorkflowError> {
    let refused = |e: serde_json::Error| {
        WorkflowError::new(
            "input_decoding",
            format!("input does not fit this workflow: {e}"),
        )
    };
    let mut arguments: Json = serde_json::from_str(inputs.unwrap_or("null")).map_err(refused)?;
    let first = arguments
        .pointer_mut("/positionalArgs/0")
        .map_or(Json::Null, Json::take);
    serde_json::from_value(first).map_err(refused)
}

/// The workflows that this process can run, by name.
#[derive(Default, Clone)]
pub(super) struct Registry(HashMap<&'static str, Arc<dyn AnyWorkflow>>);

impl Registry {
    pub(super) fn add<W: Workflow>(&mut self, workflow: W) -> Result<(), EngineError> {
        match self.0.insert(W::NAME, Arc::new(Erased(workflow))) {
            None => Ok(()),
            Some(_) => Err(EngineError::RegisteredTwice(W::NAME)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<dyn AnyWorkflow>> {
        self.0.get(name).cloned()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| (*name).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_portable_arguments() {
        assert_eq!(
            encode_input(&"a").unwrap(),
            r#"{"positionalArgs":["a"],"namedArgs":{}}"#
        );
        assert_eq!(
            decode_input::<String>(Some(r#"{"positionalArgs":["a"],"namedArgs":{}}"#)).unwrap(),
            "a"
        );
        assert_eq!(
            decode_input::<String>(Some("[1]")).unwrap_err().code(),
            "input_decoding"
        );
        decode_input::<()>(None).unwrap();
    }
}
