#!/usr/bin/env bash
# A steady load on an API and two workers on a throwaway Postgres, while the database, its connections and one worker die again and again.
# usage: scripts/soak-chaos.sh [--minutes N]
#   --minutes N        how long the steady load lasts (default 2); half of the throughput measured before it
#   STEPWELL_BIN       the binary to soak (default: the newest build)
#   MISE_NO_RESET=1    keep the throwaway directory: logs, the cluster
# Every 7 s one of these happens: all connections are cut; Postgres dies and comes back within two seconds; a worker is killed and started.
# Every run must succeed, and `stepwell doctor` must find nothing. Flat must be (the last fifth against the second; the tolerance is printed): memory,
# descriptors and threads of the API and of the surviving worker, the asynchronous tasks of the worker (the API has no port that shows them), and the
# p99 of posting.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$STEPWELL_ROOT/scripts/lib-soak.sh"
help_if_asked "$@"
soak_arguments "$@"
need curl

cluster() {
  local what=$1
  shift
  "$STEPWELL_ROOT/scripts/lab-cluster.sh" "$what" "$dir/cluster" "$@"
}
clean_up_more() { if [ -d "$dir/cluster" ]; then cluster stop; fi; }

soak_prepare chaos
until url=$(cluster create "$((15000 + RANDOM % 15000))"); do
  rm -rf "$dir/cluster"
  [ "$SECONDS" -lt 60 ] || die "$EX_UNAVAILABLE" "no Postgres could be started"
done
export DATABASE_URL=$url PORT=0 ADMIN_PORT=0 SBX_MODE=mock OC_MODE=replay EXECUTOR_EXPIRY_MS=4000
export SBX_QUEUE_RATE_LIMIT_PER_PERIOD=1000000 SBX_QUEUE_CONCURRENCY=1000 SBX_QUEUE_WORKER_CONCURRENCY=100

launch api "${STEPWELL[@]}" api
api=$launched
await 300 answers api || die "$EX_UNAVAILABLE" "the API did not start: $(tail -n 5 "$dir/api.log")"
launch worker "${STEPWELL[@]}" worker
worker=$launched
await 60 has_address worker "$worker_metrics" || die "$EX_UNAVAILABLE" "the worker did not start: $(tail -n 5 "$dir/worker.log")"
launch mortal "${STEPWELL[@]}" worker
mortal=$launched
cluster sql >/dev/null <<'SQL'
\connect stepwell
INSERT INTO app.recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, created_at)
VALUES ('soak', 1, 'intentQ', 5, 5, 5, 'configured', 'auto', 'configured', 0);
SQL

"$SOAK" --base "$(address api "$api_pattern")" --recipe soak --minutes "$minutes" --watch "$api=api" --watch "$worker=worker@$(address worker "$worker_metrics")" --p99-slack-ms 3000 >"$dir/soak.out" 2>&1 &
soak=$!
children+=("$soak")
deaths=0
while kill -0 "$soak" 2>/dev/null; do
  sleep 7
  # Not before the throughput is measured.
  [ -s "$dir/soak.out" ] || continue
  case $((deaths % 3)) in
    0) cluster sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stepwell'" >/dev/null ;;
    1)
      cluster stop
      sleep "$((RANDOM % 2))"
      cluster start
      ;;
    2)
      kill -9 "$mortal" 2>/dev/null || true
      wait "$mortal" 2>/dev/null || true
      launch mortal "${STEPWELL[@]}" worker
      mortal=$launched
      ;;
  esac
  deaths=$((deaths + 1))
done
status=0
wait "$soak" || status=$?
cat "$dir/soak.out"
[ "$status" -eq 0 ] || die "$status" "the load did not end well"
say "$deaths deaths; lines that warn: api $(grep -c WARN "$dir/api.log" || true), worker $(grep -c WARN "$dir/worker.log" || true)"
must_be_sound "$url"
