#!/usr/bin/env bash
# The toolchains that the guests need and a bare machine lacks, without changing the system.
#
#   guests/sysroot.sh rust TARGET...   std for wasm32 targets; prints `export` lines for the caller to eval
#   guests/sysroot.sh c                clang and wasi-libc;    prints `export` lines for the caller to eval
#   guests/sysroot.sh remap            prints compiler flags that keep this machine's paths out of a guest
#   guests/sysroot.sh clean            removes everything this script ever made
#
# rust: prints nothing when rustup has the targets already. Otherwise it builds std from Debian's
#       sources of exactly the compiler on PATH, because std only compiles with its own compiler.
#       If Debian no longer has that version, it takes compiler and sources from the security suite.
# c:    uses $WASI_SDK_PATH when it is set, otherwise Debian's clang and wasi-libc.
#
# Packages come through a private apt root (signatures are checked, nothing is installed) and are
# unpacked with dpkg-deb. The versions that the committed artifacts were built with are pinned below.
set -euo pipefail

# A fixed path, because cargo hashes the path of std's sources into symbol names: the same packages
# elsewhere give other bytes. INSULA_GUEST_TOOLS moves it for those who do not mind.
DEST=${INSULA_GUEST_TOOLS:-/var/tmp/insula-guest-tools}
JOBS=${CARGO_BUILD_JOBS:-2}

# The packages that decide the guests' bytes, at the versions and with the SHA-256 that the committed
# artifacts were built from. Another version is taken on apt's word (the archive's signature), with a
# note that the bytes will differ.
PINS='
clang-19_1%3a19.1.7-3~deb12u1_amd64.deb 89ab931a9bbfd567a76df3141af5d5ec67b01d800150e614f2c9bf4671da9b08
libclang-common-19-dev_1%3a19.1.7-3~deb12u1_amd64.deb 811c2d398ad772204ec05ffde485cbbc4c210abc5dcf0068ff9ca3e647591ce7
libclang-cpp19_1%3a19.1.7-3~deb12u1_amd64.deb 5daa784e1d747db320c16604729ffa805e6bfd72d3ac0b7cb0ee5f1a7ebc8aae
libllvm19_1%3a19.1.7-3~deb12u1_amd64.deb 6edf3a8b28495cdba883d9760e0dca1a81983fc497a5f989dc64d0d96d23b4aa
rust-src_1.95.0+dfsg1-2~bpo13+1_all.deb 7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b
wasi-libc_0.0~git20240708.3f43ea9-2~bpo12+1_all.deb ab95a83896093f1f640f9954a5a64ef8e9635332e56fdbb3ed396aed13fe627f
'

say() { echo "sysroot: $*" >&2; }
die() { # cause, mend
  echo "sysroot: $1" >&2
  echo "   mend: $2" >&2
  exit 1
}
need() { command -v "$1" >/dev/null || die "$1 is missing" "$2"; }

# Everything under $DEST is executed, or linked into guests, so nobody else may own or write it.
open_dest() {
  mkdir -p "$DEST"
  if [ ! -O "$DEST" ] || [ -L "$DEST" ]; then
    die "$DEST belongs to someone else" "remove it, or set INSULA_GUEST_TOOLS to a directory of yours"
  fi
  chmod go-w "$DEST"
  exec 9>"$DEST/lock"
  flock 9
}

# --- packages -------------------------------------------------------------------------------------

APT=()
APT_READY=
open_apt() {
  [ -z "$APT_READY" ] || return 0
  local root=$DEST/apt keyring=/usr/share/keyrings/debian-archive-keyring.gpg uris main security
  need apt-get "on a system without apt, use rustup ('rustup target add wasm32-wasip2 wasm32-unknown-unknown') and a wasi-sdk (WASI_SDK_PATH)"
  [ -f "$keyring" ] || die "Debian's archive keyring is missing" "apt-get install debian-archive-keyring"
  # The mirror is whatever this system already uses; none is written down here.
  uris=$(apt-get indextargets --format "\$(REPO_URI)" | sort -u)
  main=${DEBIAN_MIRROR:-$(grep '/debian/*$' <<<"$uris" | head -n 1 || true)}
  security=$(grep '/debian-security/*$' <<<"$uris" | head -n 1 || true)
  [ -n "$main" ] || die "apt knows no Debian mirror" "set DEBIAN_MIRROR to the address of one"
  rm -rf "$root"
  mkdir -p "$root"/etc/apt/{sources.list.d,preferences.d,apt.conf.d,trusted.gpg.d} \
    "$root"/var/lib/apt/lists/partial "$root"/var/cache/apt/archives/partial "$root"/var/lib/dpkg "$DEST/debs"
  : >"$root/var/lib/dpkg/status"
  local suite
  for suite in bookworm bookworm-backports trixie-backports; do
    echo "deb [signed-by=$keyring arch=amd64] $main $suite main"
  done >"$root/etc/apt/sources.list"
  [ -z "$security" ] || echo "deb [signed-by=$keyring arch=amd64] $security bookworm-security main" >>"$root/etc/apt/sources.list"
  APT=(-q -o "Dir=$root" -o "Dir::State::status=$root/var/lib/dpkg/status" -o Acquire::Languages=none
    -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o APT::Architectures=amd64)
  say "reading Debian's package lists"
  apt-get "${APT[@]}" update >&2 || die "Debian's package lists could not be read" "check the network, or set DEBIAN_MIRROR"
  APT_READY=1
}

# The newest version of package $1 that matches the pattern $2; empty if there is none.
version_of() { apt-cache "${APT[@]}" madison "$1" | awk -F'|' '{gsub(/ /,"",$2); print $2}' | grep -m1 -E -- "$2" || true; }

# Downloads package $1 in version $2 unless it is there, and prints its file name.
deb() {
  local name=$1 version=$2 file pin
  file=$(find "$DEST/debs" -name "${name}_${version//:/%3a}_*.deb" | head -n 1)
  if [ -z "$file" ]; then
    say "downloading $name $version"
    (cd "$DEST/debs" && apt-get "${APT[@]}" download "$name=$version" >&2) ||
      die "$name $version could not be downloaded" "check the network; 'guests/sysroot.sh clean' forgets old package lists"
    file=$(find "$DEST/debs" -name "${name}_${version//:/%3a}_*.deb" | head -n 1)
  fi
  pin=$(awk -v f="${file##*/}" '$1 == f {print $2}' <<<"$PINS")
  if [ -z "$pin" ] && grep -q "^${name}_" <<<"$PINS"; then
    say "note: ${file##*/} is not the pinned version; bytes will differ from the committed guests"
  elif [ -n "$pin" ] && [ "$(sha256sum <"$file")" != "$pin  -" ]; then
    rm -f "$file"
    die "${file##*/} is not the file that was pinned (SHA-256 differs); it was removed" "run this again"
  fi
  echo "$file"
}

unpack() { # package, version, directory
  local file
  file=$(deb "$1" "$2")
  dpkg-deb -x "$file" "$3"
}

unpack_libc() {
  local version
  version=$(version_of wasi-libc bpo12)
  [ -n "$version" ] || die "Debian has no backported wasi-libc" \
    "take Rust's targets from rustup and C from a wasi-sdk (WASI_SDK_PATH)"
  rm -rf "$DEST/wasi-libc"
  mkdir -p "$DEST/wasi-libc"
  unpack wasi-libc "$version" "$DEST/wasi-libc"
}

# What was unpacked or built depends on this script, but not on its pins: those check, they do not choose.
script_hash() { sed '/^PINS=/,/^'"'"'$/d' "${BASH_SOURCE[0]}" | sha256sum; }

# --- Rust -----------------------------------------------------------------------------------------

# Where Debian no longer has the sources of the compiler on PATH: its own compiler, with its own
# sources. The linkers still come from the toolchain on PATH.
use_debian_compiler() {
  local dir=$DEST/rustc-web version package short
  version=$(version_of rustc-web deb12u)
  [ -n "$version" ] || return 1
  short=$(sed -E 's/^([0-9]+\.[0-9]+).*/\1/' <<<"$version")
  say "Debian has no rust-src for rustc $1: using its rustc-web $version instead"
  if [ "$(cat "$dir/ok" 2>/dev/null)" != "$version" ]; then
    rm -rf "$dir"
    mkdir -p "$dir"
    unpack rustc-web "$version" "$dir"
    unpack libstd-rust-web-dev "$version" "$dir"
    unpack "libstd-rust-web-$short" "$version" "$dir"
    # LLVM's version is the compiler's business; the rest is what LLVM needs.
    for package in $(apt-cache "${APT[@]}" depends "libstd-rust-web-$short" | sed -n 's/^ *Depends: *\(libllvm.*\)/\1/p') \
      libedit2 libbsd0 libmd0 libffi8 libicu72 libxml2 libz3-4 libtinfo6 libzstd1 zlib1g; do
      unpack "$package" "$(version_of "$package" .)" "$dir"
    done
    echo "$version" >"$dir/ok"
  fi
  # A wrapper, because the libraries must be found by this rustc and by nothing that it starts.
  printf '#!/bin/sh\nexport LD_LIBRARY_PATH=%s\nexec %s "$@"\n' \
    "$dir/usr/lib/x86_64-linux-gnu:$dir/lib/x86_64-linux-gnu" "$dir/usr/bin/rustc" >"$dir/rustc"
  chmod +x "$dir/rustc"
  export RUSTC=$dir/rustc
}

compiler() { "${RUSTC:-rustc}" "$@"; }

# Panic messages carry source paths. The crates' directory is named after their registry and lies in
# the user's home: neither belongs in a guest. Fetch first, because the directory must be there.
remap_crates() {
  local dir
  for dir in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do printf ' --remap-path-prefix=%s=/crates' "$dir"; done
}

build_std() { # target...
  local version src package=rust-src seed=$DEST/seed target upper out
  open_apt
  version=$(compiler -vV | sed -n 's/^release: //p')
  [ -z "${RUSTC:-}" ] || package=rust-web-src
  src=$(version_of "$package" "^${version//./\\.}\\+")
  if [ -z "$src" ] && use_debian_compiler "$version"; then
    version=$(compiler -vV | sed -n 's/^release: //p')
    package=rust-web-src
    src=$(version_of "$package" "^${version//./\\.}\\+")
  fi
  [ -n "$src" ] || die "Debian has no std sources for rustc $version" \
    "use the Rust version that guests/Cargo.toml names, or 'rustup target add $*'"

  unpack_libc
  rm -rf "$DEST/src" "$seed"
  mkdir -p "$DEST/src" "$seed/src"
  dpkg-deb --fsys-tarfile "$(deb "$package" "$src")" |
    tar -x -C "$DEST/src" --strip-components=5 --wildcards './usr/src/rustc-*/library'

  # An empty crate to hang -Zbuild-std on; the compiler stays the stable one.
  echo '#![no_std]' >"$seed/src/lib.rs"
  printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[profile.release]\npanic = "abort"\n' \
    >"$seed/Cargo.toml"
  RUSTC_BOOTSTRAP=1 cargo fetch -q --manifest-path "$DEST/src/Cargo.toml" >&2 ||
    die "the crates that std needs could not be fetched" "check the network"
  for target in "$@"; do
    say "building std for $target (about a minute)"
    upper=$(tr 'a-z-' 'A-Z_' <<<"$target")
    env -u RUSTFLAGS -u CARGO_BUILD_TARGET -u CARGO_ENCODED_RUSTFLAGS -u RUSTC_WRAPPER \
      RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT="$DEST/src" CARGO_TARGET_DIR="$seed/target" \
      "CARGO_TARGET_${upper}_RUSTFLAGS=-Cembed-bitcode=yes --remap-path-prefix=$DEST/src=/rustc/library$(remap_crates)" \
      cargo build -q -j "$JOBS" --release --target "$target" -Zbuild-std=std,panic_abort,panic_unwind \
      --manifest-path "$seed/Cargo.toml" >&2 ||
      die "std for $target did not compile" "'guests/sysroot.sh clean', then run this again"
    out=$DEST/lib/rustlib/$target/lib
    rm -rf "$out"
    mkdir -p "$out/self-contained"
    find "$seed/target/$target/release/deps" -name 'lib*.rlib' ! -name 'libseed-*' -exec cp {} "$out/" \;
    case $target in
      wasm32-wasip1) cp "$DEST"/wasi-libc/usr/lib/wasm32-wasi/{crt1-command.o,crt1-reactor.o,libc.a} "$out/self-contained/" ;;
      wasm32-wasip2) cp "$DEST"/wasi-libc/usr/lib/wasm32-wasip2/{crt1-command.o,crt1-reactor.o,libc.a} "$out/self-contained/" ;;
    esac
    # Which compiler on PATH it is for, and which one made it.
    { rustc_stamp; echo "RUSTC=${RUSTC:-}"; } >"$DEST/lib/rustlib/$target.ok"
  done
  rm -rf "$seed"
}

rustc_stamp() { { rustc -vV; script_hash; } | sha256sum; }

rust() {
  need rustc "install Rust"
  local target missing=() todo=() sys host
  sys=$(rustc --print sysroot)
  host=$(rustc -vV | sed -n 's/^host: //p')
  for target in "$@"; do
    compgen -G "$sys/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null || missing+=("$target")
  done
  [ ${#missing[@]} -ne 0 ] || return 0
  open_dest
  for target in "${missing[@]}"; do
    [ "$(head -n 1 "$DEST/lib/rustlib/$target.ok" 2>/dev/null)" = "$(rustc_stamp)" ] || todo+=("$target")
  done
  mkdir -p "$DEST/lib/rustlib"
  # The linkers (wasm-component-ld, rust-lld) are looked up in the sysroot's host directory.
  ln -sfn "$sys/lib/rustlib/$host" "$DEST/lib/rustlib/$host"
  [ ${#todo[@]} -eq 0 ] || build_std "${todo[@]}"
  for target in "${missing[@]}"; do
    echo "export INSULA_SYSROOT_$(tr 'a-z-' 'A-Z_' <<<"$target")='$DEST'"
  done
  sed -n 's/^RUSTC=\(..*\)/export RUSTC="\1"/p' "$DEST/lib/rustlib/${missing[0]}.ok"
}

# --- C --------------------------------------------------------------------------------------------

# clang and the libraries it needs beyond libc and libstdc++; some machines have them, all get these.
CLANG_PACKAGES='clang-19 libclang-cpp19 libclang-common-19-dev libllvm19 libedit2 libbsd0 libmd0 libffi8 libicu72
  libxml2 libz3-4 libtinfo6 libzstd1 zlib1g'

c() {
  local package version
  if [ -n "${WASI_SDK_PATH:-}" ]; then
    [ -x "$WASI_SDK_PATH/bin/clang" ] || die "WASI_SDK_PATH has no bin/clang" "point it at an unpacked wasi-sdk"
    echo "export INSULA_CC='$WASI_SDK_PATH/bin/clang' INSULA_LIBC='$WASI_SDK_PATH/share/wasi-sysroot'"
    return 0
  fi
  open_dest
  if [ "$(cat "$DEST/clang.ok" 2>/dev/null)" != "$(script_hash)" ]; then
    open_apt
    unpack_libc
    rm -rf "$DEST/clang"
    mkdir -p "$DEST/clang"
    for package in $CLANG_PACKAGES; do
      version=$(version_of "$package" .)
      [ -n "$version" ] || die "Debian has no $package" "unpack a wasi-sdk and set WASI_SDK_PATH to it"
      unpack "$package" "$version" "$DEST/clang"
    done
    script_hash >"$DEST/clang.ok"
  fi
  # Both multiarch directories: Debian moved libtinfo from /lib to /usr/lib.
  echo "export INSULA_CC='$DEST/clang/usr/bin/clang-19' INSULA_LIBC='$DEST/wasi-libc/usr'"
  echo "export INSULA_CC_LIBRARIES='$DEST/clang/usr/lib/x86_64-linux-gnu:$DEST/clang/lib/x86_64-linux-gnu:$DEST/clang/usr/lib/llvm-19/lib'"
}

case ${1:-} in
  rust) shift; rust "$@" ;;
  c) c ;;
  remap) remap_crates ;;
  clean) rm -rf "$DEST" ;;
  *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
