"""`insula run` for the runner of WebAssembly/wasi-testsuite; see ../README.md."""

import os
import shlex
import subprocess

INSULA = shlex.split(os.getenv("INSULA", "insula"))


def get_name():
    return "insula"


def get_version():
    result = subprocess.run(INSULA[:1] + ["--version"], encoding="utf-8", capture_output=True, check=True)
    return result.stdout.split()[1]


def get_wasi_versions():
    return ["wasm32-wasip1", "wasm32-wasip3"]


def get_wasi_worlds():
    # Services are served by `insula serve`, which the runner cannot start for one file.
    return ["wasi:cli/command"]


def get_timeout_seconds():
    # The first run of a program compiles it.
    return 30


def compute_argv(test_path, args_env_root, proposals, wasi_world, wasi_version):
    args, env, root = args_env_root
    argv = INSULA + ["run", test_path]
    for name, value in env.items():
        argv += ["--env", f"{name}={value}"]
    if root:
        argv += ["--dir", f"{root}::/"]
    return argv + (["--"] + args if args else [])
