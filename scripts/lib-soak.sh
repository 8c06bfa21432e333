# shellcheck shell=bash
# Shared by the soaks: a throwaway directory, processes that end with the script, and the steady load.
# usage: . scripts/lib.sh && . scripts/lib-soak.sh   (sourced; sets `dir`, `minutes`; the caller may define `clean_up_more`)

# shellcheck disable=SC2034 # read by the scripts that source this file
# soak_arguments [--minutes N]: sets `minutes`.
soak_arguments() {
  minutes=2
  while [ $# -gt 0 ]; do
    case $1 in
      --minutes)
        [[ ${2:-} =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "$EX_USAGE" "--minutes needs a number, got '${2:-}'"
        minutes=$2
        shift 2
        ;;
      *) die "$EX_USAGE" "unknown: $1 (--help shows the usage)" ;;
    esac
  done
}

dir='' children=()

soak_clean_up() {
  local status=$? child
  trap - EXIT INT TERM
  for child in "${children[@]+"${children[@]}"}"; do if kill -9 "$child" 2>/dev/null; then wait "$child" 2>/dev/null || true; fi; done
  if declare -F clean_up_more >/dev/null; then clean_up_more || true; fi
  if [ "${MISE_NO_RESET:-}" = 1 ] || [ "$status" -ne 0 ]; then say "kept: $dir"; else rm -rf "$dir"; fi
  if [ "$status" -eq 0 ]; then say "passed in $SECONDS s"; else say "FAILED (exit $status) after $SECONDS s"; fi
  exit "$status"
}

# soak_prepare NAME: a directory, the traps, the binary and the program that loads.
soak_prepare() {
  dir=$(mktemp -d "/var/tmp/stepwell-$1-XXXXXX")
  chmod 755 "$dir"
  trap soak_clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  local target=${CARGO_TARGET_DIR:-target}
  find_stepwell
  need_cargo
  if [ "${STEPWELL[0]}" = cargo ]; then
    cargo build --quiet --release --bin stepwell
    STEPWELL=("$target/release/stepwell")
  fi
  # Processes run in the throwaway directory.
  STEPWELL=("$(realpath "${STEPWELL[0]}")")
  cargo build --quiet --example soak
  SOAK=$(realpath "$target/debug/examples/soak")
}

# launch NAME ARGUMENT…: a process in the background, its output in NAME.log; sets `launched` to its id.
launch() {
  local name=$1
  shift
  (cd "$dir" && exec "$@") >>"$dir/$name.log" 2>&1 &
  launched=$!
  children+=("$launched")
}

# The address that a process prints for what the pattern names.
address() { sed -n "$2" "$dir/$1.log" | tail -n 1; }
readonly api_pattern='s#^  listening  \(http://[^ ]*\).*#\1#p'
# shellcheck disable=SC2034 # read by the scripts that source this file
readonly serve_metrics='s#.*metrics on \(http://[^/]*\)/healthz.*#\1/metrics#p' worker_metrics='s#^  health *\(http://[^/]*\)/healthz.*#\1/metrics#p'
has_address() { [ -n "$(address "$1" "$2")" ]; }
answers() { [ -n "$(address "$1" "$api_pattern")" ] && curl -sS "$(address "$1" "$api_pattern")/healthz" >/dev/null 2>&1; }

# must_be_sound URL: every invariant holds.
must_be_sound() { DATABASE_URL=$1 "${STEPWELL[@]}" doctor || die 1 "doctor has findings"; }
