#!/usr/bin/env bash
# Builds the example guests and tells when a built one no longer matches its source.
#
#   guests/build.sh              builds all whose artifacts are committed
#   guests/build.sh NAME...      builds these
#   guests/build.sh --all        builds these and the large ones: JavaScript (needs npm), Python (needs venv)
#   guests/build.sh --check      compares sources and artifacts with artifacts.lock; needs no toolchain
#
# Needs nothing but a Rust toolchain: sysroot.sh fetches what a bare machine lacks. The large ones are
# built in a copy under $INSULA_GUEST_CACHE (~/.cache/insula/guests), where their tools stay too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export LC_ALL=C

# How each guest is built. wasm32-wasip2 is what most users take: its standard library imports
# environment, files and stdio; wasm32-wasip1 gives core modules. wasm32-unknown-unknown gives components
# that import only what they call, and small ones.
GUESTS='
cgi-c              c-p1 cgi.c
cgi-component      rust wasm32-wasip2
cgi-rust           rust wasm32-wasip1
counter            rust wasm32-unknown-unknown
echo               rust wasm32-wasip2
gather-p3          rust wasm32-unknown-unknown
files              rust wasm32-wasip2
hello              rust wasm32-unknown-unknown
hello-c            c    hello.c
hello-p3           rust wasm32-unknown-unknown
hostile-endless    rust wasm32-unknown-unknown
hostile-exit       rust wasm32-unknown-unknown
hostile-flood      rust wasm32-wasip2
hostile-grow       rust wasm32-unknown-unknown
hostile-hostcalls  rust wasm32-unknown-unknown
hostile-recurse    rust wasm32-unknown-unknown
hostile-spin       rust wasm32-unknown-unknown
hostile-stall      rust wasm32-unknown-unknown
hostile-start      rust wasm32-unknown-unknown
hostile-tables     c    tables.c slots.s ../common-c/http.c
hostile-trap       rust wasm32-unknown-unknown
relay              rust wasm32-unknown-unknown
relay-p3           rust wasm32-unknown-unknown
prowler            rust wasm32-wasip2
machine            rust wasm32-wasip2
residue            c    residue.c state.s ../common-c/http.c
settings           rust wasm32-unknown-unknown
sse                rust wasm32-wasip2
tool               rust wasm32-wasip2
'
# Guests with a language's whole engine inside: 13 and 18 MB, so they are not committed. Each is built by
# the `[build]` of its own manifest; its package manager's file pins the tools by version and hash.
LARGE='
hello-js           hello.js .npmrc package.json package-lock.json wit/hello.wit
hello-python       hello.py build.sh requirements.txt wit/hello.wit
'
CACHE=${INSULA_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/insula/guests}
# Artifacts are committed, so they stay small.
ARTIFACT_BYTES_MAX=300000
LOCK=artifacts.lock
OUT=${CARGO_TARGET_DIR:-$PWD/target}

die() { # cause, mend
  echo "build: $1" >&2
  echo " mend: $2" >&2
  exit 1
}
names() { awk 'NF {print $1}' <<<"$GUESTS"; }
kind() { awk -v n="$1" '$1 == n {print $2}' <<<"$GUESTS"; }
large() { awk 'NF {print $1}' <<<"$LARGE"; }
large_files() { awk -v n="$1" '$1 == n {$1 = ""; print}' <<<"$LARGE"; }
rest() { awk -v n="$1" '$1 == n {$1 = $2 = ""; print}' <<<"$GUESTS"; }
sha() { sha256sum | cut -d' ' -f1; }

# --- the check --------------------------------------------------------------------------------------

# What decides a guest's bytes: its sources, those it shares, the locked crates, and the profile. The
# workspace's member list is left out, so that a new guest does not make the others stale.
source_files() {
  local dirs=("$1")
  case $(kind "$1") in
    rust)
      ! grep -q '^common' "$1/Cargo.toml" || dirs+=(common)
      ! grep -q '^path = "../cgi-rust/' "$1/Cargo.toml" || dirs+=(cgi-rust)
      ;;
    c) dirs+=(common-c bindgen) ;;
  esac
  find "${dirs[@]}" .cargo -type f \( -name '*.rs' -o -name '*.[chs]' -o -name '*.wit' -o -name Cargo.toml \
    -o -name config.toml \) | sort
}
source_hash() {
  {
    source_files "$1" | xargs sha256sum
    sed '/^members = \[/,/^\]/d' Cargo.toml
    awk -v RS= '/\nsource = / {print $0 "\n"}' Cargo.lock
    rest "$1"
  } | sha
}
locked() { awk -v n="$1" -v f="$2" '$1 == n {print $f}' "$LOCK"; }

check() {
  local name wasm stale=() dir
  for name in $(names); do
    wasm=$name/$name.wasm
    if [ ! -f "$wasm" ]; then
      echo "build: $wasm is missing" >&2
    elif [ "$(sha <"$wasm")" != "$(locked "$name" 3)" ]; then
      echo "build: $wasm is not the artifact that was built (its SHA-256 is not the one in $LOCK)" >&2
    elif [ "$(source_hash "$name")" != "$(locked "$name" 2)" ]; then
      echo "build: $wasm is stale: its sources have changed since it was built" >&2
    elif [ "$(wc -c <"$wasm")" -gt $ARTIFACT_BYTES_MAX ]; then
      echo "build: $wasm is larger than $ARTIFACT_BYTES_MAX bytes" >&2
    else
      continue
    fi
    stale+=("$name")
  done
  for dir in */*.wasm; do
    [ -z "$(large_files "${dir%%/*}")" ] || continue
    [ -n "$(kind "${dir%%/*}")" ] || die "$dir is not in the table of build.sh" "add it there, or remove it"
  done
  [ ${#stale[@]} -eq 0 ] || die "${#stale[@]} of $(names | wc -l) guests do not match" "guests/build.sh ${stale[*]}"
  echo "build: all $(names | wc -l) guests match their sources"
}

# --- building ---------------------------------------------------------------------------------------

# Puts a built file in its place, and says whether anything changed.
install_artifact() { # name, file
  local wasm=$1/$1.wasm size word=new
  size=$(wc -c <"$2")
  [ "$size" -le $ARTIFACT_BYTES_MAX ] ||
    die "$1 has $size bytes; at most $ARTIFACT_BYTES_MAX are committed" "make it smaller"
  if [ -f "$wasm" ]; then
    word=changed
    ! cmp -s "$2" "$wasm" || word='the same bytes'
  fi
  cp "$2" "$wasm"
  chmod 644 "$wasm"
  printf '%-18s %7d bytes  %s\n' "$1" "$size" "$word"
  {
    echo '# Made by build.sh: guest, SHA-256 of its sources, SHA-256 of its artifact.'
    { grep -v '^#' "$LOCK" 2>/dev/null | awk -v n="$1" '$1 != n' || true
      echo "$1 $(source_hash "$1") $(sha <"$wasm")"; } | sort
  } >"$LOCK.new"
  mv "$LOCK.new" "$LOCK"
}

tools() {
  local exports
  exports=$(./sysroot.sh "$@")
  eval "$exports"
}

build_rust() { # target, name...
  local target=$1 upper sysroot name crates=()
  shift
  tools rust "$target"
  upper=$(tr 'a-z-' 'A-Z_' <<<"$target")
  sysroot=INSULA_SYSROOT_$upper
  for name; do crates+=(-p "$name"); done
  # Panic messages carry source paths: the same ones wherever the repository is.
  cargo fetch -q --locked
  env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
    "CARGO_TARGET_${upper}_RUSTFLAGS=${!sysroot:+--sysroot=${!sysroot}} --remap-path-prefix=$PWD=/guests$(./sysroot.sh remap)" \
    cargo build --locked --release --target "$target" "${crates[@]}"
  for name; do
    local file=$OUT/$target/release/$name.wasm
    # A library's file has underscores, a program's has not.
    [ ! -f "$OUT/$target/release/${name//-/_}.wasm" ] || file=$OUT/$target/release/${name//-/_}.wasm
    install_artifact "$name" "$file"
  done
}

# WASI's interface definitions come with the wasip2 crate, so Cargo.lock pins them for C too.
generate_bindings() { # directory
  local wit
  cargo build --locked --release -p bindgen
  wit=$(cargo metadata --locked --format-version 1 | tr ',' '\n' |
    sed -n 's|.*"manifest_path":"\(.*/wasip2-[^"]*\)/Cargo.toml".*|\1/wit|p')
  [ -d "$wit" ] || die "the wasip2 crate's sources were not found" "cargo fetch --manifest-path guests/Cargo.toml"
  "$OUT/release/bindgen" "$wit" wasi:http/proxy "$1"
}

build_c() { # name...
  local name source objects host linkers linker
  local work=$OUT/c
  mkdir -p "$work"
  tools c
  generate_bindings "$work"
  host=$(rustc -vV | sed -n 's/^host: //p')
  linkers=$(rustc --print sysroot)/lib/rustlib/$host/bin
  linker=$(PATH=$linkers:$PATH command -v wasm-component-ld) ||
    die "wasm-component-ld is missing; rustup's toolchains bring it" "cargo install wasm-component-ld"

  compile() { # source, object
    env LD_LIBRARY_PATH="${INSULA_CC_LIBRARIES:-}" "$INSULA_CC" --target=wasm32-wasip2 --sysroot="$INSULA_LIBC" \
      -Oz -ffunction-sections -fdata-sections -mreference-types -mbulk-memory \
      -Wall -Wextra -Wno-unused-command-line-argument -I"$work" -Icommon-c -c "$1" -o "$2"
  }
  compile "$work/proxy.c" "$work/proxy.o"
  for name; do
    objects=()
    for source in $(rest "$name"); do
      objects+=("$work/$name-$(basename "${source%.*}").o")
      compile "$name/$source" "${objects[-1]}"
    done
    PATH=$linkers:$linkers/gcc-ld:$PATH "$linker" --gc-sections --strip-all --stack-first -z stack-size=65536 \
      --entry _initialize "$INSULA_LIBC/lib/wasm32-wasip2/crt1-reactor.o" "${objects[@]}" "$work/proxy.o" \
      "$work/proxy_component_type.o" -L"$INSULA_LIBC/lib/wasm32-wasip2" -lc -o "$work/$name.wasm"
    install_artifact "$name" "$work/$name.wasm"
  done
}

# Builds in a copy, so that nothing but the component appears in the repository. What was built from the
# same files before is taken as it is.
build_large() { # name
  local name=$1 work=$CACHE/$1 files command stamp
  read -ra files <<<"$(large_files "$name")"
  stamp=$(cd "$name" && sha256sum insula.toml "${files[@]}" | sha)
  mkdir -p "$work"
  exec 8>"$work.lock"
  flock 8
  if [ "$(cat "$work/stamp" 2>/dev/null)" != "$stamp" ] || [ ! -f "$work/$name.wasm" ]; then
    rm -f "$work/stamp" "$work/$name.wasm"
    (cd "$name" && cp --parents -t "$work" insula.toml "${files[@]}")
    command=$(sed -n 's/^command = "\(.*\)"$/\1/p' "$name/insula.toml")
    (cd "$work" && sh -c "$command") >&2 || die "$name could not be built" "see the messages of its tools above"
    echo "$stamp" >"$work/stamp"
  fi
  cp "$work/$name.wasm" "$name/$name.wasm"
  flock -u 8
  printf '%-18s %7d bytes  not committed\n' "$name" "$(wc -c <"$name/$name.wasm")"
}

# A program for WASI preview 1 needs nothing but a C library.
build_c_p1() { # name...
  local name host sources linkers libc
  local work=$OUT/c
  mkdir -p "$work"
  tools c
  host=$(rustc -vV | sed -n 's/^host: //p')
  linkers=$(rustc --print sysroot)/lib/rustlib/$host/bin/gcc-ld
  libc=$INSULA_LIBC/lib/wasm32-wasi
  for name; do
    mapfile -t sources < <(rest "$name" | xargs -n1)
    env LD_LIBRARY_PATH="${INSULA_CC_LIBRARIES:-}" "$INSULA_CC" --target=wasm32-wasi --sysroot="$INSULA_LIBC" \
      -Oz -Wall -Wextra -c "$name/${sources[0]}" -o "$work/$name.o"
    PATH=$linkers:$PATH wasm-ld --gc-sections --strip-all --stack-first -z stack-size=65536 \
      "$libc/crt1-command.o" "$work/$name.o" -L"$libc" -lc -o "$work/$name.wasm"
    install_artifact "$name" "$work/$name.wasm"
  done
}

build() { # name...
  local name target wanted small=()
  for name; do
    if [ -n "$(large_files "$name")" ]; then build_large "$name"; else small+=("$name"); fi
  done
  [ ${#small[@]} -gt 0 ] || return 0
  set -- "${small[@]}"
  command -v cargo >/dev/null || die "cargo is missing" "install Rust"
  for name; do
    [ -n "$(kind "$name")" ] || die "there is no guest called $name" "guests/build.sh --list"
  done
  for target in wasm32-unknown-unknown wasm32-wasip1 wasm32-wasip2; do
    wanted=()
    for name; do
      [ "$(kind "$name") $(rest "$name" | xargs)" != "rust $target" ] || wanted+=("$name")
    done
    [ ${#wanted[@]} -eq 0 ] || build_rust "$target" "${wanted[@]}"
  done
  wanted=()
  for name; do [ "$(kind "$name")" != c ] || wanted+=("$name"); done
  [ ${#wanted[@]} -eq 0 ] || build_c "${wanted[@]}"
  wanted=()
  for name; do [ "$(kind "$name")" != c-p1 ] || wanted+=("$name"); done
  [ ${#wanted[@]} -eq 0 ] || build_c_p1 "${wanted[@]}"
}

case ${1:-} in
  --check) check ;;
  --list) names; large ;;
  --all) mapfile -t all < <(names; large); build "${all[@]}" ;;
  -*) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  '') mapfile -t all < <(names); build "${all[@]}" ;;
  *) build "$@" ;;
esac
