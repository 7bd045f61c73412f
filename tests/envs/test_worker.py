"""Pins: the worker protocol, with a catalogue written here: what breaks is a fault, and only where it broke."""

import asyncio
import sys
from pathlib import Path

import pytest

from phronesis.env import EnvSpec
from phronesis.envs.adapters import catalogues
from phronesis.envs.adapters.guests import reasoning_gym_guest as guest
from phronesis.envs.scripted import Clock, play_scripted, recorded
from phronesis.envs.worker import hub as hubs
from phronesis.envs.worker.env import WorkerEnv, as_reply
from phronesis.envs.worker.guest.main import plain
from phronesis.envs.worker.hub import hub, now
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.envs.worker.tasks import ListedTasks
from phronesis.errors import ConfigError, EnvFault, UnknownName
from phronesis.records import Stop, Task, say
from phronesis.rewards import EnvReward

COUNTER = """
import os, sys, time
print("noise on standard output")
class Counter:
    def __init__(self, fail): self.fail, self.counts, self.kept = fail, {}, []
    def hello(self):
        print("more noise"); os.write(1, b"and more")
        return {"package": "counter"}
    def list_tasks(self, start, count):
        return {"tasks": [self.task(n) for n in range(start, min(start + count, 30))]}
    def task(self, n):
        return {"messages": [{"role": "user", "content": f"count {n}"}], "payload": {"n": n}}
    def reset(self, episode, task, seed):
        self.counts[episode] = 0
        return {"messages": [{"role": "user", "content": f"count to {task['payload']['n']}"}], "tools": self.tools()}
    def tools(self):
        return [{"name": "verify", "description": "x"}] if self.fail == "reserved" else []
    def step(self, episode, text, calls):
        if text == "die": os._exit(3)
        if text == "hang": time.sleep(60)
        if text == "grow": self.kept = [bytearray(1 << 20) for _ in range(400)]; time.sleep(5)
        if text == "slow": time.sleep(1)
        if text == "raise": raise ValueError("no such count")
        if text == "exit": sys.exit(0)
        if text == "read": text = open("/etc/passwd").read()
        if text == "nan": return {"reward": float("nan"), "done": True}
        if text == "text": return {"reward": "lots", "done": True}
        if text == "large": return {"reward": 10 ** 400, "done": True}
        if text == "nothing": return None
        if text == "garbage": return {"messages": 7}
        if text == "effect": return {"messages": [], "effect": "bananas"}
        if text == "forge":
            for descriptor in range(3, 20):
                for number in range(1, 9):
                    try: os.write(descriptor, b'{"id": %d, "ok": {"reward": 1.0, "done": true}}\\n' % number)
                    except OSError: pass
            return {"reward": 0.0, "done": True}
        if text == "flood":
            while True: os.write(4, b"x" * 65536)
        if text == "leave": os.system("(setsid sleep 3517 &) </dev/null >/dev/null 2>&1")
        self.counts[episode] += 1
        print("noise", flush=True)
        return {"messages": [{"role": "user", "content": str(self.counts[episode])}], "reward": 0.5, "done": text == "stop"}
    def state(self, episode): return {"count": self.counts[episode]}
    def close(self, episode): self.counts.pop(episode, None); return {}
def catalogue(fail=""):
    if fail == "missing": import no_such_package
    if fail == "wrong": raise Wrong("no such counter")
    return Counter(fail)
"""


@pytest.fixture
def spec(tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "counter.py").write_text(COUNTER)

    def make(**fields) -> WorkerSpec:
        given = {"isolated": False, "seconds": 5.0, "install": "pip install counter", **fields}
        return WorkerSpec(name="counter", python=sys.executable, guest=tmp_path / "counter.py", **given)

    yield make
    hubs.close()


def task(n: int = 3) -> Task:
    return Task(id=f"t{n}", env="counter", payload={"n": n})


async def test_episodes_share_a_process_and_nothing_else(spec):
    """Three episodes, their steps mixed; standard output is full of noise."""
    envs = [WorkerEnv(spec()) for _ in range(3)]
    opened = await asyncio.gather(*(env.reset(task(n), 0) for n, env in enumerate(envs)))
    assert [r.messages[0].text for r in opened] == ["count to 0", "count to 1", "count to 2"]
    replies = await asyncio.gather(*(envs[n].step(say("assistant", "go")) for n in (0, 1, 0, 2, 0)))
    assert [r.messages[0].text for r in replies] == ["1", "1", "2", "1", "3"]
    assert await envs[0].state() == {"count": 3}
    for env in envs:
        await env.close()
    assert hub().started == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("die", "it died during step"),
        ("hang", "no answer within 1 s"),
        ("grow", "allowed are 256"),
        ("forge", "it answered something else than step: '1'"),
        ("flood", "broke its pipe"),
    ],
)
async def test_a_process_that_breaks_takes_its_episodes_and_another_is_started(spec, said: str, why: str):
    bounds = spec(seconds=1.0 if said == "hang" else 5.0, memory=256 << 20)
    first, other = WorkerEnv(bounds), WorkerEnv(bounds)
    await first.reset(task(), 0)
    await other.reset(task(), 0)
    with pytest.raises(EnvFault, match=why):
        await first.step(say("assistant", said))
    with pytest.raises(EnvFault, match="has ended"):
        await other.step(say("assistant", "go"))
    await first.close()
    await other.close()
    again = WorkerEnv(bounds)
    await again.reset(task(), 0)
    assert (await again.step(say("assistant", "go"))).reward == 0.5
    await again.close()
    assert hub().started == 2


async def test_what_a_package_raises_is_a_fault_of_that_episode_alone(spec):
    first, other = WorkerEnv(spec()), WorkerEnv(spec())
    await first.reset(task(), 0)
    await other.reset(task(), 0)
    broken = {
        "raise": "ValueError: no such count",
        "exit": "wanted to end the process",
        "text": "rewarded with 'lots'",
        "nan": "rewarded with 'nan'",
        "large": "rewarded with '1000",
        "nothing": "expected fields",
        "garbage": "is no reply: 'int' object is not iterable",
        "effect": "is no reply: Invalid enum value 'bananas'",
    }
    for said, why in broken.items():
        with pytest.raises(EnvFault, match=why):
            await first.step(say("assistant", said))
    assert (await other.step(say("assistant", "go"))).messages[0].text == "1"
    assert hub().started == 1


async def test_giving_up_waiting_leaves_the_process_in_step(spec):
    env = WorkerEnv(spec())
    await env.reset(task(), 0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(env.ask("step", text="slow", calls=[]), 0.2)
    assert (await env.step(say("assistant", "go"))).messages[0].text == "2"
    await env.close()


async def test_nothing_outlives_a_process(spec):
    """Even what has left its session."""

    def left() -> list[bytes]:
        lines = (p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline"))
        return [line for line in lines if b"3517" in line and b"sleep" in line]

    env = WorkerEnv(spec())
    await env.reset(task(), 0)
    await env.step(say("assistant", "leave"))
    await env.close()
    assert len(left()) == 1
    await asyncio.to_thread(hubs.close)
    for _ in range(100):  # one that was killed is still listed until it has ended
        if not left():
            return
        await asyncio.sleep(0.05)
    assert left() == []


async def test_in_a_box_there_are_no_files_of_the_host(spec, tmp_path: Path):
    (tmp_path.parent / "secret").write_text("x")
    env = WorkerEnv(spec(isolated=True))
    await env.reset(task(), 0)
    with pytest.raises(EnvFault, match=r"(FileNotFound|Permission)Error"):
        await env.step(say("assistant", "read"))
    assert (await env.step(say("assistant", "go"))).messages[0].text == "1"
    await env.close()


async def test_reserved_names_are_refused(spec):
    with pytest.raises(EnvFault, match="a tool named 'verify'; that name is reserved"):
        await WorkerEnv(spec(args={"fail": "reserved"})).reset(task(), 0)


def test_what_is_missing_says_what_installs_it(spec):
    with pytest.raises(ConfigError, match=r"No module named 'no_such_package'.*install it with: pip install counter"):
        now(hub().process(spec(args={"fail": "missing"})))
    with pytest.raises(ConfigError, match="'counter': no such counter"):
        now(hub().process(spec(args={"fail": "wrong"})))
    absent = WorkerSpec(name="counter", python="/nowhere/python", guest=spec().guest, install="make counter")
    with pytest.raises(ConfigError, match="'/nowhere/python', which is not there; make it with: make counter"):
        now(hub().process(absent))


async def test_tasks_are_listed_once_and_split_by_content(spec):
    tasks = await asyncio.to_thread(ListedTasks, "counter", spec(), endless=False)
    found = [tasks.task(split, i) for split, size in tasks.sizes.items() for i in range(size)]
    assert sorted(t.payload["n"] for t in found) == list(range(30))
    assert tasks.sizes["heldout"] > 0
    with pytest.raises(ConfigError, match="there is no number 30"):
        tasks.task("train", 30)
    with pytest.raises(UnknownName):
        tasks.task("test", 0)
    more = await asyncio.to_thread(ListedTasks, "counter", spec(), endless=True)
    with pytest.raises(ConfigError, match="there is no number 40"):
        more.task("train", 40)


async def test_an_episode_from_beginning_to_end(spec):
    world = EnvSpec(name="counter", make=lambda: WorkerEnv(spec()), task=lambda split, i: task(i), rubric=EnvReward())
    said = [say("assistant", t) for t in ("a", "b", "stop")]
    found = await play_scripted(world, task(), 0, recorded(said), clock=Clock(10))
    assert [r.reward for r in found.replies] == [0.5, 0.5, 0.5] and found.episode.stop is Stop.completed


def test_replies_are_checked():
    assert as_reply({"done": True, "truncated": True, "reward": 1}).stop is Stop.max_turns
    with pytest.raises(EnvFault, match="rewarded with 'True'"):
        as_reply({"reward": True})
    assert as_reply({"metrics": {"a": 1, "b": "nan", "c": None}}).metrics == {"a": 1.0}
    assert plain({"a": float("inf"), 1: (2, {3})}) == {"a": "inf", "1": [2, "{3}"]}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            guest.literal,
            ["[[1, 2], [3]]", "1 2 3", "_ Q _", "ABC", "['a', 'b']", "-1"],
            ["f()", "a.b", "x", "[open('x')]", "2**3"],
        ),
        (guest.arithmetic, ["4*(2 + 3) - 1/2", "2**3"], ["__import__('os')", "a+1", "9**9**9**9", "2**1000", "1_0"]),
        (
            guest.formula,
            ["3*Integral(x**3*cos(3*x), x) + C", "-5*X**9/2", "exp(x)*sqrt(2)"],
            ["x.y", "'a'", "open(x)", "_x", "x[0]"],
        ),
    ],
)
def test_grammars_of_answers(kind, good: list[str], bad: list[str]):
    """Answers that reach a scorer which executes them, and answers that do not."""
    assert [text for text in good if not kind(text)] == []
    assert [text for text in bad if kind(text)] == []


def test_catalogues_know_their_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Each has a file of pinned versions with its package in it; nothing is ready in an empty folder."""
    monkeypatch.setenv("PHRONESIS_CATALOGUES", str(tmp_path))
    for catalogue in catalogues.CATALOGUES:
        lines = catalogues.versions(catalogue.name).read_text().splitlines()
        assert all("==" in line for line in lines)
        assert any(line.lower().replace("_", "-").startswith(f"{catalogue.package}==") for line in lines)
        assert not catalogues.ready(catalogue.name)
        assert catalogues.interpreter(catalogue.name) == str(tmp_path / catalogue.name / "bin" / "python")
    with pytest.raises(UnknownName, match="did you mean 'textarena'"):
        catalogues.find("textarenas")


def test_a_catalogue_that_cannot_be_installed_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PHRONESIS_CATALOGUES", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot run the interpreter '/nowhere/python': No such file"):
        catalogues.install("textarena", "/nowhere/python")
    monkeypatch.setenv("PHRONESIS_CATALOGUES", "/proc/nowhere")
    with pytest.raises(ConfigError, match="cannot make the folder '/proc/nowhere'"):
        catalogues.install("textarena")
