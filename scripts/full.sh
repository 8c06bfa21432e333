#!/usr/bin/env bash
# The gate for a signoff: everything of check, the whole suite on both databases, and the field manual, read whole. Touches no configured database.
# usage: scripts/full.sh
# Runs: formatting, clippy, generated files, policies, shell scripts, the supply chain (cargo machete and cargo deny, which it installs when they are
# missing), every test (those of check among them), the whole sweep of deaths beside writes (quick, check and the suite die at some), the
# installation that the quickstart begins with (of a debug build, which is there by then), and scripts/manual.sh.
# Each gate contains the one before: quick < check < full. The manual ends with the gates; it takes quick and check as done here, and runs the soaks.
# A missing tool is a failure here, not a skipped test; without a network known vulnerabilities are not looked up, and that is said loudly.
#   MISE_NO_RESET=1   keep the throwaway servers and the databases afterwards
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$STEPWELL_ROOT/scripts/lib-gates.sh"
help_if_asked "$@"
no_arguments "$@"

# What is installed starts.
install_it() {
  local root status=0
  root=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-install-XXXXXX")
  { cargo install --quiet --locked --debug --path . --root "$root" && "$root/bin/stepwell" --version; } || status=$?
  rm -rf "$root"
  return "$status"
}

export CI=true STEPWELL_TEST_BACKENDS=both
static_steps
step "supply chain" check_supply_chain
# The manual comes by itself, with its long blocks.
step "the whole suite on both databases" "$STEPWELL_ROOT/scripts/test.sh" -- --skip the_manual_holds_on_both_databases
step "a death beside every write" env STEPWELL_TEST_LONG=1 "$STEPWELL_ROOT/scripts/test.sh" --test write_sweep
step "cargo install" install_it
export STEPWELL_MANUAL_DONE='quick check full'
step "the manual on both databases" "$STEPWELL_ROOT/scripts/manual.sh"
passed
