"""Serves one component for the runner of WebAssembly/wasi-testsuite: service.py FILE [NAME=VALUE...].

This process becomes the host, so that the runner's signals reach it; a child of it deploys the component
and then writes where it is served to standard error. Each NAME=VALUE is granted as a variable, and VALUE,
the address of a server of the runner, as a peer to call.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAIT_S = 20


def manifest(file, variables):
    lines = ['name = "service"', f"component = {json.dumps(file)}", 'routes = ["127.0.0.1"]']
    # One test sends to a name that does not resolve: refusing to look would be no answer to it.
    hosts = ["http://nonexistent.invalid:80", *(f"http://{address}" for address in variables.values())]
    lines.append(f"outbound = {{ hosts = {json.dumps(hosts)} }}")
    lines += ["[env]", *(f"{name} = {json.dumps(value)}" for name, value in variables.items())]
    return "\n".join(lines) + "\n"


def listening(out):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if found := re.search(r"http://127\.0\.0\.1:\d+", out.read_text()):
            return found[0]
        time.sleep(0.02)
    sys.exit(f"the host does not listen: {out.with_name('err').read_text()}")


insula = shlex.split(os.getenv("INSULA", "insula"))
home = Path(tempfile.mkdtemp(prefix="service-"))
data = ["--data", str(home / "data")]
(home / "insula.toml").write_text(manifest(sys.argv[1], dict(pair.split("=", 1) for pair in sys.argv[2:])))
(home / "out").touch()

if os.fork() == 0:
    url = listening(home / "out")
    done = subprocess.run(
        insula + ["deploy", "-f", str(home), *data], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    print(done.stderr if done.returncode else f"serving at {url}", file=sys.stderr)
    sys.exit(done.returncode)

for stream, name in (1, "out"), (2, "err"):
    os.dup2(os.open(home / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), stream)
serve = ["serve", "--listen", "127.0.0.1:0", "--workers", "1", *data]
os.execvp(insula[0], insula + serve)
