#!/usr/bin/env bash
# Runs one real job on a throwaway database and proves that its telemetry reached the OTLP receivers: spans where those are sent, log records likewise.
# usage: scripts/otlp-smoke.sh
#   OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT   the receivers that must answer; with none of
#                       them set, a receiver of the repository's own is started, and what it got is compared with the rows
#   OTLP_REQUIRED=1     (the default here) an unreachable receiver fails the smoke, with stepwell's exit code 78
#   MISE_NO_RESET=1     keep the throwaway directory: database, logs, what the receiver printed
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
no_arguments "$@"

need curl jq

dir=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-otlp-XXXXXX")
receiver='' server=''

clean_up() {
  local status=$?
  trap - EXIT INT TERM
  if [ -n "$server" ]; then { kill "$server" && wait "$server"; } 2>/dev/null || :; fi
  if [ -n "$receiver" ]; then { kill "$receiver" && wait "$receiver"; } 2>/dev/null || :; fi
  if [ "${MISE_NO_RESET:-}" = 1 ]; then say "kept: $dir"; else rm -rf "$dir"; fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_own_receiver() {
  need_cargo
  cargo build --quiet --example otlp_receiver
  "${CARGO_TARGET_DIR:-target}/debug/examples/otlp_receiver" 0 >"$dir/received.jsonl" &
  receiver=$!
  await 10 test -s "$dir/received.jsonl" || die "$EX_UNAVAILABLE" "the receiver did not start"
  OTEL_EXPORTER_OTLP_ENDPOINT=$(head -n 1 "$dir/received.jsonl" | jq -r .listening)
  export OTEL_EXPORTER_OTLP_ENDPOINT
  say "started a receiver on $OTEL_EXPORTER_OTLP_ENDPOINT"
}

# The address that the server prints for `listening` and for `health and metrics on`.
address() { sed -n "$1" "$dir/serve.out" | head -n 1; }
# The sum of a metric over its labels.
metric() { curl -sS "$admin/metrics" | awk -v name="$1" 'index($0, name) == 1 { sum += $NF } END { print sum + 0 }'; }
ready() { kill -0 "$server" 2>/dev/null || return 0; [ -n "$(address "$base_pattern")" ] && curl -sS "$(address "$base_pattern")/healthz" >/dev/null 2>&1; }
ended() { curl -sS "$base/api/runs/$run" | jq -e '.status | IN("SUCCESS", "ERROR", "CANCELLED")' >/dev/null; }
# exports SIGNAL: whether it goes anywhere, as the binary decides.
exports() {
  local endpoint=OTEL_EXPORTER_OTLP_$1_ENDPOINT exporter=OTEL_$1_EXPORTER disabled=${OTEL_SDK_DISABLED:-}
  [ "${disabled,,}" != true ] && [ "${!exporter:-otlp}" != none ] && [ -n "${!endpoint:-}${OTEL_EXPORTER_OTLP_ENDPOINT:-}${!exporter:-}" ]
}

taken() { metric "stepwell_telemetry_exported_total{signal=\"$1\"}"; }
lost() { metric stepwell_telemetry_dropped_total; }

# How much was taken of each signal that is exported.
counted() {
  local signal text=''
  for signal in "${signals[@]}"; do text+="${text:+ and }$(taken "$signal") $signal"; done
  printf '%s\n' "$text"
}

arrived() {
  local signal least
  for signal in "${signals[@]}"; do
    # The run, its steps, their claims and commits; of log lines nobody promises how many there are.
    case $signal in spans) least=8 ;; *) least=1 ;; esac
    [ "$(taken "$signal")" -ge "$least" ] || return
  done
}

# What is lost will not arrive.
settled() { [ "$(lost)" != 0 ] || arrived; }

# received SIGNAL: whether our own receiver has got what the run's rows name.
received() {
  case $1 in
    spans) jq -se --arg span "$span" 'any(.[]; .spanId? == $span)' "$dir/received.jsonl" >/dev/null ;;
    logs) jq -se --arg trace "$trace" 'any(.[]; has("log") and .traceId == $trace)' "$dir/received.jsonl" >/dev/null ;;
  esac
}

if [ -z "${OTEL_EXPORTER_OTLP_ENDPOINT:-}${OTEL_EXPORTER_OTLP_TRACES_ENDPOINT:-}${OTEL_EXPORTER_OTLP_LOGS_ENDPOINT:-}" ]; then
  start_own_receiver
fi
signals=()
if exports TRACES; then signals+=(spans); fi
if exports LOGS; then signals+=(logs); fi
[ ${#signals[@]} -gt 0 ] || die "$EX_CONFIG" "neither spans nor log records are exported: OTEL_TRACES_EXPORTER and OTEL_LOGS_EXPORTER are none, or OTEL_SDK_DISABLED is true"

find_stepwell
export OTLP_REQUIRED=${OTLP_REQUIRED:-1} OTEL_BSP_SCHEDULE_DELAY=100 OTEL_BLRP_SCHEDULE_DELAY=100
readonly base_pattern='s#^  listening  \(http://[^ ]*\) .*#\1#p' admin_pattern='s#.*on \(http://[^ /]*\)/healthz.*#\1#p'
# Every step has something to say.
DATABASE_URL="sqlite://$dir/smoke.db?mode=rwc" PORT=0 ADMIN_PORT=0 RUST_LOG=info,stepwell=debug "${STEPWELL[@]}" serve >"$dir/serve.out" 2>"$dir/serve.err" &
server=$!
await 300 ready || die "$EX_UNAVAILABLE" "the server did not start: $(tail -n 5 "$dir/serve.err")"
if ! kill -0 "$server" 2>/dev/null; then
  status=0
  wait "$server" || status=$?
  server=''
  tail -n 5 "$dir/serve.err" >&2
  exit "$status"
fi
base=$(address "$base_pattern") admin=$(address "$admin_pattern")

run=$(curl -sS -X POST "$base/api/intents" -H 'content-type: application/json' \
  -d '{"goal":"otlp smoke","inputs":{"command":"echo smoke"},"constraints":{}}' | jq -r .intentId)
curl -sS -X POST "$base/api/runs" -H 'content-type: application/json' \
  -d "{\"intentId\":\"$run\",\"queuePartitionKey\":\"smoke\",\"recipeName\":\"shell-default\"}" >/dev/null
await 60 ended || die 1 "the run did not end"
header=$(curl -sS "$base/api/runs/$run")
[ "$(jq -r .status <<<"$header")" = SUCCESS ] || die 1 "the run did not succeed: $header"
trace=$(jq -r .traceId <<<"$header") span=$(jq -r .spanId <<<"$header")

await 30 settled || die 1 "not everything was taken, only $(counted)"
if [ -n "$receiver" ]; then
  for signal in "${signals[@]}"; do
    await 10 received "$signal" || die 1 "the receiver did not get the run's $signal (span $span, trace $trace)"
  done
fi
[ "$(lost)" = 0 ] || die 1 "$(lost) spans or log records were lost, taken were $(counted)"
say "ok: run $run, trace $trace, $(counted) exported, none lost"
