//! The operations on artifacts, and what a conditional or partial request gets.

use std::ops::Range;

use futures_util::TryStreamExt;
use openapi::{ApiError, Call, Conditions, Content};
use poem::{
    Body,
    http::{HeaderValue, StatusCode},
    web::headers::{ETag, Header, IfNoneMatch, IfRange, Range as RangeHeader},
};

use super::{errors, service::ApiService};

pub(super) async fn get(service: &ApiService, call: &Call, id: &str) -> Result<Content, ApiError> {
    let content = service
        .product
        .artifact(id)
        .await
        .map_err(errors::of_product)?;
    let (mime, sha256, size) = (content.mime.clone(), content.sha256.clone(), content.size);
    let (status, range, part) = match wanted(&call.conditions, &sha256, size) {
        Wanted::Nothing => (StatusCode::NOT_MODIFIED, 0..0, None),
        Wanted::Whole => (StatusCode::OK, 0..size, None),
        Wanted::Part(range) => {
            let part = (range.start, range.end - 1, size);
            (StatusCode::PARTIAL_CONTENT, range, Some(part))
        }
        Wanted::BehindTheEnd => {
            let message = format!("the content has {size} bytes, and the range lies behind them");
            return Err(ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                message,
            ));
        }
    };
    let length = range.end - range.start;
    let pieces = content
        .read(range)
        .inspect_err(|error| tracing::warn!(%error, "a content broke off"))
        .map_err(std::io::Error::other);
    Ok(Content {
        status,
        body: Body::from_bytes_stream(pieces),
        length,
        mime,
        sha256,
        part,
    })
}

/// What a request gets of a content.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// The caller has it.
    Nothing,
    /// All of it.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Bytes that it does not have.
    BehindTheEnd,
}

/// What a request with `conditions` gets of a content of `size` bytes. A header that is not understood is as if it were not there; so is a list of
/// several ranges.
fn wanted(conditions: &Conditions, sha256: &str, size: u64) -> Wanted {
    let Ok(etag) = format!("\"{sha256}\"").parse::<ETag>() else {
        return Wanted::Whole;
    };
    let if_none_match = parsed::<IfNoneMatch>(conditions.if_none_match.as_deref());
    if if_none_match.is_some_and(|header| !header.precondition_passes(&etag)) {
        return Wanted::Nothing;
    }
    let changed = match &conditions.if_range {
        None => false,
        Some(text) => {
            parsed::<IfRange>(Some(text)).is_none_or(|header| header.is_modified(Some(&etag), None))
        }
    };
    let Some(range) = parsed::<RangeHeader>(conditions.range.as_deref()).filter(|_| !changed)
    else {
        return Wanted::Whole;
    };
    let ranges: Vec<_> = range.satisfiable_ranges(size).collect();
    match ranges.as_slice() {
        [] => Wanted::BehindTheEnd,
        [bounds] => part(*bounds, size),
        _ => Wanted::Whole,
    }
}

fn part((start, end): (std::ops::Bound<u64>, std::ops::Bound<u64>), size: u64) -> Wanted {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let start = match start {
        Included(at) => at,
        Excluded(at) => at + 1,
        Unbounded => 0,
    };
    let end = match end {
        Included(at) => at.saturating_add(1),
        Excluded(at) => at,
        Unbounded => size,
    };
    let end = end.min(size);
    match (start < size, start < end) {
        (false, _) => Wanted::BehindTheEnd,
        (true, true) => Wanted::Part(start..end),
        // A range that ends before it begins says nothing.
        (true, false) => Wanted::Whole,
    }
}

fn parsed<H: Header>(text: Option<&str>) -> Option<H> {
    let value = HeaderValue::from_str(text?).ok()?;
    H::decode(&mut std::iter::once(&value)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "abc";

    fn range(text: &str) -> Conditions {
        Conditions {
            range: Some(text.into()),
            ..Conditions::default()
        }
    }

    #[test]
    fn one_range_of_bytes_is_served() {
        for (text, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-4", Wanted::Part(2..5)),
            ("bytes=7-", Wanted::Part(7..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=5-99", Wanted::Part(5..10)),
            ("bytes=10-", Wanted::BehindTheEnd),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes=4-2", Wanted::Whole),
        ] {
            assert_eq!(wanted(&range(text), HASH, 10), expected, "{text}");
        }
    }

    #[test]
    fn who_has_it_gets_nothing_and_who_has_another_gets_all() {
        let none_match = |text: &str| Conditions {
            if_none_match: Some(text.into()),
            ..Conditions::default()
        };
        assert_eq!(wanted(&none_match("\"abc\""), HASH, 10), Wanted::Nothing);
        assert_eq!(
            wanted(&none_match("\"x\", \"abc\""), HASH, 10),
            Wanted::Nothing
        );
        assert_eq!(wanted(&none_match("*"), HASH, 10), Wanted::Nothing);
        assert_eq!(wanted(&none_match("\"x\""), HASH, 10), Wanted::Whole);
        let if_range = |text: &str| Conditions {
            if_range: Some(text.into()),
            ..range("bytes=0-1")
        };
        assert_eq!(wanted(&if_range("\"abc\""), HASH, 10), Wanted::Part(0..2));
        assert_eq!(wanted(&if_range("\"x\""), HASH, 10), Wanted::Whole);
    }
}
