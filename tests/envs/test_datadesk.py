"""DataDesk: real sources read by hand, files that are what their cards say, perturbed copies, whole tasks, and every cheat."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import stat
from collections import Counter

import msgspec
import pytest
from env_scripts import act, call, play, texts

from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.datadesk import Card, DataDesk, Dials, build, database, make, task, variant
from phronesis.envs.datadesk.env import CHEATS
from phronesis.envs.datadesk.questions import CHANGES, QUESTIONS
from phronesis.envs.datadesk.sources import SOURCES, Source, Table, archive, iso, packages, python, wordnet
from phronesis.envs.datadesk.store import changed, opened, rows_of
from phronesis.envs.datadesk.tasks import HIDDEN, VARIANTS, quoted, scalar
from phronesis.envs.digest import split_of
from phronesis.envs.scripted import Clock, play_scripted, reward_of
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import say
from phronesis.tools.sql import SqlTools

STATUS = """Package: alpha
Section: contrib/text
Priority: optional
Installed-Size: 40
Maintainer: Ada Abel <ada@mail.example>
Depends: beta (>= 2), gamma | delta
Pre-Depends: beta

Package: beta
Section: libs
Installed-Size: 7
Maintainer: "Bo Falk" <bo@mail.example>

Package: broken
Section: libs
"""
DOGS = (
    "00001740 03 n 02 dog 0 domestic_dog 0 002 @ 00002000 n 0000 ~ 00003000 n 0000 | a pet that barks\n"
    "00002000 05 n 01 animal 0 001 ~ 00001740 n 0000 | it lives\n"
)
"""Two lines in the format of wndb(5): a dog, which is an animal."""


def test_packages_by_hand(tmp_path):
    (tmp_path / "status").write_text(STATUS, encoding="utf-8")
    tables = packages(tmp_path / "status").read()
    assert tables["packages"].rows == [
        ("alpha", "text", "optional", 40, "Ada Abel"),
        ("beta", "libs", "optional", 7, "Bo Falk"),
    ]
    assert tables["depends"].rows == [("alpha", "beta"), ("alpha", "delta"), ("alpha", "gamma")]


def test_wordnet_by_hand(tmp_path):
    for kind in ("verb", "adj", "adv"):
        (tmp_path / f"data.{kind}").write_text("  1 a line of the licence\n", encoding="utf-8")
    (tmp_path / "data.noun").write_text("  1 a line of the licence\n" + DOGS, encoding="utf-8")
    tables = wordnet(tmp_path).read()
    assert tables["synsets"].rows == [("n00001740", "n", 3, 4), ("n00002000", "n", 5, 2)]
    assert tables["words"].rows == [("animal", "n00002000"), ("dog", "n00001740"), ("domestic dog", "n00001740")]
    assert tables["relations"].rows == [
        ("n00001740", "@", "n00002000"),
        ("n00001740", "~", "n00003000"),
        ("n00002000", "~", "n00001740"),
    ]


def test_iso_codes_by_hand(tmp_path):
    files = {
        "3166-1": [{"alpha_2": "AD", "name": "Andorra"}],
        "3166-2": [{"code": "AD-05", "name": "Ordino", "type": "Parish"}],
        "4217": [{"alpha_3": "EUR", "name": "Euro"}],
        "639-3": [{"alpha_3": "cat", "name": "Catalan", "scope": "I", "type": "L"}],
        "15924": [{"alpha_4": "Latn", "name": "Latin"}],
    }
    for name, rows in files.items():
        (tmp_path / f"iso_{name}.json").write_text(json.dumps({name: rows}), encoding="utf-8")
    tables = iso(tmp_path).read()
    assert tables["parts"].rows == [("AD-05", "AD", "Ordino", "Parish")]
    assert [tables[t].rows for t in ("countries", "currencies", "scripts")] == [
        [("AD", "Andorra")],
        [("EUR", "Euro")],
        [("Latn", "Latin")],
    ]
    assert tables["languages"].rows == [("cat", "Catalan", "I", "L")]


def test_what_is_not_installed_is_named(tmp_path):
    for source, message in (
        (iso, "install the Debian package iso-codes"),
        (wordnet, "install the Debian package wordnet-base"),
    ):
        with pytest.raises(ConfigError, match=message):
            source(tmp_path)
    with pytest.raises(ConfigError, match="needs Debian"):
        packages(tmp_path / "none")
    with pytest.raises(ConfigError, match="there are no package lists"):
        archive(tmp_path)
    assert set(SOURCES) == set(QUESTIONS) == set(CHANGES)


def test_pythons_own_tables_say_what_python_says():
    tables = python().read()
    assert (0x41, "LATIN CAPITAL LETTER A", "Lu", "L") in tables["characters"].rows
    assert ("eacute", 0xE9) in tables["entities"].rows and (404, "NOT_FOUND", "Not Found") in tables["statuses"].rows
    kinds = {(r[0], r[1]): r[2:5] for r in tables["functions"].rows}
    assert kinds["textwrap", "dedent"] == ("function", 1, 0) and kinds["shutil", "which"] == ("function", 3, 2)
    assert kinds["fractions", "Fraction"][0] == "class"


def little(rows, version="1"):
    return Source("by hand", version, lambda: {"t": Table(("name", "n:n"), rows)})


def test_a_database_is_what_its_card_says(tmp_path, caplog):
    path, card = build("little", little([("a", 1), ("b", 2)]), tmp_path)
    assert card == msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Card)
    assert (
        card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        and card.tables == {"t": 2}
        and card.numbers == {"t": ["n"]}
    )
    assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)

    def never():
        raise AssertionError("it is there already")

    assert build("little", Source("by hand", "1", never), tmp_path) == (path, card)
    elsewhere = build("little", little([("a", 1), ("b", 2)]), tmp_path / "other")
    assert elsewhere[1] == card and elsewhere[0].read_bytes() == path.read_bytes()  # equal data, equal files
    newer = build("little", little([("a", 1)], "2"), tmp_path)
    assert newer[0] != path and newer[1].content != card.content
    path.chmod(0o644)
    path.write_bytes(b"something else")
    with caplog.at_level(logging.WARNING):
        assert build("little", little([("a", 1), ("b", 2)]), tmp_path)[1] == card
    assert "is not what its card says" in caplog.text and sorted(p.suffix for p in tmp_path.glob("little-*")) == [
        ".json",
        ".json",
        ".sqlite",
        ".sqlite",
    ]


def test_perturbed_copies_are_others_and_always_the_same(tmp_path):
    base = rows_of(variant("python", 0, tmp_path), "select module, name, parameters from functions")
    digests = {variant("python", n, tmp_path).digest() for n in (0, 1, 2, *HIDDEN)}
    assert len(digests) == 5
    for number in (1, 2, *HIDDEN):
        copy = rows_of(variant("python", number, tmp_path), "select module, name, parameters from functions")
        known = {row[:2]: row[2] for row in base}
        assert 0.75 * len(base) < len(copy) < 0.95 * len(base)
        assert 0.05 * len(copy) < sum(known[r[:2]] != r[2] for r in copy) < 0.4 * len(copy)
    own = opened("python", 1, tmp_path)
    assert own.digest() == variant("python", 1, tmp_path).digest()
    own.close()


def test_a_change_of_a_shared_copy_is_taken_back(tmp_path):
    tools = variant("python", 3, tmp_path)
    before = tools.digest()
    with changed(tools, "delete from functions where module = 'json'") as touched:
        assert touched >= 3 and tools.digest() != before
    assert tools.digest() == before and not tools.write
    with pytest.raises(Exception, match="not authorized"):
        tools.query("delete from functions")


@pytest.fixture(scope="module")
def tasks():
    return {split: [task(Dials(), split, i) for i in range(90)] for split in ("train", "heldout")}


def test_tasks_by_level_split_and_version(tasks):
    _, card = database("python")
    keys = {split: {t.content_key for t in found} for split, found in tasks.items()}
    assert keys["train"].isdisjoint(keys["heldout"])
    assert {split_of(k) for k in keys["heldout"]} == {"heldout"} and {split_of(k) for k in keys["train"]} == {"train"}
    for found in tasks["train"]:
        assert found.id.startswith(f"datadesk-python-{card.content[:8]}-train-") and found.payload["content"] == card.content
        assert 1 <= found.payload["variant"] <= VARIANTS and "{" not in found.messages[0].text
    assert {(t.payload["family"], t.difficulty) for t in tasks["train"]} == {
        (f, d) for f in ("value", "query", "update") for d in (1, 2, 3)
    }
    salted = task(Dials(salt="secret"), "train", 3)
    assert task(Dials(), "train", 3) == task(Dials(), "train", 3) != salted == task(Dials(salt="secret"), "train", 3)
    assert salted.payload["variant"] > 1000 and salted.payload["hidden"][0] > 1000  # copies that only the salt tells


def test_no_constant_answers_many_questions():
    found = [task(Dials(min_difficulty=3, families=("value",)), "train", i) for i in range(120)]
    (_, most), *_ = Counter(t.payload["answer"] for t in found).most_common()
    assert most <= 9 and {t.difficulty for t in found} == {3.0}


def test_where_a_level_has_no_task_of_a_split_another_level_has(monkeypatch):
    hard = next(q for q in QUESTIONS["python"] if "optional" in q.text)._replace(draw="select 'json' as a")
    monkeypatch.setitem(QUESTIONS, "python", [q for q in QUESTIONS["python"] if q.level == 1] + [hard])
    dials = Dials(min_difficulty=3, families=("value",))  # one question of level 3, which lies in one split
    found = [{task(dials, split, i).difficulty for i in range(4)} for split in ("train", "heldout")]
    assert sorted(found, key=min) == [{1.0}, {3.0}]


def test_no_answer_can_be_known_without_looking(tasks):
    for found in tasks["train"]:
        payload = found.payload
        here = variant("python", payload["variant"])
        match payload["family"]:
            case "value":
                assert payload["answer"] == scalar(here, payload["sql"]) != scalar(variant("python", 0), payload["sql"])
            case "query":
                assert len({scalar(variant("python", n), payload["sql"]) for n in (payload["variant"], *HIDDEN)}) > 1
            case _:
                before = here.digest()
                with changed(here, payload["sql"]):
                    assert here.digest() != before


def a_task(family, sql, number=1, **dials):
    """A task by hand, over Python's own tables."""
    spec = make(**dials)
    found = spec.task("train", 0)
    answer = scalar(variant("python", number), sql) if family == "value" else ""
    payload = {**found.payload, "family": family, "sql": sql, "variant": number, "answer": answer}
    return spec, msgspec.structs.replace(found, payload=payload)


def earned(given, *actions):
    spec, chosen = given

    class One:
        def __getattr__(self, name):
            return getattr(spec, name)

        def task(self, split, index):
            return chosen

    played, reward = play(One(), list(actions))
    return played, (reward.value, reward.component("true").score)


def run(sql):
    return act(call("query", {"sql": sql}))


COUNT = "select count(*) from functions where module = 'json'"


def test_a_value_by_hand():
    given = a_task("value", COUNT)
    right = scalar(variant("python", 1), COUNT)
    played, reward = earned(
        given,
        act(call("schema")),
        act(call("sample", {"table": "functions"})),
        run(COUNT),
        say("assistant", f"answer: {right}"),
    )
    shown = [texts(r)[0] for r in played.replies[:3]]
    assert "functions(module TEXT, name TEXT, kind TEXT, parameters INTEGER" in shown[0]
    assert shown[1].startswith("module | name | kind") and len(shown[1].split("\n")) == 4
    assert shown[2] == f"count(*)\n{right}" and reward == (1.0, 1.0)
    for text in (f"answer: {int(right) + 1}", f"{right}", f"answer: {right}\nanswer: 0", f"answer: {right} rows", "answer: 0"):
        assert earned(given, say("assistant", text))[1] == (0.0, 0.0)
    played, _ = earned(given, run("delete from functions"), act(call("sample", {"table": "x; drop"})), run("select random()"))
    assert "not authorized" in texts(played.replies[0])[0] and "there is no table" in texts(played.replies[1])[0]
    assert "functions of chance" in texts(played.replies[2])[0]
    assert [r.effect for r in played.replies] == [None] * 3 and play(given[0], [act(call("schema"))])[0].replies[
        0
    ].effect == "pure"


def test_a_query_by_hand():
    given = a_task("query", COUNT)
    right = scalar(variant("python", 1), COUNT)
    for text, paid in [
        (f"answer: {COUNT}", 1.0),
        ("answer: SELECT sum(1) AS how_many FROM functions f WHERE f.module LIKE 'json'", 1.0),
        (f"answer: select {right}", 0.0),
        (f"answer: {COUNT}; select 2", 0.0),
        ("answer: select count(*), 1 from functions where module = 'json'", 0.0),
        ("answer: select count(*) from functions where module = 'json' union all select 1", 0.0),
        ("answer: select count(*) from functions", 0.0),
        ("answer: delete from functions", 0.0),
        ("answer: not sql", 0.0),
        (f"answer: {right}", 0.0),
    ]:
        assert earned(given, say("assistant", text))[1] == (paid, paid), text


def test_an_update_by_hand():
    given = a_task("update", "delete from functions where module = 'json'")
    done = say("assistant", "It is done.")
    for actions, paid in [
        ([run("delete from functions where module = 'json'")], 1.0),
        (
            [
                run("delete from functions where module = 'json' and kind = 'class'"),
                run("delete from functions where module like 'json'"),
            ],
            1.0,
        ),
        ([], 0.0),
        ([run("delete from functions where module in ('json', 'csv')")], 0.0),
        ([run("begin"), run("delete from functions where module = 'json'"), run("rollback")], 0.0),
        (
            [run("begin"), run("delete from functions"), run("rollback"), run("delete from functions where module = 'json'")],
            1.0,
        ),
        ([run("delete from functions where module = 'json'"), run("insert into encodings values ('a', 'b')")], 0.0),
    ]:
        played, reward = earned(given, *actions, done)
        assert reward == (paid, paid), actions
        assert all(r.effect == "mutating" for r in played.replies[:-1])
    assert variant("python", 1).digest() == variant("python", 1).digest()


def test_a_state_goes_on_where_it_was():
    _, chosen = a_task("update", "delete from functions where module = 'json'")
    game, again = DataDesk(chosen.payload, 0), DataDesk(chosen.payload, 0)
    for statement in ("begin", "delete from functions where module = 'csv'", "rollback", "delete from entities", "select 1"):
        game._run(statement)
    assert game.statements == ["begin", "delete from functions where module = 'csv'", "rollback", "delete from entities"]
    again.put(game.state())
    assert again.state() == game.state() and again.sql.digest() == game.sql.digest()
    returning = "update functions set words = words + 1 where rowid < 99 returning name"  # changes rows, and shows them
    assert game._run(returning).startswith("name\n") and game.statements[-1] == returning
    again.put(game.state())
    assert again.sql.digest() == game.sql.digest()
    game.close()
    again.close()


def test_a_question_held_out_in_one_family_is_in_all():
    asked = {
        split: {task(Dials(families=(family,)), split, i).payload["sql"] for family in ("value", "query") for i in range(60)}
        for split in ("train", "heldout")
    }
    assert len(asked["train"]) > 20 and asked["train"].isdisjoint(asked["heldout"])


def test_a_task_for_another_version_is_refused():
    _, chosen = a_task("value", COUNT)
    with pytest.raises(ConfigError, match="has changed since this task was made"):
        DataDesk({**chosen.payload, "content": "0" * 64}, 0).sql.schema()


def test_values_are_quoted():
    assert quoted("x' or '1'='1") == "'x'' or ''1''=''1'" and quoted(-3) == "-3"


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_earn_nothing(name):
    spec = make()
    families = set()

    async def go(index):
        chosen = spec.task("train", index)
        families.add(chosen.payload["family"])
        played = await play_scripted(spec, chosen, 0, CHEATS[name](), clock=Clock(5))
        reward = await reward_of(spec, played.episode)
        return reward.value, reward.component("true").score

    assert {asyncio.run(go(i)) for i in range(7)} == {(0.0, 0.0)} and families == {"value", "query", "update"}


@pytest.mark.parametrize("family", ["value", "query", "update"])
def test_the_planted_weakness_pays_and_the_audit_sees_it(family):
    spec = make(families=[family], loophole=True)

    async def go(index):
        played = await play_scripted(spec, spec.task("train", index), 0, spec.hack(), clock=Clock(5))
        reward = await reward_of(spec, played.episode)
        return reward.value, reward.component("true").score

    assert {asyncio.run(go(i)) for i in range(4)} == {(1.0, 0.0)}
    report = asyncio.run(check(spec, rules=["oracle"]))  # who solves the task is paid and is seen to have solved it
    assert report.ok, render(report)


def test_every_question_and_change_runs(tmp_path):
    """Against databases made by hand; that there are values to fill in is seen where tasks are drawn."""
    (tmp_path / "status").write_text(STATUS, encoding="utf-8")
    for kind in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{kind}").write_text(DOGS if kind == "noun" else "", encoding="utf-8")
    for name, key in (
        ("3166-1", "alpha_2"),
        ("3166-2", "code"),
        ("4217", "alpha_3"),
        ("639-3", "alpha_3"),
        ("15924", "alpha_4"),
    ):
        row = {key: "AD-05", "name": "a", "type": "b", "scope": "c"}
        (tmp_path / f"iso_{name}.json").write_text(json.dumps({name: [row]}), encoding="utf-8")
    sources = {
        "python": python(),
        "packages": packages(tmp_path / "status"),
        "iso": iso(tmp_path),
        "wordnet": wordnet(tmp_path),
    }
    for name, source in sources.items():
        tools = SqlTools(build(name, source, tmp_path)[0], write=True)
        for asked in [*QUESTIONS[name], *CHANGES[name]]:
            rows_of(tools, asked.draw)
            rows_of(tools, asked.sql.format(a="'x'", b="'y'"))
        tools.close()
    assert {q.level for q in QUESTIONS["python"]} == {q.level for q in CHANGES["python"]} == {1, 2, 3}


def test_the_contract_holds_under_other_dials():
    dials = {"min_difficulty": 3, "max_difficulty": 3, "families": ["query"], "loophole": True, "noise": {"drop": 0.3}}
    report = asyncio.run(check(registry.get("datadesk", dials), rules=["steps", "oracle", "exploit", "snapshots", "splits"]))
    assert report.ok, render(report)
    with pytest.raises(ConfigError, match="<= 3"):
        registry.get("datadesk", {"max_difficulty": 4})
    with pytest.raises(ConfigError, match="source"):
        registry.get("datadesk", {"source": "the internet"})
    with pytest.raises(UnknownName):
        make(families=["essay"])
