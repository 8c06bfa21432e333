#!/usr/bin/env bash
# Builds the release binary.
# usage: scripts/build.sh [cargo build options]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

need_cargo
cargo build --release --bin stepwell "$@"
