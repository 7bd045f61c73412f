"""Which vLLM servers a policy samples from, and how patiently."""

from __future__ import annotations

from msgspec import Struct

from phronesis.errors import ConfigError


class VLLMConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Servers to attach to, or to start; either `urls` or `servers` is given."""

    urls: tuple[str, ...] = ()
    """Addresses of running servers, e.g. ``http://127.0.0.1:8000``; they are never stopped."""
    servers: int = 0
    """Servers to start on this machine; they are stopped with the run."""
    python: str = ".venv-vllm/bin/python"
    """Interpreter of the environment that has vLLM, for servers to start."""
    arguments: tuple[str, ...] = ()
    """Further arguments of started servers, e.g. ``["--tensor-parallel-size", "2"]``; a later one wins."""
    environment: dict[str, str] = {}
    """Environment variables of started servers."""
    devices: tuple[str, ...] = ()
    """CUDA_VISIBLE_DEVICES of each started server; empty leaves them alone."""
    dtype: str = "float32"
    """Type started servers compute in; ``bfloat16`` is faster and widens the difference to the learner."""
    start_seconds: float = 600.0
    """Seconds a server may take to start."""
    restarts: int = 3
    """Times each started server is started again after it died."""
    route: str = "tokens"
    """How completions are asked for: ``tokens`` (``/inference/v1/generate``; needs ``--enable-scale-out``), ``completions``
    (``/v1/completions``) or ``sglang`` (``/generate``)."""
    model: str | None = None
    """Name the servers give the model; None takes the only one they list."""
    api_key_env: str | None = None
    """Environment variable that holds the servers' key; None sends none."""
    weights: str | None = None
    """Folder that this process writes weights to and the servers read them from; None uses memory-backed temporary space,
    which only servers on this machine see."""
    reload: str = "reload_weights"
    """Method of an attached server's workers that reads weights; started servers have their own."""
    probe_nats: float = 1.0
    """Nats: after an update a server scores a few ids; one that is further off than this does not have the weights."""
    update_seconds: float = 300.0
    """Seconds a server may take to load new weights."""
    request_seconds: float = 300.0
    """Seconds one request may take before it is asked again elsewhere."""
    attempts: int = 6
    """Times one request is asked, over all servers; at least 1."""
    recover_seconds: float = 300.0
    """Seconds to wait for a server while none can answer."""
    health_seconds: float = 2.0
    """Seconds between looks at the servers' health."""
    concurrency: int = 256
    """Requests in flight per server; the others wait here."""
    spread: float = 1.25
    """Load of a server, relative to the mean, beyond which episodes move to another; at least 1."""

    def validate(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: names the field and what to change.
        """
        if bool(self.urls) == bool(self.servers):
            raise ConfigError("engine.vllm needs either urls of running servers or a number of servers to start, not both")
        if self.servers < 0 or self.restarts < 0:
            raise ConfigError("engine.vllm.servers and engine.vllm.restarts must be at least 0")
        if len(set(self.urls)) != len(self.urls):
            raise ConfigError(f"engine.vllm.urls names a server twice: {self.urls!r}")
        if self.devices and len(self.devices) != self.servers:
            raise ConfigError(f"engine.vllm.devices has {len(self.devices)} entries for {self.servers} servers; give one each")
        if self.route not in ("tokens", "completions", "sglang"):
            raise ConfigError(f"engine.vllm.route must be 'tokens', 'completions' or 'sglang', got {self.route!r}")
        if self.servers and self.route == "sglang":
            raise ConfigError("engine.vllm.route 'sglang' can only be attached to; start the server yourself and give its url")
        positive = ("start_seconds", "update_seconds", "request_seconds", "recover_seconds", "health_seconds", "probe_nats")
        for name in (*positive, "attempts", "concurrency"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"engine.vllm.{name} must be positive, got {getattr(self, name)!r}")
        if self.spread < 1:
            raise ConfigError(f"engine.vllm.spread must be at least 1, got {self.spread!r}")
