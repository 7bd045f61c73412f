"""Workers that die, lag, hang, come and go, in this process: one learns what one process learns, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest
from in_process import hiring
from msgspec.structs import replace
from test_async import check_once, later
from tiny_jobs import Stopped, config, essence, events, stop_at

from phronesis.errors import ClusterError, ConfigError
from phronesis.records import Stop
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EnvChoice
from phronesis.train.workers import ClusterConfig, PlaceConfig, ScaleConfig

QUICK = ClusterConfig(pulse_seconds=0.05, backoff_seconds=0.01, silence_seconds=30.0)
OWN = ("cluster/", "age/", "buffer/", "time/", "speed/")


def same(left, right, steps=4):
    """All but times and what only one way of playing reports."""
    one, other = essence(left, steps), essence(right, steps)
    assert one["weights"] == other["weights"] and one["episodes"] == other["episodes"]
    for step, values in one["metrics"].items():
        kept = [{k: v for k, v in m.items() if not k.startswith(OWN)} for m in (values, other["metrics"][step])]
        assert kept[0] == kept[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    job.run(config(), folder)
    return folder


@pytest.mark.parametrize("asynchrony", [None, AsyncConfig(staleness=0)], ids=["in turns", "at once"])
def test_two_workers_learn_what_one_process_learns_to_the_bit(tmp_path, alone, asynchrony):
    job.run(config(cluster=QUICK, asynchrony=asynchrony), tmp_path / "run", hire=hiring())
    same(tmp_path / "run", alone)
    said = events(tmp_path / "run", "worker")
    assert sorted(s.split(":")[0] for s in said) == [f"worker {i} joins with weights 0" for i in (0, 1)]


def test_both_workers_play(tmp_path):
    seen = {}

    def prepare(backend, staff):
        seen["workers"] = backend.started

    job.run(config(cluster=QUICK), tmp_path / "run", hire=hiring(prepare))
    assert len(seen["workers"]) == 2 and all(w.plays >= 12 for w in seen["workers"])


def test_a_worker_that_dies_again_and_again_changes_nothing(tmp_path, alone):
    """Every fifteenth episode kills its worker as it begins: all that were there are played again, and come out the same."""
    count = 0

    def prepare(backend, staff):
        def kill(worker):
            nonlocal count
            count += 1
            if count % 15 == 0:
                asyncio.get_running_loop().call_soon(worker.kill)

        backend.before_play = kill

    job.run(config(cluster=QUICK), tmp_path / "run", hire=hiring(prepare))
    same(tmp_path / "run", alone)
    with Run.open(tmp_path / "run") as run:
        deaths, again = (sum(v for _, v in run.curve(f"cluster/{key}")) for key in ("deaths", "replayed"))
    said = events(tmp_path / "run", "worker")
    assert deaths >= 2 and again >= 2
    assert sum(" joins with weights " in s for s in said) > 2
    assert any("which others play again, and starts again in 0.01 s: it was killed" in s for s in said)


def test_overlapped_with_deaths_every_group_is_learned_from_once(tmp_path):
    """Workers die at any moment; who comes back has the newest weights."""
    versions = []

    def prepare(backend, staff):
        async def look(worker, version):
            versions.append((worker, version))

        def kill(worker):
            if worker.worker._version >= 1 and worker.plays >= 5 and len(backend.started) < 6:
                asyncio.get_running_loop().call_later(0.02, worker.kill)

        backend.before_take, backend.before_play = look, kill

    job.run(later(cluster=QUICK), tmp_path / "run", hire=hiring(prepare))
    check_once(tmp_path / "run", 6, 2)
    first = {}
    for worker, version in versions:
        first.setdefault(worker, version)
    assert max(first.values()) >= 1  # somebody joined late, with the weights of that moment
    with Run.open(tmp_path / "run") as run:
        for step, number in ((s.step, n) for s in run.steps() if s.step >= 0 for n in (s.values["age/max"],)):
            assert 0 <= number <= 2, step
        assert not any(e.stop.is_fault for e in run.episodes(Where(kind="train")))


def test_a_worker_that_lags_is_waited_for_and_seen(tmp_path, alone):
    """Worker 1 takes weights late: what is sent to it waits for them, and the lag is a metric."""

    def prepare(backend, staff):
        async def late(worker, version):
            if worker.index == 1 and version:
                await asyncio.sleep(0.1)

        backend.before_take = late

    job.run(config(cluster=QUICK), tmp_path / "run", hire=hiring(prepare))
    same(tmp_path / "run", alone)
    with Run.open(tmp_path / "run") as run:
        assert max(v for _, v in run.curve("cluster/lag")) >= 1


def test_a_worker_that_falls_silent_is_replaced(tmp_path, alone):
    silent = replace(QUICK, silence_seconds=0.2)

    def prepare(backend, staff):
        async def hang(worker):
            if worker is backend.started[0]:
                await asyncio.sleep(3600)

        backend.before_pulse = hang

    slow = later(steps=3, env=EnvChoice(name="test_async:slow", args={"seconds": 0.4}), cluster=silent)
    job.run(slow, tmp_path / "run", hire=hiring(prepare))
    check_once(tmp_path / "run", 3, 2)
    assert any("did not answer for 0.2 s" in s for s in events(tmp_path / "run", "worker"))


def test_an_episode_that_kills_its_workers_becomes_a_fault(tmp_path):
    """One task is poison: its workers die, two by two, and its group goes on without it."""

    def prepare(backend, staff):
        def kill(worker):
            poison.append(worker)

        poison = []
        backend.before_play = kill
        play = type(backend).start

        def start(self, index):
            made = play(self, index)
            told = made.play

            async def sift(order):
                if b"train-1-0-2" in order:
                    made.kill()
                return await told(order)

            made.play = sift
            return made

        backend.start = lambda index: start(backend, index)

    patient = replace(QUICK, episode_deaths=2, restarts=20)
    job.run(config(cluster=patient), tmp_path / "run", hire=hiring(prepare))
    with Run.open(tmp_path / "run") as run:
        found = {e.id: e for e in run.episodes(Where(kind="train"))}
    assert len(found) == 4 * 2 * 4
    assert [e.id for e in found.values() if e.stop.is_fault] == ["train-1-0-2"]
    failure = found["train-1-0-2"].failure
    assert found["train-1-0-2"].stop is Stop.infra_fault and failure is not None
    assert failure.where == "policy.worker" and "2 workers died over it, the last: it was killed" in failure.message


def test_when_no_worker_is_left_the_run_says_so(tmp_path):
    def prepare(backend, staff):
        backend.stillborn = {0, 1}

    with pytest.raises(ClusterError, match="worker 1 died 3 times in a row, last: it never lived"):
        job.run(config(cluster=replace(QUICK, restarts=2)), tmp_path / "run", hire=hiring(prepare))
    assert sum("is given up" in s for s in events(tmp_path / "run", "worker")) == 2


def test_a_worker_that_cannot_be_built_stops_the_run_at_once(tmp_path):
    """Its error is that of the settings, as in one process."""

    def prepare(backend, staff):
        async def never(worker, version):
            raise ConfigError("the node has no such thing")

        backend.before_take = never

    with pytest.raises(ConfigError, match="no such thing"):
        job.run(config(cluster=QUICK), tmp_path / "run", hire=hiring(prepare))


@pytest.mark.parametrize(("first", "then"), [(QUICK, None), (None, replace(QUICK, workers=3))], ids=["without", "with more"])
def test_a_run_goes_on_with_other_workers_or_without(tmp_path, alone, first, then):
    with pytest.raises(Stopped):
        job.run(config(cluster=first), tmp_path / "run", hire=hiring(), listener=stop_at("train", 3))
    job.run(config(cluster=then), tmp_path / "run", resume=True, hire=hiring())
    same(tmp_path / "run", alone)


def test_what_episodes_await_on_their_workers_is_known_here(tmp_path, monkeypatch):
    """A world that takes its time: the run says which call, on which worker."""
    said = []
    monkeypatch.setattr("phronesis.cluster.crew.Asked.told", lambda self, why: said.append(why))
    slow = later(1, env=EnvChoice(name="test_async:slow", args={"seconds": 0.15}), cluster=replace(QUICK, pulse_seconds=0.01))
    job.run(slow, tmp_path / "run", hire=hiring())
    assert {f"env.{call} on worker {i}" for call in ("reset", "step") for i in (0, 1)} <= set(said)


class Scripted:
    """Wants what a list says, then keeps the last."""

    def __init__(self, *wanted):
        self.wanted_, self.seen = list(wanted), []

    def wanted(self, load):
        self.seen.append(load)
        return self.wanted_.pop(0) if len(self.wanted_) > 1 else self.wanted_[0]


def test_workers_come_and_go_while_the_run_goes_on(tmp_path, alone):
    scaler = Scripted(3, 3, 1)
    seen = {}

    def prepare(backend, staff):
        seen["backend"], seen["staff"] = backend, staff

    quick = replace(QUICK, workers=1, scale=ScaleConfig(least=1, most=3, seconds=0.02))
    job.run(config(cluster=quick), tmp_path / "run", hire=hiring(prepare, scaler))
    same(tmp_path / "run", alone)
    said = events(tmp_path / "run", "worker")
    assert [s.split(":")[0] for s in said if " become " in s] == ["1 workers become 3", "3 workers become 1"]
    assert sum(" leaves when it is idle" in s for s in said) == 2 and len(seen["backend"].started) == 3
    assert seen["backend"].asked_room == [1, 3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 0}, "cluster.workers must be at least 1"),
        ({"slots": 0}, "cluster.slots"),
        ({"pulse_seconds": 0.0}, "cluster.pulse_seconds must be above 0"),
        ({"worker": PlaceConfig(cpus=-1.0)}, "cluster.worker.cpus"),
        ({"scale": ScaleConfig(least=3, most=2)}, "cluster.scale"),
    ],
)
def test_settings_out_of_range(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        job.run(config(cluster=replace(QUICK, **changes)), tmp_path / "run", hire=hiring())


def test_a_run_with_workers_needs_somebody_to_hire_them(tmp_path):
    with pytest.raises(ConfigError, match="whom nobody hires"):
        job.run(config(cluster=QUICK), tmp_path / "run")
