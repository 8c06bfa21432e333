#!/usr/bin/env bash
# How many workflows each queue holds in each status, and since when the oldest of them.
# usage: scripts/ops-sql-queues.sh [-t] [-A]   (the flags of scripts/db/psql-app.sh)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

exec "$STEPWELL_ROOT/scripts/db/psql-app.sh" "$@" -c 'SELECT * FROM app.v_ops_queue_depth ORDER BY queue_name, status LIMIT 100'
