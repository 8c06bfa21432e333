#!/usr/bin/env bash
# Puts the workflows whose ids stand on standard input, one a line, back into their queues.
# usage: scripts/ops-resume-batch.sh [--dry-run] [--strict] [--actor NAME] [--reason TEXT] <ids
# Exit codes: 0; 1 when an id was unknown or a request failed, with --strict also when one was refused for its state; 2 without ids.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

find_stepwell
exec "${STEPWELL[@]}" ops resume --batch "$@"
