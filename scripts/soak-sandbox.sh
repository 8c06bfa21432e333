#!/usr/bin/env bash
# A steady load of real commands in the local sandbox, on one server with a throwaway SQLite file.
# usage: scripts/soak-sandbox.sh [--minutes N]
#   --minutes N        how long the steady load lasts (default 2); half of the throughput measured before it
#   STEPWELL_BIN       the binary to soak (default: the newest build)
#   MISE_NO_RESET=1    keep the throwaway directory: log, database
# Every run must succeed, memory, descriptors, threads and tasks of the server and the p99 of posting must be flat (the last fifth against the second;
# the tolerance is printed), no directory and no process of a task may be left, and `stepwell doctor` must find nothing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$STEPWELL_ROOT/scripts/lib-soak.sh"
help_if_asked "$@"
soak_arguments "$@"
need curl

soak_prepare sandbox
export DATABASE_URL="sqlite://$dir/soak.db?mode=rwc" PORT=0 ADMIN_PORT=0 SBX_MODE=live SBX_PROVIDER=local OC_MODE=replay
export SBX_QUEUE_RATE_LIMIT_PER_PERIOD=1000000 SBX_QUEUE_CONCURRENCY=1000 SBX_QUEUE_WORKER_CONCURRENCY=4

launch serve "${STEPWELL[@]}" serve
server=$launched
await 300 answers serve || die "$EX_UNAVAILABLE" "the server did not start: $(tail -n 5 "$dir/serve.log")"

# A command that writes, reads, forks and prints a little; its marker finds it in the list of processes.
marker="soak-$$-$RANDOM"
# shellcheck disable=SC2016 # the task's shell expands it
inputs=$(printf '{"command":"sh job.sh %s","files":[{"path":"job.sh","inline":"seq 1 2000 >numbers; (sort -r numbers | head -n 3) && echo done $1\\n"}]}' "$marker")
"$SOAK" --base "$(address serve "$api_pattern")" --recipe shell-default --inputs "$inputs" --minutes "$minutes" --watch "$server=server@$(address serve "$serve_metrics")" --p99-slack-ms 100 || die 1 "the load did not end well"

left=$(find "$dir/.stepwell/sandbox" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)
say "directories of tasks left: $left"
[ "$left" -eq 0 ] || die 1 "tasks have left directories in $dir/.stepwell/sandbox"
if pgrep -f "$marker" >/dev/null; then die 1 "processes of tasks live on: $(pgrep -af "$marker")"; fi
kill "$server" && wait "$server"
must_be_sound "$DATABASE_URL"
