"""Reading Harbor task folders: what of them a box can do, and a clear refusal of the rest.

``instruction.md``, ``task.toml``, ``environment/Dockerfile``, ``tests/test.sh`` and ``solution/solve.sh``. Of the Dockerfile
COPY and ADD of local files, WORKDIR, ENV, ARG with a default and RUN without a network count; FROM and what only matters to
images is ignored: programs are those that this machine has.
Source of the format: harborframework.com/docs/tasks (schema 1.1).
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.sandbox import BoxSpec
from phronesis.sandbox.zygotes import environment as of_box

IGNORED = ("CMD", "ENTRYPOINT", "EXPOSE", "LABEL", "MAINTAINER", "STOPSIGNAL", "USER", "VOLUME", "HEALTHCHECK")
"""Of a Dockerfile, what changes nothing here."""
NETWORK = re.compile(
    r"\b(?:apt-get|apt|apk|dnf|yum|pip3?|uv|conda|npm|yarn|cargo|go|gem)\s+(?:-\S+\s+)*(?:update|install|add|sync|get|ci|tool)\b"
    r"|\bgit\s+clone\b|\b(?:curl|wget)\b"
)
"""Commands that need a network."""
TAKEN = frozenset(("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "usr", "phronesis"))
"""Top folders of the system, which are read-only or not there."""
OWN = ("logs", "tests", "solution")
"""Top folders that every task has."""


class Copied(Struct, frozen=True, kw_only=True, tag="copy"):
    """Files to put somewhere."""

    files: dict[str, str]
    """Host path by path inside."""


class Command(Struct, frozen=True, kw_only=True, tag="run"):
    """A command of the build."""

    text: str
    """For sh."""
    folder: str
    """Where."""
    environment: dict[str, str]
    """Variables set so far."""


class Machine(Struct, frozen=True, kw_only=True):
    """What a Dockerfile makes."""

    steps: tuple[Copied | Command, ...]
    """In order."""
    folder: str
    """Where commands begin."""
    environment: dict[str, str]
    """Variables of every command."""

    @property
    def tops(self) -> tuple[str, ...]:
        """Top folders that it needs beside the system's."""
        paths = [self.folder, *(p for s in self.steps if isinstance(s, Copied) for p in s.files)]
        paths += [s.folder for s in self.steps if isinstance(s, Command)]
        return tuple(sorted({p.split("/")[1] for p in paths} | set(OWN)))


class HarborTask(Struct, frozen=True, kw_only=True):
    """A task folder, read."""

    name: str
    """Of the folder."""
    folder: str
    """Where it is."""
    instruction: str
    """What is asked."""
    machine: Machine
    """Where it is worked on."""
    judging: Machine
    """Where tests run when ``mode`` is ``separate``."""
    mode: Literal["shared", "separate"]
    """Whether tests run on the agent's machine as it left it, or on a fresh one that gets only what is in ``artifacts``."""
    artifacts: tuple[str, ...]
    """Paths that a separate machine gets."""
    difficulty: str
    """As the folder says; empty when it does not."""
    agent_seconds: float
    """Time for the agent's commands together."""
    verifier_seconds: float
    """Time for the tests."""
    verifier_environment: dict[str, str]
    """Variables of the tests."""
    memory: int
    """Bytes."""
    disk: int
    """Bytes."""


def read_all(folder: str | Path) -> list[HarborTask]:
    """Every task of a folder, in order of name: sub-folders with a ``task.toml``, or the folder itself.

    Raises:
        ConfigError: there are none, or one cannot be played here; says which and why.
    """
    place = Path(folder)
    found = [place] if (place / "task.toml").is_file() else sorted(p.parent for p in place.glob("*/task.toml"))
    if not found:
        raise ConfigError(f"{str(folder)!r} holds no Harbor tasks: no task.toml in it or in its sub-folders")
    return [read(path) for path in found]


def read(folder: Path) -> HarborTask:
    """One task.

    Raises:
        ConfigError: a file is missing or malformed, or the task needs what a box has not.
    """
    settings = _settings(folder)
    environment, verifier, agent = (_table(folder, settings, key) for key in ("environment", "verifier", "agent"))
    for key in ("mcp_servers", "gpus", "gpu_types", "docker_compose", "healthcheck"):
        if environment.get(key):
            raise _refused(folder, f"task.toml asks for [environment] {key}, which a box has not")
    if settings.get("steps"):
        raise _refused(folder, "task.toml has [[steps]]; only tasks of one step are played")
    for needed in ("instruction.md", "tests/test.sh"):
        if not (folder / needed).is_file():
            raise _refused(folder, f"{needed} is missing")
    machine = dockerfile(folder, folder / "environment", environment)
    judged = folder / "tests" / "Dockerfile"
    mode = verifier.get("environment_mode", "shared")
    if mode not in ("shared", "separate"):
        raise _refused(folder, f"[verifier] environment_mode is {mode!r}; it is 'shared' or 'separate'")
    artifacts = [a if isinstance(a, str) else str(a.get("source")) for a in cast("list[Any]", settings.get("artifacts", []))]
    return HarborTask(
        name=folder.name,
        folder=str(folder.resolve()),
        instruction=(folder / "instruction.md").read_text(encoding="utf-8").strip(),
        machine=machine,
        judging=dockerfile(folder, folder / "tests", {}) if mode == "separate" and judged.is_file() else machine,
        mode=mode,
        artifacts=(*artifacts, "/logs/artifacts"),
        difficulty=str(_table(folder, settings, "metadata").get("difficulty", "")),
        agent_seconds=_seconds(folder, agent, 600.0),
        verifier_seconds=_seconds(folder, verifier, 600.0),
        verifier_environment={str(k): str(v) for k, v in cast("dict[str, Any]", verifier.get("env", {})).items()},
        memory=int(environment.get("memory_mb", 1024)) << 20,
        disk=min(int(environment.get("storage_mb", 256)), 1024) << 20,
    )


def dockerfile(task: Path, context: Path, environment: Mapping[str, Any]) -> Machine:
    """What a Dockerfile of the task makes; without one, an empty machine.

    Raises:
        ConfigError: an instruction that a box cannot follow; names the line.
    """
    path = context / "Dockerfile"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not path.is_file() and environment.get("docker_image") is None and list(context.glob("docker-compose.y*ml")):
        raise _refused(task, "environment/ has a compose file; only a Dockerfile is read")
    variables = {str(k): str(v) for k, v in cast("dict[str, Any]", environment.get("env", {})).items()}
    state = _State(task, context, variables)
    for number, word, rest in instructions(text):
        state.follow(number, word, rest)
    folder = str(environment.get("workdir") or state.folder)
    machine = Machine(steps=tuple(state.steps), folder=folder, environment=state.environment)
    here = set(Path(sys.base_prefix).parts[1:2])
    for top in machine.tops:
        if top in TAKEN | here or not top:
            raise _refused(task, f"the Dockerfile works in /{top}, which is read-only in a box; use a folder such as /app")
    return machine


def instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Lines of a Dockerfile as line number, instruction and rest, continued lines joined.

    >>> list(instructions("# x\\nFROM a\\nRUN one && \\\\\\n  two\\n"))
    [(2, 'FROM', 'a'), (3, 'RUN', 'one &&   two')]
    """
    held, begun = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        begun = begun or number
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1]
            continue
        word, _, rest = (held + line).strip().partition(" ")
        yield begun, word.upper(), rest.strip()
        held, begun = "", 0


class _State:
    """A Dockerfile being followed."""

    def __init__(self, task: Path, context: Path, environment: dict[str, str]):
        self.task, self.context, self.environment = task, context, environment
        self.steps: list[Copied | Command] = []
        self.folder, self.stages = "/app", 0

    def follow(self, number: int, word: str, rest: str) -> None:
        """One instruction."""
        match word:
            case "FROM":
                self.stages += 1
                if self.stages > 1:
                    raise self.refused(number, "several stages")
            case "WORKDIR":
                self.folder = posixpath.normpath(posixpath.join(self.folder, self.filled(rest)))
            case "ENV" | "ARG":
                self.set(rest, default=word == "ARG")
            case "COPY" | "ADD":
                self.copy(number, rest)
            case "RUN":
                if rest.startswith("--"):
                    raise self.refused(number, "RUN with options")
                command = shlex.join(json.loads(rest)) if rest.startswith("[") else rest
                if NETWORK.search(command):
                    raise self.refused(
                        number, f"RUN {command[:80]!r} needs a network; programs are those that this machine has"
                    )
                self.steps.append(Command(text=command, folder=self.folder, environment=dict(self.environment)))
            case _ if word in IGNORED:
                pass
            case _:
                raise self.refused(number, f"the instruction {word}")

    def set(self, rest: str, *, default: bool) -> None:
        """Variables: ``A=1 B="two words"``, or ``A one value``."""
        if not re.match(r"\w+=", rest):
            name, _, value = rest.partition(" ")
            pairs = [(name, value.strip())] if value else []
        else:
            pairs = [(name, value) for name, _, value in (word.partition("=") for word in shlex.split(rest))]
        for name, value in pairs:
            if not default or name not in self.environment:
                self.environment[name] = self.filled(value)

    def copy(self, number: int, rest: str) -> None:
        """Files and the content of folders of the build context."""
        words = json.loads(rest) if rest.startswith("[") else shlex.split(rest)
        if any(word.startswith("--from") for word in words):
            raise self.refused(number, "COPY --from")
        *sources, target = [word for word in words if not word.startswith("--")]
        files: dict[str, str] = {}
        place = posixpath.join(self.folder, self.filled(target))
        for source in sources:
            if "://" in source:
                raise self.refused(number, f"ADD of {source!r}, which needs a network")
            found = sorted(self.context.glob(source.strip("/"))) if source.strip("./") else [self.context]
            if not found or any(not p.resolve().is_relative_to(self.context.resolve()) for p in found):
                raise self.refused(number, f"COPY of {source!r}, which is not in the folder of the Dockerfile")
            into = target.endswith("/") or target in (".", "./") or len(found) > 1 or len(sources) > 1
            for path in found:
                if path.is_dir():
                    inner = [p for p in path.rglob("*") if p.is_file() and p.name not in ("Dockerfile", ".dockerignore")]
                    files |= {posixpath.normpath(f"{place}/{p.relative_to(path).as_posix()}"): str(p) for p in inner}
                else:
                    files[posixpath.normpath(f"{place}/{path.name}" if into else place)] = str(path)
        self.steps.append(Copied(files=files))

    def filled(self, text: str) -> str:
        """With ``$NAME`` and ``${NAME}`` replaced; PATH begins as that of a box."""
        known = {"PATH": commands_path(), **self.environment}
        return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda m: known.get(m[1] or m[2], ""), text)

    def refused(self, number: int, what: str) -> ConfigError:
        return _refused(self.task, f"{self.context.name}/Dockerfile line {number}: {what} cannot be done in a box")


def commands_path() -> str:
    """The variable PATH of commands in a box."""
    return of_box(BoxSpec())["PATH"]


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refused(folder, f"task.toml cannot be read: {error}") from error


def _table(folder: Path, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = settings.get(key, {})
    if not isinstance(found, dict):
        raise _refused(folder, f"task.toml: [{key}] is no table")
    return cast("dict[str, Any]", found)


def _seconds(folder: Path, table: Mapping[str, Any], default: float) -> float:
    found = table.get("timeout_sec", default)
    if isinstance(found, bool) or not isinstance(found, int | float) or found <= 0:
        raise _refused(folder, f"task.toml: timeout_sec is {found!r}, expected seconds")
    return float(found)


def _refused(folder: Path, why: str) -> ConfigError:
    return ConfigError(f"the Harbor task {folder.name!r} cannot be played here: {why}")
