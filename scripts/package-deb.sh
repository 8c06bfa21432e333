#!/usr/bin/env bash
# Makes a Debian package of the release binary, its manual page, completions, systemd units and defaults.
# usage: scripts/package-deb.sh [--binary PATH] [--out DIR] [--quick]
#   --binary PATH   the binary to pack (default: target/release/stepwell, built first)
#   --out DIR       where the package is written (default: target/debian)
#   --quick         do not compress, for a try
# Prints the path of the package. Needs dpkg-deb and objdump (Debian: dpkg, binutils), and no root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
help_if_asked "$@"

binary='' out="${CARGO_TARGET_DIR:-target}/debian" compression=(-Zxz)
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --out)
      [ $# -ge 2 ] || die "$EX_USAGE" "$1 needs a path"
      if [ "$1" = --binary ]; then binary=$2; else out=$2; fi
      shift 2
      ;;
    --quick)
      compression=(-Znone)
      shift
      ;;
    *) die "$EX_USAGE" "knows no $1 (--help shows the usage)" ;;
  esac
done
for tool in dpkg-deb:dpkg objdump:binutils gzip:gzip; do
  have "${tool%:*}" || die "$EX_UNAVAILABLE" "${tool%:*} not found (Debian: apt-get install ${tool#*:})"
done
if [ -z "$binary" ]; then
  "$STEPWELL_ROOT/scripts/build.sh" >&2
  binary=${CARGO_TARGET_DIR:-target}/release/stepwell
fi
[ -x "$binary" ] || die "$EX_UNAVAILABLE" "$binary is no program"

version=$("$binary" --version | sed -n '1s/^stepwell //p')
architecture=$(dpkg --print-architecture)
# The newest symbols of the C library that the binary asks for are the oldest library that it runs on.
libc=$(objdump -T "$binary" | sed -n 's/.*(\{0,1\}GLIBC_\([0-9][0-9.]*\).*/\1/p' | sort -V | tail -n 1)
if [ -z "$version" ] || [ -z "$libc" ]; then die 1 "$binary does not say its version, or which C library it needs"; fi

root=$(mktemp -d "${TMPDIR:-/tmp}/stepwell-deb-XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# put MODE SOURCE TARGET: SOURCE is - for standard input.
put() {
  mkdir -p "$root/$(dirname "$3")"
  cat "$2" >"$root/$3"
  chmod "$1" "$root/$3"
}

install -D -m 755 "$binary" "$root/usr/bin/stepwell"
gzip -9n <docs/stepwell.1 | put 644 - usr/share/man/man1/stepwell.1.gz
"$binary" completions bash | put 644 - usr/share/bash-completion/completions/stepwell
"$binary" completions zsh | put 644 - usr/share/zsh/vendor-completions/_stepwell
"$binary" completions fish | put 644 - usr/share/fish/vendor_completions.d/stepwell.fish
for unit in deploy/systemd/*; do
  sed 's#/usr/local/bin/stepwell#/usr/bin/stepwell#; s#/etc/stepwell\.env#/etc/default/stepwell#' "$unit" |
    put 644 - "usr/lib/systemd/system/${unit##*/}"
done
put 640 deploy/debian/default etc/default/stepwell
put 644 deploy/debian/copyright usr/share/doc/stepwell/copyright
gzip -9n <CHANGELOG.md | put 644 - usr/share/doc/stepwell/changelog.gz
put 755 deploy/debian/postinst DEBIAN/postinst
put 755 deploy/debian/prerm DEBIAN/prerm
put 755 deploy/debian/postrm DEBIAN/postrm
echo /etc/default/stepwell | put 644 - DEBIAN/conffiles
(cd "$root" && find usr etc -type f -exec md5sum {} +) | LC_ALL=C sort -k 2 | put 644 - DEBIAN/md5sums
put 644 - DEBIAN/control <<CONTROL
Package: stepwell
Version: $version
Architecture: $architecture
Section: admin
Priority: optional
Maintainer: The Stepwell developers <stepwell@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1
Recommends: ca-certificates, bubblewrap
Suggests: postgresql
Description: durable job runner
 Turns an intent into a run of checkpointed steps, on SQLite or Postgres. Kill it
 at any instant, start it again, and the run goes on where it was: a step that was
 committed never runs twice.
 .
 No service is started by the installation: set the database in
 /etc/default/stepwell, then enable stepwell.service, or stepwell-api.service and
 stepwell-worker.service, or stepwell-once.timer.
CONTROL

mkdir -p "$out"
package=$out/stepwell_${version}_$architecture.deb
dpkg-deb "${compression[@]}" --root-owner-group --build "$root" "$package" >&2
printf '%s\n' "$package"
