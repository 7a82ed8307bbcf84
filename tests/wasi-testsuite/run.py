#!/usr/bin/env python3
"""Runs WebAssembly/wasi-testsuite against `insula run`: run.py SUITE [RUNNER OPTION...]; see README.md."""

import enum
import glob
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
if len(sys.argv) < 2:
    sys.exit(__doc__)
suite = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(suite / "test-runner"))

if sys.version_info < (3, 12):
    # The runner asks `value in Enum`, which until 3.12 took members only.
    members_only = enum.EnumType.__contains__

    def contains(cls, value):
        if isinstance(value, enum.Enum):
            return members_only(cls, value)
        return value in cls._value2member_map_

    enum.EnumType.__contains__ = contains

# pylint: disable=wrong-import-position
from wasi_test_runner.__main__ import main  # noqa: E402

sys.argv[1:] = [
    "--runtime-adapter", str(here / "adapter" / "insula.py"),
    "--expectations", str(here / "expected.toml"),
    "--test-suite", *sorted(glob.glob(f"{suite}/tests/*/testsuite/wasm32-*/")),
    *sys.argv[2:],
]
sys.exit(main())
