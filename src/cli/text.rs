//! Owns how times and words look to a person. Colours are for terminals only.

use std::{
    io::IsTerminal,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::config::is_coloured;

/// What a word is to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Good,
    Bad,
    Faint,
    Plain,
}

/// `text` in its colour, for standard output.
pub(super) fn paint(paint: Paint, text: &str) -> String {
    paint_for(&std::io::stdout(), paint, text)
}

/// `text` in its colour, when `out` takes colours.
pub(super) fn paint_for(out: &impl IsTerminal, paint: Paint, text: &str) -> String {
    let code = match paint {
        Paint::Good => "32",
        Paint::Bad => "31",
        Paint::Faint => "2",
        Paint::Plain => return text.to_owned(),
    };
    if is_coloured(out) {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// How long ago `at` was, epoch milliseconds.
pub(super) fn age(at: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    milliseconds((now - at).max(0))
}

/// A span of time, in the unit that suits it.
pub(super) fn milliseconds(ms: i64) -> String {
    match ms {
        ..=999 => format!("{ms} ms"),
        1_000..=59_999 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..=3_599_999 => format!("{} min", ms / 60_000),
        3_600_000..=86_399_999 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_the_unit_that_suits_it() {
        let told: Vec<String> = [5, 1_500, 120_000, 7_200_000, 172_800_000]
            .map(milliseconds)
            .into();
        assert_eq!(told, ["5 ms", "1.5 s", "2 min", "2 h", "2 d"]);
    }
}
