#!/usr/bin/env bash
# Would make a plan with an opencode daemon. This version of stepwell has no live planner: its own words are printed, and the exit code is 78.
# usage: scripts/oc-live-smoke.sh
#   OC_MODE   live (default) or record
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
no_arguments "$@"

case ${OC_MODE:-live} in
  live | record) ;;
  *) die "$EX_CONFIG" "OC_MODE must be live or record here, got '$OC_MODE'" ;;
esac
find_stepwell
dir=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-oc-XXXXXX")
trap 'rm -rf "$dir"' EXIT
status=0
DATABASE_URL="sqlite://$dir/smoke.db?mode=rwc" OC_MODE=${OC_MODE:-live} "${STEPWELL[@]}" migrate || status=$?
case $status in
  0) die 1 "this stepwell takes OC_MODE=${OC_MODE:-live}, and this smoke does not know yet how to prove that it plans" ;;
  "$EX_CONFIG") die "$EX_CONFIG" "not run: planning with a live daemon is not built into this version" ;;
  *) exit "$status" ;;
esac
