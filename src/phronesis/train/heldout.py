"""The held-out evaluations of a run: before, between and after training, each done once however often the run is resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from phronesis.data.sources import SpecTasks
from phronesis.env import EnvSpec
from phronesis.evals.run import EvalSummary, donors, evaluate, evaluate_swapped
from phronesis.log import Heartbeat
from phronesis.records import Episode
from phronesis.rollout.limits import Sampling
from phronesis.rollout.play import GroupPlayer, Stage
from phronesis.rollout.retries import Retries
from phronesis.store.index import Where
from phronesis.store.run import RunWriter
from phronesis.train import worlds
from phronesis.train.config import RunConfig
from phronesis.train.phases import Phases, Timing
from phronesis.train.progress import Listener, Progress
from phronesis.train.seat import Seat


class HeldOut:
    """Plays held-out tasks with the policy as it stands."""

    player: GroupPlayer | None = None
    """Who plays where agents outside do; None plays here."""
    retries: Retries | None = None
    """The run's; None keeps faults as they come."""

    def __init__(self, config: RunConfig, spec: EnvSpec, writer: RunWriter, phases: Phases, listener: Listener):
        self.config, self.spec, self.writer, self.phases, self.listener = config, spec, writer, phases, listener
        self.timing = Timing(phases, writer)

    def lacks(self, when: str) -> bool:
        """Whether an evaluation of that time is still to be made."""
        chosen = self.config.evaluation
        names = [f"heldout_{when}", *([f"heldout_{when}_greedy"] if chosen.greedy else [])]
        return chosen.tasks > 0 and not all(self.phases.has(name) for name in names)

    async def evaluate(self, when: str, policy: Seat, modes: tuple[str, ...] = ("sampled", "greedy")) -> None:
        """Plays the held-out tasks with the current weights, unless a phase of that name is finished."""
        chosen = self.config.evaluation
        if not chosen.tasks:
            return
        tasks = SpecTasks(self.spec, "heldout", self.config.seed).draw(chosen.tasks)
        for mode in modes:
            name = f"heldout_{when}" if mode == "sampled" else f"heldout_{when}_{mode}"
            if self.phases.has(name) or (mode == "greedy" and not chosen.greedy):
                continue
            began = time.monotonic()
            stage = self._stage(policy, 0.0 if mode == "greedy" else 1.0)
            told = self._counter(name, len(tasks))
            playing = evaluate(
                stage, tasks, seed=self.config.seed, name=name, concurrency=worlds.gates(self.config), on_episode=told,
                player=self.player,
            )  # fmt: skip
            found, _ = await Heartbeat(name).watch(playing, stage.waits)
            if mode == "sampled":
                at = {"before": 0, "after": self.config.steps}.get(when)
                self._chart(int(when.removeprefix("step")) if at is None else at, found)
            self._finish(name, found, began)
            self._told(name, stage)

    async def swap(self, policy: Seat) -> None:
        """Plays the sampled held-out episodes again on one another's thoughts."""
        name = "heldout_swapped"
        if self.phases.has(name):
            return
        began = time.monotonic()
        episodes = sorted(self.writer.episodes(Where(kind="heldout_after")), key=lambda e: e.id)
        pairs = len(donors(episodes))
        if not pairs:
            self.writer.event("skipped", "no two held-out episodes attempt different tasks with thoughts to swap")
            return
        stage = self._stage(policy, 1.0)
        found, _ = await evaluate_swapped(
            stage, episodes, name=name, concurrency=worlds.gates(self.config), on_episode=self._counter(name, pairs)
        )
        self._finish(name, found, began)
        self._told(name, stage)

    def _told(self, name: str, stage: Stage) -> None:
        """Writes down what was played again, beside the metrics of training steps."""
        counts = {} if stage.retries is None else {k.partition("/")[2]: v for k, v in stage.retries.metrics().items()}
        if counts:
            said = ", ".join(f"{key} {n:g}" for key, n in counts.items())
            self.writer.event("retries", f"{name}: {said}", None, **counts)

    def _stage(self, policy: Seat, temperature: float) -> Stage:
        retries = None if self.retries is None else self.retries.aside()
        return replace(policy.stage(self.spec, self.config, Sampling(temperature=temperature)), retries=retries)

    def _counter(self, name: str, total: int) -> Callable[[Episode], None]:
        """Stores each episode of a phase and reports how many there are."""
        count = 0

        def told(episode: Episode) -> None:
            nonlocal count
            count += 1
            self.writer.append(episode, name)
            self.listener(Progress(phase=name, done=count, total=total))

        return told

    def _finish(self, name: str, found: EvalSummary, began: float) -> None:
        self.writer.sync()
        self.phases.put(name, found)
        self.timing.took(name, began)

    def _chart(self, step: int, found: EvalSummary) -> None:
        values = {
            "heldout/success": found.success,
            "heldout/reward": found.mean_reward,
            "heldout/episodes": float(found.n),
        }
        values |= {f"source/{name}/heldout_success": success for name, (success, _) in found.by_source.items()}
        self.writer.metrics(step, values)
