"""Cluster tests use the small runs of the training tests."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / "train")]
