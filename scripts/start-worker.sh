#!/usr/bin/env bash
# Starts a worker on the configured database: it executes what the API takes in, and binds ADMIN_PORT alone.
# usage: scripts/start-worker.sh [arguments of `stepwell worker`]
# Settings come from the environment, as for scripts/start.sh. API and workers must agree on DBOS__APPVERSION: a worker executes its own version
# only. An up-to-date build is used as it is; otherwise cargo builds a release first.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

find_stepwell
exec "${STEPWELL[@]}" worker "$@"
