//! Owns the reading of a run's stream: each event once and in order, however often the connection breaks.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::Value;

use super::{
    CliError,
    api::{Answer, Api, encoded},
};

/// The pause before a broken stream is opened again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often it is opened again without an event in between.
const TRIES: u32 = 60;

/// Something that a run's stream told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// `status`, `step`, `task`, `stdout`, `stderr` or `stream_closed`.
    pub(super) name: String,
    /// What it says.
    pub(super) data: Value,
}

impl Event {
    /// The bytes of a chunk of output.
    pub(super) fn bytes(&self) -> Vec<u8> {
        use base64::Engine;
        match (self.data["text"].as_str(), self.data["base64"].as_str()) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(encoded)) => base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }
}

/// What is said of a task whose execution begins once more.
pub(super) const RUNS_AGAIN: &str = "the process that executed the command is gone; it runs again";

/// The executions of a run's tasks that have begun, by task and attempt.
#[derive(Debug, Default)]
pub(super) struct Begun(HashSet<(String, Option<i64>)>);

impl Begun {
    /// Whether `event` says that an execution begins that had begun before.
    pub(super) fn is_again(&mut self, event: &Event) -> bool {
        if event.name != "task" || event.data["state"] != "began" {
            return false;
        }
        let execution = (
            event.data["taskKey"].to_string(),
            event.data["attempt"].as_i64(),
        );
        !self.0.insert(execution)
    }
}

/// A reader of one run's stream.
pub(super) struct Follower<'a> {
    api: &'a Api,
    path: String,
    follow: bool,
    open: Option<Answer>,
    parser: Parser,
    ready: VecDeque<Event>,
    failures: u32,
    ended: bool,
}

impl<'a> Follower<'a> {
    /// Reads from the beginning; without `follow` only what has happened already.
    pub(super) fn new(api: &'a Api, run: &str, follow: bool) -> Self {
        Self {
            api,
            path: format!("/api/runs/{}/stream?follow={follow}", encoded(run)),
            follow,
            open: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            failures: 0,
            ended: false,
        }
    }

    /// The next event; none at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, CliError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.failures = 0;
                self.ended |= event.name == "stream_closed";
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(answer) = &mut self.open else {
                self.reopen().await?;
                continue;
            };
            match answer.body.next().await {
                Some(Ok(bytes)) => self.ready.extend(self.parser.push(&bytes)),
                // Without `follow` the end of the body is the end of what there is.
                None if !self.follow => self.ended = true,
                None | Some(Err(_)) => self.open = None,
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), CliError> {
        if self.failures > 0 {
            tokio::time::sleep(AGAIN).await;
        }
        self.failures += 1;
        let last = self.parser.last_id.clone();
        let headers: Vec<(&'static str, &str)> = last
            .iter()
            .map(|id| ("last-event-id", id.as_str()))
            .collect();
        // What was read of an event that broke off comes again as a whole.
        self.parser.forget_the_broken();
        match self.api.open(&self.path, &headers).await {
            Ok(answer) => self.open = Some(answer),
            // The first time the caller wants to know; later it may be a restart.
            Err(
                error @ (CliError::Unavailable(_)
                | CliError::Refused {
                    status: 429 | 503, ..
                }),
            ) => {
                if last.is_none() || self.failures > TRIES {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Reads server-sent events out of pieces of bytes.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
    id: Option<String>,
    last_id: Option<String>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                events.extend(self.take(&String::from_utf8_lossy(&line)));
            } else {
                self.line.push(*byte);
            }
        }
        events
    }

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            return self.dispatch();
        }
        // A line without a name before the colon is a comment.
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push_str(value),
            "id" => self.id = Some(value.to_owned()),
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        if let Some(id) = self.id.take() {
            self.last_id = Some(id);
        }
        let (name, data) = (
            std::mem::take(&mut self.name),
            std::mem::take(&mut self.data),
        );
        let data = serde_json::from_str(&data).ok()?;
        Some(Event { name, data })
    }

    fn forget_the_broken(&mut self) {
        *self = Self {
            last_id: self.last_id.take(),
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_read_from_any_pieces() {
        let text = ": still here\n\nid: 1.0.\nevent: stdout\ndata: {\"text\":\"a\\nb\"}\n\nid: 2.0.\nevent: status\ndata: {}\n\n";
        for length in [1, 3, 1_000] {
            let mut parser = Parser::default();
            let events: Vec<Event> = text
                .as_bytes()
                .chunks(length)
                .flat_map(|piece| parser.push(piece))
                .collect();
            assert_eq!(events.len(), 2);
            assert_eq!(events[0].bytes(), b"a\nb");
            assert_eq!(
                (events[1].name.as_str(), &events[1].data),
                ("status", &json!({}))
            );
            assert_eq!(parser.last_id.as_deref(), Some("2.0."));
        }
    }

    #[test]
    fn an_attempt_that_begins_twice_runs_again() {
        let mut begun = Begun::default();
        let again: Vec<bool> = [
            ("a", 1, "began"),
            ("b", 1, "began"),
            ("a", 1, "ended"),
            ("a", 2, "began"),
            ("a", 1, "began"),
        ]
        .into_iter()
        .map(|(task, attempt, state)| {
            begun.is_again(&Event {
                name: "task".into(),
                data: json!({"taskKey": task, "attempt": attempt, "state": state}),
            })
        })
        .collect();
        assert_eq!(again, [false, false, false, false, true]);
    }

    #[test]
    fn what_broke_off_does_not_count() {
        let mut parser = Parser::default();
        assert!(
            parser
                .push(b"id: 1\nevent: stdout\ndata: {}\n\nid: 2\nevent: std")
                .len()
                == 1
        );
        parser.forget_the_broken();
        assert_eq!(parser.last_id.as_deref(), Some("1"));
        assert_eq!(parser.push(b"id: 2\nevent: stdout\ndata: {}\n\n").len(), 1);
    }
}
