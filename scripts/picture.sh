#!/usr/bin/env bash
# Draws the terminal session of the README: types it in an empty directory, and writes what was typed and printed as SVG.
# usage: scripts/picture.sh [--out FILE]
#   --out FILE   the picture (default: docs/session.svg)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

out=docs/session.svg
if [ $# -gt 0 ]; then
  if [ $# -ne 2 ] || [ "$1" != --out ]; then die "$EX_USAGE" "takes --out FILE, got: $* (--help shows the usage)"; fi
  out=$2
fi
mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd -P)/${out##*/}
find_stepwell
dir=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-picture-XXXXXX")
trap 'rm -rf "$dir"' EXIT
case ${STEPWELL[0]} in
  cargo) die "$EX_UNAVAILABLE" "there is no current build: cargo build" ;;
  /*) ;;
  *) STEPWELL[0]=$STEPWELL_ROOT/${STEPWELL[0]} ;;
esac
printf '#!/bin/sh\nexec %q "$@"\n' "${STEPWELL[0]}" >"$dir/stepwell"
chmod +x "$dir/stepwell"
mkdir "$dir/work"

# What is typed. The second line kills the program in the middle of its command.
cat >"$dir/session" <<'SESSION'
stepwell run --id backup -- 'echo copying; sleep 3; echo copied' &
sleep 2; kill -9 $!
stepwell run --id backup -- 'echo copying; sleep 3; echo copied'
stepwell explain backup
stepwell runs
stepwell doctor
SESSION

# Warnings name the machine; what the shell says of the job that was killed names this script.
unset DATABASE_URL STEPWELL_SERVER
export PATH="$dir:$PATH" EXECUTOR_EXPIRY_MS=2000 NO_COLOR=1 RUST_LOG=error
(
  cd "$dir/work"
  : >../transcript
  while IFS= read -r line; do
    printf '$ %s\n' "$line" >>../transcript
    eval "$line" >>../transcript 2>&1
  done <../session
) 2>/dev/null
sed -i '/: line [0-9]*: .* Killed /d' "$dir/transcript"

awk '
  function escaped(text) {
    gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/>/, "\\&gt;", text)
    return text
  }
  { lines[NR] = $0; if (length($0) > widest) widest = length($0) }
  END {
    width = int(widest * 8.43) + 48; height = NR * 20 + 64
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n", width, height, width, height
    print "<title>A terminal: a command is killed in the middle, typed again, and goes on</title>"
    print "<!-- drawn by scripts/picture.sh from a session that was typed; do not edit -->"
    print "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace;white-space:pre;fill:#d6deeb}.typed{fill:#7fdbca;font-weight:bold}.note{fill:#8b9bb4}</style>"
    printf "<rect width=\"%d\" height=\"%d\" rx=\"8\" fill=\"#0b1622\"/>\n", width, height
    print "<circle cx=\"20\" cy=\"18\" r=\"6\" fill=\"#ef6b6b\"/><circle cx=\"40\" cy=\"18\" r=\"6\" fill=\"#f2c55c\"/><circle cx=\"60\" cy=\"18\" r=\"6\" fill=\"#63c174\"/>"
    for (i = 1; i <= NR; i++) {
      class = lines[i] ~ /^\$ / ? " class=\"typed\"" : (lines[i] ~ /^stepwell: / ? " class=\"note\"" : "")
      printf "<text x=\"24\" y=\"%d\" xml:space=\"preserve\"%s>%s</text>\n", i * 20 + 36, class, escaped(lines[i])
    }
    print "</svg>"
  }' "$dir/transcript" >"$out"
say "wrote $out"
