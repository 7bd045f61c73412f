"""The definition of every metric a run writes. A metric without an entry here fails a test; this file never imports torch.

Definitions are for readers of a report: what the number is, over what it is taken, and what to make of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from phronesis.records.metric import Metric, Reducer


def _metric(key: str, unit: str, definition: str, reducer: Reducer = "mean") -> Metric:
    return Metric(key=key, unit=unit, reducer=reducer, definition=definition)


_DEFINED = (
    # is there a signal
    _metric("reward/mean", "reward", "Mean reward of the step's scored episodes; faults are left out."),
    _metric("reward/std", "reward", "Standard deviation of the reward over the step's scored episodes."),
    _metric("reward/max", "reward", "Highest reward of the step's scored episodes.", "max"),
    _metric("reward/min", "reward", "Lowest reward of the step's scored episodes.", "min"),
    _metric(
        "success/rate", "share", "Share of the step's scored episodes whose reward reaches the environment's success mark."
    ),
    _metric("heldout/success", "share", "Share of held-out episodes that succeed; their tasks are never trained on."),
    _metric("heldout/reward", "reward", "Mean reward on held-out tasks."),
    _metric("heldout/episodes", "episodes", "Held-out episodes behind the held-out numbers.", "sum"),
    _metric("signal/zero_variance", "share", "Share of groups whose rewards are all equal, so that they teach nothing."),
    _metric("signal/groups", "groups", "Groups that reached the update with a signal.", "sum"),
    _metric("signal/dropped", "episodes", "Episodes left out of the update: faults, unscored, or no signal.", "sum"),
    _metric(
        "signal/rounds", "rounds", "Rounds of play in a step with dynamic sampling; at its bound, tasks are too easy or hard."
    ),
    _metric(
        "signal/replaced",
        "groups",
        "Groups that were played and left out by dynamic sampling since all their episodes earned the same.",
        "sum",
    ),
    _metric(
        "credit/lone_turns",
        "turns",
        "Turns that no other turn of the group could be compared with, e.g. deeper than any sibling's; they got no credit.",
        "sum",
    ),
    _metric(
        "credit/mean_not_positive",
        "groups",
        "Comparisons of unequal rewards that MaxRL gave up, since their mean was not above 0.",
        "sum",
    ),
    # several sources at once
    _metric("source/*/share", "share", "Share of the step's groups that came from this source of tasks."),
    _metric("source/*/groups", "groups", "Groups of this source in the step.", "sum"),
    _metric("source/*/reward", "reward", "Mean reward of this source's scored episodes in the step; faults are left out."),
    _metric("source/*/success", "share", "Share of this source's scored episodes in the step that succeed."),
    _metric("source/*/faults", "share", "Share of this source's episodes in the step that ended in a fault."),
    _metric("time/source/*", "seconds", "Median wall-clock time of this source's episodes in the step."),
    _metric("source/*/playing", "groups", "Groups of this source that play, after the step.", "last"),
    _metric("source/*/heldout_success", "share", "Share of held-out episodes of this source that succeed."),
    # what it does
    _metric("episode/count", "episodes", "Episodes played in the step.", "sum"),
    _metric("episode/turns", "turns", "Mean number of policy calls per episode."),
    _metric("episode/tokens", "tokens", "Mean number of sampled tokens per episode."),
    _metric("episode/think_tokens", "tokens", "Mean number of sampled tokens inside think blocks per episode."),
    _metric(
        "episode/truncated",
        "share",
        "Share of episodes ended by a limit (turns, tokens, context, time) instead of the environment.",
    ),
    _metric(
        "episode/faults",
        "share",
        "Share of episodes ended by a fault of the environment or the machinery; they never reach the update.",
    ),
    _metric(
        "episode/tool_errors",
        "errors",
        "Mean number of mistaken tool calls per episode (unknown tool, malformed or missing arguments).",
    ),
    _metric("episode/parse_errors", "errors", "Mean number of replies per episode that could not be parsed."),
    _metric("episode/length_correct", "tokens", "Mean number of sampled tokens of successful episodes."),
    _metric("episode/length_wrong", "tokens", "Mean number of sampled tokens of unsuccessful episodes."),
    # what was played again
    _metric("retries/faults", "attempts", "Attempts that ended in a fault, those that a retry made good included.", "sum"),
    _metric("retries/again", "attempts", "Of these, those after which the episode was played again from the start.", "sum"),
    _metric("retries/saved", "episodes", "Episodes, and judgements of groups, that succeeded after a fault.", "sum"),
    _metric("retries/lost", "episodes", "Episodes, and judgements of groups, that still fault; they count nowhere.", "sum"),
    _metric(
        "retries/refused", "episodes", "Of these, those that were not tried again since the retry budget was used up.", "sum"
    ),
    _metric("retries/env", "attempts", "Attempts that faulted in the environment or in what it said.", "sum"),
    _metric("retries/policy", "attempts", "Attempts that faulted since the policy did not answer, or answered wrongly.", "sum"),
    _metric("retries/rubric", "attempts", "Times a rubric failed to judge a group.", "sum"),
    _metric("retries/agent", "attempts", "Attempts that faulted in the agent.", "sum"),
    _metric("retries/hung", "attempts", "Attempts that faulted since a call gave no answer in time.", "sum"),
    _metric("retries/contract", "attempts", "Attempts that faulted since an answer broke its contract.", "sum"),
    _metric("retries/raised", "attempts", "Attempts that faulted since a call raised.", "sum"),
    _metric("retries/refilled", "episodes", "Episodes played with new seeds besides members that still fault.", "sum"),
    _metric(
        "retries/dropped", "groups", "Groups left out since a member still faults, with `retry.incomplete` drop_group.", "sum"
    ),
    _metric("breaker/open", "sources", "Environments, rubrics and policies left alone after the step.", "last"),
    _metric("breaker/opened", "times", "How often one was given up for a while, so far in the process.", "last"),
    # is the update sane
    _metric(
        "policy/entropy",
        "nats",
        "Mean entropy of the sampling distribution per sampled token; near 0 the policy no longer explores.",
    ),
    _metric("policy/entropy_think", "nats", "Mean entropy per sampled token inside think blocks."),
    _metric("policy/entropy_act", "nats", "Mean entropy per sampled token inside tool calls and answers."),
    _metric(
        "update/loss",
        "loss",
        "The objective being minimised; in reinforcement learning its level means little, jumps mean a lot.",
    ),
    _metric("update/grad_norm", "norm", "Euclidean norm of the gradient before clipping."),
    _metric("update/lr", "per step", "Learning rate of the update.", "last"),
    _metric(
        "update/kl_k1",
        "nats",
        "Mean of old minus new log-probability per trained token: an unbiased estimate of the step's KL; may be negative.",
    ),
    _metric(
        "update/kl_k3",
        "nats",
        "Mean of r - 1 - log r per trained token, r = new/old probability: a low-variance estimate of the step's KL.",
    ),
    _metric(
        "update/clip_share", "share", "Share of trained tokens whose ratio was clipped; always 0 means that clipping is inert."
    ),
    _metric("update/ratio_max", "ratio", "Largest new/old probability ratio of a trained token.", "max"),
    _metric("update/advantage_mean", "reward", "Mean advantage over trained tokens; near 0 for centred advantages."),
    _metric("update/advantage_std", "reward", "Standard deviation of the advantage over trained tokens."),
    _metric(
        "update/left_out_share",
        "share",
        "Share of trained tokens that corrections left out, by weight 0 or by rejection, summed over corrections.",
    ),
    _metric("update/weight", "ratio", "Mean factor that corrections put on a trained token's loss; 0 where left out."),
    _metric("update/ref_kl", "nats", "Mean configured estimate of the divergence from the reference per trained token."),
    _metric("update/baseline", "reward", "What VCPO's baseline of least variance took from every trained token's credit."),
    _metric("update/tokens", "tokens", "Trained tokens in the update.", "sum"),
    _metric(
        "mismatch/kl",
        "nats",
        "Mean k3 divergence between the sampler's and the learner's probability of the same tokens under the same weights.",
    ),
    _metric(
        "mismatch/max_logprob_difference",
        "nats",
        "Largest |difference| between the sampler's and the learner's log-probability of one token; above 0.01 the gradient "
        "is off-policy.",
        "max",
    ),
    _metric(
        "mismatch/mean_logprob_difference",
        "nats",
        "Mean |difference| between the sampler's and the learner's log-probabilities.",
    ),
    _metric("mismatch/kl_k1", "nats", "Mean of sampler minus learner log-probability per token; may be negative."),
    _metric("mismatch/chi2", "ratio", "Mean squared probability ratio learner / sampler, minus 1; 0 where they agree."),
    _metric(
        "mismatch/effective_share",
        "share",
        "Effective share of tokens under the weights learner / sampler; 1 where they agree.",
    ),
    # players
    _metric("player/leaves", "episodes", "Attempts of all groups that were judged, each branch of an episode one.", "sum"),
    _metric("player/branches", "episodes", "Attempts played on from inside another one.", "sum"),
    _metric("player/filled", "episodes", "Attempts played from the start since nothing was left to branch at.", "sum"),
    _metric("player/declined", "turns", "Turns at which the entropy was looked at and did not ask for a branch.", "sum"),
    _metric("player/over_budget", "turns", "Turns that asked for a branch when the group was full.", "sum"),
    _metric("player/short", "episodes", "Branches not taken: their attempt had faulted, or was over before the turn.", "sum"),
    _metric("player/faulted", "episodes", "Branches and forced attempts that faulted; none became a reward.", "sum"),
    _metric("player/cut_off", "episodes", "Branches and forced attempts a limit ended before a turn of their own.", "sum"),
    _metric("player/env_steps", "steps", "Environment steps of branches and forced attempts, behind what they share.", "sum"),
    _metric("player/replayed", "steps", "Recorded actions done again to bring environments to where a branch begins.", "sum"),
    _metric("player/routes", "episodes", "Failed attempts played again with a forced route.", "sum"),
    _metric("player/no_route", "episodes", "Failed attempts that left no route to force.", "sum"),
    _metric("player/screened", "groups", "Tasks that a few attempts screened.", "sum"),
    _metric("player/continued", "groups", "Of these, tasks that got all attempts: some passed and some did not.", "sum"),
    _metric("player/dropped_solved", "groups", "Of these, tasks left out since every screening attempt passed.", "sum"),
    _metric("player/dropped_failed", "groups", "Of these, tasks left out since no screening attempt passed.", "sum"),
    _metric("player/dropped_faulted", "groups", "Of these, tasks left out since all but one attempt or all faulted.", "sum"),
    _metric("player/gain", "reward", "Mean reward with a forced route minus that of the attempt it departs from."),
    # agents outside, through the gateway
    _metric("gateway/episodes", "episodes", "Episodes that agents outside finished.", "sum"),
    _metric("gateway/unrewarded", "episodes", "Of these, ones without a fault that nobody rewarded; left out.", "sum"),
    _metric("gateway/idle", "episodes", "Episodes their agents left alone until they timed out.", "sum"),
    _metric("gateway/rewritten", "requests", "Requests whose history was edited, compacted or another conversation.", "sum"),
    _metric("gateway/forked", "requests", "Requests that went on where another one had gone on before.", "sum"),
    _metric("gateway/repaired", "messages", "Messages that came back altered and were recognised.", "sum"),
    _metric("gateway/left_out", "turns", "Sampled messages left out: never delivered, or asked for again.", "sum"),
    _metric(
        "mismatch/perplexity_ratio",
        "ratio",
        "Mean over sequences of the learner's perplexity over the sampler's, before the update; 1 where they agree.",
    ),
    # re-runs and the critic
    _metric(
        "rerun/episodes", "episodes", "Continuations played from inside episodes for credit, faulted ones included.", "sum"
    ),
    _metric("rerun/tokens", "tokens", "Tokens sampled in those continuations; they are not in the sampled tokens.", "sum"),
    _metric("rerun/env_steps", "steps", "Environment steps of those continuations, replayed prefixes included.", "sum"),
    _metric("rerun/missing", "episodes", "Continuations that faulted twice: the mean they belong to is over fewer.", "sum"),
    _metric("rerun/faults", "episodes", "Continuations that faulted; each was played again once, none became a reward.", "sum"),
    _metric("critic/warmup", "share", "Is 1 while only the critic learns and the policy stays as it is."),
    _metric("critic/loss", "loss", "Half squared error of the critic's values before it learned from the step."),
    _metric("critic/grad_norm", "norm", "Euclidean norm of the critic's gradient before clipping."),
    _metric("critic/lr", "per step", "Learning rate of the critic's update.", "last"),
    _metric("critic/value_mean", "reward", "Mean return the critic expected at sampled tokens."),
    _metric("critic/target_mean", "reward", "Mean return the critic learned towards."),
    _metric("critic/clip_share", "share", "Share of sampled tokens whose value was clipped, in the last pass."),
    _metric(
        "critic/explained_variance",
        "share of variance",
        "Share of the targets' variance the values explain before learning: 1 perfect, 0 as good as a constant, below 0 worse.",
    ),
    # pairs
    _metric("pairs/count", "pairs", "Pairs learned from in the step.", "sum"),
    _metric(
        "pairs/accuracy", "share", "Share of pairs whose chosen side has moved further up than the other, from the reference."
    ),
    _metric("pairs/margin", "nats", "How much further up from the reference the chosen sides have moved, before the update."),
    _metric("pairs/chosen", "nats", "Mean log-ratio of the chosen sides to the reference; falling means both become rarer."),
    _metric("pairs/rejected", "nats", "Mean log-ratio of the rejected sides to the reference."),
    _metric("pairs/left_out_alone", "groups", "Groups without a pair: fewer than two attempts count.", "sum"),
    _metric("pairs/left_out_tied", "groups", "Groups without a pair: all rewards are equal.", "sum"),
    _metric("pairs/left_out_nowhere", "groups", "Groups without a pair: attempts of equal worth wherever they part.", "sum"),
    _metric("pairs/left_out_margin", "pairs", "Pairs whose values are too alike.", "sum"),
    _metric("pairs/left_out_no_tokens", "pairs", "Pairs of which a side sampled nothing.", "sum"),
    _metric("pairs/left_out_same", "pairs", "Pairs whose sides nothing trained tells apart.", "sum"),
    _metric("pairs/left_out_no_common_step", "pairs", "Pairs whose sides never answer one prompt differently.", "sum"),
    # lessons with a teacher or a hint
    _metric("distil/divergence", "nats", "Mean divergence from the teacher's distributions per trained token, as configured."),
    _metric("distil/attempts", "episodes", "Attempts the teacher has judged.", "sum"),
    _metric("distil/traces", "traces", "Demonstrations the teacher has judged.", "sum"),
    _metric("distil/left_out_too_long", "traces", "Demonstrations longer than the model's context.", "sum"),
    _metric("distil/left_out_no_hint", "episodes", "Attempts left out: neither a sibling's success nor feedback.", "sum"),
    _metric("distil/left_out_no_room", "episodes", "Attempts left out: with the hint they exceed the model's context.", "sum"),
    _metric("hinted/tasks", "tasks", "Tasks played again with a hint.", "sum"),
    _metric("hinted/episodes", "episodes", "Attempts with a hint; they are in no other count.", "sum"),
    _metric("hinted/learned", "traces", "Attempts with a hint, or questions, learned from without it.", "sum"),
    _metric("hinted/left_out_failed", "episodes", "Attempts with a hint that were not verified.", "sum"),
    _metric("hinted/left_out_duplicate", "episodes", "Attempts with a hint that said what another one said.", "sum"),
    _metric("hinted/left_out_over_cap", "episodes", "Verified attempts with a hint above the cap of their task.", "sum"),
    _metric("hinted/left_out_fault", "episodes", "Attempts with a hint that faulted or were not scored.", "sum"),
    _metric("hinted/left_out_no_tokens", "episodes", "Attempts that sampled nothing.", "sum"),
    _metric("hinted/left_out_no_room", "tasks", "Questions that exceed the model's context.", "sum"),
    _metric("hinted/left_out_rewritten", "episodes", "Attempts whose hint the format has put into later prompts.", "sum"),
    _metric("rlag/knowledge", "nats", "Mean log-probability per token of the knowledge."),
    _metric("rlag/augmented", "nats", "Mean log-probability per token of answers given with the knowledge, without it."),
    _metric("rlag/plain", "nats", "Mean log-probability per token of answers given without the knowledge."),
    _metric("rlag/agree", "share", "Share of questions whose answers with and without the knowledge are the same."),
    # supervised priming
    _metric("prime/loss", "nats", "Mean negative log-likelihood per target token of the supervised traces."),
    _metric("prime/accuracy", "share", "Share of target tokens whose most likely prediction is right."),
    _metric("prime/grad_norm", "norm", "Euclidean norm of the supervised gradient before clipping."),
    _metric("prime/lr", "per step", "Learning rate of the supervised update.", "last"),
    _metric("prime/tokens", "tokens", "Target tokens of the supervised step.", "sum"),
    # playing while learning
    _metric("age/mean", "updates", "Mean updates between the weights that sampled a token and those that learned from it."),
    _metric("age/max", "updates", "The oldest token of the batch, in updates; never above `asynchrony.staleness`.", "max"),
    _metric("age/crossed", "share", "Share of turns during which the policy got new weights."),
    _metric("age/share_0", "share", "Share of the batch's sampled tokens that were no update old."),
    _metric("age/share_1", "share", "Share of the batch's sampled tokens that were 1 update old."),
    _metric("age/share_2_3", "share", "Share of the batch's sampled tokens that were 2 or 3 updates old."),
    _metric("age/share_4_7", "share", "Share of the batch's sampled tokens that were 4 to 7 updates old."),
    _metric("age/share_8_up", "share", "Share of the batch's sampled tokens that were 8 or more updates old."),
    _metric("age/kl", "nats", "Divergence (k3) of the policy before the update from older weights, over what those sampled."),
    _metric("age/effective_share", "share", "Effective share of those tokens under the weights policy / sampler."),
    _metric("buffer/playing", "groups", "Groups being played when the update was done.", "last"),
    _metric("buffer/waiting", "groups", "Groups that had finished by then and wait for a batch.", "last"),
    _metric(
        "buffer/left_out", "groups", "Groups left out because they were older than `max_age`, so far in the process.", "last"
    ),
    _metric("cluster/workers", "workers", "Rollout workers ready when the step's metrics were taken.", "last"),
    _metric("cluster/deaths", "workers", "Rollout workers that died since the metrics before.", "sum"),
    _metric("cluster/replayed", "episodes", "Episodes begun again since their worker died; none is counted twice.", "sum"),
    _metric("cluster/queued", "episodes", "Episodes that waited for a free slot of a worker.", "last"),
    _metric("cluster/idle", "share", "Share of the ready workers' slots that nobody used."),
    _metric("cluster/lag", "versions", "Updates that the ready worker with the oldest weights was behind.", "max"),
    _metric("time/push", "seconds", "Time to pack the weights and put them where workers read them.", "sum"),
    _metric("time/wait", "seconds", "Time in which learning waited for a batch.", "sum"),
    # time and size
    _metric(
        "time/play",
        "seconds",
        "Wall-clock time spent playing episodes in the step; all of the step where playing goes on while the policy learns.",
        "sum",
    ),
    _metric("time/learn", "seconds", "Wall-clock time spent on credit, batching and the update in the step.", "sum"),
    _metric("time/step", "seconds", "Wall-clock time of the whole step.", "sum"),
    _metric("time/evaluate", "seconds", "Wall-clock time spent on held-out evaluation in the step.", "sum"),
    _metric("speed/play_tokens", "tokens/s", "Sampled tokens per second of playing."),
    _metric("speed/learn_tokens", "tokens/s", "Tokens computed per second of learning."),
    _metric("tokens/sampled", "tokens", "Tokens the policy sampled in the step.", "sum"),
    _metric("tokens/context", "tokens", "Tokens that were given, not sampled: prompts, tool results, forced text.", "sum"),
)

METRICS: dict[str, Metric] = {m.key: m for m in _DEFINED}
"""All definitions by key; ``*`` in a key stands for a name of the run's own, e.g. of a source of tasks."""


def definition(key: str) -> Metric | None:
    """What a metric means; None where nobody said.

    >>> definition("source/my-wiki/share").unit
    'share'
    """
    if key in METRICS:
        return METRICS[key]
    first, _, rest = key.partition("/")
    middle, _, last = rest.rpartition("/")
    return METRICS.get(f"{first}/*/{last}", METRICS.get(f"{first}/{middle.partition('/')[0]}/*")) if middle else None


def undefined(keys: Iterable[str]) -> tuple[str, ...]:
    """Keys without a definition, sorted.

    >>> undefined(["reward/mean", "reward/meen"])
    ('reward/meen',)
    """
    return tuple(sorted(key for key in set(keys) if definition(key) is None))
