"""How weights get into a running server, and how it says which ones it has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol, cast

from phronesis.engine.http import HttpClient
from phronesis.errors import EndpointFault, WireError


class Control(Protocol):
    """Steers one server."""

    async def label(self, http: HttpClient, last: str | None) -> str | None:
        """The label of the weights it has; `last` where the server cannot say, None where nothing is known.

        Raises:
            EndpointFault, WireError: it does not answer.
        """
        ...

    async def load(self, http: HttpClient, folder: Path, label: str) -> None:
        """Makes it sample with the weights in `folder`. Requests in flight wait and go on with the new weights.

        Raises:
            EndpointFault, WireError: it did not work; which weights it has is not known.
        """
        ...


class VLLMControl:
    """vLLM's development routes (`VLLM_SERVER_DEV_MODE=1`): pause keeping requests, reload, label, resume.

    What requests in flight had cached is computed again with the new weights, so that every token is sampled from what its
    label says, given all ids before it.
    """

    def __init__(self, reload: str = "reload_weights"):
        """Args: reload: method of vLLM's workers that reads weights; takes ``weights_path``."""
        self.reload = reload

    async def label(self, http: HttpClient, last: str | None) -> str | None:
        """The server's own word."""
        try:
            found = await http.get("weight_info", retry=False)
        except EndpointFault as error:
            if error.status in (404, 405):  # older than 0.32, or without development routes
                return last
            raise
        version: object = cast("dict[str, object]", found).get("weight_version") if isinstance(found, dict) else None
        if not isinstance(version, str):
            raise WireError("weight_version", f"expected a text, got {version!r}")
        return version

    async def load(self, http: HttpClient, folder: Path, label: str) -> None:
        """Pause, reload, forget cached prefixes, label, resume."""
        try:
            await http.post("pause?mode=keep", retry=False)
            kwargs = {"weights_path": str(folder)}
            await http.post("collective_rpc", {"method": self.reload, "kwargs": kwargs}, retry=False)
            await http.post("reset_prefix_cache?reset_running_requests=true", retry=False)
            try:
                await http.post("update_weight_version", {"new_version": label}, retry=False)
            except EndpointFault as error:
                if error.status not in (404, 405):
                    raise
        except EndpointFault as error:
            if error.status in (404, 405):
                raise EndpointFault(
                    f"{error}; start the server with VLLM_SERVER_DEV_MODE=1, or its weights cannot be changed",
                    url=error.url,
                    status=error.status,
                    reason=error.reason,
                ) from error
            raise
        finally:
            await asyncio.shield(http.post("resume", retry=False))
