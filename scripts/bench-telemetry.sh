#!/usr/bin/env bash
# What telemetry costs, by how its receiver behaves: a server executes the same queued runs of `shell-default` from a copy of one SQLite file,
# in turns whose order rotates, so that a busy machine is unfair to all alike.
# usage: scripts/bench-telemetry.sh [ROUNDS] [RUNS]
#   ROUNDS             times each kind is measured (default 9)
#   RUNS               runs that are executed each time (default 500)
#   STEPWELL_BIN       the binary to measure (default: the newest build; measure a release build)
# Prints for each kind the median of runs per second and of the CPU milliseconds per run (the server's and its commands'), and both as ratios to
# those of a server that exports nothing, with the quartiles of the CPU's: what lies within those of `none` is noise. Needs curl, jq and sqlite3.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
need curl jq sqlite3

rounds=${1:-9} runs=${2:-500}
for number in "$rounds" "$runs"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || die "$EX_USAGE" "rounds and runs must be whole numbers from 1, got '$number'"
done
readonly KINDS=(none takes hangs answers-500 refuses)

find_stepwell
need_cargo
cargo build --quiet --example otlp_receiver
receiver=${CARGO_TARGET_DIR:-target}/debug/examples/otlp_receiver
dir=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-telemetry-XXXXXX")
processes=()
clean_up() {
  local status=$?
  trap - EXIT INT TERM
  for pid in "${processes[@]+"${processes[@]}"}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$dir"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_receiver NAME MANNERS
start_receiver() {
  "$receiver" 0 "$2" >"$dir/$1.out" &
  processes+=("$!")
  await 10 grep -qs listening "$dir/$1.out" || die "$EX_UNAVAILABLE" "the receiver did not start"
  jq -r 'select(.listening).listening' "$dir/$1.out" | head -n 1 >"$dir/$1.url"
}

start_receiver takes takes
start_receiver hangs hangs
start_receiver answers-500 500
# Nobody listens on a port that is not to be had without privileges.
echo http://127.0.0.1:1 >"$dir/refuses.url"
: >"$dir/none.url"

# The limits that a default configuration sets are not what is measured.
export SBX_QUEUE_RATE_LIMIT_PER_PERIOD=1000000 STEPWELL_MAX_BACKLOG=1000000
json_header='header = "content-type: application/json"'
DATABASE_URL="sqlite://$dir/seed.db?mode=rwc" PORT=0 ADMIN_PORT=0 "${STEPWELL[@]}" api >"$dir/api.out" 2>/dev/null &
api=$!
processes+=("$api")
await 20 grep -qs listening "$dir/api.out" || die "$EX_UNAVAILABLE" "the service did not start"
base=$(sed -n 's/^ *listening *//p' "$dir/api.out")
# curl sends each of them over one connection; the part behind # only counts.
curl -sSf -H 'content-type: application/json' -d '{"goal":"bench","inputs":{"command":"true"},"constraints":{}}' "$base/api/intents#[1-$runs]" |
  jq -r --arg url "$base/api/runs" --arg header "$json_header" '
    {intentId, queueName: "intentQ", queuePartitionKey: "bench", recipeName: "shell-default"}
    | "next", "url = \($url)", $header, "data = \(tojson | tojson)", "output = /dev/null", "fail"' |
  sed 1d >"$dir/runs.curl"
curl -sS -K "$dir/runs.curl"
kill "$api" && wait "$api" || true
# What is copied is the file alone.
sqlite3 "$dir/seed.db" 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null

all_have_succeeded() { [ "$(sqlite3 "$dir/bench.db" "SELECT count(*) FROM runs WHERE status = 'succeeded'")" = "$runs" ]; }

# cpu_ms PID: what it has used, and the processes that it has waited for.
cpu_ms() {
  local stat
  stat=$(<"/proc/$1/stat")
  # The fields after the name, which is in parentheses and may hold anything.
  awk -v hz="$(getconf CLK_TCK)" '{ print ($12 + $13 + $14 + $15) * 1000 / hz }' <<<"${stat##*) }"
}

# measure KIND: appends to its files the milliseconds that the runs took, and those of the CPU.
measure() {
  rm -f "$dir"/bench.db*
  cp "$dir/seed.db" "$dir/bench.db"
  DATABASE_URL="sqlite://$dir/bench.db?mode=rw" PORT=0 ADMIN_PORT=0 OTEL_EXPORTER_OTLP_ENDPOINT="$(cat "$dir/$1.url")" \
    "${STEPWELL[@]}" serve >/dev/null 2>&1 &
  local server=$!
  processes+=("$server")
  await 600 all_have_succeeded || die 1 "not every run succeeded (receiver: $1)"
  cpu_ms "$server" >>"$dir/$1.cpu"
  kill "$server" && wait "$server" || true
  unset "processes[-1]"
  sqlite3 "$dir/bench.db" 'SELECT max(ended_at) - min(started_at) FROM runs' >>"$dir/$1.took"
  : >"$dir/takes.out"
}

for round in $(seq "$rounds"); do
  for n in "${!KINDS[@]}"; do measure "${KINDS[(n + round) % ${#KINDS[@]}]}"; done
done
# nth FILE QUARTER: the value a quarter, two quarters or three through it.
nth() { sort -n "$1" | sed -n "$((1 + (rounds - 1) * $2 / 4))p"; }
for kind in "${KINDS[@]}"; do
  jq -nr --arg kind "$kind" --argjson runs "$runs" --argjson took "$(nth "$dir/$kind.took" 2)" --argjson cpu "$(nth "$dir/$kind.cpu" 2)" \
    --argjson low "$(nth "$dir/$kind.cpu" 1)" --argjson high "$(nth "$dir/$kind.cpu" 3)" \
    --argjson took0 "$(nth "$dir/none.took" 2)" --argjson cpu0 "$(nth "$dir/none.cpu" 2)" '
    def round3: . * 1000 | round / 1000;
    "\($kind + " " * (12 - ($kind | length))) \($runs * 1000 / $took | round) runs/s (\($took0 / $took | round3))  " +
    "\($cpu / $runs * 10 | round / 10) ms CPU/run (\($cpu / $cpu0 | round3), quartiles \($low / $cpu0 | round3) to \($high / $cpu0 | round3))"'
done
