"""Catalogues that people already have: which there are, and the virtual environment that each lives in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from phronesis.errors import ConfigError, UnknownName

FOLDER_VARIABLE = "PHRONESIS_CATALOGUES"
"""Environment variable with the folder that holds the environments."""


class Catalogue(NamedTuple):
    """A package whose environments can be played."""

    name: str
    """Of its virtual environment."""
    package: str
    """On the package index."""
    about: str
    """One sentence."""
    python: tuple[int, int] = (3, 11)
    """Oldest Python that it installs on."""


CATALOGUES = (
    Catalogue("reasoning-gym", "reasoning-gym", "106 generators of reasoning problems with scorers"),
    Catalogue("textarena", "textarena", "text games for one and two players"),
    Catalogue("openenv", "openenv", "environments behind a WebSocket; only needed to run their servers and their client"),
    Catalogue("verifiers", "verifiers", "tasksets of verifiers v1"),
    Catalogue("verifiers-v0", "verifiers", "modules with load_environment, of verifiers before v1"),
    Catalogue("inspect", "inspect-ai", "evaluations of Inspect AI in our sandbox"),
)
"""All of them."""
STARTED = {
    "reasoning-gym": "reasoning_gym",
    "textarena": "textarena",
    "openenv": "openenv.core.env_server.http_server",
    "verifiers": "verifiers.v1, mcp.server.mcpserver",
    "verifiers-v0": "verifiers, datasets",
    "inspect": "inspect_ai",
}
"""Modules that a worker of each imports first."""


def find(name: str) -> Catalogue:
    """The catalogue of a name.

    Raises:
        UnknownName: there is none.
    """
    for catalogue in CATALOGUES:
        if catalogue.name == name:
            return catalogue
    raise UnknownName("catalogue", name, [c.name for c in CATALOGUES])


def folder() -> Path:
    """Where the environments are: `PHRONESIS_CATALOGUES`, or a folder of the user's cache."""
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given).absolute() if given else Path.home() / ".cache" / "phronesis" / "catalogues"


def place(name: str) -> Path:
    """The virtual environment of a catalogue, made or not."""
    return folder() / find(name).name


def interpreter(name: str, given: str = "") -> str:
    """The Python of a catalogue's environment, or the one that was given."""
    return given or str(place(name) / "bin" / "python")


def advice(name: str) -> str:
    """The command that installs a catalogue."""
    return f"phronesis catalogue setup {find(name).name}"


def versions(name: str) -> Path:
    """The file with the versions that were tested."""
    return Path(__file__).parent / "versions" / f"{find(name).name}.txt"


def ready(name: str) -> bool:
    """Whether its environment was made, with these versions."""
    stamp = place(name) / ".versions"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == versions(name).read_text(encoding="utf-8")


def install(name: str, python: str = sys.executable) -> Path:
    """Makes the virtual environment of a catalogue and installs the versions that were tested.

    Args:
        name: of the catalogue.
        python: interpreter that makes it.

    Raises:
        ConfigError: a step failed; says what pip said.
    """
    found, where = find(name), place(name)
    if ready(name):
        return where
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{FOLDER_VARIABLE}: cannot make the folder {str(where.parent)!r}: {error.strerror}") from error
    inside = str(where / "bin" / "python")
    _run([python, "-m", "venv", "--without-pip", str(where)], found)
    quick = ("--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps")  # the file names everything that is needed
    _run([python, "-m", "pip", "--python", inside, "install", *quick, "-r", str(versions(name))], found)
    begun = f"import {STARTED[name]}"  # compiles what a worker imports, which in its box it could not keep
    subprocess.run([inside, "-c", begun], capture_output=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""})
    (where / ".versions").write_text(versions(name).read_text(encoding="utf-8"), encoding="utf-8")
    return where


def _run(command: list[str], catalogue: Catalogue) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"cannot run the interpreter {command[0]!r}: {error.strerror}") from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise ConfigError(f"catalogue {catalogue.name!r} could not be installed: {' '.join(command[:4])} … said:\n{said}")
