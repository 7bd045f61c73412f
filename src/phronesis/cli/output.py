"""What commands print: results to standard output, complaints to standard error, JSON where it was asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""The option every command with a result takes."""


def new_app() -> typer.Typer:
    """A command's application: plain help, our own errors, no shell completion to install."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
    )


def examples(*lines: str) -> str:
    """The examples at the end of a command's help, one per line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def say(text: str) -> None:
    """One result, at once."""
    print(text, flush=True)


def say_json(value: object) -> None:
    """One result as a line of JSON."""
    say(msgspec.json.encode(value, enc_hook=str).decode())


def complain(text: str) -> None:
    """One line for the person, apart from the results."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """One line about something that is wrong and does not stop the command."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns of equal width under a header.

    >>> print(table([["a", "long text"], ["bcd", "x"]], ["name", "about"]))
    name  about
    a     long text
    bcd   x
    """
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in [header, *rows])
