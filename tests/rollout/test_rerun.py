"""Pins: a re-run plays on from exactly where the episode stood, with draws and a budget of its own; a fault is no reward."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from rollout_worlds import CHAT, CHATS, TASK, SavedWalk, Walk, calling, policy_of, stage_of, thinking

from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs import probes
from phronesis.errors import AllFaulted, ConfigError, EnvFault
from phronesis.log import Heartbeat
from phronesis.records import EpisodeGroup, Reply, say
from phronesis.rewards import EnvReward
from phronesis.rollout.limits import Limits
from phronesis.rollout.play import Stage, Ticket, play, score
from phronesis.rollout.rerun import Reruns
from phronesis.seeding import rng, stream


def scored(stage: Stage, task=TASK, seed=7):
    async def both():
        episode = await play(stage, Ticket(id="e", task=task, seed=seed))
        return (await score(stage.spec, EpisodeGroup(id="g", task=task, episodes=(episode,)))).episodes[0]

    return asyncio.run(both())


def words(*texts: str):
    return policy_of(*(thinking(None, text) for text in texts))


def walk(make, *texts: str, **limits) -> Stage:
    """A stage whose reward is the length of the last word said."""
    return stage_of(make, words(*texts), rubric=EnvReward(), **limits)


def rerun(stage: Stage, *calls: tuple[int, int], episode, **options):
    """Rewards of one call after the other, and the account."""

    async def all_calls():
        again = Reruns(stage, concurrency=1)
        return [await again(episode, turn, n, **options) for turn, n in calls], again

    return asyncio.run(all_calls())


@pytest.mark.parametrize(("make", "env_steps"), [(Walk, 3 * (2 + 1)), (SavedWalk, 2 + 3)])
def test_each_continuation_ends_its_own_way(make, env_steps):
    """Replayed worlds pay the prefix for each continuation, worlds with snapshots once."""
    episode = scored(walk(make, "a", "bb", "ccc"))
    assert episode.reward.value == 3.0
    stage = walk(make, "x", "yyyyy", "zz")
    (found,), again = rerun(stage, (2, 3), episode=episode)
    assert found == (1.0, 5.0, 2.0)
    sampled = sum(len(CHAT.render(thinking(None, text))) for text in ("x", "yyyyy", "zz"))
    assert again.metrics() == {
        "rerun/episodes": 3.0, "rerun/tokens": float(sampled), "rerun/env_steps": float(env_steps), "rerun/faults": 0.0,
        "rerun/missing": 0.0,
    }  # fmt: skip
    assert stage.policy.prompts == [episode.prompt(2)] * 3, "the policy is shown what it was shown, token for token"


def test_from_the_start_and_from_the_end():
    episode = scored(walk(Walk, "a", "bb", "ccc"))
    stage = walk(Walk, "1", "2", "3333")
    (whole, end), again = rerun(stage, (0, 1), (3, 2), episode=episode)
    assert whole == (4.0,) and end == (3.0, 3.0)
    assert (again.episodes, again.env_steps) == (1, 3)


def test_what_the_prefix_earned_is_part_of_the_reward():
    replies = [Reply(messages=(say("user", "on"),), reward=0.25), Reply(reward=1.0, done=True)]
    episode = scored(walk(lambda: Walk(replies=replies), "a", "b"))
    (found,), _ = rerun(walk(lambda: Walk(replies=replies), "c"), (1, 1), episode=episode)
    assert found == (1.25,)


def test_nothing_asked_costs_nothing():
    assert Reruns(walk(Walk)).metrics() == {}


def test_a_greedy_rerun_samples_at_temperature_0():
    episode = scored(walk(Walk, "a", "bb", "ccc"))
    stage = walk(Walk, "x", "y", "z")
    (found,), _ = rerun(stage, (1, 1), episode=episode, greedy=True)
    assert found == (1.0,) and [p.temperature for p in stage.policy.params] == [0.0, 0.0]
    assert [t.temperature for t in episode.turns] == [1.0] * 3


def test_draws_are_named_and_never_shared():
    """Continuation i of turn k draws from (seed, rerun, k, i); asking again goes on counting."""
    episode = scored(walk(Walk, "a", "bb", "ccc"))
    stage = walk(Walk, *["x"] * 9)
    rerun(stage, (2, 2), (2, 1), (1, 1), episode=episode)
    seeds = [p.seed for p in stage.policy.params]
    wanted = [stream(stream(7, "rerun", 2, i), "turn", 2) for i in range(3)]
    wanted += [stream(stream(7, "rerun", 1, 0), "turn", k) for k in (1, 2)]
    assert seeds == wanted and not set(seeds) & {t.seed for t in episode.turns}
    again = walk(Walk, *["x"] * 9)
    rerun(again, (2, 2), (2, 1), (1, 1), episode=episode)
    assert [p.seed for p in again.policy.params] == seeds


class Forgetful(Walk):
    """Answers the second step otherwise in every episode."""

    made = 0

    async def step(self, action):
        reply = await super().step(action)
        if self.at == 2:
            Forgetful.made += 1
            return replace(reply, messages=(say("user", f"try {Forgetful.made}"),))
        return reply


@pytest.mark.parametrize("base", [Walk, SavedWalk])
def test_a_differing_replay_is_an_error_that_names_the_turn(base):
    make = type("Made", (Forgetful, base), {})
    episode = scored(walk(make, "a", "b", "c"))
    with pytest.raises(EnvFault, match=r"cannot re-run 'e' from turn 2: replaying turn 1 gave another reply than recorded"):
        rerun(walk(make, *["x"] * 9), (2, 1), episode=episode)
    (found,), _ = rerun(walk(make, "xx", "yy", "zz"), (1, 1), episode=episode)
    assert found == (2.0,), "before the second step it answers as recorded"


def test_another_chat_format_is_an_error_too():
    """Thoughts that were shown must be shown again."""
    stage = stage_of(Walk, policy_of(*(thinking("hm", t) for t in "abc")), rubric=EnvReward())
    episode = scored(stage)
    other = stage_of(Walk, words("x"), rubric=EnvReward(), chat=CHATS["strip"])
    with pytest.raises(EnvFault, match="turn 1 would be shown another prompt than recorded"):
        rerun(other, (1, 1), episode=episode)


def test_a_rewritten_history_is_continued():
    """With thoughts stripped, every turn after the first is a root of its own; its line still goes back to the reset."""
    chat = CHATS["strip"]
    said = policy_of(*(thinking("hm", t) for t in ("a", "bb", "ccc")), chat=chat)
    episode = scored(stage_of(Walk, said, chat=chat, rubric=EnvReward()))
    assert [t.parent for t in episode.turns] == [None] * 3 and episode.line(2) == (0, 1, 2)
    stage = stage_of(Walk, policy_of(thinking("so", "four"), chat=chat), chat=chat, rubric=EnvReward())
    (found,), _ = rerun(stage, (2, 1), episode=episode)
    assert found == (4.0,) and stage.policy.prompts == [episode.prompt(2)]


class Shaky(Walk):
    """Breaks at its last step as often as told."""

    left = 0

    async def step(self, action):
        if self.at == 2 and Shaky.left:
            Shaky.left -= 1
            raise RuntimeError("shaky")
        return await super().step(action)


def test_faults_are_played_again_and_counted():
    Shaky.left = 0
    episode = scored(walk(Shaky, "a", "b", "c"))
    Shaky.left = 2
    (found,), again = rerun(walk(Shaky, "1", "22", "333", "4444", "55555"), (2, 3), episode=episode)
    assert found == (3.0, 4.0, 5.0) and (again.faults, again.episodes, again.missing) == (2, 5, 0)
    Shaky.left = 3
    (found,), again = rerun(walk(Shaky, "1", "22", "333", "4444"), (2, 2), episode=episode)
    assert found == (4.0,) and again.faults == 3, "what faults twice is missing, not 0"
    assert again.missing == 1 and again.metrics()["rerun/missing"] == 1.0
    Shaky.left = 9
    with pytest.raises(AllFaulted, match=r"all 2 re-runs of 'e' from turn 2 faulted.* RuntimeError in env\.step: shaky"):
        rerun(walk(Shaky, *["x"] * 9), (2, 2), episode=episode)


def test_a_continuation_has_what_was_left_of_the_limits():
    episode = scored(walk(lambda: Walk(length=9), "a", "b", "c", max_turns=3))
    stage = walk(lambda: Walk(length=9), *"xyz", max_turns=3)
    (found,), again = rerun(stage, (1, 1), episode=episode)
    assert len(stage.policy.prompts) == 2 and found == (0.0,) and again.faults == 0


@pytest.mark.parametrize(("turn", "n"), [(-1, 1), (4, 1), (1, 0)])
def test_nonsense_is_refused(turn, n):
    episode = scored(walk(Walk, "a", "b", "c"))
    with pytest.raises(ConfigError, match="cannot re-run"):
        rerun(walk(Walk), (turn, n), episode=episode)


def surroundings(base):
    """A maker of environments that take a moment to close, and a list of all it made."""
    made = []

    class Lasting(base):
        async def close(self):
            for _ in range(3):
                await asyncio.sleep(0)
            await super().close()

    def make():
        made.append(Lasting())
        return made[-1]

    return make, made


async def asked(stage: Stage, n: int) -> None:
    while stage.waits() != f"{n} in policy.sample":
        await asyncio.sleep(0)


@pytest.mark.parametrize("base", [Walk, SavedWalk])
@pytest.mark.parametrize("how", ["the caller gives up", "the program is interrupted"])
def test_giving_up_closes_every_environment_to_the_end(base, how):
    """Six continuations, four of which play; when the caller goes on, nothing of them is left."""
    episode = scored(walk(Walk, "a", "bb", "ccc"))
    make, made = surroundings(base)
    said = policy_of(*[thinking(None, "x")] * 9, delay=60)
    stage = stage_of(make, said, rubric=EnvReward())

    async def watching():
        again = Reruns(stage, concurrency=4)
        await Heartbeat("credit").watch(asyncio.gather(again(episode, 1, 3), again(episode, 2, 3)), again.progress)

    async def give_up():
        task = asyncio.create_task(watching())
        await asked(stage, 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [env.closed for env in made] == [1] * len(made) and stage.waits() == "nothing is awaited"

    async def interrupted():
        """What the first Ctrl-C does to the main task."""
        main = asyncio.current_task()
        asyncio.get_running_loop().create_task(asked(stage, 4)).add_done_callback(lambda _: main.cancel())
        await watching()

    if how == "the caller gives up":
        asyncio.run(give_up())
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(interrupted())
    assert [env.closed for env in made] == [1] * len(made) and len(made) >= 4


class Drawing(ScriptedPolicy):
    """Says one of some messages, drawn by the request's seed."""

    def __init__(self, *messages):
        super().__init__(lambda prompt: (), vocab_size=512)
        self.messages = messages

    async def sample(self, prompt, params):
        self.replies = [CHAT.render(rng(params.seed, "say").choice(self.messages))] * (len(self.prompts) + 1)
        return await super().sample(prompt, params)


def probe(spec, policy) -> Stage:
    return Stage(spec=spec, policy=policy, chat=CHAT, agent=stage_of(Walk, words()).agent, limits=Limits(max_turns=8))


def test_known_values_on_the_memory_probe():
    """Of 4 letters any is right once in 4 times, before and after the first turn."""
    letters = [thinking(None, c) for c in "abcd"]
    spec = probes.memory(4)
    episode = scored(probe(spec, Drawing(*letters)), task=spec.task("train", 1))
    (first, last), again = rerun(probe(spec, Drawing(*letters)), (0, 200), (1, 200), episode=episode)
    assert abs(sum(first) / 200 - 0.25) < 0.1 and abs(sum(last) / 200 - 0.25) < 0.1
    said = [rng(stream(stream(7, "rerun", 1, i), "turn", 1), "say").choice("abcd") for i in range(200)]
    assert list(last) == [float(c == "b") for c in said], "each is a function of its seed alone"
    assert again.env_steps == 200 * 2 + 200 * 2


def test_known_values_on_the_recovery_probe():
    """Two looks reveal the letter 'a'. A policy that always says it is worth 1 everywhere, one that says 'b' 0."""
    spec = probes.recovery(2, busy=1)
    task = spec.task("train", 0)
    look, a = calling("look"), thinking(None, "a")
    episode = scored(probe(spec, policy_of(look, look, a)), task=task)
    assert len(episode.turns) == 3 and episode.reward.value == 1.0
    for turn, env_steps in ((1, 2), (2, 3)):
        for letter, worth in (("a", 1.0), ("b", 0.0)):
            (found,), again = rerun(probe(spec, Drawing(thinking(None, letter))), (turn, 2), episode=episode)
            assert found == (worth, worth) and again.env_steps == 2 * env_steps


def test_from_inside_a_turn_its_tokens_are_forced_and_charged():
    """The beginning of the completion is put into the policy's mouth; limits of tokens and of thought count it as said."""
    episode = scored(walk(Walk, "a", "bb", "ccc"))
    stage = walk(Walk, "yyyy", max_tokens=episode.sampled_tokens + 5)
    (found,), again = rerun(stage, (2, 1), episode=episode, token=2)
    kept = episode.turns[2].completion[:2]
    assert stage.policy.params[0].forced == kept and stage.policy.prompts == [episode.prompt(2)]
    assert stage.policy.params[0].max_tokens == len(episode.turns[2].completion) + 5 - 2
    assert found == (float(len(CHAT.parse((*kept, *CHAT.render(thinking(None, "yyyy")))).message.text)),)
    assert again.tokens == len(CHAT.render(thinking(None, "yyyy"))), "forced tokens are not sampled ones"


def test_tokens_of_a_thought_that_are_forced_use_up_its_limit():
    policy = policy_of(thinking("one two three", "a"), "bb", "ccc")
    policy.replies = [CHAT.render(thinking("one two three", "a")), CHAT.render(thinking(None, "bb"))] * 2
    episode = scored(stage_of(lambda: Walk(length=2), policy, rubric=EnvReward(), thought_tokens=40))
    end = episode.turns[0].spans[0].end
    stage = stage_of(
        lambda: Walk(length=2), policy_of(thinking(None, "x"), thinking(None, "y")), rubric=EnvReward(), thought_tokens=40
    )
    rerun(stage, (0, 1), episode=episode, token=end - 1)
    assert [p.thought.max_tokens for p in stage.policy.params] == [40 - (end - 1), 40]


def test_draws_inside_a_turn_are_their_own_and_places_that_are_not_there_are_refused():
    episode = scored(walk(Walk, "a", "bb", "ccc"))
    seeds = []
    for token in (0, 1, 2):
        stage = walk(Walk, "x")
        rerun(stage, (2, 1), episode=episode, token=token)
        seeds.append(stage.policy.params[0].seed)
    assert len(set(seeds)) == 3
    with pytest.raises(ConfigError, match="from token 99 of turn 2"):
        rerun(walk(Walk, "x"), (2, 1), episode=episode, token=99)
