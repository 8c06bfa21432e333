#!/usr/bin/env bash
# Starts the server on the configured database, everything in one process.
# usage: scripts/start.sh [arguments of `stepwell serve`]
# Settings come from the environment: DATABASE_URL, PORT, ADMIN_PORT, OC_MODE, SBX_MODE and the others the README lists.
# An up-to-date build is used as it is; otherwise cargo builds a release first.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

find_stepwell
exec "${STEPWELL[@]}" serve "$@"
