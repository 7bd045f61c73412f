#!/usr/bin/env python3
"""What the tests put in the place of a docker client: it notes its arguments, and starts the program in a process namespace.

Of the real thing it has the order of arguments, the volumes (by rewriting paths) and `inspect`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent
WITH_VALUE = {
    f"--{name}"
    for name in [
        "pull",
        "network",
        "user",
        "cap-drop",
        "security-opt",
        "ipc",
        "memory",
        "memory-swap",
        "pids-limit",
        "tmpfs",
        "workdir",
        "volume",
    ]
}


def run(words):
    options, program = [], list(words)
    while program[0].startswith("--"):
        name = program.pop(0)
        options.append((name, program.pop(0) if name in WITH_VALUE else None))
    (HOME / "asked.json").write_text(json.dumps({"options": options, "image": program[0]}))
    if program[0] == "missing":
        sys.exit("Unable to find image 'missing' locally")
    volumes = dict(value.split(":")[1::-1] for name, value in options if name == "--volume")
    root = HOME / "root"
    (root / "sandbox").mkdir(parents=True, exist_ok=True)
    (root / "sandbox" / "inside").symlink_to(volumes["/phronesis/sandbox/inside"])
    work = HOME / "work"
    (work / ".tmp").mkdir(parents=True, exist_ok=True)
    _, _, *flags, boot, _, loopback = program
    boot = boot.replace("/run/phronesis", volumes["/run/phronesis"]).replace('"/work"', repr(str(work)))
    own = ["unshare", "--pid", "--fork", "--kill-child"] + (["--user", "--map-root-user"] if os.geteuid() else [])
    line = [*own, sys.executable, *flags, boot, str(root), loopback]
    null = subprocess.DEVNULL
    with open(HOME / "errors", "w") as errors:
        started = subprocess.Popen(line, stdin=null, stdout=null, stderr=errors, start_new_session=True)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    while not children.read_text().strip():
        time.sleep(0.01)
    (HOME / "pid").write_text(children.read_text().split()[0])
    print("c0ffee", flush=True)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2:])
    elif sys.argv[1] == "inspect":
        assert sys.argv[2:] == ["--format", "{{.State.Pid}}", "c0ffee"], sys.argv
        print((HOME / "pid").read_text())
