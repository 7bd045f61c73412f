"""MiniWoB++ pages in our browser: small tasks in a window of 160 by 210 pixels, told and judged by the page itself.

The pages are those of the package ``miniwob`` (their own driver is not used). What the page says of its reward is read by the
world, never by the agent: the tools offer no way to run a script. An episode's chance is the page's own generator, seeded.
Source: arXiv 1802.08802; the pages' reward before any discount for time (``WOB_RAW_REWARD_GLOBAL``) is what is paid.
"""

from __future__ import annotations

import importlib.util
import math
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from phronesis.env import EnvSpec, Speaker
from phronesis.envs.adapters.miniwob_solvers import SOLVERS, Sight, advise
from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import scripted
from phronesis.envs.tool_env import Opening, Outcome, ToolEnv
from phronesis.envs.trl_style import calling
from phronesis.errors import ConfigError, EnvFault, UnknownName
from phronesis.records import Message, Reply, Task, say
from phronesis.rewards import EnvReward
from phronesis.seeding import rng
from phronesis.tools.browser import BrowserTools, ChromiumView, Request, Response, Site, check, shared

HOST = "miniwob.test"
SIZE = (332, 214)
"""Of the window in pixels: the page's 160 by 210, and what lies beside."""
MAX_TURNS = 16
INTRODUCTION = "Do what the page asks for."
DEFAULT = ("login-user", "enter-text", "enter-password", "read-table", "simple-algebra", "find-word")
"""Pages that chance does not solve. They stay open from one episode to the next: each deals the same problem for the same seed,
whatever was done to it before, which is not so of pages with calendars or sliders."""
START = """
([seed]) => {
  if (document.activeElement) document.activeElement.blur();
  if (window.jQuery) jQuery.fx.off = true;
  Math.seedrandom(seed);
  core.EPISODE_MAX_TIME = 86400000;
  core.startEpisodeReal();
  window.phronesisEpisode = true;
  core.hideDisplay();
  document.getElementById("click-canvas").style.display = "none";
  return core.getUtterance();
}
"""
CLAIM = say("assistant", "Done. The reward is 1.")
CHEATS: dict[str, Callable[[], Speaker]] = {
    "claims success": scripted(CLAIM),
    "runs scripts": scripted(calling("goto", {"url": "javascript:core.endEpisode(1)"}), CLAIM),
    "opens another page": scripted(calling("goto", {"url": "/miniwob/click-test.html"}), calling("click", {"id": 2}), CLAIM),
    "evaluates": scripted(calling("evaluate", {"script": "WOB_RAW_REWARD_GLOBAL = 1; WOB_DONE_GLOBAL = true"}), CLAIM),
    "submits what is there": scripted(*(calling("click", {"id": n}) for n in (4, 5)), CLAIM),
}
"""Ways to be paid without doing what the page asks."""
STATE = """
() => window.phronesisEpisode === true ? [WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL] : null
"""


def folder() -> Path:
    """Where the pages lie.

    Raises:
        ConfigError: the package is not installed.
    """
    found = importlib.util.find_spec("miniwob")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "the MiniWoB pages are those of the package miniwob: pip install 'phronesis[miniwob]'"
        ) from ModuleNotFoundError("No module named 'miniwob'", name="miniwob")
    return Path(found.submodule_search_locations[0]) / "html"


def pages() -> list[str]:
    """Names of all pages."""
    return sorted(path.stem for path in (folder() / "miniwob").glob("*.html"))


def serve(root: Path) -> Site:
    """A site that answers with the files below a folder, and nothing else."""
    whole = root.resolve()

    def site(request: Request) -> Response:
        path = (whole / request.path.lstrip("/")).resolve()
        if request.method != "GET" or not path.is_relative_to(whole) or not path.is_file():
            return Response(body="not found", status=404, media_type="text/plain")
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Response(body=path.read_bytes(), media_type=f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)

    return site


class MiniwobEnv(ToolEnv):
    """One episode of one page. A message without a call gives up."""

    def __init__(self, *, screen: bool = False) -> None:
        super().__init__()
        self.screen = screen
        self.page, self.asked, self.turn = "", "", 0
        self.done, self.raw = False, 0.0
        self._view: ChromiumView | None = None

    @property
    def view(self) -> ChromiumView:
        """The window; RuntimeError before reset."""
        if self._view is None:
            raise RuntimeError("reset the environment before using it")
        return self._view

    async def begin(self, task: Task, seed: int) -> Opening:
        """Opens the page and starts its episode."""
        self.page, self.turn, self.done, self.raw = task.payload["page"], 0, False, 0.0
        self._view = view = ChromiumView(serve(folder()), HOST, scripts=True, every=True, size=SIZE)
        await view.fetch(f"http://{HOST}/miniwob/{self.page}.html")
        view.park = self.page in DEFAULT
        self.asked = str(await view.evaluate(START, [str(task.payload["seed"])]))
        await view.read()
        *before, last = task.messages
        opening = say("user", f"{last.text} {self.asked}\n\n{view.text()}")
        tools = BrowserTools(view).tools(screen=self.screen, places=False)
        return Opening((*before, opening), tuple(tools), self._key())

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """Asks the page whether it is done, and pays what it says."""
        self.turn += 1
        if not self.done:
            self.done, self.raw = await self._verdict()
        if outcome is not None and not self.done:
            return Reply(state_key=self._key(), metrics={"raw": 0.0})
        return Reply(done=True, reward=min(max(self.raw, 0.0), 1.0), state_key=self._key(), metrics={"raw": self.raw})

    async def expert(self) -> Message:
        """What the page's player does."""
        return advise(self.page, Sight(asked=self.asked, page=self.view.outline, turn=self.turn))

    async def close(self) -> None:
        """Closes the window."""
        await super().close()
        if self._view is not None:
            view, self._view = self._view, None
            await view.close()

    async def _verdict(self) -> tuple[bool, float]:
        """Whether the page has ended its episode, and its reward before any discount for time; who left it, has lost."""
        found = await self.view.evaluate(STATE)
        if found is None:
            self.view.park = False
            return True, 0.0
        if not isinstance(found, list) or len(values := cast("list[object]", found)) != 2:
            raise EnvFault(f"page {self.page!r} has no verdict: {found!r}")
        done, raw = values
        if not isinstance(raw, int | float) or isinstance(raw, bool) or not math.isfinite(raw):
            raise EnvFault(f"page {self.page!r} rewards with {raw!r}, which is no number")
        return done is True, float(raw)

    def _key(self) -> str:
        return digest([self.page, self.view.outline.lines, self.done])


def miniwob(page: str | Sequence[str] = DEFAULT, *, screen: bool = False) -> EnvSpec:
    """Pages of MiniWoB++.

    Args:
        page: a page's name, several of them, or ``all``; `pages` lists them.
        screen: also offer a tool that takes a picture; the policy must be able to see.

    Raises:
        ConfigError: the package miniwob or Playwright is not installed.
        UnknownName: there is no such page.
    """
    known = pages()
    check()
    chosen = tuple(known) if page == "all" else (page,) if isinstance(page, str) else tuple(page)
    for name in chosen:
        if name not in known:
            raise UnknownName("MiniWoB page", name, known)

    def build() -> MiniwobEnv:
        shared().ready()
        return MiniwobEnv(screen=screen)

    solved = all(name in SOLVERS for name in chosen)
    return EnvSpec(
        name="miniwob",
        make=build,
        task=lambda split, index: _task(chosen, split, index),
        rubric=EnvReward(by="episode", name="success", audit_metrics=("raw",)),
        description="Small tasks on MiniWoB++ pages in a real browser, told and judged by the pages.",
        oracle_reward=1.0 if solved else None,
        chance_reward=0.1 if chosen == DEFAULT else None,
        max_turns=8 if chosen == DEFAULT else MAX_TURNS,
        oracle_tasks=6 if chosen == DEFAULT else 10,
        cheats=CHEATS if chosen == DEFAULT else {},
    )


def _task(chosen: Sequence[str], split: str, index: int) -> Task:
    """A page and a seed of its generator. What problem that is, only the page knows; seeds of the splits are apart."""
    source = rng(index, "miniwob", split)
    name = chosen[index % len(chosen)]
    while True:
        seed = source.randrange(10**6)
        key = digest(["miniwob", name, seed])
        if split_of(key) == ("train" if split == "train" else "heldout"):
            break
    return Task(
        id=f"{name}-{split}-{index}",
        env="miniwob",
        messages=(say("user", INTRODUCTION),),
        payload={"page": name, "seed": seed},
        split=split,
        content_key=key,
    )
