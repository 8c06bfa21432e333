#!/usr/bin/env bash
# Writes what is generated in docs/: the references of the command line, of the configuration and of the API, and the manual page.
# usage: scripts/docs.sh
# The tests compare what is committed with what this writes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
no_arguments "$@"

need_cargo
cargo run --quiet -p openapi
STEPWELL_WRITE_DOCS=1 cargo test --quiet --test reference
