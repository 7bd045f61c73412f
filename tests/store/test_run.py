import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from store_samples import Config, episode, same

from phronesis.errors import ConfigError, RunFolderError, UnknownName
from phronesis.records import Episode, Stop, Task
from phronesis.store import Run, Where, codec
from phronesis.store import run as run_module
from phronesis.store.frames import pack

HERE = Path(__file__).parent


def filled(path: Path, count: int = 20) -> list[Episode]:
    written: list[Episode] = []
    with Run.create(path, Config()) as run:
        for n in range(count):
            reward = None if n % 5 == 4 else float(n % 2)
            stop = Stop.env_fault if n % 5 == 4 else Stop.completed
            one = episode(n, turns=n % 3 + 1, reward=reward, stop=stop)
            run.append(one, kind="heldout" if n >= 15 else "train")
            written.append(one)
    return written


def test_what_is_written_is_read(tmp_path: Path):
    written = filled(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert sorted(run.episodes(), key=lambda e: e.seed) == written
    assert [e.seed for e in run.episodes(Where(kind="heldout"))] == [15, 16, 17, 18, 19]
    assert run.get("train-7") == written[7]
    assert run.config() == {"name": "sample", "lr": 0.1}
    assert run.summary() is None and not run.active
    code = run.code()
    assert code["format"] == 1 and code["python"] == sys.version.split()[0]
    assert isinstance(code["packages"], dict) and code["packages"]["msgspec"] == msgspec.__version__


def test_rows_say_what_the_episode_says(tmp_path: Path):
    written = filled(tmp_path / "run")
    for row in Run.open(tmp_path / "run").rows():
        one = written[int(row.id.removeprefix("train-"))]
        assert (row.task, row.env, row.split, row.difficulty) == (one.task.id, "ledger", "train", one.task.difficulty)
        assert (row.step, row.group, row.stop, row.turns) == (one.step, one.group, one.stop.value, len(one.turns))
        assert (row.sampled_tokens, row.context_tokens) == (one.sampled_tokens, one.context_tokens)
        expected = None if one.reward is None else one.reward.value
        assert row.reward == expected and row.success == (None if expected is None else expected >= 1.0)
        assert row.seconds == 0.5


def test_the_bar_for_success_is_the_environments(tmp_path: Path):
    with Run.create(tmp_path / "run", Config(), success={"ledger": 0.5}) as run:
        for n, value in enumerate((0.4, 0.5, 1.0)):
            run.append(episode(n, reward=value))
        run.append(msgspec.structs.replace(episode(3, reward=0.9), task=Task(id="t", env="other")))
    assert [r.success for r in Run.open(tmp_path / "run").rows()] == [False, True, True, False]


def test_choosing(tmp_path: Path):
    filled(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert {r.step for r in run.rows(Where(step=1))} == {1} and len(run.rows(Where(step=1))) == 10
    assert [r.id for r in run.rows(Where(success=True, kind="train", limit=2))] == ["train-1", "train-3"]
    assert {r.stop for r in run.rows(Where(stop="env_fault"))} == {"env_fault"}
    assert [r.id for r in run.rows(Where(group="g1", kind="train"))] == ["train-4", "train-5", "train-6", "train-7"]
    assert run.rows(Where(env="absent")) == []
    with pytest.raises(UnknownName, match=r"unknown episode 'train-77'; did you mean 'train-7'"):
        run.get("train-77")


def test_an_episode_written_again_replaces_the_earlier_one(tmp_path: Path):
    with Run.create(tmp_path / "run", Config()) as run:
        run.append(episode(1, reward=0.0))
        run.append(episode(1, reward=1.0))
        run.append(episode(1, reward=0.5), kind="heldout")
        assert [(r.kind, r.reward) for r in run.rows()] == [("heldout", 0.5), ("train", 1.0)]
        assert run.get("train-1", kind="heldout").reward == episode(1, reward=0.5).reward
        assert run.get("train-1", kind="train").reward == episode(1, reward=1.0).reward


def test_files_rotate_and_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_module, "ROTATE_BYTES", 2000)
    filled(tmp_path / "run", 15)
    files = sorted(p.name for p in (tmp_path / "run" / "episodes").iterdir())
    assert len(files) > 2 and files[0] == "train-00000.jsonl.zst" and files[1] == "train-00001.jsonl.zst"
    assert all((tmp_path / "run" / "episodes" / f).stat().st_size <= 2000 for f in files)
    with Run.create(tmp_path / "run", Config(), resume=True) as run:
        run.append(episode(99))
        assert [r.id for r in run.rows()] == [f"train-{n}" for n in [*range(15), 99]]
        assert run.rows()[-1].file == files[-1]


def test_following_a_run_while_it_is_written(tmp_path: Path):
    with Run.create(tmp_path / "run", Config()) as writer:
        writer.append(episode(0))
        reader = Run.open(tmp_path / "run")
        assert reader.active
        todo = [1, 2, 3]

        def finished() -> bool:
            if todo:
                writer.append(episode(todo.pop(0)), kind="train" if len(todo) else "heldout")
            return not todo

        seen = list(reader.follow(poll_seconds=0.0, finished=finished))
        assert sorted(e.seed for e in seen) == [0, 1, 2, 3]
        assert len(reader.rows()) == 4
        writer.append(episode(4))
        assert len(reader.rows()) == 5, "a reader's rows follow the files"
    assert not reader.active


@pytest.mark.parametrize("harm", ["garbage", "truncate", "delete", "old", "wrong tables"])
def test_a_broken_index_is_built_again(tmp_path: Path, harm: str):
    filled(tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        before = run.rows()
    index = tmp_path / "run" / "index.sqlite"
    content = index.read_bytes()
    if harm == "garbage":
        index.write_bytes(b"not a database, but long enough to be read as one" * 100)
    elif harm == "truncate":
        index.write_bytes(content[: len(content) // 2])
    elif harm == "delete":
        index.unlink()
    else:
        db = sqlite3.connect(index)
        db.execute("PRAGMA user_version = 99" if harm == "old" else "DROP TABLE files")
        db.commit()
        db.close()
    with Run.open(tmp_path / "run") as run:
        assert run.rows() == before


def test_an_index_that_knows_more_than_the_files_is_built_again(tmp_path: Path):
    filled(tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        run.rows()
    (tmp_path / "run" / "episodes" / "heldout-00000.jsonl.zst").unlink()
    with Run.open(tmp_path / "run") as run:
        assert len(run.rows()) == 15


def test_an_index_that_cannot_be_written_lives_in_memory(tmp_path: Path):
    filled(tmp_path / "run")
    (tmp_path / "run" / "index.sqlite").mkdir()
    with Run.open(tmp_path / "run") as run:
        assert len(run.rows()) == 20
        assert len(run.rows(Where(kind="heldout"))) == 5


def test_damage_is_counted_and_the_rest_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    filled(tmp_path / "run", 5)
    path = tmp_path / "run" / "episodes" / "train-00000.jsonl.zst"
    good = path.read_bytes()
    newer = json.loads(codec.encode(episode(7)))
    newer["stop"] = "bored"
    path.write_bytes(b"junk" + good + pack(b'{"no": "episode"}') + pack(json.dumps(newer).encode()))
    with Run.open(tmp_path / "run") as run:
        assert [r.id for r in run.rows()] == [*(f"train-{n}" for n in range(5)), "train-7"]
        assert run.rows()[-1].stop == "bored" and run.rows()[-1].success is None
        damage = run.damage()
        assert damage.bytes == 4
        assert damage.unreadable == {"KeyError: 'task'": 1}
        assert run.get("train-7").stop is Stop.cancelled
        assert "stop 'bored' is not known to this version" in caplog.text


def test_metrics_keep_nan_and_none_apart(tmp_path: Path):
    with Run.create(tmp_path / "run", Config()) as run:
        run.metrics(1, {"loss/a": math.nan, "loss/b": None, "loss/c": 0, "loss/d": -0.0, "loss/e": math.inf, "loss/f": True})
        run.metrics(2, {"loss/c": 1.5})
        run.metrics(1, {"loss/c": 7, "eval/x": -math.inf})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["loss/a"] == "nan" and json.loads(lines[0])["loss/b"] is None
    one, two = Run.open(tmp_path / "run").steps()
    expected = {
        "loss/a": math.nan,
        "loss/b": None,
        "loss/c": 7,
        "loss/d": -0.0,
        "loss/e": math.inf,
        "loss/f": True,
        "eval/x": -math.inf,
    }
    assert same(dict(sorted(one.values.items())), dict(sorted(expected.items())))
    assert two.values == {"loss/c": 1.5} and (one.step, two.step) == (1, 2)
    assert Run.open(tmp_path / "run").curve("loss/c") == [(1, 7), (2, 1.5)]
    assert Run.open(tmp_path / "run").curve("loss/b") == []


def test_torn_metrics_lines_are_cut_and_damaged_ones_skipped(tmp_path: Path):
    with Run.create(tmp_path / "run", Config()) as run:
        run.metrics(1, {"a/b": 1})
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'rubbish\n{"step": 2, "a/')
    assert [s.step for s in Run.open(tmp_path / "run").steps()] == [1]
    with Run.create(tmp_path / "run", Config(), resume=True) as run:
        run.metrics(3, {"a/b": 3})
        assert run.curve("a/b") == [(1, 1), (3, 3)]


def test_events_and_summary(tmp_path: Path):
    with Run.create(tmp_path / "run", Config()) as run:
        run.event("alarm", "no group had variance", step=7, dropped=8, share=math.nan, why="easy")
        run.event("phase", "prime")
        run.write_summary({"name": "sample", "heldout_after": {"success": 0.9}, "broken": math.nan})
        alarm, phase = run.events()
        assert (alarm.kind, alarm.step, alarm.fields) == ("alarm", 7, {"dropped": 8, "share": "nan", "why": "easy"})
        assert (phase.kind, phase.message, phase.step) == ("phase", "prime", None)
        assert run.summary() == {"name": "sample", "heldout_after": {"success": 0.9}, "broken": None}


def test_opening_what_is_no_run(tmp_path: Path):
    filled(tmp_path / "runs" / "a", 1)
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match=r"no run folder '.*absent'; did you mean '.*runs/a'\?"):
        Run.open(tmp_path / "runs" / "absent")
    with pytest.raises(RunFolderError, match=r"not a run folder: it has no 'config.toml'; did you mean '.*runs/a'\?"):
        Run.open(tmp_path / "runs")
    with pytest.raises(RunFolderError, match=r"not a run folder"):
        Run.open(tmp_path / "runs" / "empty")
    with pytest.raises(RunFolderError, match=r"is a file, not a run folder"):
        Run.open(tmp_path / "file")
    (tmp_path / "runs" / "a" / "config.toml").write_text("a = = b")
    with pytest.raises(RunFolderError, match=r"config.toml' is damaged .*; restore it"):
        Run.open(tmp_path / "runs" / "a").config()


def test_creating_where_something_is(tmp_path: Path):
    path = tmp_path / "run"
    with pytest.raises(RunFolderError, match=r"there is no run in '.*run' to resume; leave out --resume"):
        Run.create(path, Config(), resume=True)
    filled(path, 1)
    with pytest.raises(RunFolderError, match=r"already holds a run; continue it with --resume, or choose another --out"):
        Run.create(path, Config())
    with pytest.raises(RunFolderError, match=r"started with another config \(lr: 0.1 -> 0.2\)"):
        Run.create(path, Config(lr=0.2), resume=True)
    Run.create(path, Config(name="renamed"), resume=True).close()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(RunFolderError, match=r"not empty \(it holds 'thesis.txt'\)"):
        Run.create(other, Config())
    with pytest.raises(RunFolderError, match=r"is a file; choose another --out"):
        Run.create(other / "thesis.txt", Config())
    with pytest.raises(RunFolderError, match=r"cannot make the folder"):
        Run.create(other / "thesis.txt" / "run", Config())


def test_a_start_that_was_killed_before_the_config_can_be_repeated(tmp_path: Path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".lock").write_text("process 1 on nowhere")
    (path / "code.json").write_text('{"for')
    with Run.create(path, Config()) as run:
        assert run.code()["format"] == 1


SECOND = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from store_samples import Config
from phronesis.store import Run
try:
    Run.create(Path(sys.argv[1]), Config(), resume=True)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_only_one_writer(tmp_path: Path):
    path = tmp_path / "run"
    with Run.create(path, Config()):
        with pytest.raises(RunFolderError, match=rf"is being written by process {os.getpid()} on .*; wait for it, stop it"):
            Run.create(path, Config(), resume=True)
        done = subprocess.run([sys.executable, "-c", SECOND, str(path), str(HERE)], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("RunFolderError") and f"process {os.getpid()}" in done.stdout
    Run.create(path, Config(), resume=True).close()


def test_a_bad_kind_is_refused(tmp_path: Path):
    with (
        Run.create(tmp_path / "run", Config()) as run,
        pytest.raises(ConfigError, match=r"episode kind '\.\./x' must be lower-case"),
    ):
        run.append(episode(), kind="../x")


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from store_samples import Config, episode
from phronesis.store import Run
path = Path(sys.argv[1])
run = Run.create(path, Config(), resume=(path / "config.toml").exists())
start = len(run.rows())
for n in range(start, start + 100000):
    run.append(episode(n, turns=40), kind="train")
    run.metrics(n, {"a/b": n})
    print(n, flush=True)
"""


def test_kill_minus_nine_at_any_moment(tmp_path: Path):
    """After every kill: all acknowledged episodes are there, at most one more is, and the next writer goes on."""
    path, dice = tmp_path / "run", random.Random(7)
    total = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(HERE)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.uniform(0.0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = [int(line) for line in process.stdout.read().split("\n")[:-1]]
        process.stdout.close()
        process.wait()
        with Run.open(path) as run:
            ids = [r.id for r in run.rows()]
            assert ids == [f"train-{n}" for n in range(len(ids))]
            last = acknowledged[-1] if acknowledged else total
            assert last + 1 <= len(ids) <= last + 2
            assert run.get(ids[-1]) == episode(len(ids) - 1, turns=40)
            assert run.damage().bytes == 0 and run.damage().unreadable == {}
            assert not run.active, "the system releases the lock of a killed process"
            assert {s.step for s in run.steps()} >= set(acknowledged)
        total = len(ids)
    assert total > 4


def test_a_file_torn_at_every_byte_opens_and_continues(tmp_path: Path):
    with Run.create(tmp_path / "run", Config()) as run:
        run.append(episode(0))
        run.append(episode(1))
    path = tmp_path / "run" / "episodes" / "train-00000.jsonl.zst"
    content = path.read_bytes()
    first = len(pack(codec.encode(episode(0))))
    for cut in [*range(first, first + 20), *range(first + 20, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:cut])
        with Run.create(tmp_path / "run", Config(), resume=True) as run:
            assert [r.id for r in run.rows()] == ["train-0"]
            run.append(episode(2))
            assert list(run.episodes()) == [episode(0), episode(2)]
            assert run.damage().bytes == 0


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from store_samples import Config, episode
from phronesis.store import Run
run = Run.create(Path(sys.argv[1]), Config())
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    for n in range(1000):
        run.append(episode(n, turns=20))
except Exception as error:
    print(n, type(error).__name__, error)
"""


def test_a_full_disk_leaves_a_readable_folder(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "run"), str(HERE)], capture_output=True, text=True, check=True
    )
    number, kind, message = done.stdout.split(" ", 2)
    assert kind == "DiskError" and "free some space" in message
    with Run.open(tmp_path / "run") as run:
        assert [r.id for r in run.rows()] == [f"train-{n}" for n in range(int(number))]
        assert run.damage().bytes == 0
