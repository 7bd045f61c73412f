"""What the learning maths costs: every credit rule and every loss on 100,000 sampled tokens, beside a forward pass over them.

python -m bench.maths
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import torch
from msgspec import Struct

from bench.measure import Row, compare, pinned
from phronesis.credit import CreditConfig, CreditRule, NeedsTeacher, NeedsValues, Settles, TokenValues, build
from phronesis.losses import (
    Aggregation,
    AnyCorrection,
    AnyObjective,
    ConstantNorm,
    DROLoss,
    KLInLoss,
    KLInReward,
    LossConfig,
    LossInputs,
    PPOClipLoss,
    evaluate,
    totals_of,
)
from phronesis.models.decoder import Decoder
from phronesis.models.layout import plan
from phronesis.models.tiny import tiny
from phronesis.records import Component, Episode, EpisodeGroup, Finish, Reply, Reward, Span, Stop, Task, Turn
from phronesis.train.recipes import quickstart

GROUPS, SIZE, TURNS, TOKENS, REPEATS = 50, 8, 10, 25, 5
"""400 episodes of ten turns of 25 sampled tokens."""
ALL = GROUPS * SIZE * TURNS * TOKENS
MICRO_BATCH = 10_000
"""Tokens of one forward pass."""
REPLAYED = {"counterfactual", "remax", "spae", "spo_chain", "vineppo", "vsrm"}
"""Rules that play on: what they cost is playing."""
ASKED = {
    "hca": {"judge": "bench.maths:told"},
    "hindsight": {"judge": "bench.maths:told"},
    "igpo": {"metric": "progress"},
    "opd": {"teacher": "none"},
    "potential": {"metric": "progress"},
    "selaur": {"vocabulary": 512},
    "self_distilled": {"judge": "bench.maths:told"},
    "shapley": {"judge": "bench.maths:worth"},
}
"""Rules that need a number from outside, and who gives it: at no cost of its own."""
UNIT = "CPU-s per 100k tokens"


class Measured(NamedTuple):
    """Repeats by name, in CPU-seconds per 100,000 tokens."""

    forward: list[float]
    """The demo model's forward pass."""
    costs: dict[str, list[float]]
    """Credit rules and losses."""


def maths() -> list[Row]:
    """Every rule and loss beside the forward pass of the same run; the target is to be no slower."""
    found = json.loads(pinned([sys.executable, "-m", "bench.maths"]).splitlines()[-1])
    measured = Measured(**found)
    settings = {"unit": UNIT, "peer_name": "forward pass of the quickstart's model", "target": 1.0}
    return [compare("maths", what, costs, measured.forward, **settings) for what, costs in measured.costs.items()]


async def told(episode: Episode, turn: int) -> Sequence[float]:
    """Log-probabilities in hindsight, made up."""
    return [lp + 0.1 for lp in episode.turns[turn].logprobs]


async def worth(episode: Episode, turns: frozenset[int]) -> float:
    """The worth of some turns, made up."""
    return len(turns) / len(episode.turns)


def groups() -> list[EpisodeGroup]:
    """Groups whose members part at some turn, meet states again, think, act, and earn at some turns and at the end."""
    rng = random.Random(0)
    return [group(rng, g) for g in range(GROUPS)]


def group(rng: random.Random, index: int) -> EpisodeGroup:
    """One of them; its first three turns are shared by pairs of members."""
    task = Task(id=f"t{index}", env="toy", payload={"kind": f"k{index % 3}", "role": "solve", "problem": f"p{index}"})
    begun = [[tokens(rng) for _ in range(3)] for _ in range(SIZE // 2)]
    members: list[Episode] = []
    for m in range(SIZE):
        said = begun[m // 2] + [tokens(rng) for _ in range(TURNS - 3)]
        turns = tuple(turn(rng, k, said[k], m) for k in range(TURNS))
        parts = [Component(name="answer", score=float(rng.random() < 0.5)), Component(name="format", score=rng.random())]
        parts += [Component(name="turn", score=rng.random(), turn=k) for k in range(0, TURNS, 3)]
        name = f"e{index}-{m}"
        reward = Reward(components=tuple(parts))
        members.append(Episode(id=name, task=task, seed=m, turns=turns, stop=Stop.completed, reward=reward))
    return EpisodeGroup(id=f"g{index}", task=task, episodes=tuple(members))


def tokens(rng: random.Random) -> tuple[int, ...]:
    """The completion of a turn."""
    return tuple(rng.randrange(512) for _ in range(TOKENS))


def turn(rng: random.Random, k: int, said: tuple[int, ...], member: int) -> Turn:
    """One turn of 15 tokens of thought and ten of action."""
    return Turn(
        parent=k - 1 if k else None,
        context=(1, 2, 3),
        completion=said,
        sampled=(True,) * TOKENS,
        logprobs=tuple(-rng.expovariate(1.0) for _ in said),
        entropies=tuple(rng.random() for _ in said),
        finish=Finish.stop,
        prompt_crc=0,
        spans=(
            Span(kind="plan", start=0, end=5),
            Span(kind="think", start=5, end=15),
            Span(kind="act", start=15, end=TOKENS),
        ),
        reply=Reply(state_key=f"{k}-{rng.randrange(3)}", metrics={"progress": rng.random()}),
    )


def rules() -> dict[str, CreditRule]:
    """Every built-in rule that does not play on, by tag, with a critic or a teacher where it needs one."""
    found: dict[str, CreditRule] = {}
    for kind in get_args(CreditConfig):
        tag = str(kind.__struct_config__.tag)
        if tag in REPLAYED:
            continue
        rule = build(kind(**ASKED.get(tag, {})))
        if isinstance(rule, NeedsValues):
            rule = rule.with_values(expected)
        elif isinstance(rule, NeedsTeacher):
            rule = rule.with_teacher(lambda g: {e: expected(x) for e, x in enumerate(g.episodes)})
        found[tag] = rule
    return found


def expected(episode: Episode) -> TokenValues:
    """A critic's values, or a teacher's log-probabilities: the numbers at hand, at no cost."""
    return tuple(t.logprobs for t in episode.turns)


def credit(rule: CreditRule, step: Sequence[EpisodeGroup]) -> None:
    """One step's credit, as the loop assigns it."""

    async def assign() -> None:
        credits = list(await asyncio.gather(*(rule.assign(g, None) for g in step)))
        if isinstance(rule, Settles):
            rule.settle(step, credits)

    asyncio.run(assign())


def losses() -> dict[str, LossConfig]:
    """Every objective alone, then clipped PPO with every correction, aggregation and divergence."""
    ppo, found = PPOClipLoss(), dict[str, LossConfig]()
    for kind in get_args(AnyObjective):
        settings = {"beta": 0.1} if kind is DROLoss else {}
        found[f"objective {tag(kind)}"] = LossConfig(objective=kind(**settings))
    for kind in get_args(AnyCorrection):
        found[f"correction {tag(kind)}"] = LossConfig(objective=ppo, corrections=(kind(),))
    for kind in get_args(Aggregation):
        rule = kind(horizon=1000) if kind is ConstantNorm else kind()
        found[f"aggregation {tag(kind)}"] = LossConfig(objective=ppo, aggregation=rule)
    found["divergence in the loss"] = LossConfig(objective=ppo, kl=KLInLoss(coef=0.1))
    found["divergence in the reward"] = LossConfig(objective=ppo, kl=KLInReward(coef=0.1))
    found["entropy bonus"] = LossConfig(objective=ppo, entropy_bonus=0.01)
    return found


def tag(kind: type[Struct]) -> str:
    """How configs call it."""
    return str(kind.__struct_config__.tag)


def batch() -> LossInputs:
    """The same 100,000 tokens as one micro-batch: ten turns and 250 tokens a sequence."""
    source = torch.Generator().manual_seed(0)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(ALL, generator=source)

    old = -normal(1.0).abs()
    sequence = torch.arange(GROUPS * SIZE).repeat_interleave(TURNS * TOKENS)
    turns = torch.arange(TURNS).repeat_interleave(TOKENS).repeat(GROUPS * SIZE)
    return LossInputs(
        logp_theta_N=(old + normal(0.1)).requires_grad_(),
        logp_old_N=old,
        logp_infer_N=old + normal(0.01),
        advantages_N=normal(1.0),
        sequence_N=sequence,
        turn_N=turns,
        totals=totals_of(sequence, GROUPS * SIZE, None, turns),
        entropy_N=normal(1.0).abs().requires_grad_(),
        logp_ref_N=old + normal(0.1),
        trace_N=turns // 5,
    )


def step(config: LossConfig, inputs: LossInputs) -> None:
    """A loss and its gradient."""
    inputs.logp_theta_N.grad = None
    evaluate(config, inputs).loss.backward()


def forward(decoder: Decoder, sequences: Sequence[Sequence[int]]) -> None:
    """Log-probabilities of every token under the demo model, in micro-batches, without a gradient."""
    size = MICRO_BATCH // len(sequences[0])
    with torch.no_grad():
        for at in range(0, len(sequences), size):
            part = sequences[at : at + size]
            ids = torch.tensor([i for row in part for i in row])
            logits = decoder.logits(decoder.hidden(ids, plan([len(row) for row in part], [None] * len(part))))
            logits.log_softmax(-1).gather(1, ids.roll(-1)[:, None])


def timed(work: Callable[[], object]) -> list[float]:
    """CPU-seconds per 100,000 tokens of some calls after a first one."""
    work()
    found: list[float] = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        found.append((time.process_time() - start) * 100_000 / ALL)
    return found


def measure() -> Measured:
    """All of it in this process; the forward pass before and after everything else."""
    played = groups()
    sequences = [[i for t in e.turns for i in t.completion] for g in played for e in g.episodes]
    recipe = quickstart()
    decoder = tiny(recipe.model.tiny, recipe.model.vocab_size, 0)
    first = timed(lambda: forward(decoder, sequences))
    costs: dict[str, list[float]] = {}
    for name, rule in rules().items():
        costs[f"credit {name}"] = timed(lambda rule=rule: credit(rule, played))
    inputs = batch()
    for name, config in losses().items():
        costs[name] = timed(lambda config=config: step(config, inputs))
    return Measured([*first, *timed(lambda: forward(decoder, sequences))], costs)


def main() -> None:
    """Prints the repeats as the last line, for `maths`; above them what is slower than the forward pass."""
    torch.set_num_threads(1)
    measured = measure()
    limit = statistics.median(measured.forward)
    for name, costs in measured.costs.items():
        if statistics.median(costs) > limit:
            print(f"slower than the forward pass ({limit:.3f} s): {name}, {statistics.median(costs):.3f} s")
    print(json.dumps(measured._asdict()))


if __name__ == "__main__":
    main()
