#!/usr/bin/env bash
# What telemetry costs, by how its receiver behaves: two servers execute the same queued runs of `shell-default`, each from its own copy of one
# SQLite file, one with the receiver and one that exports nothing. They take turns of a fifth of a second, the other one frozen meanwhile, so
# that a machine that is faster now and slower then is so for both.
# usage: scripts/bench-telemetry.sh [ROUNDS] [RUNS] [KIND…]
#   ROUNDS             pairs of servers that are measured for each kind, at least three (default 8)
#   RUNS               runs that are queued for each of the two (default 2000; the first that end are not counted)
#   KIND…              none, takes, hangs, answers-500 or refuses (default: all)
#   STEPWELL_BIN       the binary to measure (default: the newest build; measure a release build)
# Prints for each kind the runs per second, and the CPU milliseconds per run (the server's and its commands'), both as ratios to those of the
# server beside it: the mean over the rounds and the interval that holds it with about 95 percent certainty. The kind `none` compares two servers that
# export nothing; it shows what the method itself adds. Ends with an error when any run did. Needs curl, jq and sqlite3.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
need curl jq sqlite3

rounds=${1:-8} runs=${2:-2000}
[[ $rounds =~ ^[1-9][0-9]*$ && $rounds -ge 3 && $runs =~ ^[1-9][0-9]*$ ]] ||
  die "$EX_USAGE" "rounds must be a whole number from 3, and runs from 1, got '$rounds' and '$runs'"
kinds=("${@:3}")
[ ${#kinds[@]} -gt 0 ] || kinds=(none takes hangs answers-500 refuses)
for kind in "${kinds[@]}"; do
  case $kind in none | takes | hangs | answers-500 | refuses) ;; *) die "$EX_USAGE" "no kind of receiver: '$kind'" ;; esac
done
readonly kinds

find_stepwell
need_cargo
cargo build --quiet --example otlp_receiver
receiver=${CARGO_TARGET_DIR:-target}/debug/examples/otlp_receiver
dir=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-telemetry-XXXXXX")
processes=()
clean_up() {
  local status=$?
  trap - EXIT INT TERM
  # Who is frozen hears of its end when it wakes up.
  for pid in "${processes[@]+"${processes[@]}"}"; do kill "$pid" 2>/dev/null && kill -CONT "$pid" 2>/dev/null || true; done
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

count() { sqlite3 "$dir/$1.db" "SELECT count(*) FROM runs WHERE $2"; }

all_have_succeeded() { [ "$(count "$1" "status = 'succeeded'")" = "$runs" ]; }

# cpu_ms PID: what it has used, and the processes that it has waited for.
cpu_ms() {
  local stat
  stat=$(<"/proc/$1/stat")
  # The fields after the name, which is in parentheses and may hold anything.
  awk -v hz="$(getconf CLK_TCK)" '{ print ($12 + $13 + $14 + $15) * 1000 / hz }' <<<"${stat##*) }"
}

# start_server NAME KIND: sets `server`.
start_server() {
  rm -f "$dir/$1.db"*
  cp "$dir/seed.db" "$dir/$1.db"
  DATABASE_URL="sqlite://$dir/$1.db?mode=rw" PORT=0 ADMIN_PORT=0 OTEL_EXPORTER_OTLP_ENDPOINT="$(cat "$dir/$2.url")" \
    "${STEPWELL[@]}" serve >/dev/null 2>&1 &
  server=$!
  processes+=("$server")
}

# turn NAME PID: lets it work for a while; adds what it did to `worked`, `ended` and `used` of its name: microseconds, runs, CPU milliseconds.
turn() {
  local from until
  while :; do
    kill -CONT "$2"
    from=${EPOCHREALTIME/[.,]/}
    sleep 0.2
    kill -STOP "$2"
    until=${EPOCHREALTIME/[.,]/}
    worked[$1]=$((${worked[$1]} + until - from))
    # Who is frozen with a lock of its file goes on for another moment.
    if ended[$1]=$(count "$1" "ended_at IS NOT NULL" 2>/dev/null); then break; fi
  done
  used[$1]=$(cpu_ms "$2")
}

# measure ROUND KIND: appends a line to the kind's file: microseconds, runs and CPU milliseconds of the server with the receiver, then of the other.
measure() {
  local server with beside line=''
  local -A worked=([with]=0 [beside]=0) ended=() used=()
  start_server beside none && beside=$server
  kill -STOP "$beside"
  start_server with "$2" && with=$server
  kill -STOP "$with"
  # What they do until the first runs have ended is not what is measured.
  local -A ended_before=([with]=0 [beside]=0) used_before=()
  while ((ended_before[with] == 0 || ended_before[beside] == 0)); do
    turn with "$with"
    turn beside "$beside"
    ended_before=([with]=${ended[with]} [beside]=${ended[beside]})
    used_before=([with]=${used[with]} [beside]=${used[beside]})
  done
  worked=([with]=0 [beside]=0)
  local turns=$1
  while :; do
    # Who comes first alternates: A B, B A, A B.
    if ((turns % 2)); then
      turn with "$with"
      turn beside "$beside"
    else
      turn beside "$beside"
      turn with "$with"
    fi
    # A turn in which the work ran out says nothing.
    ((ended[with] < runs && ended[beside] < runs)) || break
    line="${worked[with]} $((ended[with] - ended_before[with])) ${used[with]} ${used_before[with]}"
    line+=" ${worked[beside]} $((ended[beside] - ended_before[beside])) ${used[beside]} ${used_before[beside]}"
    turns=$((turns + 1))
  done
  kill -CONT "$with" "$beside"
  await 600 all_have_succeeded with || die 1 "not every run succeeded (receiver: $2)"
  await 600 all_have_succeeded beside || die 1 "not every run succeeded without a receiver"
  kill "$with" "$beside"
  wait "$with" "$beside" || true
  unset "processes[-1]" "processes[-1]"
  [ -n "$line" ] || die 1 "$runs runs are too few: they ended within two turns"
  printf '%s\n' "$line" >>"$dir/$2.rounds"
  : >"$dir/takes.out"
}

for round in $(seq "$rounds"); do
  for n in "${!kinds[@]}"; do measure "$round" "${kinds[(n + round) % ${#kinds[@]}]}"; done
done
for kind in "${kinds[@]}"; do
  jq -nr --arg kind "$kind" --rawfile rounds "$dir/$kind.rounds" '
    def round3: . * 1000 | round / 1000;
    def mean: add / length;
    # The geometric mean of ratios, and how far it may be off: the standard error times (nearly) Student s t.
    def ratio:
      map(log) | mean as $mean | (length - 1) as $free
      | (map(. - $mean | . * .) | add / $free / length | sqrt * (1.96 + 2.4 / $free + 3.6 / ($free * $free))) as $error
      | "\($mean | exp | round3) (\($mean - $error | exp | round3) to \($mean + $error | exp | round3))";
    [$rounds | split("\n")[] | select(. != "") | split(" ") | map(tonumber)
      | [.[0:4], .[4:8]] | map({speed: (.[1] * 1e6 / .[0]), cpu: ((.[2] - .[3]) / .[1])})]
    | "\($kind + " " * (12 - ($kind | length))) \(map(.[0].speed) | mean | round) runs/s, ratio \(map(.[0].speed / .[1].speed) | ratio);  " +
      "\(map(.[0].cpu) | mean * 10 | round / 10) ms CPU/run, ratio \(map(.[0].cpu / .[1].cpu) | ratio)"'
done
