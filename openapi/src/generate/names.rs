//! Owns how names of the document become names of Rust.

/// `workflowID` as `workflow_id`.
pub(super) fn snake(name: &str) -> String {
    let mut text = String::new();
    let mut previous_lower = false;
    for c in name.chars() {
        match c {
            '-' => text.push('_'),
            c if c.is_ascii_uppercase() => {
                if previous_lower {
                    text.push('_');
                }
                text.push(c.to_ascii_lowercase());
            }
            c => text.push(c),
        }
        previous_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    if text == "type" { "kind".into() } else { text }
}

/// `listRuns` or `MAX_ATTEMPTS` as `ListRuns` or `MaxAttempts`.
pub(super) fn pascal(name: &str) -> String {
    let shouting = name.chars().all(|c| !c.is_ascii_lowercase());
    let mut text = String::new();
    let mut upper = true;
    for c in name.chars() {
        match c {
            '_' | '-' => upper = true,
            c if upper => {
                text.push(c.to_ascii_uppercase());
                upper = false;
            }
            c if shouting => text.push(c.to_ascii_lowercase()),
            c => text.push(c),
        }
    }
    text
}

/// A doc comment.
pub(super) fn doc(text: &str) -> String {
    format!("/// {}\n", text.trim().replace('\n', "\n/// "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_rust() {
        assert_eq!(snake("workflowID"), "workflow_id");
        assert_eq!(snake("timeoutMS"), "timeout_ms");
        assert_eq!(snake("x-next-cursor"), "x_next_cursor");
        assert_eq!(
            pascal("MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
            "MaxRecoveryAttemptsExceeded"
        );
        assert_eq!(pascal("listRuns"), "ListRuns");
    }
}
