"""MicroWiki: who is believed about what, by hand; proofs, renaming, evidence that decides, altered copies, and every cheat."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections import Counter

import pytest
from env_scripts import act, call, play, texts

from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.digest import split_of
from phronesis.envs.final import field, listed
from phronesis.envs.game_env import game_of
from phronesis.envs.microwiki import Dials, MicroWiki, altered, corpus_of, judge, make, provenance, renamed, task
from phronesis.envs.microwiki.env import CHEATS, told
from phronesis.envs.microwiki.pages import FORUM, KINDS, NEWSPAPER, OLD, REGISTER, library
from phronesis.envs.microwiki.stdlib import routines
from phronesis.envs.microwiki.tasks import Plan, generated, question
from phronesis.envs.microwiki.world import World, world
from phronesis.envs.scripted import Clock, expert, play_scripted, reward_of
from phronesis.errors import ConfigError
from phronesis.records import say
from phronesis.tools.search import Page

SMALL = World(
    kinds=("person", "town", "river", "person"),
    facts={
        (0, "birthplace"): 1,
        (0, "teacher"): 3,
        (0, "born"): 1801,
        (1, "river"): 2,
        (1, "mayor"): 0,
        (1, "founded"): 1200,
        (1, "population"): 5000,
        (2, "mouth"): 1,
        (2, "length"): 70,
        (3, "birthplace"): 1,
        (3, "teacher"): 0,
        (3, "born"): 1777,
    },
    names=("Ada Mond", "Corburg", "Ulva", "Milo Sen"),
    aliases=("Ada Vik", "Selstad", "Zana", "Milo Ley"),
)
"""Two persons, one town, one river."""
PEOPLE = (1, "population")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("answer: 5000\npages: p1, p2", ""),
        ("I read it.\nAnswer:  5000\nPages: p2,p1, p3", ""),
        ("answer: 5001\npages: p1, p2", "'5001' is not the answer"),
        ("answer: 5,000\npages: p1, p2", "'5,000' is not the answer"),
        ("answer: 5000\nanswer: 5001\npages: p1, p2", "no single answer"),
        ("5000 (p1, p2)", "no single answer"),
        ("answer: 5000", "step 1 is not proven by a page that counts"),
        ("answer: 5000\npages: p1", "step 2 is not proven by a page that counts"),
        ("answer: 5000\npages: p1\npages: p2", "step 1 is not proven by a page that counts"),
        ("answer: 5000\npages: p1, p2, p9", "'p9' was not opened in this episode"),
        ("answer: 5000\npages: p1, p2, p3, p4, p5", "5 pages are named where 2 prove it"),
        ("", "no single answer"),
    ],
)
def test_verdicts_by_hand(text, problem):
    verdict = judge(text, "5000", ["p1", "p2"], ["p1", "p2", "p3", "p4", "p5"])
    assert verdict.problem == problem
    assert verdict.proven is (problem == "") and verdict.value is (
        "answer: 5000" in text.lower().replace("  ", " ") and text.count("nswer:") == 1
    )


def test_named_lines():
    assert field("answer: a\nANSWER: a", "answer") == "a"  # the same twice is one
    assert [field(t, "answer") for t in ("answer:", "answer: a\nanswer: b", "answer: " + "x" * 201, "the answer: a")] == [
        None
    ] * 4
    assert field("answer: a" + " " * 20_000, "answer") is None
    assert listed(" p1 ,, p2") == ["p1", "p2"]


@pytest.mark.parametrize(
    ("kind", "believed", "doubted"),
    [
        ("register", REGISTER, "encyclopaedia, edition 2024"),
        ("edition", "encyclopaedia, edition 2024", OLD),
        ("newspaper", "encyclopaedia, edition 2024", NEWSPAPER),
        ("press", NEWSPAPER, FORUM),
        ("mirror", "encyclopaedia, edition 2024", "mirror of "),
    ],
)
def test_whom_to_believe(kind, believed, doubted):
    """5000 people live in Corburg; the source that counts most says so, another one says something else."""
    found = library(SMALL, "s", [PEOPLE], {PEOPLE: kind}, 0.0)
    pages = {page.id: page for page in found.pages}
    proof, trap = pages[found.evidence[PEOPLE]], pages[found.wrong_page[PEOPLE]]
    assert proof.source == believed and "Corburg has 5000 inhabitants." in proof.text
    assert trap.source.startswith(doubted) and f"Corburg has {found.wrong[PEOPLE]} inhabitants." in trap.text
    assert found.wrong[PEOPLE] != 5000 and "5000" not in trap.text
    others = [p for p in found.pages if p.source == "encyclopaedia, edition 2024" and "5000" in p.text]
    assert len(others) == (kind in ("edition", "newspaper", "mirror"))  # elsewhere the encyclopaedia is wrong or silent
    assert found.altered == ((trap.id,) if kind == "mirror" else ())


def test_an_altered_copy_is_flagged_by_its_fingerprint():
    page = Page(id="a", title="T", text="one 5000 two", source="encyclopaedia")
    faithful = Page(id="b", title="T", text="one 5000 two", source="mirror of a")
    changed = Page(id="c", title="T", text="one 5007 two", source="mirror of a")
    orphan = Page(id="d", title="T", text="one 5000 two", source="mirror of z")
    assert altered([page, faithful, changed, orphan]) == ("c", "d")
    assert provenance(page) == provenance(faithful) != provenance(changed)


def test_pages_that_are_not_the_frozen_ones_are_refused():
    found = make().task("train", 0)
    corpus_of(found.payload)
    with pytest.raises(ConfigError, match="the pages differ"):
        corpus_of({**found.payload, "frozen": "0" * 16})


def test_questions_in_words():
    ask = Plan(0, ("birthplace", "population"), ("", ""), True)
    facts = [(0, "birthplace"), PEOPLE]
    assert question(SMALL, ask, facts, frozenset()) == "How many inhabitants has the town in which Ada Mond was born?"
    assert question(SMALL, ask, facts, frozenset({0})) == "How many inhabitants has the town in which Ada Vik was born?"
    ends = Plan(2, ("mouth",), ("",), False)
    assert question(SMALL, ends, [(2, "mouth")], frozenset()) == "What is the name of the town at which the river Ulva ends?"


def test_a_world_can_be_told_in_other_words():
    one, two = world("s", "a"), world("s", "b")
    assert one.facts == two.facts and one.kinds == two.kinds and not set(one.names) & set(two.names)
    assert len(set(one.names + one.aliases)) == 2 * len(one.kinds)
    assert world("t", "a").names == one.names and world("t", "a").facts != one.facts


async def _episode(spec, chosen, speaker):
    played = await play_scripted(spec, chosen, 0, speaker, clock=Clock(5))
    return played, await reward_of(spec, played.episode)


def test_the_verdict_does_not_depend_on_names():
    """The oracle earns as much on an isomorphic copy, in as many steps, by the same pages."""
    spec = make(max_difficulty=4)
    for index in range(8):
        first = spec.task("train", index)
        second = renamed(first, f"other-{index}")
        assert second.content_key == first.content_key and second.payload["evidence"] == first.payload["evidence"]
        (a, paid), (b, paid_too) = (asyncio.run(_episode(spec, t, expert())) for t in (first, second))
        assert (paid.value, len(a.actions)) == (paid_too.value, len(b.actions)) == (1.0, 2 * len(first.payload["evidence"]) + 1)
        if not first.payload["answer"].isdigit():
            assert second.payload["answer"] != first.payload["answer"]


def test_another_evidence_demands_another_answer():
    """Same names, other facts: what was right before is not paid, however well it is proven."""
    spec, changed = make(), 0
    for index in range(6):
        found = spec.task("train", index)
        corpus = {**found.payload["corpus"], "seed": f"swapped-{index}"}
        _, problem, _ = generated(**corpus)
        if problem.answer != found.payload["answer"]:
            changed += 1
            assert not judge(
                told(found.payload["answer"], problem.evidence), problem.answer, problem.evidence, problem.evidence
            ).value
    assert changed >= 5


def test_an_episode_by_hand():
    """A register corrects the encyclopaedia about one fact; the register's page must be named, and have been opened."""
    spec = make(1, 1, conflicts=1.0)
    index = next(
        i
        for i in range(60)
        if (found := corpus_of(spec.task("train", i).payload))[1].misled
        and next(p for p in found[0] if p.id == found[1].evidence[0]).source == REGISTER
    )
    _, problem = corpus_of(spec.task("train", index).payload)
    proof, trap, wrong = problem.evidence[0], problem.traps[0], problem.misled[0]
    look = act(call("search", {"query": problem.steps[0]}))
    opens = act(call("open_page", {"id": proof}), call("find_in_page", {"id": trap, "text": wrong}, n=1))
    played, reward = play(spec, [look, opens, say("assistant", told(problem.answer, [proof, trap]))], index)
    assert f"[{proof}] Entry: {problem.steps[0]} (official register)" in texts(played.replies[0])[0]
    assert problem.answer in texts(played.replies[1])[0] and wrong in texts(played.replies[1])[1]
    assert (reward.value, reward.component("true").score) == (1.0, 1.0)
    for text, misled in [
        (told(wrong, [trap]), 1.0),
        (told(problem.answer, [trap]), 0.0),
        (told(problem.answer, []), 0.0),
    ]:
        _, reward = play(spec, [opens, say("assistant", text)], index)
        assert (reward.value, reward.component("true").score, reward.component("misled").score) == (0.0, 0.0, misled)
    _, reward = play(spec, [look, say("assistant", told(problem.answer, [proof]))], index)
    assert reward.value == 0.0 and reward.component("unproven").score == 1.0  # a hit of a search was not opened


def test_opening_an_altered_copy_is_seen_by_the_audit():
    spec = make(1, 1, conflicts=1.0)
    index = next(
        i
        for i in range(80)
        if set(corpus_of((t := spec.task("train", i)).payload)[1].traps) & set(altered(corpus_of(t.payload)[0]))
    )
    _, problem = corpus_of(spec.task("train", index).payload)
    opens = act(call("open_page", {"id": problem.traps[0]}))
    _, reward = play(spec, [opens, say("assistant", told(problem.misled[0], problem.traps))], index)
    assert reward.value == 0.0 and reward.component("altered_opened").score >= 1 and reward.component("misled").score == 1.0


def test_long_pages_are_read_with_a_cursor_and_found_in():
    found = make().task("train", 0)
    game = MicroWiki(found.payload, 0)
    long = next(page for page in game.pages if len(page.text) > 2000 and page.source.startswith("encyclopaedia"))
    assert "continue with cursor=2000" in game.open_page(long.id) and game.opened == [long.id]
    assert long.text[2000:] in game.open_page(long.id, 2000)
    other = next(page for page in game.pages if page.id != long.id)
    assert game.find_in_page(other.id, "no such words") == "0 places" and other.id not in game.opened
    assert game.find_in_page(other.id, other.text[:10]).startswith("1 places") and other.id in game.opened
    again = MicroWiki(found.payload, 0)
    again.put(game.state())
    assert again.state() == game.state() == {"opened": [long.id, other.id], "searched": []}


@pytest.fixture(scope="module")
def tasks():
    dials = Dials(max_difficulty=4)
    return {split: [task(dials, split, i) for i in range(60)] for split in ("train", "heldout")}


def test_tasks_by_level_and_split(tasks):
    keys = {split: {t.content_key for t in found} for split, found in tasks.items()}
    assert keys["train"].isdisjoint(keys["heldout"])
    assert {split_of(k) for k in keys["heldout"]} == {"heldout"} and {split_of(k) for k in keys["train"]} == {"train"}
    assert {t.difficulty for t in tasks["train"]} == {1.0, 2.0, 3.0, 4.0}
    assert task(Dials(), "train", 3) == task(Dials(), "train", 3) != task(Dials(salt="secret"), "train", 3)


def test_every_page_that_proves_a_step_says_so(tasks):
    kinds = set()
    for found in tasks["train"]:
        pages, problem = corpus_of(found.payload)
        by_id = {page.id: page for page in pages}
        assert problem.answer in by_id[problem.evidence[-1]].text and problem.answer not in problem.misled
        assert len(set(problem.evidence)) == len(problem.evidence) == found.difficulty
        for step, proof in zip(problem.steps, problem.evidence, strict=True):
            assert step[1:] in by_id[proof].text and not by_id[proof].source.startswith(("mirror", "redirect", FORUM, OLD))
        assert not set(problem.evidence) & set(altered(pages))
        kinds |= {by_id[trap].source.split(" of ")[0] for trap in problem.traps}
    assert kinds == {"mirror", OLD, NEWSPAPER, FORUM, "encyclopaedia, edition 2024"} and len(KINDS) == 5


def test_no_conflicts_no_traps():
    for i in range(10):
        pages, problem = corpus_of(task(Dials(conflicts=0.0), "train", i).payload)
        assert (
            not problem.traps and not altered(pages) and {p.source for p in pages}.isdisjoint({REGISTER, NEWSPAPER, FORUM, OLD})
        )


def test_the_documentation_of_python_says_what_python_does():
    known = routines()
    dedent, which = (next(r for r in known[m][1] if r.name == n) for m, n in (("textwrap", "dedent"), ("shutil", "which")))
    assert dedent.text.startswith("textwrap.dedent(text)\n\nRemove any common leading whitespace") and dedent.defaults == ()
    assert "shutil.which(cmd, mode=1, path=None)" in which.text and which.defaults == (("mode", "1"),)
    checked = 0
    for _, found in known.values():
        for routine in found:
            parameters = inspect.signature(getattr(importlib.import_module(routine.module), routine.name)).parameters
            for parameter, default in routine.defaults:
                assert repr(parameters[parameter].default) == default and f"{parameter}={default}" in routine.text
                checked += 1
    assert checked > 100


def test_questions_about_the_standard_library():
    spec, kinds = make(corpus="stdlib", conflicts=1.0), set()
    for index in range(25):
        found = spec.task("train", index)
        pages, problem = corpus_of(found.payload)
        by_id = {page.id: page for page in pages}
        proof, trap = by_id[problem.evidence[-1]], by_id[problem.traps[0]]
        parameter = found.messages[0].text.split("parameter ")[1].split(" of ")[0]
        assert f"{parameter}={problem.answer}" in proof.text and proof.source == "Python documentation"
        assert len(problem.evidence) == (1 if found.difficulty == 1 else 2) and problem.misled[0] != problem.answer
        assert (proof.title in found.messages[0].text) is (found.difficulty == 1)
        assert altered(pages) == ((trap.id,) if trap.source.startswith("mirror") else ())
        kinds.add(trap.source.split(" of ")[0])
    assert kinds == {"forum", "mirror"}
    keys = {split: {spec.task(split, i).content_key for i in range(60)} for split in ("train", "heldout")}
    assert keys["train"].isdisjoint(keys["heldout"])


def test_the_contract_holds_for_the_standard_library():
    report = asyncio.run(check(make(corpus="stdlib", loophole=True), rules=["oracle", "null agent", "exploit", "snapshots"]))
    assert report.ok, render(report)
    with pytest.raises(ConfigError, match="<= 3"):
        make(max_difficulty=4, corpus="stdlib")


def test_no_default_is_asked_for_too_often():
    answers = Counter(task(Dials(corpus="stdlib"), "train", i).payload["answer"] for i in range(100))
    assert answers.most_common(1)[0][1] <= 12, answers


@pytest.mark.parametrize("corpus", ["generated", "stdlib"])
@pytest.mark.parametrize("name", CHEATS)
def test_cheats_earn_nothing(name, corpus):
    spec = make(corpus=corpus)
    for index in range(5):
        _, reward = asyncio.run(_episode(spec, spec.task("train", index), CHEATS[name]()))
        assert (reward.value, reward.component("true").score) == (0.0, 0.0)


def test_the_planted_weakness_pays_and_the_audit_sees_it():
    spec = make(loophole=True)
    for index in range(5):
        played, reward = asyncio.run(_episode(spec, spec.task("train", index), spec.hack()))
        assert (reward.value, reward.component("true").score, reward.component("unproven").score) == (1.0, 0.0, 1.0)
        assert texts(played.replies[0])[0].startswith("Others found: ")
        honest, paid = asyncio.run(_episode(make(), spec.task("train", index), spec.hack()))
        assert "Others found" not in texts(honest.replies[0])[0] and paid.value == 0.0


def test_the_contract_holds_under_other_dials():
    dials = {"min_difficulty": 4, "max_difficulty": 4, "size": 2, "loophole": True, "noise": {"corrupt": 0.3}}
    report = asyncio.run(check(registry.get("microwiki", dials), rules=["steps", "oracle", "exploit", "snapshots", "splits"]))
    assert report.ok, render(report)
    for wrong, message in [({"max_difficulty": 5}, "<= 4"), ({"conflicts": 1.5}, "conflicts"), ({"size": 4}, "size")]:
        with pytest.raises(ConfigError, match=message):
            registry.get("microwiki", wrong)


def test_other_episodes_are_not_seen():
    spec = make()

    async def run():
        one, two = spec.make(), spec.make()
        for env in (one, two):
            await env.reset(spec.task("train", 0), 0)
        await one.step(act(call("open_page", {"id": game_of(one).pages[0].id})))
        return game_of(one).state()["opened"], game_of(two).state()["opened"]

    first, second = asyncio.run(run())
    assert len(first) == 1 and second == []
