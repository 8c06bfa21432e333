# shellcheck shell=bash
# The steps that the gates quick, check and full share, and how a gate tells what it does.
# usage: . scripts/lib.sh && . scripts/lib-gates.sh   (sourced; defines functions and lists, runs nothing)

# shellcheck disable=SC2034 # read by the scripts that source this file
# Test targets that together take less than a minute on SQLite, one for each thing that users notice first.
readonly QUICK_SUITES=(golden_flow plan_approval_api ops_controls start_idempotent artifacts refusals explain stream cascade cli_run ops_pages write_sweep)
# shellcheck disable=SC2034
# What check adds: more of the engine and of the operator's kit, still without what waits, kills for minutes or counts a crowd.
readonly CHECK_SUITES=(api_shim cancel_resume_fork gates ops_kit retry_backoff retry_repair versions)

GATE_STARTED=$SECONDS GATE_STEPS=''

# step LABEL COMMAND…: runs it, and ends the gate when it fails. COMMAND is one command: inside, `set -e` is off.
step() {
  local label=$1 started=$SECONDS status=0
  shift
  say "$label"
  "$@" || status=$?
  if [ "$status" -ne 0 ]; then die "$status" "FAILED at '$label' after $((SECONDS - GATE_STARTED)) s"; fi
  GATE_STEPS+=$(printf '%6d s  %s' $((SECONDS - started)) "$label")$'\n'
}

# The gate's last word: what ran, and how long it took.
passed() {
  printf '%s' "$GATE_STEPS" >&2
  say "passed in $((SECONDS - GATE_STARTED)) s"
}

# Lab R's `OC_STRICT_MODE=1 SBX_QUEUE_PARTITION=true mise run full` is taken for what it can be: a gate that depended on who calls it would be none.
say_what_is_not_passed_on() {
  local ignored
  ignored=$(compgen -e | grep -E '^(OC|SBX)_' | paste -s -d ' ' -) || :
  if [ -n "$ignored" ]; then say "not passed on to the servers of this gate: $ignored (each test says itself under which settings it runs)"; fi
}

# Everything that needs neither a server nor a database.
static_steps() {
  say_what_is_not_passed_on
  need_cargo
  step "formatting" cargo fmt --all --check
  step "clippy on everything" cargo clippy --workspace --all-targets -- -D warnings
  step "generated files are current" cargo test --quiet --workspace --bin openapi --test reference
  step "policies" check_policies
  step "shell scripts" check_scripts
}

check_policies() {
  local policy
  for policy in scripts/policy-*.sh; do "$policy" || return; done
}

check_scripts() {
  local script scripts=(scripts/*.sh scripts/db/*.sh .ci/run tests/manual/bin/mise)
  for script in "${scripts[@]}"; do bash -n "$script" || return; done
  if have shellcheck; then
    shellcheck "${scripts[@]}"
  else
    say "NOT RUN: shellcheck is not installed (Debian: apt-get install shellcheck); bash has parsed the scripts"
  fi
}

# What we depend on: every dependency is used, under a licence that goes with ours, from the one registry, and known for no vulnerability.
check_supply_chain() {
  local tool
  for tool in machete deny; do
    # Not into our target directory: what is compiled for another tool's lock file is of no use here.
    cargo "$tool" --version >/dev/null 2>&1 || env -u CARGO_TARGET_DIR cargo install --quiet --locked "cargo-$tool" || return
  done
  cargo machete || return
  cargo deny check bans licenses sources || return
  if cargo deny fetch db; then
    cargo deny check --disable-fetch advisories || return
  else
    say "********************************************************************************"
    say "NOT CHECKED: known vulnerabilities, because the list of RustSec cannot be fetched"
    say "********************************************************************************"
  fi
}

# suites DATABASES NAME…: those test targets on sqlite, postgres or both.
suites() {
  local databases=$1 name targets=()
  shift
  for name in "$@"; do targets+=(--test "$name"); done
  STEPWELL_TEST_BACKENDS=$databases "$STEPWELL_ROOT/scripts/test.sh" "${targets[@]}"
}
