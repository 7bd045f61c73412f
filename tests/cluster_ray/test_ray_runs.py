"""A run on a real Ray: two workers learn what one process learns, one of them is killed in the middle, nothing is lost."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import lessons
import pytest
from msgspec.structs import replace
from test_async import NOTHING, check_once, later
from test_learning import SHORT, lesson
from tiny_jobs import Stopped, config, essence, events, stop_at, weights

from conftest import SMALL
from phronesis.cli.main import main
from phronesis.cluster import Load, hiring
from phronesis.cluster import ray as cluster
from phronesis.config import to_toml
from phronesis.errors import ConfigError, RankFailed
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EnvChoice
from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.progress import Progress
from phronesis.train.workers import PlaceConfig, ScaleConfig

TWO = replace(SMALL, workers=2)
pytestmark = pytest.mark.timeout(900)  # importing takes a worker seconds, minutes on a busy machine


def deadly(mark: Path, **args) -> EnvChoice:
    return EnvChoice(name="dying:make", args={"mark": str(mark), **args})


def bare(folder: Path) -> dict[str, object]:
    found = essence(folder, 4)
    return {key: found[key] for key in ("weights", "episodes")}


def joined(folder: Path) -> list[str]:
    return [s for s in events(folder, "worker") if " joins with weights " in s]


def unnamed(episodes):
    """Without the name of the world."""
    return {key: value.replace(b'"dying:make"', b'"probe-copy"') for key, value in episodes.items()}


def test_a_worker_killed_in_the_middle_changes_no_bit(tmp_path):
    """SIGKILL while it steps an environment: what it had is played again, and the weights and episodes are those of one process
    that nobody killed."""
    (tmp_path / "mark").touch()
    job.run(config(env=deadly(tmp_path / "mark")), tmp_path / "alone")
    (tmp_path / "mark").unlink()
    overlapped = config(env=deadly(tmp_path / "mark", after=12), cluster=TWO, asynchrony=AsyncConfig(staleness=0))
    # the killer strikes in training: evaluation comes first and has three episodes
    job.run(overlapped, tmp_path / "there", hire=hiring())
    assert (tmp_path / "mark").exists()
    alone, there = bare(tmp_path / "alone"), bare(tmp_path / "there")
    assert there["weights"] == alone["weights"]
    assert unnamed(there["episodes"]) == unnamed(alone["episodes"])
    with Run.open(tmp_path / "there") as run:
        assert sum(v for _, v in run.curve("cluster/deaths")) >= 1
        assert sum(v for _, v in run.curve("cluster/replayed")) >= 1
    assert len(joined(tmp_path / "there")) >= 2


def test_whoever_takes_a_dead_workers_place_has_the_newest_weights(tmp_path):
    """The only worker is killed; the run waits for the next one, which joins with the weights of that moment."""
    env = deadly(tmp_path / "mark", after=18)  # the first step asks at most 16 times
    run = later(4, env=env, asynchrony=None, cluster=replace(SMALL, workers=1))
    job.run(run, tmp_path / "run", hire=hiring())
    first, second = joined(tmp_path / "run")
    assert "weights 0:" in first and int(second.split("weights ")[1].split(":")[0]) >= 1
    assert any("which others play again, and starts again" in s for s in events(tmp_path / "run", "worker"))
    with Run.open(tmp_path / "run") as run:
        stops = [e.stop.is_fault for e in run.episodes(Where(kind="train"))]
    assert len(stops) == 4 * 2 * 4 and not any(stops)


def test_two_workers_reach_the_level_of_one_process_though_one_is_killed(tmp_path, monkeypatch):
    """Overlapped, two updates of staleness: random answers earn 0.5 and one process more than 0.9 (`test_learning`)."""
    handles = []
    start = cluster.RayBackend.start
    monkeypatch.setattr(cluster.RayBackend, "start", lambda self, index: handles.append(start(self, index)) or handles[-1])

    def kill(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", 10):
            handles[0].kill()

    run = lesson("copy", 0, steps=48, lr=3e-3, shown=SHORT, cluster=TWO, asynchrony=AsyncConfig(staleness=2))
    run = replace(run, learner=replace(run.learner, old="sampler"))
    job.run(run, tmp_path / "run", hire=hiring(), listener=kill)
    check_once(tmp_path / "run", 48, 4)
    with Run.open(tmp_path / "run") as run:
        curve = [v for _, v in run.curve("reward/mean")]
        assert max(v for _, v in run.curve("age/max")) in (1.0, 2.0)
        assert sum(v for _, v in run.curve("cluster/deaths")) == 1
    assert curve[0] < 0.7 and fmean(curve[-4:]) > 0.9


def test_environments_of_their_own_die_and_are_played_again(tmp_path):
    """One process plays, another one keeps the environments and is killed once: the same bits, retried with fresh state."""
    (tmp_path / "mark").touch()
    job.run(config(env=deadly(tmp_path / "mark"), evaluation=NOTHING), tmp_path / "alone")
    (tmp_path / "mark").unlink()
    apart = replace(SMALL, workers=1, env_workers=1)
    run = config(env=deadly(tmp_path / "mark", after=12), cluster=apart, evaluation=NOTHING)
    job.run(run, tmp_path / "there", hire=hiring())
    assert (tmp_path / "mark").exists()
    alone, there = bare(tmp_path / "alone"), bare(tmp_path / "there")
    assert there["weights"] == alone["weights"] and unnamed(there["episodes"]) == unnamed(alone["episodes"])
    assert len(joined(tmp_path / "there")) == 1  # who plays lived on
    with Run.open(tmp_path / "there") as run:
        assert sum(v for _, v in run.curve("retries/saved")) >= 1


def test_ranks_of_a_learner_group_learn_in_the_cluster_what_they_learn_outside_and_die_with_a_word(tmp_path, monkeypatch):
    """The same sums in the same order, so the same bits at step 2; then one is killed."""
    ranks = []
    made = cluster.RayRanks.__init__
    monkeypatch.setattr(cluster.RayRanks, "__init__", lambda self, *a, **k: ranks.append(self) or made(self, *a, **k))

    def kill(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", 3):
            cluster._ray().kill(ranks[0]._actors[1])

    group = config(learners=LearnerGroupConfig(ranks=2, threads=1, timeout=120.0), evaluation=NOTHING)
    with pytest.raises(Stopped):
        job.run(group, tmp_path / "outside", listener=stop_at("train", 3))
    inside = replace(group, cluster=replace(SMALL, workers=1, learner=PlaceConfig(cpus=1.0, spread=False)))
    with pytest.raises(RankFailed, match=r"(?s)died: .*--resume"):
        job.run(inside, tmp_path / "inside", hire=hiring(), listener=kill)
    assert weights(tmp_path / "inside", 2) == weights(tmp_path / "outside", 2)


class Scripted:
    """Wants what a list says, then keeps the last."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def wanted(self, load: Load) -> int:
        if load.ready < load.workers:
            return load.workers
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]


def test_workers_are_added_and_removed_while_the_run_goes_on(tmp_path):
    """One worker, then two, as soon as it is there again one; the run lasts until then."""
    scaled = replace(SMALL, workers=1, scale=ScaleConfig(least=1, most=2, seconds=0.2))
    stopped = threading.Event()

    def until_gone(progress: Progress) -> None:
        gone = (tmp_path / "run").exists() and any(" leaves when it is idle" in s for s in events(tmp_path / "run", "worker"))
        if progress.phase == "train" and gone:
            stopped.set()
            raise Stopped("it left")

    run = later(4000, prime=None, cluster=scaled, checkpoint_every=4000, env=EnvChoice(name="test_async:slow"))
    with pytest.raises(Stopped):
        job.run(run, tmp_path / "run", hire=hiring(scaler=Scripted(2, 1)), listener=until_gone)
    said = [s.split(":")[0] for s in events(tmp_path / "run", "worker")]
    assert stopped.is_set()
    assert [s for s in said if " become " in s] == ["1 workers become 2", "2 workers become 1"]
    assert len(joined(tmp_path / "run")) == 2


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """`--cluster local` joins the cluster this process is part of already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(to_toml(config(cluster=replace(TWO, workers=1), steps=2)))
    assert main(["train", "small.toml", "--cluster", "local", "--out", "run"]) == 0, capsys.readouterr()
    assert len(joined(tmp_path / "run")) == 1 and (tmp_path / "run" / "report.html").exists()


def test_an_environment_that_cannot_be_sent_is_named(tmp_path):
    """A world at hand, made of functions inside functions."""
    with pytest.raises(ConfigError, match=r"'probe-copy' cannot be sent to workers.*import path"):
        job.run(config(cluster=TWO, prime=None), tmp_path / "run", spec=lessons.copy(), hire=hiring())


def test_what_a_worker_cannot_make_stops_the_run_with_its_own_error(tmp_path, monkeypatch):
    """Here there is such a module, where the workers are there is none."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "only_here.py").write_text("import lessons\nmake = lessons.copy\n")
    run = config(env=EnvChoice(name="only_here:make"), prime=None, cluster=replace(SMALL, workers=1))
    hire = hiring()

    def without(job):
        (tmp_path / "only_here.py").unlink()
        return hire(job)

    with pytest.raises(ConfigError, match="no module 'only_here'"):
        job.run(run, tmp_path / "run", hire=without)


def test_no_cluster_at_an_address(monkeypatch):
    cluster_here = cluster.connected()
    monkeypatch.setattr(cluster, "_ray", lambda: SimpleNamespace(is_initialized=lambda: False, init=refuse))
    assert cluster_here
    with pytest.raises(ConfigError, match=r"no Ray cluster at '10.0.0.1:6379'.*ray start --head"):
        cluster.connect("10.0.0.1:6379", TWO)


def refuse(**_):
    raise ConnectionError("nobody answers")


def test_without_ray_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'phronesis\[ray\]'"):
        cluster.connect("local", TWO)


def test_only_one_file_imports_ray():
    source = Path(cluster.__file__).parents[1]
    naming = re.compile(r"^\s*(?:import ray|from ray)|import_module\(\"ray", re.MULTILINE)
    assert [p.name for p in source.rglob("*.py") if naming.search(p.read_text())] == ["ray.py"]
