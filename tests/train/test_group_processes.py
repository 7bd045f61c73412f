"""Processes of a learner group that die, break or outlive nobody."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import group_fixtures as fixtures
import pytest
import torch
from msgspec.structs import replace
from sampled_groups import make_decoder
from test_learner import make_batch

from phronesis.errors import RankFailed, TrainingError
from phronesis.losses import LossConfig, PPOClipLoss
from phronesis.train.group import processes as module
from phronesis.train.group.learner import GroupLearner
from phronesis.train.learner import LearnerConfig

LONG = LearnerConfig(
    epochs=500, max_tokens=20, loss=LossConfig(objective=PPOClipLoss()), mismatch_error=100.0, mismatch_warn=100.0
)
"""Many seconds of work."""
PATIENCE = 30.0
"""Seconds that nothing may need which takes one to three on an idle machine."""


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pids):
    until = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def learner_of(started, decoder, config):
    return GroupLearner(decoder, config, started.config, start=lambda _: started)


def later(act, seconds=1.0):
    threading.Timer(seconds, act).start()


@pytest.mark.parametrize("method", ["ddp", "fsdp"])
def test_a_rank_killed_in_the_middle_is_named_at_once(method):
    """The other rank waits in an exchange that never comes; the run hears of the death and nobody is left."""
    started = fixtures.started(method=method)
    decoder = make_decoder()
    batch = make_batch(decoder, n=4)
    learner = learner_of(started, decoder, LONG)
    before = {n: p.clone() for n, p in decoder.named_parameters()}
    killed = []

    def kill():
        os.kill(started.pids[1], signal.SIGKILL)
        killed.append(time.monotonic())

    ask = started.ask
    started.ask = lambda name, body=b"": (name == "update" and later(kill), ask(name, body))[1]
    with pytest.raises(RankFailed, match=r"rank 1 of the learner group, asked for 'update', died \(SIGKILL\)"):
        learner.update(batch)
    assert time.monotonic() - killed[0] < PATIENCE
    assert gone(started.pids)
    assert all(torch.equal(p, before[n]) for n, p in decoder.named_parameters())
    with pytest.raises(RankFailed, match="closed"):
        learner.state()


def test_a_rank_that_breaks_says_so_with_its_last_lines():
    started = fixtures.started(ranks=1)
    with pytest.raises(RankFailed, match=r"(?s)rank \d of the learner group, asked for 'begin', broke: .*its last lines:\n"):
        started.ask("begin", b"no such thing")
    assert gone(started.pids)


def test_a_rank_that_does_not_answer_in_time():
    started = fixtures.started(ranks=1)
    decoder = make_decoder()
    learner = learner_of(started, decoder, LearnerConfig())
    learner.update(make_batch(decoder))
    os.kill(started.pids[0], signal.SIGSTOP)
    started.config = replace(started.config, timeout=0.5)
    with pytest.raises(RankFailed, match=r"ranks \[0\] of the learner group did not answer 'state' within 0.5 s"):
        learner.state()
    assert gone(started.pids)


def test_an_abandoned_update_ends():
    """From another thread, as when a run is stopped while it learns."""
    started = fixtures.started(ranks=1)
    decoder = make_decoder()
    learner = learner_of(started, decoder, LONG)
    ask = started.ask
    started.ask = lambda name, body=b"": (name == "update" and later(learner.abandon), ask(name, body))[1]
    with pytest.raises(TrainingError, match="abandoned"):
        learner.update(make_batch(decoder, n=4))
    assert gone(started.pids)


def test_a_group_that_cannot_start_names_the_rank(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", shutil.which("false"))
    with pytest.raises(RankFailed, match=r"asked for 'setup', ended with code 1; it wrote nothing"):
        fixtures.started()


RUN = """
import sys
sys.path[:0] = sys.argv[1:2]
import torch
torch.set_num_threads(1)
import group_fixtures
from sampled_groups import make_decoder
from test_group_processes import LONG, learner_of
from test_learner import make_batch
started = group_fixtures.started()
print(*started.pids, flush=True)
ask = started.ask
started.ask = lambda name, body=b"": (print(name, flush=True), ask(name, body))[1]
decoder = make_decoder()
learner_of(started, decoder, LONG).update(make_batch(decoder, n=4))
"""


def test_ranks_end_with_the_run_that_is_killed(tmp_path):
    """SIGKILL in the middle of an update: no handler runs, the pipes close."""
    here = str(Path(__file__).parent)
    run = subprocess.Popen([sys.executable, "-c", RUN, here], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    pids = [int(p) for p in run.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    assert [run.stdout.readline().strip() for _ in range(2)] == ["begin", "update"]
    time.sleep(0.5)
    assert all(map(alive, pids))
    run.kill()
    run.wait()
    run.stdout.close()
    assert gone(pids)


def test_closing_leaves_nothing():
    """Nor is anything there that a kill could leave behind, while the processes open the memory of the weights or after."""
    started = fixtures.started(ranks=1)
    decoder = make_decoder()
    learner = learner_of(started, decoder, LearnerConfig())
    ask, named = started.ask, {}

    def there():
        folders = (Path("/dev/shm"), Path(tempfile.gettempdir()))
        return {path for folder in folders for path in folder.glob("phronesis-weights-*") if path.is_file()}

    def look(name, body=b""):
        named[name] = there()
        return ask(name, body)

    started.ask = look
    before = there()
    assert learner.update(make_batch(decoder)).steps == 1
    learner.close()
    learner.close()
    assert gone(started.pids)
    assert set(named) == {"begin", "update"} and (sys.platform != "linux" or named["begin"] <= before)
    assert there() <= before
