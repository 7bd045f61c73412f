"""Command line: ``python -m phronesis.conformance FILE.json [--json]``.

Exit code 0 when every case agrees, 1 when one does not, 2 when the file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from phronesis.conformance.case import load
from phronesis.conformance.runner import answer, report
from phronesis.conformance.tables import formulas
from phronesis.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases of a file and prints what came of them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m phronesis.conformance", description="Run worked cases of formulas.")
    parser.add_argument("file", type=Path, help="cases, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every case's outcome")
    chosen = parser.parse_args(arguments)
    try:
        questions = load(chosen.file)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    known = formulas()
    answers = [answer(question, known) for question in questions]
    failed = sum(not a.passed for a in answers)
    if chosen.json:
        outcome = {"passed": len(answers) - failed, "failed": failed, "cases": answers}
        print(msgspec.json.format(msgspec.json.encode(outcome)).decode())
    else:
        print("\n".join(report(answers)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
