//! The stream of a run as server-sent events.

use futures_util::stream;
use openapi::{ApiError, Call, Events, StreamRunQuery};
use poem::{Body, http::StatusCode};
use poem_openapi::types::ToJSON;
use serde_json::{Value, json};

use super::{errors, runs, service::ApiService};
use crate::{
    intent::{Happening, Position, RunStream},
    store::{
        run_stream::{Chunk, ChunkKind},
        status::RunStatus,
    },
};

pub(super) async fn get(
    service: &ApiService,
    call: &Call,
    id: &str,
    query: StreamRunQuery,
) -> Result<Events, ApiError> {
    let from = match &call.conditions.last_event_id {
        None => Position::default(),
        Some(text) => Position::parse(text).ok_or_else(|| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_last_event_id",
                "Last-Event-ID is none that this stream gave",
            )
        })?,
    };
    let stream = service
        .product
        .stream(id, from, query.follow.unwrap_or(true))
        .await
        .map_err(errors::of_product)?;
    let events = stream::try_unfold(stream, |mut stream: RunStream| async move {
        match stream.next().await {
            Ok(Some(happened)) => Ok(Some((text(&happened), stream))),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::warn!(%error, "a stream broke off");
                Err(std::io::Error::other("the stream broke off"))
            }
        }
    });
    Ok(Events(Body::from_bytes_stream(events)))
}

/// Events as the wire writes them; a comment when there are none.
fn text(happened: &[(Position, Happening)]) -> String {
    if happened.is_empty() {
        return ": still here\n\n".to_owned();
    }
    let event = |(position, happening): &(Position, Happening)| {
        let (name, data) = described(happening);
        // JSON has no line breaks of its own: one data line is enough.
        format!("id: {position}\nevent: {name}\ndata: {data}\n\n")
    };
    happened.iter().map(event).collect()
}

fn described(happening: &Happening) -> (&'static str, Value) {
    match happening {
        Happening::Status(header) => {
            let header = runs::header((**header).clone());
            let data = json!({
                "status": header.status.to_json(), "nextAction": header.next_action.to_json(), "lastStep": header.last_step,
                "error": header.error.to_json(), "updatedAt": header.updated_at,
            });
            ("status", data)
        }
        Happening::Step(step) => {
            let step = runs::step((**step).clone());
            ("step", step.to_json().unwrap_or_default())
        }
        Happening::Chunk(chunk) => (chunk.kind.as_str(), chunk_data(chunk)),
        Happening::Closed(status) => ("stream_closed", closed(*status)),
    }
}

fn chunk_data(chunk: &Chunk) -> Value {
    let mut data = json!({"seq": chunk.seq, "taskKey": chunk.task_key, "attempt": chunk.attempt, "at": chunk.created_at});
    let Some(fields) = data.as_object_mut() else {
        return data;
    };
    match (chunk.kind, std::str::from_utf8(&chunk.bytes)) {
        (ChunkKind::Task, Ok(text)) => {
            if let Ok(Value::Object(told)) = serde_json::from_str(text) {
                fields.extend(told);
            }
        }
        (_, Ok(text)) => {
            fields.insert("text".into(), text.into());
        }
        (_, Err(_)) => {
            use base64::Engine;
            let encoded = base64::engine::general_purpose::STANDARD.encode(&chunk.bytes);
            fields.insert("base64".into(), encoded.into());
        }
    }
    data
}

fn closed(status: RunStatus) -> Value {
    json!({"status": runs::status_on_wire(status.on_the_wire()).to_json()})
}
