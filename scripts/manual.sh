#!/usr/bin/env bash
# Reads the field manual: runs every shell block of labs A to Q as it stands, on SQLite and on a throwaway Postgres, and prints lab × database.
# usage: scripts/manual.sh [--short]
#   --short   without the blocks that call gates or whole test files, as the test suite does
# Needs the ports 3001, 3002, 3011, 3012 and 4318 of 127.0.0.1. tests/manual.rs says what is provided to the blocks, and what becomes of the gates
# in lab Q: here, without full, they run once and full itself does not.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

export STEPWELL_MANUAL=whole
if [ "${1:-}" = --short ]; then
  STEPWELL_MANUAL=short
  shift
fi
no_arguments "$@"
exec "$STEPWELL_ROOT/scripts/test.sh" --test manual -- --nocapture
