"""Pins: who branches when, which ids are forced, what a group may cost, what a fault in a branch does, and that every branch's
tokens are those the policy was shown and said."""

from __future__ import annotations

import asyncio
from dataclasses import replace as replace_data
from math import log

import msgspec
import pytest
from tests.rollout.rollout_worlds import CHAT, CHATS, TASK, TOKENIZER, TOOLS, SavedWalk, Walk, calling, stage_of, thinking

from phronesis.credit.baselines.trajectory import has_zero_variance
from phronesis.credit.replays.earl import EARLCredit
from phronesis.credit.rule import members
from phronesis.credit.trees.arpo import ARPOCredit
from phronesis.credit.trees.tree import TreeCredit
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError, EnvFault, TrainingError
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.reason.players.build import Alone, build
from phronesis.reason.players.earl import EARL, EARLPlayer
from phronesis.reason.players.routes import Route, common, place
from phronesis.reason.players.tree import TreePlayer
from phronesis.records import EpisodeGroup, Reply, Stop, say
from phronesis.rewards import EnvReward
from phronesis.rollout.forks import join, split
from phronesis.rollout.play import play_groups
from phronesis.rollout.prefix import PlayOn, check_world
from phronesis.train.batching import build_batch
from phronesis.train.dynamic import attempts, sample


class Talker(ScriptedPolicy):
    """Says ``word N`` at its N-th call; the entropy of a turn is that of `nats` at its prompt's depth (0 when not told)."""

    def __init__(self, nats=(), words=None, chat=CHAT):
        self.nats, self.count, self.chat = nats, 0, chat
        super().__init__(self._say, vocab_size=len(TOKENIZER))
        self.words = words

    def _say(self, prompt):
        self.count += 1
        text = self.words(prompt, self.count) if self.words else f"word {self.count}"
        return self.chat.render(text if not isinstance(text, str) else thinking(None, text))

    async def sample(self, prompt, params):
        found = await super().sample(prompt, params)
        depth = max(list(prompt).count(self.chat.stop_ids[0]) // 2 - 1, 0)
        nats = self.nats[depth] if depth < len(self.nats) else 0.0
        return msgspec.structs.replace(found, entropies=(nats,) * len(found.ids))


def talk(policy, *, make=Walk, rubric=None, **limits):
    stage = stage_of(make, policy, rubric=rubric or EnvReward(), chat=getattr(policy, "chat", CHAT), **limits)
    return replace_data(stage, vocabulary=len(TOKENIZER))


def one_group(stage, player, size, seed=3):
    return asyncio.run(play_groups(stage, [TASK], size=size, seed=seed, name="train", step=0, concurrency=1, player=player))[0]


def lines(group):
    """What was said on each branch of each episode."""
    return [[[CHAT.parse(e.turns[k].completion).message.text for k in e.line(end)] for end in e.ends] for e in group.episodes]


def assert_exact(group, policy, rule):
    """Every prompt on record is one the policy was shown; the batch builder proves the rest."""
    shown = set(policy.prompts)
    assert all(e.prompt(k) in shown for e in group.episodes for k in range(len(e.turns)))
    credit = asyncio.run(rule.assign(group))
    batch = build_batch([group], [credit])
    assert batch.trained_tokens == sum(e.sampled_tokens for e in group.episodes if e.id in batch.episodes)
    return credit


# ---------------------------------------------------------------------------------------------------------------- arpo


def test_arpo_branches_where_the_reply_raised_the_entropy():
    """Turn 1 is as sure as turn 0, turn 2 unsure beyond any draw: weight 10 and a rise of log|V| make p = 0."""
    sure = Talker(nats=(0.0, 0.0, log(len(TOKENIZER))))
    player = ARPOPlayer(initial=1, weight=10.0, threshold=0.0).begin()
    group = one_group(talk(sure), player, 2)
    assert lines(group) == [[["word 1", "word 2", "word 3"], ["word 1", "word 2", "word 4"]]]
    assert player.metrics() == {
        "player/declined": 1.0, "player/branches": 1.0, "player/faulted": 0.0, "player/env_steps": 1.0, "player/cut_off": 0.0,
        "player/filled": 0.0, "player/leaves": 2.0, "player/replayed": 2.0,
    }  # fmt: skip
    assert player.metrics() == {}
    assert_exact(group, sure, ARPOCredit())


def test_the_score_is_the_formulas():
    """Where the rise is nothing, p is the uniform draw: every threshold branches just the draws at or below it."""
    taken = []
    for threshold in (0.0, 0.25, 0.5, 0.75, 1.0):
        player = ARPOPlayer(initial=4, threshold=threshold).begin()
        one_group(talk(Talker()), player, 64)
        found = player.metrics()
        taken.append(found.get("player/branches", 0.0))
        assert found["player/leaves"] == 64 and found.get("player/branches", 0.0) + found["player/filled"] == 60
    assert taken[0] == 0 and taken == sorted(taken) and taken[-1] == 4 * (2 + 1), "each of 2 turns, then that of a new turn 1"


def test_a_falling_entropy_branches_less_and_a_rising_one_more():
    counts = []
    for last in (-1.0, 0.0, 1.0):
        player = ARPOPlayer(initial=32, weight=0.5).begin()
        nats = (log(len(TOKENIZER)) * 0.5, log(len(TOKENIZER)) * 0.5 * (1 + last))
        one_group(talk(Talker(nats=nats), make=lambda: Walk(length=2)), player, 96)
        counts.append(player.metrics().get("player/branches", 0.0))
    assert counts[0] < counts[1] < counts[2]


def test_a_group_has_as_many_leaves_as_it_may():
    """Both turns of both attempts ask for two more each; three are left: the earliest turns are served first."""
    player = ARPOPlayer(initial=2, beam=3, threshold=1.0).begin()
    group = one_group(talk(Talker()), player, 5)
    assert lines(group) == [
        [["word 1", "word 2", "word 3"], ["word 1", "word 7", "word 8"], ["word 1", "word 9", "word 10"]],
        [["word 4", "word 5", "word 6"], ["word 4", "word 11", "word 12"]],
    ]
    assert player.metrics()["player/over_budget"] == 2


def test_a_faulty_branch_stands_alone_and_a_faulty_attempt_has_none():
    made = []

    class Breaks(Walk):
        def __init__(self):
            super().__init__()
            made.append(self)
            self.bad = len(made) == 3

        async def step(self, action):
            if self.bad and self.at == 2:
                raise OSError("gone")
            return await super().step(action)

    policy = Talker()
    player = ARPOPlayer(initial=2, threshold=1.0).begin()
    group = one_group(talk(policy, make=Breaks), player, 4)
    assert [(e.stop, len(e.ends)) for e in group.episodes] == [(Stop.completed, 1), (Stop.env_fault, 1), (Stop.completed, 2)]
    assert group.episodes[1].id == "train-0-0-0/b1" and group.episodes[1].reward is None
    found = player.metrics()
    assert (found["player/faulted"], found["player/leaves"]) == (1, 3)
    credit = assert_exact(group, policy, ARPOCredit())
    assert credit.reasons == (None, "env_fault", None)

    made.clear()
    made.append(None)
    made.append(None)  # now the first world breaks
    player = ARPOPlayer(initial=1, threshold=1.0).begin()
    group = one_group(talk(Talker(), make=Breaks), player, 3)
    assert [e.stop.is_fault for e in group.episodes] == [True, False, False]
    assert (player.metrics()["player/short"], len(group.episodes)) == (1, 3)


def test_limits_are_those_of_an_attempt():
    group = one_group(talk(Talker(), make=lambda: Walk(length=9), max_turns=3), ARPOPlayer(initial=1, threshold=1.0).begin(), 3)
    assert [[len(line) for line in e] for e in lines(group)] == [[3, 3, 3]]
    assert [a.stop for a in split(group.episodes[0])] == [Stop.max_turns] * 3 and group.episodes[0].stop is Stop.max_turns


def test_arpo_refuses_what_it_cannot_measure():
    with pytest.raises(ConfigError, match="leaves none to branch"):
        ARPOPlayer(initial=4).check(4)
    with pytest.raises(ConfigError, match=r"Stage\.vocabulary"):
        one_group(replace_data(talk(Talker()), vocabulary=None), ARPOPlayer(initial=1).begin(), 2)

    class Silent(Talker):
        async def sample(self, prompt, params):
            return msgspec.structs.replace(await super().sample(prompt, params), entropies=None)

    with pytest.raises(ConfigError, match="reported none for turn 1"):
        one_group(talk(Silent()), ARPOPlayer(initial=1).begin(), 2)
    for wrong in ({"initial": 0}, {"beam": 1}, {"tokens": 0}, {"weight": -1.0}, {"threshold": 1.5}):
        with pytest.raises(ConfigError):
            ARPOPlayer(**wrong)


# ---------------------------------------------------------------------------------------------------------------- tree


@pytest.mark.parametrize(("make", "replayed"), [(Walk, 2 * 1 * 1 + 4 * 2), (SavedWalk, 2 * 1 + 4 * 2)])
def test_a_tree_has_its_widths(make, replayed):
    policy, player = Talker(), TreePlayer(widths=(2, 2, 2)).begin()
    group = one_group(talk(policy, make=make), player, 8)
    assert [[len(line) for line in e] for e in lines(group)] == [[3] * 4] * 2
    for e in group.episodes:
        firsts = [line[0] for line in map(e.line, e.ends)]
        seconds = [line[1] for line in map(e.line, e.ends)]
        assert len(set(firsts)) == 1 and sorted(map(seconds.count, set(seconds))) == [2, 2]
        assert len(e.turns) == 1 + 2 + 4, "shared turns are stored once"
    found = player.metrics()
    assert (found["player/leaves"], found["player/branches"], found["player/replayed"]) == (8, 6, replayed)
    assert_exact(group, policy, TreeCredit())


def test_worlds_with_snapshots_replay_once_for_all_siblings():
    for make, replayed in ((Walk, 4 * 2), (SavedWalk, 2)):
        player = TreePlayer(widths=(1, 1, 5)).begin()
        group = one_group(talk(Talker(), make=make), player, 5)
        assert [len(line) for line in lines(group)[0]] == [3] * 5
        assert player.metrics()["player/replayed"] == replayed


def test_segments_of_several_turns_and_attempts_that_end_before_a_level():
    player = TreePlayer(widths=(1, 2, 2), every=2).begin()
    group = one_group(talk(Talker()), player, 4)
    assert lines(group) == [[["word 1", "word 2", "word 3"], ["word 1", "word 2", "word 4"]]]
    assert player.metrics()["player/short"] == 2
    with pytest.raises(ConfigError, match="has 4 leaves, and group_size is 8"):
        TreePlayer(widths=(2, 2)).check(8)
    for wrong in ({"widths": ()}, {"widths": (0,)}, {"every": 0}):
        with pytest.raises(ConfigError):
            TreePlayer(**wrong)


def test_tree_credit_reads_the_branches_rewards():
    """Rewards are the lengths of last words: 6 on one branch, 7 on the other; each against its sibling."""
    policy = Talker(words=lambda prompt, n: "sevenxx" if n == 4 else "sixsix")
    group = one_group(talk(policy), TreePlayer(widths=(1, 1, 2)).begin(), 2)
    (episode,) = group.episodes
    assert episode.reward.value == 6.5 and [a.reward.value for a in split(episode)] == [6.0, 7.0]
    credit = assert_exact(group, policy, TreeCredit())
    assert [row[-1] for row in credit.values[0]] == [0.0, 0.0, -1.0, 1.0]
    arpo = asyncio.run(ARPOCredit().assign(group))
    assert [round(row[-1], 3) for row in arpo.values[0]] == [0.0, 0.0, -0.707, 0.707]


def test_branches_of_different_reward_are_a_signal_for_dynamic_sampling():
    """Each of two episodes is worth 6.5, since its branches earned 6 and 7."""
    policy = Talker(words=lambda prompt, n: "sevenxx" if n in (7, 8) else "sixsix")
    group = one_group(talk(policy), TreePlayer(widths=(2, 1, 2)).begin(), 4)
    assert [e.reward.value for e in group.episodes] == [6.5, 6.5] and has_zero_variance(group)

    async def play(n, first):
        return [group] * n

    sampled = asyncio.run(sample(play, 1, 3))
    assert (len(sampled.groups), sampled.rounds) == (1, 1)
    same = one_group(talk(Talker(words=lambda p, n: "six")), TreePlayer(widths=(2, 1, 2)).begin(), 4)
    assert has_zero_variance(attempts(same))


def test_rewritten_histories_branch_as_well():
    """Thoughts are dropped from the prompt, so that every turn begins at a root; branches still share what came before."""
    policy = Talker(words=lambda prompt, n: thinking(f"thought {n}", f"word {n}"), chat=CHATS["strip"])
    group = one_group(talk(policy), TreePlayer(widths=(1, 2, 2)).begin(), 4)
    (episode,) = group.episodes
    assert all(t.parent is None for t in episode.turns) and len(episode.turns) == 7
    assert [len(episode.line(end)) for end in episode.ends] == [3] * 4
    assert_exact(group, policy, TreeCredit())


def test_branches_draw_what_no_other_attempt_draws_and_equal_plays_are_equal():
    def seeds(size):
        policy = Talker()
        one_group(talk(policy), TreePlayer(widths=(size, 2, 2)).begin(), size * 4)
        return [p.seed for p in policy.params]

    assert len(set(seeds(2))) == len(seeds(2)) and seeds(2) == seeds(2)


# ---------------------------------------------------------------------------------------------------------------- forks


def test_a_joined_episode_splits_into_what_it_was_joined_from():
    group = one_group(talk(Talker()), TreePlayer(widths=(1, 2, 2)).begin(), 4)
    (episode,) = group.episodes
    parts = split(episode)
    assert [a.reward.value for a in parts] == [6.0, 6.0, 6.0, 6.0] and len({a.id for a in parts}) == 4
    for part, end in zip(parts, episode.ends, strict=True):
        assert [t.completion for t in part.turns] == [episode.turns[k].completion for k in episode.line(end)]
        assert [t.follows for t in part.turns] == [-1, 0, 1] and part.reward.branches == ()
        assert part.prompt(2) == episode.prompt(end)
    assert episode.earned == tuple(6.0 if k in episode.ends else 0.0 for k in range(7))
    assert msgspec.json.decode(msgspec.json.encode(episode), type=type(episode)) == episode
    assert split(parts[0]) == (parts[0],) and join([parts[0]]) is parts[0]


def test_why_each_branch_ended_is_kept():
    """One branch says stop, the other runs into the limit."""
    policy = Talker(words=lambda prompt, n: "stop" if n == 4 else f"word {n}")
    group = one_group(talk(policy, make=lambda: Walk(length=9), max_turns=3), TreePlayer(widths=(1, 2)).begin(), 2)
    (episode,) = group.episodes
    assert (episode.stop, episode.stops) == (Stop.completed, (Stop.max_turns, Stop.completed))
    assert [a.stop for a in split(episode)] == [Stop.max_turns, Stop.completed]


@pytest.mark.parametrize(
    "player", [TreePlayer(widths=(1, 3)), ARPOPlayer(initial=1, beam=3, threshold=1.0)], ids=["tree", "arpo"]
)
def test_a_branch_without_a_turn_of_its_own_is_counted_and_no_attempt(monkeypatch, player):
    """The clock of the first of two branches runs out while its world is brought there: it holds shared turns alone."""
    replay, brought = PlayOn._replay, []

    async def late(self, session, cut):
        brought.append(cut)
        await replay(self, session, cut)
        if len(brought) == 1:
            raise session.attempt.end(Stop.timeout)

    monkeypatch.setattr(PlayOn, "_replay", late)
    policy, playing = Talker(), player.begin()
    (episode,) = one_group(talk(policy), playing, 3).episodes
    assert episode.reward.branches == episode.ends and len(episode.ends) == 2
    assert (episode.stop, episode.stops, episode.reward.value) == (Stop.completed, (), 6.0)
    assert [[CHAT.parse(t.completion).message.text for t in a.turns] for a in split(episode)] == [
        ["word 1", "word 2", "word 3"], ["word 1", "word 4", "word 5"]
    ]  # fmt: skip
    found = playing.metrics()
    assert (found["player/branches"], found["player/cut_off"], found["player/leaves"]) == (2, 1, 2)
    group = EpisodeGroup(id="train-0-0", task=TASK, episodes=(episode,))
    assert_exact(group, policy, TreeCredit())
    assert_exact(group, policy, ARPOCredit())


def test_attempts_without_an_end_of_their_own_cannot_be_joined():
    (episode,) = one_group(talk(Talker()), TreePlayer(widths=(1,)).begin(), 1).episodes
    cut = [
        msgspec.structs.replace(episode, id=f"b{n}", turns=episode.turns[:n], stop=Stop.timeout, reward=None) for n in (2, 2, 0)
    ]
    for wrong in ((episode, cut[0]), (cut[0], episode), (cut[0], cut[1]), (episode, cut[2])):
        with pytest.raises(TrainingError, match=r"'b[20]' \(timeout\) has no last turn of its own"):
            join(wrong)


# ----------------------------------------------------------------------------------------------------------------- earl


class Shop(Walk):
    """Pays 1 when ``buy`` is called, at any turn; offers look and buy."""

    def __init__(self):
        super().__init__()
        self.bought = False

    async def reset(self, task, seed):
        tools = tuple(msgspec.structs.replace(TOOLS[0], name=name) for name in ("look", "buy"))
        return Reply(messages=(say("user", "shop"),), tools=tools)

    async def step(self, action):
        self.at += 1
        self.bought |= any(call.name == "buy" for call in action.tool_calls)
        done = self.at == 2
        return Reply(messages=() if done else (say("user", "on"),), done=done, reward=float(self.bought) if done else None)


def test_where_all_failed_a_route_is_forced_that_was_not_taken():
    tail = CHAT.render(calling("buy"))[len(Route("buy").ids(CHAT, thought=False)) :]
    policy = Talker(words=lambda prompt, n: calling("look"))
    ask = policy._say
    policy.replies = lambda prompt: tail if policy.params[-1].forced else ask(prompt)
    player = EARLPlayer().begin()
    group = one_group(talk(policy, make=Shop), player, 2)
    assert [e.id for e in group.episodes] == [
        "train-0-0-0", "train-0-0-1", "train-0-0-0/forced", "train-0-0-1/forced"
    ]  # fmt: skip
    assert [e.reward.value for e in group.episodes] == [0.0, 0.0, 1.0, 1.0]
    forced = Route("buy").ids(CHAT, thought=False)
    for e in group.episodes[2:]:
        at = next(k for k, t in enumerate(e.turns) if not all(t.sampled))
        turn = e.turns[at]
        assert turn.completion[: len(forced)] == forced and turn.sampled == tuple(
            t >= len(forced) for t in range(len(turn.sampled))
        )
        assert turn.action.tool_calls[0].name == "buy"
    found = player.metrics()
    assert (found["player/routes"], found["player/gain"]) == (2.0, 1.0)
    # .9 * .9 * .001 + .9 * .1 + .1: two gains of 1
    assert isinstance(player, EARL) and player.state()["buy"] == pytest.approx(0.00081 + 0.09 + 0.1)
    credit = assert_exact(group, policy, EARLCredit())
    first = credit.values[2]
    assert {a for row in credit.values[0] for a in row} == {0.0}
    k = next(k for k, t in enumerate(group.episodes[2].turns) if not all(t.sampled))
    assert first[k][: len(forced)] == (0.0,) * len(forced) and set(first[k][len(forced) :]) == {1.0}
    again = EARLPlayer().begin()
    again.restore(player.state())
    assert again.state() == player.state()


def test_a_group_with_a_success_forces_nothing():
    policy = Talker(words=lambda prompt, n: calling("buy" if n == 1 else "look"))
    player = EARLPlayer().begin()
    group = one_group(talk(policy, make=Shop), player, 2)
    assert len(group.episodes) == 2 and player.metrics() == {}


def test_a_route_every_turn_took_leaves_none_to_force():
    class One(Shop):
        async def reset(self, task, seed):
            return msgspec.structs.replace(await super().reset(task, seed), tools=TOOLS)

    player = EARLPlayer().begin()
    group = one_group(talk(Talker(words=lambda prompt, n: calling("step")), make=One), player, 2)
    assert len(group.episodes) == 2 and player.metrics()["player/no_route"] == 2


def test_routes_begin_behind_a_thought_and_never_inside_one():
    turn = one_group(talk(Talker(words=lambda p, n: calling("look", thought="hm")), make=Shop), None, 1).episodes[0].turns[0]
    at = place(turn)
    whole = CHAT.render(calling("buy", thought="hm"))
    assert at is not None and whole[at:][: len(Route("buy").ids(CHAT, thought=True))] == Route("buy").ids(CHAT, thought=True)
    cut = msgspec.structs.replace(turn, completion=turn.completion[:3], spans=(msgspec.structs.replace(turn.spans[0], end=3),))
    assert place(cut) is None
    assert common([(1, 2, 3), (1, 2, 4, 5)]) == (1, 2)
    assert Route("look").taken(turn) and not Route("buy").taken(turn)
    letter = Route("c", say("assistant", "c"))
    assert letter.ids(CHAT, thought=False) == CHAT.render(say("assistant", "c"))[:-1]


def test_a_world_without_routes_is_refused():
    class Poor(Walk):
        async def step(self, action):
            return msgspec.structs.replace(await super().step(action), reward=0.0)

    with pytest.raises(ConfigError, match="neither tools nor a list of legal actions"):
        one_group(talk(Talker(), make=Poor), EARLPlayer().begin(), 2)


# ---------------------------------------------------------------------------------------------------- what cannot be done


class Moody(Walk):
    """Greets differently every time it is made."""

    made = 0

    async def reset(self, task, seed):
        type(self).made += 1
        return Reply(messages=(say("user", f"mood {self.made}"),))


def test_a_world_that_is_no_function_of_its_seed_is_refused_before_and_while_playing():
    stage = talk(Talker(), make=Moody)
    with pytest.raises(ConfigError, match="its reset answered otherwise in a fresh instance"):
        asyncio.run(check_world(stage.spec, TASK, 1))
    with pytest.raises(EnvFault, match="cannot re-run 'train-0-0-0' from turn 1"):
        one_group(stage, TreePlayer(widths=(1, 2)).begin(), 2)

    class Drifts(Walk):
        made = 0

        async def step(self, action):
            type(self).made += 1
            return Reply(messages=(say("user", f"{self.made}"),))

    with pytest.raises(ConfigError, match="its step 1 answered otherwise"):
        asyncio.run(check_world(talk(Talker(), make=Drifts).spec, TASK, 1))
    asyncio.run(check_world(talk(Talker()).spec, TASK, 1))

    def broken():
        raise OSError("no world")

    async def attempt():
        await check_world(EnvSpec(name="x", make=lambda: Broken(), task=lambda s, i: TASK, rubric=EnvReward()), TASK, 1)

    class Broken(Walk):
        async def reset(self, task, seed):
            broken()

    asyncio.run(attempt())


def my_player():
    return EARLPlayer().begin()


def test_players_by_name():
    assert build(Alone()) is None and isinstance(build(EARLPlayer()), EARL)
    assert isinstance(build("test_players:my_player"), EARL)
    with pytest.raises(ConfigError, match="has no play, settle and metrics"):
        build("builtins:dict")
    with pytest.raises(ConfigError, match="name a class or function"):
        build("math:pi")


def test_without_a_player_nothing_changes():
    group = one_group(talk(Talker()), None, 2)
    assert [e.id for e in group.episodes] == ["train-0-0-0", "train-0-0-1"] and members(group).kept == (0, 1)
