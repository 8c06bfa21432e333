#!/usr/bin/env bash
# Runs one test target by the name of the file that the manual gives it, on throwaway databases.
# usage: scripts/test-file.sh path/to/time-durability.test.ts [arguments of the test program]
# The base name counts: `.test.ts` is dropped, `-` becomes `_`, and tests/time_durability.rs is run. Arguments behind it go to the test
# program; a word of theirs runs only the tests whose names contain it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

[ $# -gt 0 ] || die "$EX_USAGE" "which file? (--help shows the usage)"
name=${1##*/}
shift
name=${name%.rs}
name=${name%.test.ts}
name=${name//-/_}

if [[ ! $name =~ ^[a-z0-9_]+$ ]] || [ ! -f "tests/$name.rs" ]; then
  known=()
  for file in tests/*.rs; do
    file=${file##*/}
    known+=("${file%.rs}")
  done
  die "$EX_USAGE" "there is no test target '$name'; these exist: ${known[*]//_/-}"
fi
if [ $# -gt 0 ]; then
  exec "$STEPWELL_ROOT/scripts/test.sh" --test "$name" -- "$@"
fi
exec "$STEPWELL_ROOT/scripts/test.sh" --test "$name"
