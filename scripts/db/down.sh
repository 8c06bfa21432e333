#!/usr/bin/env bash
# Stops the Postgres cluster that db/up.sh started for this clone. Its data stay. Does nothing on SQLite.
# usage: scripts/db/down.sh [--where]
#   --where   stop nothing, print the directory that holds the cluster
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
. "$here/../lib-postgres.sh"
. "$here/cluster.sh"
help_if_asked "$@"
if [ "${1:-}" = --where ]; then
  echo "$CLUSTER_HOME"
  exit 0
fi
no_arguments "$@"

if ! [ -d "$CLUSTER_HOME" ] || ! as_postgres_owner test -s "$CLUSTER_DATA/postmaster.pid"; then
  say "no cluster of this clone is running"
  exit 0
fi
bin=$(find_postgres_bin) || die "$EX_UNAVAILABLE" "no Postgres binaries found to stop $CLUSTER_DATA with"
stop_cluster "$bin" "$CLUSTER_DATA" fast
say "stopped the cluster in $CLUSTER_DATA"
