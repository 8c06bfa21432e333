#!/usr/bin/env bash
# Runs the unit tests: no database, no server, in a minute.
# usage: scripts/test-unit.sh [cargo test options]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

need_cargo
exec cargo test --workspace --lib "$@"
