#!/usr/bin/env bash
# Fails when the ops plane is not exactly its six routes under /api/ops/wf: in the document, in the generated router, in what the front lets pass,
# or in a route that somebody added by hand. Reads files only.
# usage: scripts/policy-ops-surface.sh [ROOT]   (ROOT: the absolute path of another checkout than this one)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
[ $# -le 1 ] || die "$EX_USAGE" "takes at most one argument, got: $* (--help shows the usage)"
root=${1:-$STEPWELL_ROOT}

readonly EXPECTED='GET /api/ops/wf
GET /api/ops/wf/{wid}
GET /api/ops/wf/{wid}/steps
POST /api/ops/wf/{wid}/cancel
POST /api/ops/wf/{wid}/fork
POST /api/ops/wf/{wid}/resume'

readable() { [ -r "$1" ] || die 1 "cannot read $1"; }

# Operations of the document: a path, and below it its methods.
in_document() {
  readable "$1"
  awk '/^  \// { path = $1; sub(/:$/, "", path) }
    /^[a-z]/ { path = "" }
    /^    (get|put|post|delete|options|head|patch|trace):/ && path ~ /^\/api\/ops\/wf/ { sub(/:.*/, "", $1); print toupper($1), path }' "$1" | LC_ALL=C sort
}

# Operations of a generated file, in which rustfmt may have broken the lines: `path = "…"` and `method = "…"`, or `path: "…"` and `method: "…"`.
in_router() {
  readable "$1"
  tr '\n' ' ' <"$1" | grep -oE 'path = "[^"]*", *method = "[a-z]+"' | sed -E 's/path = "([^"]*)", *method = "([a-z]+)"/\2 \1/; s/:([a-z]+)/{\1}/g' |
    awk '$2 ~ /^\/api\/ops\/wf/ { print toupper($1), $2 }' | LC_ALL=C sort
}
in_front() {
  readable "$1"
  tr '\n' ' ' <"$1" | grep -oE 'method: "[A-Z]+", *path: "[^"]*"' | sed -E 's/method: "([A-Z]+)", *path: "([^"]*)"/\1 \2/' |
    awk '$2 ~ /^\/api\/ops\/wf/' | LC_ALL=C sort
}

failed=0
compare() {
  local what=$1 found=$2
  if [ "$found" != "$EXPECTED" ]; then
    say "$what does not hold exactly the six routes of the ops plane:"
    diff <(echo "$EXPECTED") <(echo "$found") >&2 || true
    failed=1
  fi
}
compare "the document" "$(in_document "$root/openapi/openapi.yaml")"
compare "the router" "$(in_router "$root/openapi/src/generated/routes.rs")"
compare "the front" "$(in_front "$root/openapi/src/generated/tables.rs")"
if by_hand=$(grep -rnE '\.(at|nest|nest_no_strip)\( *"/api/ops' "$root/src" --include='*.rs'); then
  say "routes added by hand:"
  echo "$by_hand" >&2
  failed=1
fi
[ "$failed" -eq 0 ] || exit 1
say "the ops plane is its six routes"
