#!/usr/bin/env bash
# Signs off an opencode daemon: its contract, then a plan made by it.
# usage: scripts/oc-daemon-signoff.sh   (settings as for scripts/oc-daemon-contract.sh and scripts/oc-live-smoke.sh)
# Exit codes: 0; 1 when something does not hold; 78 when no daemon answers, and when this version of stepwell cannot plan with one.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
no_arguments "$@"

"$STEPWELL_ROOT/scripts/oc-daemon-contract.sh"
OC_MODE=live exec "$STEPWELL_ROOT/scripts/oc-live-smoke.sh"
