"""Pins: Inspect AI evaluates in our boxes."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

from catalogue_worlds import HERE, python_of

import phronesis


def installed(folder: Path) -> str:
    """A folder where Inspect finds what an installation of ours would leave: the entry points of the project's file."""
    points = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    about = folder / "phronesis-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: phronesis\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[inspect_ai]\n" + "".join(f"{name} = {at}\n" for name, at in points.items()))
    return str(folder)


def test_an_evaluation_of_inspect_runs_in_our_boxes(tmp_path: Path):
    """20 samples; programs of even ones print the square, of odd ones the cube, which is the same for 1 alone."""
    source = str(Path(phronesis.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": f"{source}:{installed(tmp_path)}", "INSPECT_LOG_LEVEL": "error"}
    command = [python_of("inspect"), str(HERE / "inspect_task.py")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["values"] == [float(n % 2 == 0 or n == 1) for n in range(20)]
    assert all(m["shadow"] is False and m["missing"] is True for m in told["metadata"])
    assert told["home"] is False, "nothing was written outside"
