"""What a run is: one frozen tree of settings, every part beside its meaning."""

from __future__ import annotations

from msgspec import Struct

from phronesis.chat.format import Retention
from phronesis.credit.baselines.group import Baseline
from phronesis.credit.baselines.trajectory import TrajectoryCredit
from phronesis.credit.build import CreditConfig
from phronesis.credit.rule import ComparesSiblings
from phronesis.credit.turnwise.gigpo import GiGPOCredit
from phronesis.data.order import Listed, TaskOrder
from phronesis.engine.embedded import EngineConfig
from phronesis.envs.services.config import ServicesConfig
from phronesis.errors import ConfigError, GroupTooSmall
from phronesis.gateway.book import GatewayConfig
from phronesis.models.lora import LoraConfig
from phronesis.models.tiny import TinyModel
from phronesis.reason.players.build import Alone, PlayerConfig
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.retries import RetryConfig
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.batching import BatchConfig
from phronesis.train.critic import CriticConfig
from phronesis.train.deadlines import Deadlines
from phronesis.train.dynamic import DynamicConfig
from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.group.config import check as check_learner
from phronesis.train.learner import LearnerConfig
from phronesis.train.lessons.build import LessonConfig
from phronesis.train.sources import EnvChoice, SourceConfig
from phronesis.train.supervised import SupervisedConfig
from phronesis.train.workers import ClusterConfig

__all__ = ["EnvChoice", "EvalConfig", "ModelConfig", "PrimeConfig", "RunConfig", "SourceConfig", "needs_siblings"]


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which policy to start from."""

    path: str | None = None
    """Checkpoint directory with a tokenizer, as `save_pretrained` writes it; None makes a small model from scratch."""
    generic: bool | None = None
    """Compute through transformers, which takes any causal language model and is slower: True always, None where the compact
    decoder (qwen2, qwen3, llama) cannot, False never."""
    tiny: TinyModel = TinyModel()
    """Sizes of the model made when `path` is None."""
    vocab_size: int = 512
    """Vocabulary of the tokenizer made when `path` is None, special tokens included."""
    retention: Retention = "preserve"
    """Which past thoughts stay in the prompt."""


class PrimeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Supervised priming on the environment's demonstrations of imperfect behaviour."""

    demonstrations: int = 3000
    """Conversations generated, at least 1."""
    expertise: float | None = None
    """What environments show that demonstrate nothing themselves: an agent that does what their expert would with this
    probability, in [0, 1], and otherwise picks at random (0 where there is no expert). None asks for their own."""
    think: bool = True
    """Keep the think blocks; False removes them, so that the policy acts without thinking."""
    supervised: SupervisedConfig = SupervisedConfig()
    """How they are learned."""


class EvalConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Held-out evaluation before and after training."""

    tasks: int = 512
    """Held-out tasks, each played once per mode; 0 evaluates nothing."""
    greedy: bool = True
    """Also play greedily (temperature 0)."""
    swapped: bool = True
    """Also play, after training, with thoughts swapped between episodes."""
    every: int = 0
    """Also play sampled after every so many steps; 0 means never."""


class RunConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run: a policy, an environment, supervised priming, reinforcement learning, evaluation."""

    name: str
    """The recipe's name, or your own."""
    seed: int = 0
    """Every random number of the run derives from it."""
    env: EnvChoice = EnvChoice()
    """What is played."""
    sources: dict[str, SourceConfig] = {}
    """Several environments at once, by names of your own, instead of `env`; each with its share of the run."""
    model: ModelConfig = ModelConfig()
    """Who plays."""
    lora: LoraConfig | None = None
    """Train low-rank adapters and leave the model as it is; None trains all weights. A model that the run makes itself is
    primed whole and adapted from then on; adapters of a given model are primed, too."""
    limits: Limits = Limits()
    """What an episode may use."""
    retry: RetryConfig = RetryConfig()
    """How often an episode that ended in a fault is played again, and when its source is left alone for a while."""
    deadlines: Deadlines = Deadlines()
    """How long a step's credit and lesson may be awaited."""
    engine: EngineConfig = EngineConfig()
    """Limits of the engine that samples, and how it computes."""
    sampling: Sampling = Sampling()
    """How turns are sampled in training; evaluation samples at temperature 1 and greedily."""
    prime: PrimeConfig | None = None
    """Supervised priming; None starts reinforcement learning at once."""
    steps: int = 40
    """Training steps; 0 trains nothing."""
    groups: int = 8
    """Tasks per step, at least 1."""
    group_size: int = 8
    """Episodes per task, at least 1."""
    player: PlayerConfig | str = Alone()
    """How the attempts of a group come about: one by one, or branching from one another (arpo, tree, earl), or an import path
    ``package.module:make`` of what gives a `phronesis.rollout.play.GroupPlayer`."""
    gateway: GatewayConfig | None = None
    """Serve the policy to agents outside, who play the episodes with their own tools and rewards; None plays them here."""
    services: ServicesConfig | None = None
    """Let environment services register, for environments that are ``served``; None where all is played here."""
    tasks: TaskOrder = Listed()
    """Which training task comes next; evaluation takes them as listed."""
    asynchrony: AsyncConfig | None = None
    """Play while the policy learns; None plays and learns in turns."""
    cluster: ClusterConfig | None = None
    """Play in worker processes of a Ray cluster, on this machine or others; None plays in this process."""
    dynamic: DynamicConfig | None = None
    """Replace groups whose episodes all earned the same (DAPO); None learns from what comes."""
    credit: CreditConfig | str = TrajectoryCredit()
    """Who earned the reward; a built-in rule or an import path ``package.module:rule``."""
    critic: CriticConfig | None = None
    """Who expects returns, for credit rules over values (gae, turn_gae, poad, sao, archer); None means nobody."""
    lesson: LessonConfig | None = None
    """What attempts become before the weights learn from them, where that is not credit; None learns from credit."""
    batch: BatchConfig = BatchConfig()
    """What of a step's episodes is learned from."""
    learner: LearnerConfig = LearnerConfig()
    """How a batch becomes new weights."""
    learners: LearnerGroupConfig | None = None
    """Hold the learner in several processes; None holds it in the run's own."""
    evaluation: EvalConfig = EvalConfig()
    """Held-out evaluation."""
    threads: int | None = None
    """Threads torch computes with; None leaves torch's own choice. Another number may change the last bits of results."""
    concurrency: int = 512
    """Most episodes in flight."""
    checkpoint_every: int = 10
    """Steps between checkpoints; the last step always has one. At least 1."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept besides those of step 0 and of the end; at least 1."""
    silent_steps: int = 5
    """Steps without any signal after which the run says so as an alarm; at least 1."""

    @property
    def updates(self) -> int:
        """Optimiser steps of the whole run, where every step has something to learn from."""
        steps = self.steps if self.critic is None else max(self.steps - self.critic.warmup, 0)
        return steps * self.learner.epochs * self.learner.minibatches

    def validate(self) -> None:
        """Refuses combinations that cannot work.

        Raises:
            ConfigError: names the fields and what to change.
        """
        self.limits.validate()
        self.retry.validate()
        self.deadlines.validate()
        if self.sources:
            self._validate_sources()
        if self.engine.vllm is not None:
            self.engine.vllm.validate()
        self.sampling.validate(training=self.steps > 0)
        for name in ("groups", "group_size", "concurrency", "checkpoint_every", "keep_checkpoints", "silent_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        context, positions = self.limits.context, self.model.tiny.max_positions
        if self.model.path is None and context is not None and context > positions:
            raise ConfigError(f"limits.context {context!r} is more than model.tiny.max_positions {positions!r}")
        if self.steps < 0:
            raise ConfigError(f"steps must be at least 0, got {self.steps!r}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads!r}")
        if self.evaluation.tasks < 0 or self.evaluation.every < 0:
            raise ConfigError("evaluation.tasks and evaluation.every must be at least 0")
        if self.prime is not None and not 0 <= (self.prime.expertise or 0) <= 1:
            raise ConfigError(f"prime.expertise must lie in [0, 1], got {self.prime.expertise!r}")
        if self.prime is not None and self.prime.demonstrations < 1:
            raise ConfigError(f"prime.demonstrations must be at least 1, got {self.prime.demonstrations!r}")
        if self.steps and self.group_size == 1 and needs_siblings(self.credit):
            raise ConfigError(
                "group_size 1 with a baseline from the group: an episode has no siblings to be compared with, so every "
                f"advantage would be 0; set group_size to 2 or more, or {_without_siblings(self.credit)}"
            )
        if self.steps and not isinstance(self.player, str):
            self.player.check(self.group_size)
        if self.critic is not None and self.steps and self.critic.warmup >= self.steps:
            raise ConfigError(
                f"critic.warmup {self.critic.warmup!r} leaves none of the {self.steps!r} steps to the policy; lower it"
            )
        if self.steps and self.group_size == 1 and self.dynamic is not None:
            raise ConfigError(
                "dynamic sampling with group_size 1: an episode alone never differs, so every round would be played in vain; "
                'set group_size to 2 or more, or dynamic = "none"'
            )
        if self.learners is not None:
            self._validate_learners()
        if self.asynchrony is not None:
            self._validate_asynchrony()
        if self.cluster is not None:
            self._validate_cluster(self.cluster)
        if self.batch.repair and self.retry.incomplete != "learn_from_rest":
            raise ConfigError(
                f"batch.repair fills the places of faulty episodes with copies, and retry.incomplete {self.retry.incomplete!r} "
                "decides otherwise; leave one of them out"
            )
        if self.groups * self.group_size % self.learner.minibatches:
            raise ConfigError(
                f"groups x group_size = {self.groups * self.group_size} episodes do not divide into "
                f"learner.minibatches = {self.learner.minibatches}"
            )

    def _validate_sources(self) -> None:
        """Refuses sources that cannot work, and what asks for one environment."""
        for name, source in self.sources.items():
            source.validate(name)
            if self.steps and self.group_size == 1 and source.credit is not None and needs_siblings(source.credit):
                raise ConfigError(
                    f"sources.{name}.credit compares an episode with its group, which group_size 1 leaves empty; set "
                    f"group_size to 2 or more, or sources.{name}.{_without_siblings(source.credit)}"
                )
        if not any(source.share for source in self.sources.values()):
            raise ConfigError("every source has share 0, so there is nothing to train on; give one of them a share")
        alone = {
            "env": self.env != EnvChoice(),
            "tasks": self.tasks != Listed(),
            "lesson": self.lesson is not None,
            "gateway": self.gateway is not None,
            "player": not isinstance(self.player, Alone),
        }
        for name in (name for name, chosen in alone.items() if chosen):
            raise ConfigError(
                f"a run with sources plays several environments, and {name} is for one; leave out {name}, or the sources"
            )

    def _validate_cluster(self, cluster: ClusterConfig) -> None:
        """Refuses what only this process can play."""
        cluster.validate()
        if cluster.learner is not None and self.learners is None:
            raise ConfigError("cluster.learner places the ranks of a learner group; set learners.ranks, or leave it out")
        here = {"gateway": self.gateway is not None, "player": not isinstance(self.player, Alone)}
        for name in (name for name, chosen in here.items() if chosen):
            raise ConfigError(f"workers of a cluster play every attempt from its start; leave out {name}, or cluster")

    def _validate_learners(self) -> None:
        """Refuses what reads or changes weights beside the processes that hold them."""
        check_learner(self.learner)
        alone = {"lora": self.lora is not None, "lesson": self.lesson is not None, "model.generic": self.model.generic is True}
        for name in (name for name, chosen in alone.items() if chosen):
            raise ConfigError(f"a learner group does not do {name} yet; leave out {name}, or set learners = none")

    def _validate_asynchrony(self) -> None:
        """Refuses what plays or learns by the step and so has no meaning while groups come and go."""
        steps = {
            "dynamic": self.dynamic is not None,
            "lesson": self.lesson is not None,
            "gateway": self.gateway is not None,
            "player": not isinstance(self.player, Alone),
        }
        for name in (name for name, chosen in steps.items() if chosen):
            raise ConfigError(
                f"asynchrony plays group by group while the policy learns, which {name} does not do yet; leave out {name}, or "
                "asynchrony"
            )


def _baseline_field(credit: CreditConfig | str) -> str:
    """The field of a built-in rule that says what an episode is compared with."""
    return "episode" if isinstance(credit, GiGPOCredit) else "baseline"


def _without_siblings(credit: CreditConfig | str) -> str:
    """A setting that has no use for siblings."""
    field = _baseline_field(credit)
    return f'credit.{field}.type = "none"' if hasattr(credit, field) else 'credit.type = "reinforce_pp"'


def needs_siblings(credit: CreditConfig | str) -> bool:
    """Whether a lone episode has no advantage under this rule; not known for a user's own rule."""
    if isinstance(credit, str):
        return False
    baseline: object = getattr(credit, _baseline_field(credit), None)
    if not isinstance(baseline, Baseline):
        return isinstance(credit, ComparesSiblings) and credit.needs_siblings
    try:
        baseline.advantages([0.0])
    except GroupTooSmall:
        return True
    return False
