#!/usr/bin/env bash
# Runs a real command in a real sandbox, on a throwaway database, and compares what came out.
# usage: scripts/sbx-live-smoke.sh
#   SBX_MODE       live (default); anything else is refused, it would prove nothing
#   SBX_PROVIDER   local (default). Another one that this version does not have is refused with its words and exit code 78
#   E2B_API_KEY    what SBX_PROVIDER=e2b needs
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
no_arguments "$@"

export SBX_MODE=${SBX_MODE:-live} SBX_PROVIDER=${SBX_PROVIDER:-local}
[ "$SBX_MODE" = live ] || die "$EX_CONFIG" "SBX_MODE must be live here, got '$SBX_MODE'"
if [ "$SBX_PROVIDER" = e2b ] && [ -z "${E2B_API_KEY:-}" ]; then
  say "SBX_PROVIDER=e2b needs E2B_API_KEY, which is not set"
fi
find_stepwell
dir=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-sbx-XXXXXX")
trap 'rm -rf "$dir"' EXIT
status=0
# The quotes are the sandbox's shell's business: it computes, so that an echo of the command is no answer.
# shellcheck disable=SC2016
DATABASE_URL="sqlite://$dir/smoke.db?mode=rwc" "${STEPWELL[@]}" run -- 'echo "smoke $((6 * 7))"' >"$dir/out" || status=$?
[ "$status" -ne "$EX_CONFIG" ] || die "$EX_CONFIG" "not run: SBX_PROVIDER=$SBX_PROVIDER is not built into this version; local is"
[ "$status" -eq 0 ] || exit "$status"
[ "$(cat "$dir/out")" = 'smoke 42' ] || die 1 "the command printed '$(cat "$dir/out")' instead of 'smoke 42'"
say "ok: the $SBX_PROVIDER sandbox ran a command"
