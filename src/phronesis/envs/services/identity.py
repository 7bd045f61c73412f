"""What exactly is played, so that a run and its services can make sure that they mean the same."""

from __future__ import annotations

import hashlib
import inspect
import shlex
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from phronesis.env import EnvSpec
from phronesis.envs.digest import digest
from phronesis.errors import PhronesisError

LOOKED_AT = 3
"""Tasks of each split that go into an identity."""


class Identity(Struct, frozen=True, kw_only=True):
    """An environment with its arguments, as one version of its code plays it."""

    env: str
    """Name or import path."""
    args: dict[str, Any] = {}
    """Arguments given. JSON values only."""
    version: str = ""
    """Packages and versions of the code."""
    tasks: str = ""
    """Digest of the first tasks of each split."""

    @property
    def digest(self) -> str:
        """16 hex characters; equal where the same is played."""
        return digest(msgspec.to_builtins(self))

    @property
    def words(self) -> str:
        """As a command line names it.

        >>> print(Identity(env="ledger", args={"busy": 0.1, "habits": {"slip": 0}}).words)
        ledger busy=0.1 'habits={"slip" = 0}'
        """
        dials = (f"{name}={value if isinstance(value, str) else _toml(value)}" for name, value in self.args.items())
        return shlex.join([self.env, *dials])

    def differs(self, other: Identity) -> str:
        """What of `other` is not as here, in words; empty when nothing.

        >>> Identity(env="ledger", args={"busy": 0.1}).differs(Identity(env="ledger"))
        "args is {}, expected {'busy': 0.1}"
        """
        pairs = [(n, getattr(self, n), getattr(other, n)) for n in ("env", "args", "version", "tasks")]
        return "; ".join(f"{n} is {theirs!r}, expected {ours!r}" for n, ours, theirs in pairs if ours != theirs)


def identify(name: str, args: Mapping[str, object], spec: EnvSpec) -> Identity:
    """The identity of an environment.

    Args:
        name: under which it was made.
        args: with which it was made.
        spec: what was made.
    """
    plain = msgspec.json.decode(msgspec.json.encode(dict(args)), type=dict[str, Any])
    return Identity(env=name, args=plain, version=_version(spec), tasks=_first_tasks(spec))


def _version(spec: EnvSpec) -> str:
    """The package that the environment's code belongs to, with its version; a digest of the file where there is no package."""
    found = {"phronesis": f"phronesis {version('phronesis')}"}
    made: object = spec.task
    module = inspect.getmodule(made)
    if module is not None and (top := module.__name__.partition(".")[0]) != "phronesis":
        try:
            owner = _packages()[top][0]
            found[top] = f"{owner} {version(owner)}"
        except (KeyError, IndexError, PackageNotFoundError):
            path = getattr(module, "__file__", None)
            code = Path(path).read_bytes() if path else b""
            found[top] = f"{top} {hashlib.blake2b(code, digest_size=4).hexdigest()}"
    return ", ".join(found.values())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return "{" + ", ".join(f"{msgspec.json.encode(name).decode()} = {_toml(v)}" for name, v in pairs) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, cast('list[object]', value)))}]"
    return msgspec.json.encode(value).decode()


@cache
def _packages() -> Mapping[str, list[str]]:
    return packages_distributions()  # reads the list of files of everything that is installed


def _first_tasks(spec: EnvSpec) -> str:
    looked: list[object] = []
    for split, size in sorted(spec.sizes.items()):
        for index in range(LOOKED_AT if size is None else min(size, LOOKED_AT)):
            try:
                looked.append(msgspec.to_builtins(spec.task(split, index)))
            except PhronesisError as error:
                looked.append(type(error).__name__)
    return digest(looked)
