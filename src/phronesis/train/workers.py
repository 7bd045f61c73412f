"""Settings of workers elsewhere: how many, how large, how patient one is with them."""

from __future__ import annotations

from msgspec import Struct

from phronesis.errors import ConfigError


class PlaceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process elsewhere occupies."""

    cpus: float = 1.0
    """Logical CPUs it reserves; a rollout worker computes with as many threads, at least one."""
    gpus: float = 0.0
    """GPUs it reserves; above 0 a rollout worker samples on its first GPU."""
    resources: dict[str, float] = {}
    """Amounts of custom resources that its node must offer."""
    labels: dict[str, str] = {}
    """Labels that its node must bear, e.g. ``{"zone": "a"}``."""
    spread: bool = True
    """Rather on different nodes than packed on few."""

    def validate(self, name: str) -> None:
        """Refuses negative amounts.

        Raises:
            ConfigError: names the field.
        """
        for field, value in {"cpus": self.cpus, "gpus": self.gpus, **self.resources}.items():
            if value < 0:
                raise ConfigError(f"{name}.{field} must be at least 0, got {value!r}")


class ScaleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rollout workers that come and go with the work there is."""

    least: int = 1
    """Workers there are at any time, at least 1."""
    most: int = 4
    """Workers there are at most."""
    seconds: float = 5.0
    """Between two decisions, above 0."""
    idle: float = 0.5
    """A worker goes once this share of all slots has been idle at `calm` decisions in a row, in (0, 1]."""
    calm: int = 3
    """See `idle`; at least 1."""

    def validate(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: names the field.
        """
        if not 1 <= self.least <= self.most or self.seconds <= 0 or not 0 < self.idle <= 1 or self.calm < 1:
            raise ConfigError(f"cluster.scale needs 1 <= least <= most, seconds > 0, 0 < idle <= 1, calm >= 1; got {self!r}")


class ClusterConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who plays elsewhere. Where that is, an address, is said when a run starts: it is no part of what the run does."""

    workers: int = 2
    """Rollout workers, at least 1: each plays whole groups with an engine and weights of its own."""
    slots: int = 128
    """Episodes a rollout worker plays at once, at least 1."""
    worker: PlaceConfig = PlaceConfig()
    """What a rollout worker occupies."""
    scale: ScaleConfig | None = None
    """Let the number of rollout workers follow the work; None keeps `workers`."""
    env_workers: int = 0
    """Processes that host environments for the rollout workers; 0 hosts each environment where it is played."""
    env_worker: PlaceConfig = PlaceConfig()
    """What such a process occupies."""
    learner: PlaceConfig | None = None
    """What every rank of the learner group occupies, where the run has one (`learners`); ranks are placed together, spread over
    nodes or packed on few. None starts them on the driver's machine, outside the cluster."""
    store_bytes: int = 256 << 20
    """Object store of a cluster that is started on this machine; more where three copies of the weights need more."""
    start_seconds: float = 120.0
    """How long a worker may take to start; after that it counts as dead."""
    pulse_seconds: float = 2.0
    """Between two looks at a worker."""
    silence_seconds: float = 60.0
    """A worker that does not answer for so long is killed and replaced."""
    restarts: int = 3
    """Times a worker may die without having played a group in between; after that its place stays empty."""
    backoff_seconds: float = 0.5
    """Pause before a dead worker is started again; doubles with every death in a row, up to 30 s."""
    episode_deaths: int = 5
    """Workers that may die while they play one episode; after that it is an infrastructure fault. At least 1, and best more
    than a few, since an episode cannot know which of those on its worker killed it."""

    def validate(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: names the field.
        """
        least = {"workers": 1, "slots": 1, "env_workers": 0, "restarts": 0, "episode_deaths": 1, "store_bytes": 80 << 20}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"cluster.{name} must be at least {bound}, got {getattr(self, name)!r}")
        for name in ("start_seconds", "pulse_seconds", "silence_seconds", "backoff_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"cluster.{name} must be above 0, got {getattr(self, name)!r}")
        self.worker.validate("cluster.worker")
        self.env_worker.validate("cluster.env_worker")
        if self.learner is not None:
            self.learner.validate("cluster.learner")
        if self.scale is not None:
            self.scale.validate()
