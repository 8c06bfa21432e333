#!/usr/bin/env bash
# Rebuilds the product's half (schema app) of the configured database. Everything in it is lost.
# usage: scripts/db/reset.sh
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
help_if_asked "$@"
no_arguments "$@"

find_stepwell
exec "${STEPWELL[@]}" migrate --reset app
