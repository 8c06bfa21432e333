#!/usr/bin/env bash
# Rebuilds the engine's half (schema dbos) of the configured database. Everything in it is lost.
# usage: scripts/db/sys-reset.sh
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
help_if_asked "$@"
no_arguments "$@"

find_stepwell
exec "${STEPWELL[@]}" migrate --reset dbos
