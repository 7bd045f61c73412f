"""Whole runs of a second and the example's files can be imported here."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "train"), str(ROOT / "examples" / "gateway")]
