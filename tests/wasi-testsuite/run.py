#!/usr/bin/env python3
"""Runs WebAssembly/wasi-testsuite against `insula run`: run.py SUITE [RUNNER OPTION...]; see README.md."""

import enum
import glob
import os
import sys
import tempfile
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
from wasi_test_runner import test_suite_runner  # noqa: E402
from wasi_test_runner.__main__ import main  # noqa: E402

runners_own = test_suite_runner._cleanup_test_output


def clean_up(directory):
    """The runner leaves the links that a test has made, and another test does not expect them."""
    for left in directory.glob("**/*.cleanup"):
        if left.is_symlink():
            left.unlink()
    runners_own(directory)


test_suite_runner._cleanup_test_output = clean_up

sys.argv[1:] = [
    "--runtime-adapter", str(here / "adapter" / "insula.py"),
    "--expectations", str(here / "expected.toml"),
    "--test-suite", *sorted(glob.glob(f"{suite}/tests/*/testsuite/wasm32-*/")),
    *sys.argv[2:],
]
with tempfile.TemporaryDirectory(prefix="insula-testsuite-", ignore_cleanup_errors=True) as temporary:
    os.environ["TMPDIR"] = temporary
    code = main()
sys.exit(code)
