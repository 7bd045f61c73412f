"""What boxes do for those who mean well: commands, files, limits, interpreters, pools, and what a machine promises."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from phronesis.errors import SandboxFault, SandboxUnavailable
from phronesis.sandbox import Box, BoxSpec, Interpreter, Limits, Pool, Refused, examine, ladder, start, survey
from phronesis.sandbox.bubblewrap import Bubblewrap
from phronesis.sandbox.capture import Capture
from phronesis.sandbox.inside import calls
from phronesis.sandbox.inside.init import Init
from phronesis.sandbox.zygotes import PACKAGE, hidden


def boxed(play, spec=BoxSpec()):  # noqa: B008
    """What a coroutine over a fresh box gives."""

    async def run():
        sandbox = await start("landlock")
        try:
            async with await sandbox.open(spec) as box:
                return await play(box)
        finally:
            sandbox.close()

    return asyncio.run(run())


def test_a_command_has_its_input_output_status_and_variables():
    async def play(box: Box):
        ran = await box.run(["sh", "-c", 'cat; echo "$A" >&2; exit 3'], stdin=b"in", environment={"A": "b"})
        return ran, await box.run(["no-such-program"]), await box.run_python("import sys\nsys.exit('gone')")

    ran, missing, gone = boxed(play)
    assert (ran.code, ran.stdout.text, ran.stderr.text, ran.stopped) == (3, "in", "b\n", None)
    assert missing.code == 127 and "no-such-program" in missing.stderr.text
    assert (gone.code, gone.stderr.text) == (1, "gone\n")


def test_python_shows_where_it_failed():
    ran = boxed(lambda box: box.run_python("def f():\n    return 1 / 0\n\nf()"))
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.stderr.text and "line 2, in f" in ran.stderr.text
    assert "init.py" not in ran.stderr.text


def test_a_program_of_the_host_imports_nothing_from_the_work_folder():
    async def play(box: Box):
        for name in ("tarfile", "json", "sitecustomize", "own"):
            await box.write(f"{name}.py", b"print('trojan')")
        await box.write("run.py", b"import own")
        return await box.run_python("import tarfile, json\nprint(json.dumps(1))"), await box.run([box.python, "run.py"])

    ours, theirs = boxed(play)
    assert (ours.stdout.text, theirs.stdout.text) == ("1\n", "trojan\n")


def test_files_go_in_and_come_out():
    async def play(box: Box):
        await box.write("src/tool.sh", b"#!/bin/sh\necho made > ../out.txt\n", executable=True)
        ran = await box.run(["./tool.sh"], cwd="src")
        await box.write("src/tool.sh", b"second")
        big = os.urandom(1 << 20)
        await box.write("big", big)
        entries = {(e.path, e.kind, e.size) for e in await box.entries()}
        return ran, entries, await box.read("out.txt"), await box.read("src/tool.sh"), await box.read("big") == big

    ran, entries, out, second, same = boxed(play)
    assert ran.ok, ran
    assert {("out.txt", "file", 5), ("src/tool.sh", "file", 6), ("big", "file", 1 << 20)} <= entries
    assert (out, second, same) == (b"made\n", b"second", True)


def test_a_long_listing_is_cut():
    async def play(box: Box):
        await box.run_python("for i in range(50): open(f'f{i:02}', 'w').close()")
        return await box.entries(most=10)

    assert len(boxed(play)) == 10


@pytest.mark.parametrize("path", ["missing", "src", "../x"])
def test_what_cannot_be_read_is_named(path):
    async def play(box: Box):
        await box.write("src/x", b"")
        await box.read(path)

    with pytest.raises(SandboxFault, match="box "):
        boxed(play)


def test_a_command_out_of_time_says_so_and_keeps_what_it_wrote():
    ran = boxed(
        lambda box: box.run_python("print('first', flush=True)\nimport time\ntime.sleep(60)", limits=Limits(seconds=0.5))
    )
    assert (ran.code, ran.stopped, ran.stdout.text) == (-9, "time", "first\n")


def test_processes_that_may_linger_serve_later_commands():
    async def play(box: Box):
        await box.run(["sh", "-c", "(sleep 0.2; echo late > late.txt; sleep 60) & echo started"], linger=True)
        await asyncio.sleep(1)
        found = await box.read("late.txt")
        await box.clear()
        return found, await box.run(["sh", "-c", "ps 2>/dev/null | grep -c '[s]leep 60'; true"])

    found, after = boxed(play)
    assert found == b"late\n"
    assert after.stdout.text.strip() in ("", "0")


def test_loopback_reaches_only_the_box():
    code = (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "client.send(b'x')\nprint(server.accept()[0].recv(1))"
    )
    allowed = boxed(lambda box: box.run_python(code), BoxSpec(loopback=True))
    assert allowed.stdout.text == "b'x'\n", allowed
    assert not boxed(lambda box: box.run_python(code)).ok


def test_a_cancelled_command_leaves_nothing():
    async def play(box: Box):
        task = asyncio.create_task(box.run(["sleep", "60"]))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await box.run_python("print(1)")

    assert boxed(play).stdout.text == "1\n"


def test_two_commands_at_once():
    async def play(box: Box):
        python = Interpreter(box)
        await python.run("x = 1")
        slow = "import time\ntime.sleep({})\nprint({})"
        ran = await asyncio.gather(*(box.run_python(slow.format(0.2 * i, i)) for i in range(3)))
        left = await box.run(["sh", "-c", "(sleep 50 &) ; echo done"])
        return [r.stdout.text for r in ran], (await python.run("x")).value, left.stdout.text

    assert boxed(play) == (["0\n", "1\n", "2\n"], "1", "done\n")


def test_an_interpreter_keeps_its_variables_until_it_ends():
    async def play(box: Box):
        python = Interpreter(box)
        said = [await python.run(code) for code in ("x = 3\nprint('hi')\nx + 1", "x * 2", "1 / 0", "x = 4; None")]
        slow = await python.run("while True: pass", seconds=0.5)
        fresh = await python.run("'x' in globals()")
        dead = await python.run("import os\nos._exit(3)")
        loud = await python.run("print('y' * 200_000)")
        child = await python.run("import os\nos.system('echo child')")
        await python.close()
        return said, slow, fresh, dead, loud, child

    said, slow, fresh, dead, loud, child = boxed(play)
    assert [(s.output, s.value) for s in said] == [("hi\n", "4"), ("", "6"), ("", None), ("", None)]
    assert said[2].error is not None and "    1 / 0\n" in said[2].error and "<cell 3>" in said[2].error
    assert slow.restarted and slow.error is not None and "out of time after 0.5 s" in slow.error
    assert fresh.value == "False"
    assert dead.restarted and dead.error == "the interpreter ended with status 3; its variables are lost"
    assert loud.truncated > 100_000 and len(loud.output) < 70_000
    assert (child.output, child.value) == ("child\n", "0")


def test_a_pool_gives_fresh_boxes():
    async def play():
        sandbox = await start("landlock")
        pool = Pool(sandbox, BoxSpec(), ready=2)
        await pool.fill()
        seen = []
        for _ in range(4):
            async with pool.box() as box:
                seen.append((await box.run(["sh", "-c", "ls; touch x"])).stdout.text)
        await pool.close()
        sandbox.close()
        return seen, pool.made

    seen, made = asyncio.run(play())
    assert seen == ["", "", "", ""]
    assert made >= 4


def test_a_machine_without_isolation_refuses(monkeypatch):
    def missing():
        raise SandboxUnavailable("not installed")

    monkeypatch.setattr(ladder, "MAKERS", dict.fromkeys(ladder.MAKERS, missing))
    with pytest.raises(SandboxUnavailable, match=r"bubblewrap: not installed.*doctor sandbox"):
        asyncio.run(start())


def test_plain_processes_are_never_chosen_unasked_and_promise_nothing():
    found = asyncio.run(examine("process"))
    promised = found.guarantees
    assert promised is not None
    assert not any((promised.files, promised.network, promised.processes, promised.calls, promised.user, promised.disk))
    assert ladder.STRENGTH["process"] < ladder.STRENGTH["landlock"]


def test_the_first_tier_promises_everything():
    found = {one.tier: one for one in asyncio.run(survey(("namespaces",)))}["namespaces"]
    if found.guarantees is None:
        pytest.skip(f"needs namespaces: {found.reason}")
    promised = found.guarantees
    assert all(
        (promised.files, promised.network, promised.processes, promised.calls, promised.user, promised.kill, promised.disk)
    )


def test_the_filter_of_another_processor_is_made_too():
    here, there = calls.program(machine="x86_64"), calls.program(machine="aarch64")
    assert len(here) % 8 == len(there) % 8 == 0
    assert here != there
    with pytest.raises(OSError, match="no table of system calls for 'riscv64'"):
        calls.program(machine="riscv64")


def test_output_keeps_its_beginning_and_its_end():
    async def play():
        read, write = os.pipe()
        capture = Capture(read, 10)
        os.write(write, b"0123456789abcdefghij")
        os.close(write)
        await capture.ended.wait()
        return capture.output()

    out = asyncio.run(play())
    assert (out.data, out.total, out.truncated) == (b"01234\n[10 bytes left out]\nfghij", 20, True)


def test_only_the_first_process_of_a_namespace_may_kill_all_others(tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="not the first process"):
        Init(ours, str(tmp_path), alone=True)


def test_paths_that_no_file_system_takes_are_refused_and_end_nothing():
    async def play(box: Box):
        refused = 0
        for path in ("a\0b", "x" * 5000, "\udc80/" * 3000):
            for action in (box.read(path), box.entries(path), box.write(path, b"x")):
                with pytest.raises(Refused):
                    await action
                refused += 1
        with pytest.raises(Refused):  # also if the host had not looked
            await box.channel.ask("list", path="a\0b", most=1)
        await box.write("tool", b"", executable=True)
        (entry,) = await box.entries()
        return refused, entry.mode, entry.executable, (await box.run(["true"])).code

    assert boxed(play) == (9, 0o755, True, 0)


def test_files_and_folders_can_be_hidden_and_linked(tmp_path):
    place = "/usr/share/zoneinfo"  # a folder of the system with files and folders in it
    spec = BoxSpec(hidden=["/usr/bin/env", place, "/usr/none"], links={"/app": "/work" + "/app"})
    made = os.listdir("/usr/bin")

    async def play(box: Box):
        look = "mkdir app; echo 4 > /app/x; cat app/x; cat /usr/bin/env; ls " + place + "; touch " + place + "/x || ls /usr/bin"
        return (await box.run(["sh", "-c", look])).stdout.text.split()

    assert boxed(play, spec) == ["4", *sorted(made)]


def test_bubblewrap_hides_and_links(monkeypatch):
    spec = BoxSpec(hidden=["/usr/bin/env", "/usr/share", "/usr/none"], links={"/app": "/work" + "/app"})
    words = " ".join(Bubblewrap("/bin/true")._arguments(spec, 3))
    assert "--ro-bind /dev/null /usr/bin/env --tmpfs /usr/share --remount-ro /usr/share" in words
    assert "--symlink /work" + "/app /app" in words and "none" not in words


@pytest.mark.parametrize("spec", [BoxSpec(hidden=["/usr/bin"]), BoxSpec(links={"/app": "/work"})])
def test_a_tier_that_cannot_hide_or_link_refuses(spec):
    async def play():
        sandbox = ladder.MAKERS["landlock"]()
        try:
            with pytest.raises(SandboxFault, match="cannot hide"):
                await sandbox.open(spec)
        finally:
            sandbox.close()

    asyncio.run(play())


def test_this_package_cannot_be_read_where_it_lies_beside_the_standard_library():
    beside = os.path.dirname(os.path.realpath(json.__file__))
    assert hidden(BoxSpec(hidden=("/usr/x",)), Path(beside)) == ["/usr/x", beside]
    elsewhere = BoxSpec(readable=(str(PACKAGE.parent),))
    assert hidden(BoxSpec(), Path("/nowhere/phronesis")) == [] and hidden(elsewhere)[-1] == str(PACKAGE)
