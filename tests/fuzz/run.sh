#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while: `run.sh [SECONDS] [TARGET...]`, default 10 and all.
# Ends with 1 if a target finds something; the input that shows it is kept, and named in the output.
# Runs with the stable toolchain: no sanitizer, since all of this is safe code; coverage, overflow
# checks and debug assertions are on.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${INSULA_FUZZ_CACHE:-$HOME/.cache/insula/fuzz}
seconds=${1:-10}
[ $# -eq 0 ] || shift
targets=("$@")
if [ $# -eq 0 ]; then
  mapfile -t targets < <(ls tests/fuzz/seeds)
fi
mkdir -p "$cache"

export PATH="$PATH:$HOME/.cargo/bin:$cache/tool/bin"
# Unoptimised: it only starts others, and is built in half the time.
command -v cargo-fuzz >/dev/null ||
  CARGO_TARGET_DIR="$cache/tool/target" cargo install cargo-fuzz --version 0.13.2 --locked --debug --root "$cache/tool"
# libFuzzer is C++.
command -v c++ >/dev/null || { apt-get update -q && apt-get install -yq g++; }

(cd tests/fuzz && cargo metadata --locked --format-version 1 >/dev/null) # the lock file is up to date
cargo fuzz build --fuzz-dir tests/fuzz --sanitizer none --target-dir "$cache/target"

found=0
for target in "${targets[@]}"; do
  corpus=$cache/corpus/$target findings=$cache/findings/$target
  mkdir -p "$corpus" "$findings"
  printf '\n-- %s, %s s\n' "$target" "$seconds"
  # What one run learns is kept for the next in the cache; the seeds in the tree are only read.
  dictionary=tests/fuzz/dictionaries/$target
  options=(-max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=4096 -artifact_prefix="$findings/")
  [ ! -f "$dictionary" ] || options+=(-dict="$dictionary")
  log=$findings/log
  if cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none --target-dir "$cache/target" "$target" \
    "$corpus" "tests/fuzz/seeds/$target" -- "${options[@]}" >"$log" 2>&1; then
    grep '^Done' "$log" || { tail -20 "$log"; found=1; }
  else
    grep -v '^#' "$log" | tail -40
    echo "$target found something; the log is $log"
    found=1
  fi
done
exit "$found"
