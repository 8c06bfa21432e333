#!/usr/bin/env bash
# Builds everything and runs the whole suite on SQLite and on a throwaway Postgres, which it starts and stops itself.
# usage: scripts/test.sh [cargo test options]
#   STEPWELL_TEST_BACKENDS=sqlite|postgres|both   which databases (default both)
#   STEPWELL_TEST_POSTGRES_URL=postgres://…       use this server (its role may create databases) and start none
#   MISE_NO_RESET=1                               keep the throwaway server, the databases and the tests' directories afterwards
#   CI=true                                       a missing tool is a failure, not a skipped test
# Needs a Rust toolchain. Postgres and the tools that some tests use are installed from Debian's packages when they are
# missing and this user may (root, or sudo without a password). The configured database is never touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$STEPWELL_ROOT/scripts/lib-postgres.sh"
help_if_asked "$@"

started_at=$SECONDS
backends=${STEPWELL_TEST_BACKENDS:-both}
case $backends in
  sqlite | postgres | both) ;;
  *) die "$EX_CONFIG" "STEPWELL_TEST_BACKENDS must be sqlite, postgres or both, got '$backends'" ;;
esac

# install_packages PACKAGE…: fails when this user or this system cannot.
install_packages() {
  local sudo=()
  have apt-get || return 1
  if [ "$(id -u)" -ne 0 ]; then
    have sudo && sudo -n true 2>/dev/null || return 1
    sudo=(sudo -n)
  fi
  say "installing: $*"
  "${sudo[@]+"${sudo[@]}"}" env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"' sh "$@" >/dev/null
}

# need_tool PACKAGE WHAT_IS_SKIPPED COMMAND…
need_tool() {
  local package=$1 skipped=$2 tool missing=()
  shift 2
  for tool in "$@"; do have "$tool" || missing+=("$tool"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  # shellcheck disable=SC2086 # a list of package names
  if install_packages $package; then return 0; fi
  if [ "${CI:-}" = true ]; then die "$EX_UNAVAILABLE" "missing: ${missing[*]} (Debian: apt-get install $package)"; fi
  say "********************************************************************************"
  say "NOT FOUND: ${missing[*]} (Debian: apt-get install $package)"
  say "SKIPPED THEREFORE: $skipped"
  say "********************************************************************************"
}

prepare_tools() {
  need_cargo
  need_tool curl "the manual's labs" curl
  need_tool jq "the manual's labs" jq
  need_tool sqlite3 "the manual's SQL on SQLite" sqlite3
  need_tool "nodejs npm" "the official DBOS client and mise" node npm
  need_tool prometheus "the queries of the dashboard and the alert rules" prometheus promtool
  need_tool python3 "the checks against Python's DBOS client" python3
  # Debian has it where not every user looks.
  PATH=$PATH:/usr/sbin
  need_tool pgbouncer "the runs behind a pooler in transaction mode" pgbouncer
  need_tool haproxy "the failover to a standby" haproxy
  need_tool bubblewrap "the half of the sandbox's tests that runs commands within bwrap" bwrap
}

port_is_free() { ! port_open 127.0.0.1 "$1"; }

# Below the ephemeral range, so that no outgoing connection takes it between the check and the start.
free_port() {
  local port
  for _ in $(seq 1 50); do
    port=$((15000 + RANDOM % 15000))
    if port_is_free "$port"; then
      echo "$port"
      return
    fi
  done
  die "$EX_UNAVAILABLE" "no free port found between 15000 and 30000"
}

cluster_dir='' cluster_bin='' begun=''

# Each test has a directory there: its logs, and on SQLite its database. What is newer than this run's beginning is this run's, or that of one beside it.
say_kept_directories() {
  local temp=${TMPDIR:-/tmp} count
  # Directories may come and go beside this.
  count=$(find "$temp" -maxdepth 1 -type d -name 'stepwell-*_*' -newer "$begun" 2>/dev/null | wc -l) || :
  rm -f "$begun"
  say "kept: tests' directories: $((count)), on SQLite each with its database, $temp/stepwell-*_*/stepwell.db"
}

clean_up() {
  local status=$?
  trap - EXIT INT TERM
  if [ -n "$begun" ]; then say_kept_directories; fi
  if [ -n "$cluster_dir" ]; then
    if [ "${MISE_NO_RESET:-}" = 1 ]; then
      say "kept: Postgres in $cluster_dir, $STEPWELL_TEST_POSTGRES_URL"
    else
      say "stopping the throwaway Postgres"
      stop_cluster "$cluster_bin" "$cluster_dir/data" immediate || true
      rm -rf "$cluster_dir"
    fi
  fi
  if [ "$status" -eq 0 ]; then say "passed in $((SECONDS - started_at)) s"; else say "FAILED (exit $status) after $((SECONDS - started_at)) s"; fi
  exit "$status"
}

start_throwaway_postgres() {
  local port
  if ! cluster_bin=$(find_postgres_bin); then
    install_packages postgresql || true
    cluster_bin=$(find_postgres_bin) || die "$EX_UNAVAILABLE" "no Postgres binaries found and they could not be installed. Install them (Debian: apt-get install postgresql), or set STEPWELL_TEST_POSTGRES_URL, or run the SQLite half alone: STEPWELL_TEST_BACKENDS=sqlite scripts/test.sh"
  fi
  cluster_dir=$(mktemp -d /var/tmp/stepwell-test-XXXXXX)
  make_private_dir "$cluster_dir"
  port=$(free_port)
  say "starting a throwaway Postgres ($cluster_bin) on port $port in $cluster_dir"
  create_cluster "$cluster_bin" "$cluster_dir/data"
  # The password keeps other local users out. It travels over loopback only; hashing it per connection would slow debug builds.
  set_access "$cluster_dir/data" password
  start_cluster "$cluster_bin" "$cluster_dir/data" "$cluster_dir" "$port" "$cluster_dir/postgres.log" max_connections=400 shared_buffers=64MB shared_preload_libraries=pg_stat_statements
  PG_USER=stepwell PG_DATABASE=stepwell PG_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  ensure_login "$cluster_bin" "$cluster_dir" "$port"
  # Some tests count statements; every database that they create gets the extension from the template.
  printf '%s\n' '\connect template1' 'CREATE EXTENSION pg_stat_statements;' | admin_sql "$cluster_bin" "$cluster_dir" "$port"
  export STEPWELL_TEST_POSTGRES_URL="postgres://$PG_USER:$PG_PASSWORD@127.0.0.1:$port/$PG_DATABASE"
}

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

prepare_tools
if [ "${MISE_NO_RESET:-}" = 1 ]; then begun=$(mktemp "${TMPDIR:-/tmp}/stepwell-begun-XXXXXX"); fi
export STEPWELL_TEST_BACKENDS=$backends
if [ "$backends" = sqlite ]; then
  unset STEPWELL_TEST_POSTGRES_URL
elif [ -n "${STEPWELL_TEST_POSTGRES_URL:-}" ]; then
  say "using the Postgres of STEPWELL_TEST_POSTGRES_URL"
else
  start_throwaway_postgres
fi
# With chosen targets cargo builds what they need, in the next step.
case " $* " in
  *' --test '* | *' --lib '* | *' --bin '* | *' --bins '*) ;;
  *)
    say "building"
    cargo build --workspace --all-targets
    ;;
esac
say "testing on: $backends"
cargo test --workspace "$@"
