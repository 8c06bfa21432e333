#!/usr/bin/env bash
# Starts the API alone on the configured database: it executes nothing, and binds PORT alone.
# usage: scripts/start-api-shim.sh [arguments of `stepwell api`]
# Settings come from the environment, as for scripts/start.sh. API and workers must agree on DBOS__APPVERSION: a worker executes its own version
# only. An up-to-date build is used as it is; otherwise cargo builds a release first.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

find_stepwell
exec "${STEPWELL[@]}" api "$@"
