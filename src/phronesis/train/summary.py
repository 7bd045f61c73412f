"""What a finished run says of itself: the content of `summary.json`."""

from __future__ import annotations

from msgspec import Struct

from phronesis.env import EnvSpec
from phronesis.evals.run import EvalSummary
from phronesis.store.run import Run
from phronesis.train.config import RunConfig
from phronesis.train.phases import Phases


class Tokens(Struct, frozen=True, kw_only=True):
    """Tokens of a run, evaluation included."""

    sampled: int = 0
    """Produced by the policy."""
    context: int = 0
    """Given to it: prompts, tool results, forced text."""


class Summary(Struct, frozen=True, kw_only=True):
    """One run in numbers."""

    name: str
    """Name of the recipe or config."""
    seed: int
    """The run's seed."""
    config_hash: str
    """Hash of the resolved config."""
    parameters: int
    """Weights of the policy."""
    steps: int
    """Training steps done."""
    episodes: int
    """Training episodes played."""
    faults: int
    """Training episodes that ended in a fault; they reached no baseline and no update."""
    heldout_before: EvalSummary | None
    """Held-out success before reinforcement learning, sampled at temperature 1; None when not evaluated."""
    heldout_after: EvalSummary | None
    """The same after it."""
    heldout_before_greedy: EvalSummary | None = None
    """Before, greedy."""
    heldout_after_greedy: EvalSummary | None = None
    """After, greedy."""
    heldout_swapped: EvalSummary | None = None
    """After, sampled, acting on the thoughts of other episodes."""
    seconds: dict[str, float]
    """Wall-clock seconds by phase, and ``total``."""
    tokens: Tokens
    """Tokens of training episodes."""
    play_tokens_per_second: float | None
    """Sampled tokens per second of playing, over training; None when nothing was played."""
    learn_tokens_per_second: float | None
    """Computed tokens per second of learning, over training; None when nothing was learned."""
    mismatch_kl: float | None
    """Nats: largest k3 divergence of any step between sampler and learner on the same weights; None without updates."""
    max_logprob_difference: float | None
    """Nats: largest |difference| of one token's log-probability between sampler and learner; None without updates."""
    references: dict[str, float] = {}
    """Mean rewards to compare with, where the environment promises them: ``optimum`` (its oracle), ``chance``."""

    @property
    def line(self) -> str:
        """The one line that matters."""
        if self.heldout_before is None or self.heldout_after is None:
            return f"{self.name}: {self.steps} steps, {self.episodes} episodes, no held-out evaluation"
        before, after = self.heldout_before, self.heldout_after
        if not before.mean_turns and not after.mean_turns:
            return f"{self.name}: no turn was played, every one of {after.n} held-out episodes was over with its opening"
        return (
            f"held-out success {before.success:.1%} [{before.ci_low:.1%}, {before.ci_high:.1%}] -> "
            f"{after.success:.1%} [{after.ci_low:.1%}, {after.ci_high:.1%}]  "
            f"(n = {after.n}, sampled, one seed: {self.seed}; {self.seconds.get('total', 0):.0f} s)"
        )


def summarise_run(config: RunConfig, hash: str, parameters: int, spec: EnvSpec, run: Run, phases: Phases) -> Summary:
    """Adds up what a run folder holds.

    Args:
        config: the run's settings.
        hash: of the resolved config.
        parameters: weights of the policy.
        spec: the environment.
        run: its metrics are read, so that a resumed run counts every step once.
        phases: results of finished phases.
    """
    steps = [s.values for s in run.steps() if 0 <= s.step < config.steps]

    def total(key: str) -> float:
        return sum(v for s in steps if (v := s.get(key)) is not None)

    def largest(key: str) -> float | None:
        return max((v for s in steps if (v := s.get(key)) is not None), default=None)

    seconds = phases.get("seconds", dict[str, float]) or {}
    playing, learning = total("time/play"), total("time/learn")
    learned = sum((s.get("speed/learn_tokens") or 0.0) * (s.get("time/learn") or 0.0) for s in steps)
    return Summary(
        name=config.name,
        seed=config.seed,
        config_hash=hash,
        parameters=parameters,
        steps=config.steps,
        episodes=round(total("episode/count")),
        faults=round(sum((s.get("episode/faults") or 0.0) * (s.get("episode/count") or 0.0) for s in steps)),
        heldout_before=phases.get("heldout_before", EvalSummary),
        heldout_after=phases.get("heldout_after", EvalSummary),
        heldout_before_greedy=phases.get("heldout_before_greedy", EvalSummary),
        heldout_after_greedy=phases.get("heldout_after_greedy", EvalSummary),
        heldout_swapped=phases.get("heldout_swapped", EvalSummary),
        seconds={**seconds, "total": sum(seconds.values())},
        tokens=Tokens(sampled=round(total("tokens/sampled")), context=round(total("tokens/context"))),
        play_tokens_per_second=total("tokens/sampled") / playing if playing else None,
        learn_tokens_per_second=learned / learning if learned and learning else None,
        mismatch_kl=largest("mismatch/kl"),
        max_logprob_difference=largest("mismatch/max_logprob_difference"),
        references={
            name: reward
            for name, reward in (("optimum", spec.oracle_reward), ("chance", spec.chance_reward))
            if reward is not None
        },
    )
