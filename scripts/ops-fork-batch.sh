#!/usr/bin/env bash
# Copies the workflows whose ids stand on standard input, one a line, up to a step, and queues the copies.
# usage: scripts/ops-fork-batch.sh STEP [VERSION] [--dry-run] [--strict] [--actor NAME] [--reason TEXT] <ids
#   STEP      the function id of the first step that is executed again, from 1
#   VERSION   the application version that may run the copies (default that of the original)
# Exit codes: 0; 1 when an id was unknown or a request failed, with --strict also when one was refused; 2 without ids.
# Run twice it makes two copies of each.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

case ${1:-} in
  '' | *[!0-9]*) die "$EX_USAGE" "STEP must be a function id from 1, got '${1:-}' (--help shows the usage)" ;;
esac
arguments=(--step "$1")
shift
case ${1:--} in
  -*) ;;
  *)
    arguments+=(--app-version "$1")
    shift
    ;;
esac
find_stepwell
exec "${STEPWELL[@]}" ops fork --batch "${arguments[@]}" "$@"
