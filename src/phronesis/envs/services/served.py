"""The environment `served`: another one, whose episodes are played by services, here or on other machines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from phronesis.env import Env, EnvSpec
from phronesis.envs import registry
from phronesis.envs.services.directory import Directory, World, current
from phronesis.envs.services.env import Patience, ServedEnv
from phronesis.envs.services.identity import Identity, identify
from phronesis.errors import ConfigError

NAME = "served"


@dataclass(frozen=True, kw_only=True)
class Served:
    """Makes episodes of a world that services play; what `EnvSpec.make` of a served environment is."""

    name: str
    """Under which services register."""
    identity: Identity
    """What they must play."""
    local: EnvSpec
    """The same world, in this process."""
    patience: Patience
    """How long to wait."""

    def __call__(self) -> Env:
        """A fresh episode. Outside of a run with services the code at hand plays: it is the same world."""
        directory = current()
        if directory is None:
            return self.local.make()
        return ServedEnv(directory, self.expected(directory), self.patience)

    def expected(self, directory: Directory) -> World:
        """Makes the directory expect services of this world."""
        return directory.expect(self.name, self.identity)


def make(env: str, args: dict[str, Any] | None = None, wait_seconds: float = 600.0, call_seconds: float = 600.0) -> EnvSpec:
    """An environment whose episodes are played by services that register with the run (``phronesis env serve``).

    Tasks, rubric and demonstrations come from the code at hand; only a service that plays the same (name, arguments, version,
    first tasks) is accepted. Evaluation of a finished run, replay and checks play with the code at hand.

    Args:
        env: name or import path of what is played.
        args: its arguments.
        wait_seconds: longest time in which no episode gets a place at a service, before waiting for one is a fault.
        call_seconds: longest one call of a service may take.

    Raises:
        ConfigError: a number that is not positive, or an environment that is served itself.
    """
    if wait_seconds <= 0 or call_seconds <= 0:
        raise ConfigError(f"wait_seconds {wait_seconds!r} and call_seconds {call_seconds!r} must be positive")
    local = registry.get(env, args)
    if env == NAME or isinstance(local.make, Served):
        raise ConfigError("a served environment is played by services already; name the one they play")
    patience = Patience(place_seconds=wait_seconds, call_seconds=call_seconds)
    served = Served(name=env, identity=identify(env, args or {}, local), local=local, patience=patience)
    return replace(local, make=served)


def served_in(spec: EnvSpec) -> list[Served]:
    """What services play of an environment: itself, or parts of a mixture."""
    parts = [spec, *spec.parts.values()]
    return [s.make for s in parts if isinstance(s.make, Served)]
