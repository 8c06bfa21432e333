#!/usr/bin/env bash
# Asks an opencode daemon over HTTP for what a planner needs of it: health and version, the OpenAPI document, and a session that is made, read and
# deleted again. Calls no model and needs no key.
# usage: scripts/oc-daemon-contract.sh
#   OC_BASE_URL                                          where the daemon is (default http://127.0.0.1:$OC_SERVER_PORT)
#   OC_SERVER_PORT                                       its port on this machine (default 4096)
#   OPENCODE_SERVER_USERNAME, OPENCODE_SERVER_PASSWORD   as the daemon was started with
# Exit codes: 0; 1 when the daemon answers something else; 78 when none answers, or it wants a password that is not set.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"
no_arguments "$@"

need curl jq

base=${OC_BASE_URL:-http://127.0.0.1:${OC_SERVER_PORT:-4096}}
base=${base%/}

# ask METHOD PATH [BODY]: prints the body of a 200; otherwise ends the contract.
ask() {
  local method=$1 path=$2 answer status
  local options=(-sS --noproxy '*' --max-time 20 -X "$method" -w '\n%{http_code}')
  if [ $# -gt 2 ]; then options+=(-H 'content-type: application/json' -d "$3"); fi
  # Through standard input, so that the password shows in no list of processes.
  answer=$(curl "${options[@]}" --config - "$base$path" <<<"${OPENCODE_SERVER_PASSWORD:+user = \"${OPENCODE_SERVER_USERNAME:-opencode}:$OPENCODE_SERVER_PASSWORD\"}") ||
    die 1 "$method $path: no answer"
  status=${answer##*$'\n'}
  [ "$status" != 401 ] || die "$EX_CONFIG" "the daemon at $base asks for a password: set OPENCODE_SERVER_PASSWORD (and OPENCODE_SERVER_USERNAME) as it was started with"
  [ "$status" = 200 ] || die 1 "$method $path answers $status: $(head -c 300 <<<"${answer%$'\n'*}")"
  printf '%s\n' "${answer%$'\n'*}"
}

# holds WHAT FILTER TEXT: the jq filter is true of the text.
holds() {
  jq -e "$2" >/dev/null 2>&1 <<<"$3" || die 1 "not so: $1: $(head -c 300 <<<"$3")"
}

if ! curl -sS --noproxy '*' --max-time 5 -o /dev/null "$base/global/health" 2>/dev/null; then
  die "$EX_CONFIG" "no opencode daemon answers at $base. Start one (\`opencode serve --port ${OC_SERVER_PORT:-4096}\`), or say where it is: OC_SERVER_PORT for a port on this machine, OC_BASE_URL for another address"
fi
health=$(ask GET /global/health)
holds "it is healthy and says its version" '.healthy == true and (.version | type == "string")' "$health"
document=$(ask GET /doc)
holds "its document is OpenAPI 3" '.openapi | startswith("3.")' "$document"
holds "sessions are made, read, told to work, and deleted" \
  '.paths | has("/session") and (.["/session"] | has("post")) and (.["/session/{sessionID}"] | has("get") and has("delete")) and (.["/session/{sessionID}/message"] | has("post"))' \
  "$document"
session=$(ask POST /session '{"title":"stepwell contract"}')
holds "a session has an id" '.id | type == "string" and length > 0' "$session"
id=$(jq -r '.id | @uri' <<<"$session")
found=$(ask GET "/session/$id")
deleted=$(ask DELETE "/session/$id")
holds "it is found by its id" ".id == $(jq .id <<<"$session")" "$found"
holds "it can be deleted" '. == true' "$deleted"
say "ok: $base is opencode $(jq -r .version <<<"$health"), with the routes that a planner needs"
