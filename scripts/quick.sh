#!/usr/bin/env bash
# The gate for every save: what is fast and finds most. Under two minutes when the build is warm. Touches no configured database.
# usage: scripts/quick.sh
# Runs: formatting, clippy, generated files, policies, shell scripts, unit tests, and the suites of what users notice first, on SQLite.
# Each gate contains the one before: quick < check (more suites, both databases) < full (the whole suite and the manual).
#   MISE_NO_RESET=1   keep the throwaway databases afterwards
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$STEPWELL_ROOT/scripts/lib-gates.sh"
help_if_asked "$@"
no_arguments "$@"

static_steps
step "unit tests" cargo test --workspace --lib
step "the first suites on SQLite" suites sqlite "${QUICK_SUITES[@]}"
passed
