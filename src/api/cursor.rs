//! Owns cursors: the time and id of the last row of a page, in the form that the document's pattern describes.

use openapi::ApiError;
use poem::http::StatusCode;

/// A cursor as it travels: the time, a dot, the id in hexadecimal.
pub(super) fn encode((created_at, id): (i64, String)) -> String {
    format!("{created_at}.{}", crate::canonical::hex(id.as_bytes()))
}

/// The row that a cursor names. Every text of the pattern is taken: one that no page gave names no row, and the page begins where that row
/// would be.
pub(super) fn decode(cursor: Option<String>) -> Result<Option<(i64, String)>, ApiError> {
    let Some(cursor) = cursor else {
        return Ok(None);
    };
    let parsed = cursor
        .split_once('.')
        .and_then(|(time, id)| Some((time.parse().ok()?, unhex(id))));
    let refusal = || {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_cursor",
            "the cursor is none that a page gave",
        )
    };
    parsed.map(Some).ok_or_else(refusal)
}

fn unhex(text: &str) -> String {
    let bytes = (0..text.len()).step_by(2).map(|at| {
        text.get(at..at + 2)
            .and_then(|two| u8::from_str_radix(two, 16).ok())
    });
    let decoded = bytes
        .collect::<Option<Vec<u8>>>()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    decoded
        .filter(|id| !id.contains('\0'))
        .unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back() {
        let row = (1_795_459_070_834, "sched-ü/1".to_owned());
        assert_eq!(decode(Some(encode(row.clone()))).unwrap(), Some(row));
        assert_eq!(decode(None).unwrap(), None);
    }

    #[test]
    fn any_text_of_the_pattern_is_taken() {
        assert_eq!(
            decode(Some("5.zz_-".into())).unwrap(),
            Some((5, "zz_-".into()))
        );
        assert_eq!(decode(Some("5.".into())).unwrap(), Some((5, String::new())));
    }
}
