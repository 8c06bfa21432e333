#!/usr/bin/env bash
# Lists the workflows of the configured database that failed or were given up, newest first.
# usage: scripts/ops-list-failed.sh [--ids] [--limit N] [options of `stepwell ops ls`]
# With --ids it prints what the batch scripts read.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

find_stepwell
exec "${STEPWELL[@]}" ops ls --status ERROR --status MAX_RECOVERY_ATTEMPTS_EXCEEDED "$@"
