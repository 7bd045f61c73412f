"""What is counted over a whole run goes on where it stood: changed shares change once, what was left out stays counted."""

from __future__ import annotations

import pytest
from test_sources import three
from tiny_jobs import Stopped, config, events

from phronesis.records import Task
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.buffer import Buffer
from phronesis.train.checkpoint import Manifest, UnderWay
from phronesis.train.steering import ask
from phronesis.train.under_way import restore


def test_shares_that_were_asked_for_are_taken_over_once(tmp_path):
    """Shares .5, .3, .2, and the first changed to 3 beside them: 3 / 3.5. Once more would be 3 / 3.142…"""

    def listen(progress):
        if (progress.phase, progress.done) == ("train", 2):
            ask(tmp_path / "run", {"quick": 3.0})
        if (progress.phase, progress.done) == ("train", 7):
            raise Stopped

    mixed = three(0.002, 9)
    with pytest.raises(Stopped):
        job.run(mixed, tmp_path / "run", listener=listen)
    job.run(mixed, tmp_path / "run", resume=True)
    said = events(tmp_path / "run", "shares")
    assert said and set(said) == {"shares are now quick 85.7%, usual 8.6%, slow 5.7%"}


def test_groups_left_out_stay_counted(tmp_path):
    run_config = config(steps=0, prime=None)
    job.run(run_config, tmp_path / "run")
    buffer = Buffer(2, 1, max_age=1)
    entry = UnderWay(number=8, task=Task(id="t", env="copy"), born=3)
    with Run.open(tmp_path / "run") as run:
        restore(buffer, Manifest(step=3, started=9, under_way=(entry,), counters={"left_out": 4}), run_config, run)
    assert (buffer.left_out, buffer.started, buffer.playing) == (4, 9, 1)
