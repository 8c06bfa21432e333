#!/usr/bin/env bash
# The gate before a merge: everything of quick, and the faster suites on SQLite and on a throwaway Postgres. Touches no configured database.
# usage: scripts/check.sh
# Runs: formatting, clippy, generated files, policies, shell scripts, unit tests, and the faster suites on both databases.
# Each gate contains the one before: quick (SQLite, the first suites) < check < full (the whole suite and the manual).
#   MISE_NO_RESET=1   keep the throwaway server and the databases afterwards
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$STEPWELL_ROOT/scripts/lib-gates.sh"
help_if_asked "$@"
no_arguments "$@"

static_steps
step "unit tests" cargo test --workspace --lib
step "the faster suites on both databases" suites both "${QUICK_SUITES[@]}" "${CHECK_SUITES[@]}"
passed
