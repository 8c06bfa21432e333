#!/usr/bin/env bash
# What telemetry costs, by how its receiver behaves: `stepwell bench steps` on a throwaway SQLite file, in turns, so that a busy machine is unfair to all alike.
# usage: scripts/bench-telemetry.sh [ROUNDS]
#   ROUNDS             runs of each kind (default 7)
#   STEPWELL_BIN       the binary to measure (default: the newest build; measure a release build)
# Prints for each kind the median throughput of the rounds and its ratio to that of a receiver that takes everything. Needs jq.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
need jq

rounds=${1:-7}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "$EX_USAGE" "rounds must be a whole number from 1, got '$rounds'"
readonly WORKFLOWS=20000 STEPS=4

find_stepwell
need_cargo
cargo build --quiet --example otlp_receiver
receiver=${CARGO_TARGET_DIR:-target}/debug/examples/otlp_receiver
dir=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-telemetry-XXXXXX")
receivers=()
clean_up() {
  local status=$?
  trap - EXIT INT TERM
  for pid in "${receivers[@]+"${receivers[@]}"}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$dir"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_receiver NAME MANNERS
start_receiver() {
  "$receiver" 0 "$2" >"$dir/$1.out" &
  receivers+=("$!")
  await 10 grep -q listening "$dir/$1.out" || die "$EX_UNAVAILABLE" "the receiver did not start"
  jq -r 'select(.listening).listening' "$dir/$1.out" | head -n 1 >"$dir/$1.url"
}

start_receiver takes takes
start_receiver hangs hangs
start_receiver answers-500 500
# Nobody listens on a port that is not to be had without privileges.
echo http://127.0.0.1:1 >"$dir/refuses.url"
: >"$dir/none.url"

for _ in $(seq "$rounds"); do
  for kind in none takes hangs answers-500 refuses; do
    rm -f "$dir"/bench.db*
    env DATABASE_URL="sqlite://$dir/bench.db?mode=rwc" OTEL_EXPORTER_OTLP_ENDPOINT="$(cat "$dir/$kind.url")" \
      "${STEPWELL[@]}" bench steps --workflows "$WORKFLOWS" --steps "$STEPS" 2>/dev/null | jq .workflowsPerSecond >>"$dir/$kind.rates"
    : >"$dir/takes.out"
  done
done
median() { sort -n "$1" | sed -n "$(((rounds + 1) / 2))p"; }
base=$(median "$dir/takes.rates")
for kind in none takes hangs answers-500 refuses; do
  rate=$(median "$dir/$kind.rates")
  printf '%-12s %6s workflows/s  %s\n' "$kind" "$rate" "$(jq -n "($rate / $base * 1000 | round) / 1000")"
done
