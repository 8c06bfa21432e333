#!/usr/bin/env bash
# The developer's gate: formatting, clippy, then the whole suite on throwaway SQLite files. Touches no configured database.
# usage: scripts/quick.sh [cargo test options]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

need_cargo
cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
STEPWELL_TEST_BACKENDS=sqlite exec "$STEPWELL_ROOT/scripts/test.sh" "$@"
