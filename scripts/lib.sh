# shellcheck shell=bash
# Shared by the scripts in this directory: where the repository and the binary are, and which database is configured.
# usage: . scripts/lib.sh   (sourced; changes into the repository's root; starts and writes nothing)

# sysexits(3), the codes the stepwell binary uses too.
readonly EX_USAGE=64 EX_UNAVAILABLE=69 EX_CONFIG=78

STEPWELL_SCRIPT=$(cd "$(dirname "$0")" && pwd -P)/${0##*/}
STEPWELL_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# A relative path in DATABASE_URL means the same file for every script and for the server they start.
cd "$STEPWELL_ROOT" || exit

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die CODE MESSAGE
die() {
  local code=$1
  shift
  say "$*"
  exit "$code"
}

# Prints the calling script's header comment, which is its manual.
print_usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$STEPWELL_SCRIPT"; }

help_if_asked() {
  case ${1:-} in -h | --help) print_usage && exit 0 ;; esac
}

no_arguments() {
  [ $# -eq 0 ] || die "$EX_USAGE" "takes no arguments, got: $* (--help shows the usage)"
}

have() { command -v "$1" >/dev/null 2>&1; }

# need TOOL…: ends the script without one of them. Debian's packages are called like these tools.
need() {
  local tool
  for tool in "$@"; do have "$tool" || die "$EX_UNAVAILABLE" "$tool not found (Debian: apt-get install $tool)"; done
}

# await SECONDS COMMAND…: until it succeeds; fails when it has not by then.
await() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.1
  done
}

# ---- the configured database --------------------------------------------------------------------------------------

database_url() { printf '%s\n' "${DATABASE_URL:-sqlite://.stepwell/stepwell.db?mode=rwc}"; }

# Prints sqlite or postgres.
database_kind() {
  case $(database_url) in
    sqlite:*) echo sqlite ;;
    postgres://* | postgresql://*) echo postgres ;;
    *) die "$EX_CONFIG" "DATABASE_URL must start with sqlite: or postgres://" ;;
  esac
}

url_decode() {
  local text=${1//\\/\\\\}
  printf '%b' "${text//%/\\x}"
}

# Prints the file of a sqlite URL: sqlite://rel/path, sqlite:///abs/path, sqlite:path, each with or without ?mode=….
sqlite_path() {
  local rest
  rest=$(database_url)
  rest=${rest#sqlite:}
  rest=${rest#//}
  rest=$(url_decode "${rest%%\?*}")
  case $rest in
    '' | :memory:) die "$EX_CONFIG" "DATABASE_URL names a database in memory; the scripts need a file" ;;
  esac
  printf '%s\n' "$rest"
}

# Sets PG_USER PG_PASSWORD PG_HOST PG_PORT PG_DATABASE PG_SSLMODE from a postgres URL.
parse_postgres_url() {
  local rest=${1#*://} query='' authority userinfo='' parameter
  if [[ $rest == *\?* ]]; then
    query=${rest#*\?}
    rest=${rest%%\?*}
  fi
  authority=${rest%%/*}
  PG_DATABASE=''
  [[ $rest == */* ]] && PG_DATABASE=$(url_decode "${rest#*/}")
  if [[ $authority == *@* ]]; then
    userinfo=${authority%@*}
    authority=${authority##*@}
  fi
  PG_USER=$(url_decode "${userinfo%%:*}")
  PG_PASSWORD=''
  [[ $userinfo == *:* ]] && PG_PASSWORD=$(url_decode "${userinfo#*:}")
  PG_PORT=''
  case $authority in
    \[*\]:*) PG_HOST=${authority%]:*} PG_HOST=${PG_HOST#[} PG_PORT=${authority##*:} ;;
    \[*\]) PG_HOST=${authority#[} PG_HOST=${PG_HOST%]} ;;
    *:*) PG_HOST=$(url_decode "${authority%:*}") PG_PORT=${authority##*:} ;;
    *) PG_HOST=$(url_decode "$authority") ;;
  esac
  PG_SSLMODE=''
  local IFS='&'
  for parameter in $query; do
    case $parameter in
      host=*) PG_HOST=$(url_decode "${parameter#*=}") ;;
      port=*) PG_PORT=${parameter#*=} ;;
      user=*) PG_USER=$(url_decode "${parameter#*=}") ;;
      password=*) PG_PASSWORD=$(url_decode "${parameter#*=}") ;;
      dbname=*) PG_DATABASE=$(url_decode "${parameter#*=}") ;;
      sslmode=*) PG_SSLMODE=${parameter#*=} ;;
    esac
  done
  PG_USER=${PG_USER:-${PGUSER:-$(id -un)}}
  PG_HOST=${PG_HOST:-localhost}
  PG_PORT=${PG_PORT:-5432}
  PG_DATABASE=${PG_DATABASE:-$PG_USER}
  [[ $PG_PORT =~ ^[0-9]+$ ]] || die "$EX_CONFIG" "DATABASE_URL: the port must be a number, got '$PG_PORT'"
}

# Hands the parsed URL to libpq by environment, so that no password shows in a process list.
export_libpq() {
  export PGHOST=$PG_HOST PGPORT=$PG_PORT PGUSER=$PG_USER PGDATABASE=$PG_DATABASE PGCONNECT_TIMEOUT=10
  if [ -n "$PG_PASSWORD" ]; then export PGPASSWORD=$PG_PASSWORD; fi
  if [ -n "$PG_SSLMODE" ]; then export PGSSLMODE=$PG_SSLMODE; fi
}

# True when the parsed URL points at this machine.
is_loopback() {
  case $PG_HOST in
    localhost | 127.* | ::1 | /*) return 0 ;;
    *) return 1 ;;
  esac
}

# port_open HOST PORT: does anything accept TCP connections there?
port_open() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# ---- the binary ---------------------------------------------------------------------------------------------------

# is_before_commit FILE: whether a commit was made or checked out since; never where this is no repository of its own.
is_before_commit() {
  local name
  [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$STEPWELL_ROOT" ] || return 1
  for name in HEAD logs/HEAD; do
    if [ "$(git rev-parse --git-path "$name")" -nt "$1" ]; then return 0; fi
  done
  return 1
}

# shellcheck disable=SC2034 # STEPWELL is read by the scripts that source this file
# Sets STEPWELL to the command that runs the binary: a build that is newer than every source, else cargo.
find_stepwell() {
  local profile binary target=${CARGO_TARGET_DIR:-target}
  if [ -n "${STEPWELL_BIN:-}" ]; then
    STEPWELL=("$STEPWELL_BIN")
    return
  fi
  for profile in release debug; do
    binary=$target/$profile/stepwell
    if [ -x "$binary" ] && [ -z "$(find src migration openapi build.rs Cargo.toml Cargo.lock -newer "$binary" -print -quit)" ]; then
      # A release names the commit that it was built of: cargo knows whether that is another one now. A debug build names none.
      if [ "$profile" = release ] && is_before_commit "$binary"; then break; fi
      STEPWELL=("$binary")
      return
    fi
  done
  need_cargo
  STEPWELL=(cargo run --release --bin stepwell --)
}

need_cargo() {
  if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
  have cargo || die "$EX_UNAVAILABLE" "cargo not found: install Rust from https://rustup.rs"
}
