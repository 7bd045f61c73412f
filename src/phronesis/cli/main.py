"""The `phronesis` command: finds the sub-command, runs it, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done; 1 something broke (the traceback is saved); 2 the input was wrong; 130 interrupted. A sub-command's
module is imported only when it is asked for, so that `phronesis --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import cast

import typer

from phronesis.cli.output import complain, say
from phronesis.errors import PhronesisError, UnknownName, UserError

COMMANDS = {
    "train": "train an agent: a recipe or a TOML file, with overrides",
    "status": "say what a run does, what it waits for, or why it ended",
    "shares": "show or change how much of a run each of its sources makes up",
    "pairs": "learn from preferences: of a file, or of a run's stored attempts",
    "algorithms": "list the algorithms training can use, and explain one",
    "eval": "evaluate a trained agent on held-out tasks",
    "gateway": "serve a policy to agents of any make, and record them",
    "mcp": "serve our tools to agents of any make, over MCP",
    "play": "take the policy's place in an environment",
    "env": "list environments, or check that one keeps its promises",
    "catalogue": "install environments of other makes, each apart",
    "bench": "measure how fast this machine decodes, beside others and its own bound",
    "doctor": "report on this machine, a model, a chat template, or the settings of a run",
    "export": "write a run's model, or its adapters, for transformers, vLLM and peft",
    "report": "write a run's report.html",
    "replay": "play a stored episode again and compare every token",
}
"""Sub-commands in the order a newcomer meets them; each is a module of this package with a Typer `app`."""

ROOT_HELP = """\
Usage: phronesis COMMAND [ARGUMENTS]

Train and run language-model agents that think and act in one interleaved stream.

Commands:
{commands}

Examples:
  phronesis train quickstart                     the whole story on a laptop, in minutes
  phronesis train quickstart --seed 3 steps=60   with another seed, and a setting changed
  phronesis train quickstart --algorithm gspo    with another algorithm
  phronesis report runs/quickstart-seed0         see what it learned
  phronesis play ledger                          do better yourself
  phronesis env list                             what there is to play

`phronesis COMMAND --help` explains a command with examples. Most take --json.
"""

_USAGE_ERROR = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
_ABORT = typer.Abort


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code. The current folder can be imported from (``my_env:make``)."""
    words = list(sys.argv[1:] if argv is None else argv)
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _run(words)
    except UserError as error:
        complain(str(error))
        return 2
    except (KeyboardInterrupt, _ABORT):
        complain("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, _USAGE_ERROR):
            cast(typer.BadParameter, error).show()
            return 2
        kind = "" if isinstance(error, PhronesisError) else f"{type(error).__name__}: "
        complain(f"{kind}{error} (traceback in {save_traceback(error)})")
        return 1


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        say(ROOT_HELP.format(commands="\n".join(f"  {name:<12}{about}" for name, about in COMMANDS.items())).rstrip())
        return 0
    if words[0] == "--version":
        say(f"phronesis {version('phronesis')}")
        return 0
    if words[0] not in COMMANDS:
        raise UnknownName("command", words[0], COMMANDS)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when torch is imported; spinning threads starve others
    app = cast(typer.Typer, importlib.import_module(f"phronesis.cli.{words[0]}").app)
    code: object = app(args=words[1:], prog_name=f"phronesis {words[0]}", standalone_mode=False)
    return code if isinstance(code, int) else 0


def save_traceback(error: BaseException) -> Path:
    """Writes an error's traceback to a new file in the system's folder for temporary files."""
    with tempfile.NamedTemporaryFile("w", prefix="phronesis-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.writelines(traceback.format_exception(error))
    return Path(file.name)
