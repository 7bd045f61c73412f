"""Attacks on a box, and what must come of each. Plain functions, so that they also run as another user (see as_user.py).

`python -m tests.sandbox.attacks TIER` prints one JSON object: name of the attack -> "held", or what went wrong.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from phronesis.errors import SandboxFault
from phronesis.sandbox import Box, BoxSpec, Limits
from phronesis.sandbox.ladder import MAKERS
from phronesis.sandbox.sweep import below

MB = 1 << 20
SPEC = BoxSpec(
    disk=4 * MB, files=300, memory=160 * MB, processes=100, limits=Limits(seconds=20, processes=64, memory=1024 * MB)
)
CANARY = "canary-5b1f3c"
ATTACKS = {}


def attack(function):
    ATTACKS[function.__name__] = function
    return function


class World:
    """Things of the host that no box may touch."""

    def __init__(self, stack):
        os.environ["PHRONESIS_CANARY"] = CANARY
        self.secret = stack.enter_context(tempfile.NamedTemporaryFile("w", prefix="phronesis-secret-"))
        self.secret.write(CANARY)
        self.secret.flush()
        os.chmod(self.secret.name, 0o644)
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.abstract = f"phronesis-{os.getpid()}"
        self.local = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self.local.bind("\0" + self.abstract)
        self.local.listen(1)
        os.set_inheritable(self.secret.fileno(), True)
        self.victim = subprocess.Popen(["sleep", "600"])
        stack.callback(self.victim.wait)
        stack.callback(self.victim.kill)


async def says(box, code, **fields):
    """What a program in the box prints."""
    ran = await box.run_python(code.replace("@", "{}").format(*fields.values()) if fields else code)
    return (ran.stdout.text + ran.stderr.text).strip(), ran


def tries(*lines):
    """A program that prints "got" for the first line that works, and "refused" if none does."""
    head = "import os, socket, ctypes, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    body = "".join(
        f"try:\n    {line}\n    print('got', {line!r})\nexcept (OSError, PermissionError) as e:\n    pass\n" for line in lines
    )
    return head + body + "print('refused')\n"


async def refused(box, *lines):
    said, ran = await says(box, tries(*lines))
    assert said == "refused", said
    assert ran.code == 0, ran


@attack
async def read_hidden_files(box, world):
    await refused(
        box, f"open({world.secret.name!r}).read()", "open('/etc/shadow').read()", "os.listdir('/home')", "os.listdir('/var')"
    )


@attack
async def write_outside_the_work_folder(box, world):
    await refused(
        box, *(f"open({p + '/phronesis-try'!r}, 'w')" for p in ("/usr", "", "/etc", "/dev", "/dev/shm", "/proc", "/usr/lib"))
    )


@attack
async def remount_what_is_read_only(box, world):
    calls = ["libc.mount(b'none', b'/usr', None, 32 | 4096, None)", "libc.umount2(b'/usr', 2)", "libc.chroot(b'/work')"]
    said, _ = await says(box, "import ctypes\nlibc = ctypes.CDLL(None)\nprint([" + ", ".join(calls) + "])")
    assert said == "[-1, -1, -1]", said


@attack
async def find_the_hosts_environment(box, world):
    code = (
        "import glob, os\nfound = b''\nfor path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):\n    try:\n"
        "        found += open(path, 'rb').read()\n    except OSError:\n        pass\nprint(found, dict(os.environ))"
    )
    said, _ = await says(box, code)
    assert CANARY not in said, said
    assert set(re.findall(r"'([A-Z_]+)':", said)) == {"PATH", "HOME", "LANG", "PYTHONHASHSEED"}, said


@attack
async def look_into_the_first_process(box, world):
    await refused(
        box, "open('/proc/1/environ', 'rb').read(1) or 1/0", "open('/proc/1/mem', 'rb').read(1)", "os.listdir('/proc/1/fd')",
        "os.readlink('/proc/1/root')", "open(f'/proc/{os.getppid()}/mem', 'rb')", "open(f'/proc/{os.getppid()}/maps').read(1) + 1/0",
    ) if box.tier != "bubblewrap" else await refused(
        box, "open('/proc/1/mem', 'rb').read(1)", "os.listdir('/proc/1/fd')", "os.readlink('/proc/1/root')",
    )  # fmt: skip


@attack
async def write_kernel_settings(box, world):
    paths = ("kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory", "vm/drop_caches", "kernel/hostname")
    await refused(
        box, *(f"open('/proc/sys/{p}', 'w').write('1')" for p in paths), "open('/proc/sysrq-trigger', 'w').write('h')"
    )


@attack
async def reach_the_host_by_network(box, world):
    port = world.listener.getsockname()[1]
    await refused(
        box,
        f"socket.create_connection(('127.0.0.1', {port}), 1)",
        f"socket.socket(socket.AF_UNIX).connect(chr(0) + {world.abstract!r})",
        *(
            f"socket.socket({family}, {kind})"
            for family, kind in ((2, 1), (2, 2), (2, 3), (10, 1), (16, 3), (17, 3), (38, 5), (40, 1))
        ),
        "socket.socketpair(40, 1)",
    )


@attack
async def dangerous_system_calls(box, world):
    if os.uname().machine != "x86_64":
        return
    calls = {
        "io_uring_setup": (425, 1, 0), "add_key": (248, 0, 0, 0, 0, 0), "keyctl": (250, 0, -3, 1), "userfaultfd": (323, 0),
        "ptrace": (101, 0, 0, 0, 0), "personality": (135, 0x0040000), "unshare user": (272, 0x10000000), "setns": (308, 0, 0),
        "clone user": (56, 0x10000000 | 17, 0, 0, 0, 0), "bpf": (321, 0, 0, 0), "perf": (298, 0, 0, -1, -1, 0), "mount": (165, 0, 0, 0, 0, 0),
        "pivot_root": (155, 0, 0), "open_tree": (428, -100, 0, 1), "fsopen": (430, 0, 0), "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
        "kcmp": (312, 1, 1, 0, 0, 0), "pidfd_getfd": (438, 0, 0, 0), "mknod": (133, 0, 0o20666, 0), "mknodat": (259, -100, 0, 0o20666, 0),
        "sethostname": (170, 0, 0), "clock_settime": (227, 0, 0), "reboot": (169, 0, 0, 0), "kexec_load": (246, 0, 0, 0, 0),
        "init_module": (175, 0, 0, 0), "name_to_handle_at": (303, 0, 0, 0, 0, 0), "open_by_handle_at": (304, 0, 0, 0),
        "swapon": (167, 0, 0), "quotactl": (179, 0, 0, 0, 0), "syslog": (103, 3, 0, 0), "fanotify_init": (300, 0, 0),
        "memfd_create": (319, 0, 0), "shmget": (29, 1, 4096, 0o1600), "acct": (163, 0), "ioctl TIOCSTI": (16, 0, 0x5412, 0),
    }  # fmt: skip
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, call in {calls!r}.items():\n    ctypes.set_errno(0)\n    got = libc.syscall(*map(ctypes.c_long, call))\n"
        "    if got != -1 or ctypes.get_errno() != 1:\n        print(name, got, ctypes.get_errno())\nprint('done')"
    )
    said, _ = await says(box, code)
    assert said == "done", said
    said, _ = await says(
        box, "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall(435, 0, 0), ctypes.get_errno())"
    )
    assert said == "-1 38", said  # clone3


@attack
async def system_calls_of_another_table(box, world):
    if os.uname().machine != "x86_64":
        return
    ran = await box.run_python("import ctypes\nctypes.CDLL(None).syscall(0x40000000 + 39)\nprint('alive')")
    assert ran.code == -31, ran  # SIGSYS


@attack
async def kill_everything(box, world):
    ran = await box.run_python(
        "import os, signal\ntry:\n    os.kill(-1, signal.SIGKILL)\nexcept OSError:\n    pass\nprint('done')"
    )
    assert ran.stopped is None, ran
    assert world.victim.poll() is None
    assert (await box.run_python("print(1)")).stdout.text == "1\n"


@attack
async def kill_the_first_process(box, world):
    code = "import os\nfor pid in (1, os.getppid()):\n    for s in (9, 15, 2, 19):\n        try:\n            os.kill(pid, s)\n        except OSError:\n            pass"
    await box.run_python(code)
    assert (await box.run_python("print(1)")).stdout.text == "1\n"


@attack
async def kill_a_process_of_the_host(box, world):
    await refused(box, f"os.kill({world.victim.pid}, 9)", f"os.kill({os.getpid()}, 0)")
    assert world.victim.poll() is None


@attack
async def fork_bomb(box, world):
    code = (
        "import os, time\nn = 0\ntry:\n    while n < 500:\n        if os.fork() == 0:\n            time.sleep(60)\n            os._exit(0)\n"
        "        n += 1\nexcept OSError:\n    pass\nprint(n)"
    )
    said, _ = await says(box, code)
    assert 1 <= int(said) <= 100, said
    assert below(box.first) == []


@attack
async def fork_bomb_that_never_stops(box, world):
    ran = await box.run(["sh", "-c", "f() { f | f & }; f; sleep 60"], limits=Limits(seconds=1, processes=48))
    assert ran.stopped in ("time", None), ran
    assert below(box.first) == []
    assert (await box.run_python("print(1)")).stdout.text == "1\n"


@attack
async def leave_a_daemon(box, world):
    code = (
        "import os, signal, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        for s in range(1, 64):\n            try: signal.signal(s, signal.SIG_IGN)\n            except (OSError, ValueError): pass\n"
        "        os.closerange(0, 64)\n        while True: time.sleep(1)\n    os._exit(0)\nprint(1)"
    )
    said, _ = await says(box, code)
    assert said == "1", said
    assert below(box.first) == []


@attack
async def outlive_the_limit(box, world):
    code = "import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"
    began = time.monotonic()
    ran = await box.run_python(code, limits=Limits(seconds=0.5))
    assert ran.stopped == "time", ran
    assert time.monotonic() - began < 5
    assert below(box.first) == []


@attack
async def much_memory_in_one_process(box, world):
    said, _ = await says(
        box, "try:\n    x = [bytearray(256 << 20) for _ in range(64)]\n    print('got')\nexcept MemoryError:\n    print('no')"
    )
    assert said in ("no", ""), said


@attack
async def much_memory_in_many_processes(box, world):
    code = (
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n        x = bytearray(40 << 20)\n"
        "        for i in range(0, len(x), 4096): x[i] = 1\n        time.sleep(3)\n        print('kept', flush=True)\n        os._exit(0)\n"
        "ended = [os.wait()[1] for _ in range(12)]\nprint(ended)"
    )
    ran = await box.run_python(code)
    assert ran.stdout.text.count("kept") * 40 * MB <= SPEC.memory, ran
    assert ran.stopped == "memory" or ran.stdout.text.count("kept") < 12, ran


@attack
async def fill_the_disk(box, world):
    code = (
        "import os\nn = 0\ntry:\n    for i in range(64):\n        with open(f'f{i}', 'wb') as f:\n            for _ in range(16):\n"
        "                f.write(b'x' * (1 << 16)); f.flush(); n += 1\nexcept OSError as e:\n    pass\nprint(n << 16)\n"
        "for i in range(64):\n    try: os.unlink(f'f{i}')\n    except OSError: pass"
    )
    said, _ = await says(box, code)
    assert box.tier in ("landlock",) or int(said) <= SPEC.disk, said


@attack
async def fill_one_file(box, world):
    code = "import signal\nsignal.signal(25, signal.SIG_IGN)\nwith open('big', 'wb', 0) as f:\n    f.truncate(1 << 40)"
    ran = await box.run_python(code, limits=Limits(file_size=MB))
    assert not ran.ok, ran


@attack
async def many_files(box, world):
    code = "n = 0\ntry:\n    while n < 5000:\n        open(f'n{n}', 'w').close(); n += 1\nexcept OSError:\n    pass\nprint(n)\nimport os\nfor i in range(n): os.unlink(f'n{i}')"
    said, _ = await says(box, code)
    assert box.tier in ("landlock", "bubblewrap") or int(said) <= SPEC.files, said


@attack
async def flood_the_output(box, world):
    code = "import os\nfor _ in range(512):\n    os.write(1, b'x' * 65536)\n    os.write(2, b'y' * 65536)"
    ran = await box.run_python(code, limits=Limits(seconds=10, output=10_000))
    assert ran.stdout.truncated and ran.stderr.truncated
    assert len(ran.stdout.data) < 10_100
    assert ran.stdout.total == 512 * 65536
    assert b"bytes left out" in ran.stdout.data


@attack
async def become_root(box, world):
    code = "import os, subprocess\nout = subprocess.run(['su', '-c', 'id'], input=b'', capture_output=True).stdout\nprint(out)\ntry:\n    os.setuid(0); print('root')\nexcept OSError:\n    print('no')"
    said, _ = await says(box, code)
    assert "uid=0" not in said and said.endswith("no"), said
    if box.tier != "landlock":
        said, _ = await says(
            box, "print([l.split()[1] for l in open('/proc/self/status') if l[:6] in ('CapEff', 'CapPrm', 'CapBnd', 'NoNewP')])"
        )
        assert "1" not in "".join(re.findall(r"'([0-9a-f]{16})'", said)), said
        assert said.endswith("'1']") or box.tier == "docker", said


@attack
async def use_descriptors_of_the_host(box, world):
    code = "import fcntl\nfound = []\nfor fd in range(3, 1024):\n    try:\n        fcntl.fcntl(fd, fcntl.F_GETFD); found.append(fd)\n    except OSError:\n        pass\nprint(found)"
    said, _ = await says(box, code)
    assert said == "[]", said
    ran = await box.run(["sh", "-c", "for i in 3 4 5 6 7 8 9; do (: <&$i) 2>/dev/null && echo $i; done; true"])
    assert ran.stdout.text == "", ran


@attack
async def links_out_of_the_work_folder(box, world):
    await says(
        box, f"import os\nos.symlink({world.secret.name!r}, 'leak'); os.symlink('/', 'up'); os.mkfifo('fifo') if 0 else None"
    )
    for path in (
        "leak",
        "up/etc/passwd",
        f"up{world.secret.name}",
        "../etc/passwd",
        "/etc/passwd",
        "../../proc/self/environ",
        ".",
    ):
        try:
            data = await box.read(path)
        except SandboxFault:
            continue
        raise AssertionError((path, data))
    for path in ("up/work/x", "../x", "up/../../x"):
        with contextlib.suppress(SandboxFault):
            await box.write(path, b"x")
            raise AssertionError(path)
    await box.write("leak", b"new")
    assert await box.read("leak") == b"new"
    assert Path(world.secret.name).read_text() == CANARY


@attack
async def swap_a_file_while_it_is_read(box, world):
    code = (
        f"import os, time\nend = time.time() + 3\nwhile time.time() < end:\n    open('a', 'w').write('mine'); os.rename('a', 'swap')\n"
        f"    os.symlink({world.secret.name!r}, 'b'); os.rename('b', 'swap')\n"
        "    os.makedirs('d/swap', exist_ok=True); os.rename('d', 'dir') if not os.path.lexists('dir') else None\n"
        "    os.symlink('/', 'e'); os.rename('e', 'f'); os.unlink('f')\n"
    )
    running = asyncio.create_task(box.run_python(code))
    seen = set()
    while not running.done():
        with contextlib.suppress(SandboxFault):
            seen.add(await box.read("swap"))
        await asyncio.sleep(0)
    assert (await running).ok
    assert seen <= {b"mine", b""}, seen


@attack
async def special_files_as_artefacts(box, world):
    await says(box, "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('sock')")
    with contextlib.suppress(SandboxFault):
        await asyncio.wait_for(box.read("sock"), 5)
        raise AssertionError("a socket was read")


@attack
async def talk_to_the_host_as_the_first_process(box, world):
    said, _ = await says(
        box,
        'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'{"exit": 1, "code": 0}\')\n    except OSError: pass\nos._exit(7)',
    )
    assert said == ""
    assert (await box.run_python("raise SystemExit(9)")).code == 9


@attack
async def raise_ones_own_limits(box, world):
    code = "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6)); print('got')\nexcept (ValueError, OSError):\n    print('no')\nprint(resource.getrlimit(resource.RLIMIT_CORE))"
    said, _ = await says(box, code)
    assert said == "no\n(0, 0)", said


@attack
async def plant_for_the_next_episode(box, world):
    await says(box, "import os\nopen('sitecustomize.py', 'w').write('print(666)')\nopen('/tmp/left', 'w').write('x')")
    async with await world.sandbox.open(SPEC) as fresh:
        said, _ = await says(fresh, "import os\nprint(sorted(os.listdir('.')), os.listdir('.tmp'))")
        assert said == "['.tmp'] []", said


async def run_all(tier):
    """Outcomes by name."""
    libc = ctypes.CDLL(None)
    libc.prctl(4, 1, 0, 0, 0)
    outcomes = {}
    with contextlib.ExitStack() as stack:
        world = World(stack)
        world.sandbox = MAKERS[tier]()
        stack.callback(world.sandbox.close)
        for name, function in ATTACKS.items():
            box: Box = await world.sandbox.open(SPEC)
            try:
                await asyncio.wait_for(function(box, world), 60)
                outcomes[name] = "held"
            except Exception as error:
                outcomes[name] = f"{type(error).__name__}: {error}"[:600]
            finally:
                await box.close()
    return outcomes


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run_all(sys.argv[1])), indent=1))
