# shellcheck shell=bash
# Postgres clusters of our own: found binaries, an owner that is not root, started and stopped by process id.
# usage: . scripts/lib.sh && . scripts/lib-postgres.sh   (sourced; never touches a cluster it did not create)

# Prints the newest directory that holds initdb, pg_ctl and postgres; fails when there is none.
find_postgres_bin() {
  local dir candidates
  candidates=$(
    printf '%s\n' "${STEPWELL_POSTGRES_BIN:-}"
    printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin | sort -rV
    if have pg_ctl; then dirname "$(command -v pg_ctl)"; fi
  )
  while read -r dir; do
    if [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ] && [ -x "$dir/postgres" ]; then
      printf '%s\n' "$dir"
      return 0
    fi
  done <<<"$candidates"
  return 1
}

# Prints the user that owns our clusters. Postgres refuses to run as root.
postgres_owner() {
  if [ "$(id -u)" -ne 0 ]; then
    id -un
  elif id postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo nobody
  fi
}

# Runs a command as that user, in a directory every user may enter.
as_postgres_owner() {
  if [ "$(id -u)" -ne 0 ]; then
    (cd / && "$@")
  elif have runuser; then
    (cd / && runuser -u "$(postgres_owner)" -- "$@")
  else
    (cd / && setpriv --reuid="$(postgres_owner)" --regid="$(id -g "$(postgres_owner)")" --clear-groups "$@")
  fi
}

# make_private_dir DIR: a directory that only the owner of our clusters may enter; refuses one that somebody else put there.
make_private_dir() {
  [ ! -L "$1" ] || die "$EX_UNAVAILABLE" "$1 is a symbolic link, refusing to use it"
  if [ "$(id -u)" -eq 0 ]; then
    install -d -m 700 -o "$(postgres_owner)" -g "$(id -g "$(postgres_owner)")" "$1"
  else
    mkdir -p "$1"
    [ -O "$1" ] || die "$EX_UNAVAILABLE" "$1 belongs to another user"
    chmod 700 "$1"
  fi
}

# create_cluster BIN DATA: superuser postgres. Its socket lives in a private directory and trusts; see set_access for TCP.
create_cluster() {
  as_postgres_owner "$1/initdb" --pgdata="$2" --username=postgres --auth=trust --encoding=UTF8 --locale=C >/dev/null
}

# set_access DATA METHOD: who may connect over loopback TCP: scram-sha-256, password or trust.
set_access() {
  # shellcheck disable=SC2016 # the inner shell expands it
  as_postgres_owner sh -c 'printf "%s\n" "local all all trust" "host all all 127.0.0.1/32 $2" "host all all ::1/128 $2" >"$1/pg_hba.conf"' sh "$1" "$2"
}

# start_cluster BIN DATA SOCKETS PORT LOG [SETTING=VALUE…]: returns when it accepts connections.
start_cluster() {
  local bin=$1 data=$2 sockets=$3 port=$4 log=$5 options setting
  shift 5
  options="-p $port -c listen_addresses=localhost -c unix_socket_directories='$sockets'"
  for setting in "$@"; do options+=" -c $setting"; done
  if ! as_postgres_owner "$bin/pg_ctl" start --wait --timeout=60 --pgdata="$data" --log="$log" --options="$options" >/dev/null; then
    as_postgres_owner tail -n 20 "$log" >&2 || true
    die "$EX_UNAVAILABLE" "Postgres did not start; its log is $log"
  fi
}

# stop_cluster BIN DATA MODE: stops the process named in DATA/postmaster.pid and waits for it. Fine if it is not running.
stop_cluster() {
  if as_postgres_owner "$1/pg_ctl" status --pgdata="$2" >/dev/null 2>&1; then
    as_postgres_owner "$1/pg_ctl" stop --wait --timeout=60 --pgdata="$2" --mode="$3" >/dev/null
  fi
}

# admin_sql BIN SOCKETS PORT: SQL on standard input, run as the superuser over the private socket. Further arguments go to psql.
admin_sql() {
  local bin=$1 sockets=$2 port=$3
  shift 3
  env -u PGOPTIONS -u PGPASSWORD -u PGSERVICE "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h "$sockets" -p "$port" -U postgres -d postgres "$@"
}

# ensure_login BIN SOCKETS PORT: the role and the database of the parsed URL exist in our cluster, with the URL's password.
ensure_login() {
  admin_sql "$1" "$2" "$3" -v role="$PG_USER" -v secret="$PG_PASSWORD" -v db="$PG_DATABASE" >/dev/null <<'SQL'
SELECT format('CREATE ROLE %I LOGIN CREATEDB', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'role', :'secret') WHERE :'secret' <> '' \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'db', :'role') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'db') \gexec
SQL
}
