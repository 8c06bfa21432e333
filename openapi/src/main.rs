//! Writes `src/generated/` and `docs/http.md` from `openapi.yaml`: `cargo run -p openapi`.

mod generate;

use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let written = generate::files().and_then(|files| {
        for (path, text) in files {
            fs::write(root.join(&path), text).map_err(|e| format!("cannot write {path}: {e}"))?;
        }
        Ok(())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("openapi: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_the_document_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (path, text) in generate::files().unwrap() {
            let committed = fs::read_to_string(root.join(&path)).unwrap_or_default();
            assert!(
                committed == text,
                "{path} is stale: run `cargo run -p openapi`"
            );
        }
    }
}
