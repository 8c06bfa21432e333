#!/usr/bin/env bash
# Prepares the configured database: creates and migrates it.
# usage: scripts/db/up.sh
# DATABASE_URL unset or sqlite: the file is created. A postgres URL on loopback where nothing listens: a cluster is
# started on that port from the installed binaries, with the URL's role and database (db/down.sh stops it). Data:
# .stepwell/pg, or as root /var/tmp/stepwell-<hash> under user postgres. Running it again changes nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
. "$here/../lib-postgres.sh"
. "$here/cluster.sh"
help_if_asked "$@"
no_arguments "$@"

tcp_host() {
  case $PG_HOST in
    /*) die "$EX_CONFIG" "DATABASE_URL names a socket directory; to have a cluster started, name a host and a port" ;;
    *) printf '%s\n' "$PG_HOST" ;;
  esac
}

own_cluster_runs() { [ -d "$CLUSTER_HOME" ] && as_postgres_owner test -s "$CLUSTER_DATA/postmaster.pid"; }

own_cluster_port() { as_postgres_owner sed -n 4p "$CLUSTER_DATA/postmaster.pid"; }

bring_up_cluster() {
  local bin method=scram-sha-256
  bin=$(find_postgres_bin) || die "$EX_UNAVAILABLE" "nothing listens on $PG_HOST:$PG_PORT and no Postgres binaries were found; install them (Debian: apt-get install postgresql)"
  if [ -z "$PG_PASSWORD" ]; then
    method=trust
    say "DATABASE_URL has no password: every local user may connect to this cluster"
  fi
  make_private_dir "$CLUSTER_HOME"
  make_private_dir "$CLUSTER_SOCKETS"
  if ! as_postgres_owner test -s "$CLUSTER_DATA/PG_VERSION"; then
    say "creating a cluster in $CLUSTER_DATA"
    create_cluster "$bin" "$CLUSTER_DATA"
  fi
  set_access "$CLUSTER_DATA" "$method"
  say "starting Postgres on port $PG_PORT"
  start_cluster "$bin" "$CLUSTER_DATA" "$CLUSTER_SOCKETS" "$PG_PORT" "$CLUSTER_LOG" max_connections=400
  ensure_login "$bin" "$CLUSTER_SOCKETS" "$PG_PORT"
}

# Somebody else's server: only what the URL's own role may do.
ensure_database() {
  have psql || die "$EX_UNAVAILABLE" "psql not found (Debian: apt-get install postgresql-client)"
  if psql -X -q -c 'SELECT 1' >/dev/null 2>&1; then return; fi
  if psql -X -At -d postgres -v db="$PG_DATABASE" <<<"SELECT 1 FROM pg_database WHERE datname = :'db'" 2>/dev/null | grep -q 1; then
    psql -X -q -c 'SELECT 1' >/dev/null # shows why the existing database refuses us
  fi
  say "creating database $PG_DATABASE"
  psql -X -q -d postgres -v ON_ERROR_STOP=1 -v db="$PG_DATABASE" <<<'CREATE DATABASE :"db"' ||
    die "$EX_UNAVAILABLE" "cannot connect to $PG_HOST:$PG_PORT as $PG_USER; create the role and the database there, or choose another port in DATABASE_URL"
}

if [ "$(database_kind)" = sqlite ]; then
  mkdir -p "$(dirname "$(sqlite_path)")"
else
  parse_postgres_url "$(database_url)"
  export_libpq
  if ! is_loopback; then
    ensure_database
  elif own_cluster_runs && [ "$(own_cluster_port)" = "$PG_PORT" ] && port_open "$(tcp_host)" "$PG_PORT"; then
    bin=$(find_postgres_bin)
    ensure_login "$bin" "$CLUSTER_SOCKETS" "$PG_PORT"
  elif [[ $PG_HOST == /* ]] || port_open "$PG_HOST" "$PG_PORT"; then
    ensure_database
  else
    if own_cluster_runs && bin=$(find_postgres_bin); then stop_cluster "$bin" "$CLUSTER_DATA" fast; fi
    bring_up_cluster
  fi
fi

find_stepwell
"${STEPWELL[@]}" migrate
say "ready: $(database_url | sed 's#://\([^:/@]*\):[^@]*@#://\1:…@#')"
