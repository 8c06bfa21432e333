#!/usr/bin/env bash
# Steps that took longer than five seconds, the slowest first.
# usage: scripts/ops-sql-slow.sh [-t] [-A]   (the flags of scripts/db/psql-app.sh)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

exec "$STEPWELL_ROOT/scripts/db/psql-app.sh" "$@" -c 'SELECT * FROM app.v_ops_slow_steps ORDER BY duration_ms DESC LIMIT 100'
