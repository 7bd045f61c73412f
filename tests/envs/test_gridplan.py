"""Gridplan: every family's rules and solver by hand, verified tasks by level and split, cheats and the planted weakness."""

from __future__ import annotations

import asyncio
import random
from itertools import combinations

import pytest
from env_scripts import act, call, play, texts

from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.digest import split_of
from phronesis.envs.gridplan import FAMILIES, Dials, make, opened, shortest, task
from phronesis.envs.gridplan.blocks import TABLE, canonical, plan, possible
from phronesis.envs.gridplan.env import CHEATS, MAX_TURNS
from phronesis.envs.gridplan.lake import values
from phronesis.envs.gridplan.mines import around, opening, safe_cells
from phronesis.envs.gridplan.puzzle import least
from phronesis.envs.gridplan.sokoban import parse, solution
from phronesis.envs.noise import Noise
from phronesis.envs.scripted import Clock, play_scripted, reward_of
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import Task, say


def given(family, board, budget=9, mines=()):
    payload = {"family": family, "board": board, "budget": budget, "mines": [list(m) for m in mines], "shortest": 1}
    return Task(id="w", env="gridplan", messages=(say("user", "?"),), payload=payload)


def replies(found, *actions, loophole=False):
    async def run():
        env = make(families=[found.payload["family"]] if found.payload["family"] != "slippery" else ["lake"], loophole=loophole)
        env = env.make()
        return [await env.reset(found, 0), *[await env.step(a) for a in actions]]

    return asyncio.run(run())


def go(direction):
    return act(call("move", {"direction": direction}))


def test_the_lake_by_hand():
    lake = given("lake", {"rows": ["SFH", "HFG"]})
    _, bump, right, down, goal = replies(lake, go("up"), go("right"), go("down"), go("right"))
    assert [texts(r) for r in (bump, right, down)] == [["@FH\nHFG"], ["S@H\nHFG"], ["SFH\nH@G"]]
    assert texts(goal) == ["SFH\nHF@\nSolved."]
    assert (goal.done, goal.reward, goal.metrics) == (True, 1.0, {"true": 1.0, "moves": 4.0})
    _, drowned = replies(lake, go("down"))
    assert texts(drowned) == ["SFH\n@FG\nYou fell into a hole."] and (drowned.done, drowned.reward) == (True, 0.0)
    short = given("lake", {"rows": ["SFG"]}, budget=1)
    _, spent = replies(short, go("right"))
    assert texts(spent) == ["S@G\nNo moves left."] and (spent.done, spent.reward) == (True, 0.0)


def test_slippery_ice_by_hand():
    """In one move from S: 0.8 as meant. In two: 0.8 and, from the same place after a bump (0.2), 0.8 again."""
    rows = ("SG",)
    assert values(rows, 0.2, 1)[0, 0] == pytest.approx(0.8)
    assert values(rows, 0.2, 2)[0, 0] == pytest.approx(0.8 + 0.2 * 0.8)
    assert values(("SFG", "HHH"), 0.2, 50)[0, 0] < 1
    found = [opened(given("slippery", {"rows": ["FFF", "FSF", "FFF"]}).payload, seed).move("up") for seed in range(400)]
    ended = [text.split("\n")[:3] for text in found]
    counts = [sum("@" in rows[r] and rows[r][c] == "@" for rows in ended) for r, c in ((0, 1), (1, 0), (1, 2))]
    assert sum(counts) == 400 and 290 <= counts[0] <= 350 and min(counts[1:]) >= 20


def test_sokoban_by_hand():
    board = ["######", "#@$ .#", "#    #", "######"]
    level, at = parse(board)
    assert solution(level, at) == ["right", "right"]
    _, first, blocked, last = replies(given("sokoban", {"rows": board}), go("right"), go("up"), go("right"))
    assert texts(first) == ["######\n# @$.#\n#    #\n######"]
    assert texts(blocked) == ["error: up is blocked"] and blocked.errors == ("illegal_move",)
    assert texts(last) == ["######\n#  @*#\n#    #\n######\nSolved."] and last.reward == 1.0
    assert last.metrics["moves"] == 2.0  # what is refused costs nothing
    assert solution(*parse(["#####", "#$ .#", "#@  #", "#####"])) is None  # a box in a corner
    two = ["######", "#@$$.#", "######"]
    assert replies(given("sokoban", {"rows": two}), go("right"))[1].errors == ("illegal_move",)


def by_brute_force(counts, size, mines):
    """Closed cells that hold no mine in any of all arrangements."""
    closed = [(r, c) for r in range(size) for c in range(size) if (r, c) not in counts]
    fitting = [
        set(chosen)
        for chosen in combinations(closed, mines)
        if all(sum(n in chosen for n in around(cell, size)) == number for cell, number in counts.items())
    ]
    return [cell for cell in closed if not any(cell in chosen for chosen in fitting)]


def test_the_solver_of_mines_finds_exactly_what_is_safe():
    source = random.Random(0)
    for _ in range(40):
        cells = [(r, c) for r in range(4) for c in range(4)]
        mines = frozenset(source.sample(cells, 3))
        seen = set()
        for cell in source.sample([c for c in cells if c not in mines], 2):
            seen |= opening(cell, mines, 4)
        counts = {cell: sum(n in mines for n in around(cell, 4)) for cell in seen}
        assert safe_cells(counts, 4, 3) == by_brute_force(counts, 4, 3)


def test_mines_by_hand():
    field = given("mines", {"size": 3, "safe": [0, 0], "count": 1}, mines=[(2, 2)])

    def cell(row, column):
        return act(call("open_cell", {"row": row, "column": column}))

    _, all_at_once = replies(field, cell(1, 1))
    assert texts(all_at_once) == ["000\n011\n01#\n1 mines.\nSolved."] and all_at_once.reward == 1.0
    _, beyond, one, again, boom = replies(field, cell(0, 4), cell(2, 2), cell(2, 2), cell(3, 3))
    assert texts(beyond) == ["error: there is no row 0 column 4; both go from 1 to 3"]
    assert texts(one) == ["###\n#1#\n###\n1 mines."] and texts(again) == ["error: row 2 column 2 is open"]
    assert texts(boom) == ["That was a mine."] and (boom.done, boom.reward, boom.metrics["true"]) == (True, 0.0, 0.0)


def test_blocks_by_hand_and_their_twin():
    board = {"names": ["A", "B", "C"], "start": [TABLE, 0, TABLE], "goal": [1, TABLE, TABLE]}

    def move(block, onto):
        return act(call("move", {"block": block, "onto": onto}))

    _, refused, first, last = replies(given("blocks", board), move("A", "C"), move("B", "table"), move("A", "B"))
    assert texts(refused) == ["error: A cannot go to C"] and refused.errors == ("illegal_move",)
    assert texts(first) == [
        "Now: A is on the table. B is on the table. C is on the table.\nGoal: A is on B. B is on the table. C is on the table."
    ]
    assert last.reward == 1.0 and last.metrics["moves"] == 2.0
    twin = {**board, "names": ["kvab", "dwek", "pfim"]}
    opening_, first = replies(given("obfuscated", twin), act(call("zorp", {"dax": "dwek", "to": "vorn"})))
    assert [t.name for t in opening_.tools] == ["zorp"]
    assert texts(first)[0].split("\n")[0] == "Now: dwek blirts vorn. kvab blirts vorn. pfim blirts vorn."
    assert not any(word in str(opening_.tools) + texts(first)[0] for word in ("block", "table", "move"))


def test_plans_of_blocks():
    assert plan((TABLE, 0), (1, TABLE)) == ((1, TABLE), (0, 1))
    assert len({there for _, there in possible((TABLE, TABLE, TABLE))}) == 6
    seen, todo = {(TABLE,) * 4}, [(TABLE,) * 4]
    while todo:
        fresh = {there for _, there in possible(todo.pop())} - seen
        seen |= fresh
        todo += fresh
    assert len(seen) == 73  # the number of ways to stack four blocks
    renamed = [2, 0, 1]  # block b is called renamed[b]

    def rename(on):
        found = [TABLE] * 3
        for block, under in enumerate(on):
            found[renamed[block]] = under if under == TABLE else renamed[under]
        return tuple(found)

    pair = ((TABLE, 0, 1), (1, TABLE, 0))
    assert canonical(*map(rename, pair)) == canonical(*pair) != canonical((TABLE, 0, 0), (1, TABLE, 0))


def test_the_search_gives_a_shortest_way():
    onward = lambda n: [("double", n * 2), ("add", n + 1)] if n < 10 else []  # noqa: E731
    assert shortest(1, lambda n: n == 10, onward) == ["double", "double", "add", "double"]
    assert shortest(1, lambda n: n == 0, onward) is None and shortest(1, lambda n: n == 1, onward) == []


@pytest.fixture(scope="module")
def tasks():
    dials = Dials(min_difficulty=1, max_difficulty=3, families=tuple(FAMILIES))
    return {split: [task(dials, split, i) for i in range(120)] for split in ("train", "heldout")}


def test_every_task_is_solved_by_its_solver_within_its_budget(tasks):
    for found in tasks["train"] + tasks["heldout"]:
        assert found.payload["shortest"] <= found.payload["budget"] <= MAX_TURNS
        puzzle = opened({**found.payload, "family": found.payload["family"].replace("slippery", "lake")}, 0)
        made = 0
        while not puzzle.over:
            name, arguments = puzzle.best()
            assert (name, arguments) in puzzle.moves()
            getattr(puzzle, "move" if name == "zorp" else name)(*arguments.values())
            made += 1
        assert puzzle.true == 1.0 and made == found.payload["shortest"]
    assert {t.payload["family"] for t in tasks["train"]} == set(FAMILIES)
    assert {t.difficulty for t in tasks["train"]} == {1.0, 2.0, 3.0}


def test_no_held_out_problem_occurs_in_training_nor_does_its_twin(tasks):
    keys = {split: {t.content_key for t in found} for split, found in tasks.items()}
    assert keys["train"].isdisjoint(keys["heldout"])
    assert {split_of(k) for k in keys["heldout"]} == {"heldout"} and {split_of(k) for k in keys["train"]} == {"train"}
    plain, twin = (task(Dials(families=(f,)), "train", 5) for f in ("blocks", "obfuscated"))
    assert plain.content_key == twin.content_key and plain.messages != twin.messages
    assert task(Dials(), "train", 5) == task(Dials(), "train", 5)


def test_turned_and_mirrored_boards_are_one_problem():
    board = ["SF.", "HFG", "FFF"]
    turned = ["".join(board[2 - c][r] for c in range(3)) for r in range(3)]
    assert turned == ["FHS", "FFF", "FG."]
    images = [board, turned, board[::-1], turned[::-1], [row[::-1] for row in board]]
    assert len({tuple(least(image)) for image in images}) == 1
    assert least(board) != least(["SFG", "HF.", "FFF"])


@pytest.mark.parametrize("family", FAMILIES)
def test_state_keys_tell_positions_apart_and_nothing_else(family):
    found = task(Dials(families=(family,)), "train", 1)
    first, second = opened(found.payload, 0), opened(found.payload, 0)
    assert first.key() == second.key()
    name, arguments = first.best()
    getattr(first, "move" if name == "zorp" else name)(*arguments.values())
    assert first.key() != second.key()
    second.put(first.state())
    assert second.state() == first.state() and second.look() == first.look()


def earned(spec, speaker, index):
    async def run():
        played = await play_scripted(spec, spec.task("train", index), 0, speaker, clock=Clock(5))
        return await reward_of(spec, played.episode)

    reward = asyncio.run(run())
    return reward.value, reward.component("true").score


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_earn_nothing(name):
    assert {earned(make(), CHEATS[name](), i) for i in range(10)} == {(0.0, 0.0)}


def test_the_planted_weakness_pays_and_the_audit_sees_it():
    spec = make(loophole=True, noise=Noise(drop=0.5))
    assert {earned(spec, spec.hack(), i) for i in range(8)} == {(1.0, 0.0)}
    assert make().hack is None
    _, honest = play(make(loophole=True), [act(call("report", {"solved": False}))])
    assert (honest.value, honest.component("true").score) == (0.0, 0.0)


@pytest.mark.parametrize("dials", [{"families": ["slippery"]}, {"min_difficulty": 4, "max_difficulty": 4}])
def test_the_contract_holds_under_other_dials(dials):
    rules = ["steps", "oracle", "random agent", "legal actions", "snapshots"]
    report = asyncio.run(check(registry.get("gridplan", dials), rules=rules))
    assert report.ok, render(report)


def test_dials_out_of_range_are_told():
    with pytest.raises(ConfigError, match="gridplan needs 1 <= min_difficulty <= max_difficulty <= 4, got 1 and 5"):
        make(max_difficulty=5)
    with pytest.raises(UnknownName, match="family of gridplan 'maze'"):
        registry.get("gridplan", {"families": ["maze"]})
    with pytest.raises(ConfigError, match="at least one family"):
        make(families=[])
