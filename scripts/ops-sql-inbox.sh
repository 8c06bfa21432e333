#!/usr/bin/env bash
# The inbox of operators: runs that failed within 24 hours, newest first.
# usage: scripts/ops-sql-inbox.sh [-t] [-A]   (the flags of scripts/db/psql-app.sh)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

exec "$STEPWELL_ROOT/scripts/db/psql-app.sh" "$@" -c 'SELECT * FROM app.v_ops_failures_24h ORDER BY updated_at DESC LIMIT 100'
