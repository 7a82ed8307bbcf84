"""`insula run` for the runner of WebAssembly/wasi-testsuite; see ../README.md."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

INSULA = shlex.split(os.getenv("INSULA", "insula"))


def get_name():
    return "insula"


def get_version():
    result = subprocess.run(INSULA[:1] + ["--version"], encoding="utf-8", capture_output=True, check=True)
    return result.stdout.split()[1]


def get_wasi_versions():
    return ["wasm32-wasip1", "wasm32-wasip3"]


def get_wasi_worlds():
    return ["wasi:cli/command", "wasi:http/service"]


def get_timeout_seconds():
    # The first run of a program compiles it.
    return 30


def compute_argv(test_path, args_env_root, proposals, wasi_world, wasi_version):
    args, env, root = args_env_root
    if wasi_world == "wasi:http/service":
        service = Path(__file__).resolve().with_name("service.py")
        return [sys.executable, str(service), test_path] + [f"{name}={value}" for name, value in env.items()]
    argv = INSULA + ["run", test_path]
    for name, value in env.items():
        argv += ["--env", f"{name}={value}"]
    if root:
        argv += ["--dir", f"{root}::/"]
    if Path(test_path).name.startswith("sockets-"):
        # Without any rule, no socket can be made; port 42 is the one that the tests name.
        argv += [f"--socket={transport}://{host}:42" for transport in ("tcp", "udp") for host in ("127.0.0.1", "[::1]")]
    return argv + (["--"] + args if args else [])
