"""Several sources on the command line: seen while they are trained on, and their shares changed."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phronesis.cli.main import main
from phronesis.store import Run
from phronesis.train.steering import FILE

RUN = """
name = "pair"
steps = 3
groups = 3
group_size = 2
checkpoint_every = 1
sources.letters = { env = { name = "probe-copy" }, share = 2.0 }
sources.coins = { env = { name = "probe-bandit" }, share = 1.0 }
asynchrony = { staleness = 1 }
model = { vocab_size = 300, tiny = { width = 32, layers = 1, heads = 2, kv_heads = 1, head_dim = 16, mlp_width = 32 } }
limits = { max_turns = 2, max_turn_tokens = 8 }
evaluation = { tasks = 4, greedy = false, swapped = false }
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A run's folder, and what a terminal of 120 columns showed of it."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "pair.toml").write_text(RUN)
    master, slave = pty.openpty()
    command = [
        str(Path(sys.executable).with_name("phronesis")),
        "train",
        str(folder / "pair.toml"),
        "--out",
        str(folder / "run"),
    ]
    place = os.environ | {"COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=place)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    assert process.wait(60) == 0, text
    return folder / "run", text


def test_a_terminal_shows_shares_ages_waits_and_failures(trained):
    _, text = trained
    rows = [line.split() for line in text.replace("\r", "\n").splitlines()]
    assert ["source", "share", "so", "far", "groups", "success", "reward", "playing", "faults", "median", "s"] in rows
    last = [row for row in rows if row[:1] == ["letters"]][-1]
    assert last[1:4] == ["67%", "67%", "6"]
    assert [row for row in rows if row[:1] == ["coins"]][-1][3] == "3"
    assert re.search(r"age of tokens \d\.\d\d updates, at most [01]; waiting \d+% of the step; 0 attempts failed", text)


def test_shares_are_shown(trained, capsys):
    assert main(["shares", str(trained[0])]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["letters", "66.7%", "66.7%", "6"] in rows and ["coins", "33.3%", "33.3%", "3"] in rows


def test_shares_are_asked_for_and_taken_over_by_a_resumed_run(trained, tmp_path, capsys):
    folder = trained[0]
    assert main(["shares", str(folder), "coins=0.5", "letters=0.5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["asked"] == {"coins": 0.5, "letters": 0.5} and said["sources"]["letters"]["share"] == pytest.approx(2 / 3)
    assert json.loads((folder / FILE).read_text()) == {"coins": 0.5, "letters": 0.5}
    steps = folder / "checkpoints"
    for newer in ("step-00000003", "step-00000002"):
        shutil.rmtree(steps / newer)
    assert main(["train", str(folder), "--resume"]) == 0
    with Run.open(folder) as run:
        assert [e.message for e in run.events() if e.kind == "shares"] == ["shares are now letters 50.0%, coins 50.0%"]
    capsys.readouterr()
    assert main(["shares", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"]["coins"]["share"] == 0.5


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["letterz=1"], "did you mean 'letters'"),
        (["letters"], "not SOURCE=SHARE"),
        (["letters=-1"], "at least 0"),
        (["letters=x"], "not SOURCE=SHARE"),
        (["letters=0", "coins=0"], "at least one must be above 0"),
    ],
)
def test_what_cannot_be_asked_for_is_said(trained, capsys, words, why):
    before = (trained[0] / FILE).read_bytes() if (trained[0] / FILE).exists() else None
    assert main(["shares", str(trained[0]), *words]) == 2
    assert why in capsys.readouterr().err
    assert ((trained[0] / FILE).read_bytes() if (trained[0] / FILE).exists() else None) == before
