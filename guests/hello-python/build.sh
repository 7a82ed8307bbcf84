#!/bin/sh
# Turns hello.py into a component. The first run fetches componentize-py into .venv.
set -e
cd "$(dirname "$0")"
tool=.venv/bin/componentize-py
if [ ! -x $tool ]; then
  python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
fi
$tool --wit-path wit --world hello componentize hello --output hello-python.wasm
