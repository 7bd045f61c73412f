"""What several commands take in the same words."""

from __future__ import annotations

from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(metavar="RECIPE|FILE.toml|RUN", help="A recipe's name, a config file, or a run folder.")]
"""Where the settings of a run come from."""
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="PATH=VALUE|FILE.toml", help="Settings to change; later ones win.")
]
"""What to change of them."""
AlgorithmName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Shorthand for algorithm=NAME; `phronesis algorithms` lists them.")
]
"""A preset to lay over them."""
