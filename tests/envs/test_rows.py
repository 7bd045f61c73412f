"""Tasks as data: files and folders of every kind give the same rows, a leak or a bad row is an error that says where, judges
by hand, and a run by settings alone."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from fractions import Fraction

import pytest
import zstandard
from env_scripts import play
from hypothesis import given
from hypothesis import strategies as st

from phronesis.cli.main import main
from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.digest import split_of
from phronesis.envs.rows import Source, content_key, find_files, make, normal, read, read_file
from phronesis.envs.rows.judge import answered, gold, number, same_number, same_text
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import say

ROWS = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(6) for b in range(6)]
pyarrow = pytest.importorskip("pyarrow")
ipc = pytest.importorskip("pyarrow.ipc")
parquet = pytest.importorskip("pyarrow.parquet")


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def stream(path, rows):
    """An Arrow file as `datasets` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with path.open("wb") as file, ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return path


def saved(folder, rows):
    """A folder as `Dataset.save_to_disk` writes it, in two pieces."""
    for n, part in enumerate((rows[:1], rows[1:])):
        stream(folder / f"data-0000{n}-of-00002.arrow", part)
    names = [{"filename": f"data-0000{n}-of-00002.arrow"} for n in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_fingerprint": "f", "_split": None}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def columns(path, **source):
    return [row.columns for rows in find_files(path, **source).values() for file in rows for row in read_file(file)]


# ------------------------------------------------------------------------------------------------- files


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n" + text + b"\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(text[:100]) + zstandard.compress(text[100:]))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    table = pyarrow.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "a.parquet")
    stream(tmp_path / "a.arrow", ROWS)
    with ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    found = sorted(p for p in tmp_path.iterdir())
    assert len(found) == 7
    assert [columns(p) for p in found] == [ROWS] * 7


def test_places_count_lines_of_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"prompt": "a"}\n\n{"prompt": "b"}\n')
    assert [row.place for row in read_file(tmp_path / "a.jsonl")] == ["'a.jsonl', line 2", "'a.jsonl', line 4"]


def test_dates_and_bytes_become_text(tmp_path):
    import datetime

    row = {"prompt": "when?", "answer": datetime.date(2024, 2, 29), "picture": b"\x00\x01"}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert columns(tmp_path / "a.parquet") == [{"prompt": "when?", "answer": "2024-02-29", "picture": "AAE="}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a", "answer": 1}\n{"prompt": "b"\n', "'a.jsonl', line 2: .*a line is one JSON object"),
        ("a.jsonl", b'{"prompt": "a", "answer": 1}\n[1]\n', "'a.jsonl', line 2: Expected `object`, got `array`"),
        ("a.jsonl", b'{"prompt": "\xff"}', "'a.jsonl', line 1"),
        ("a.jsonl", b"[" * 5000, "'a.jsonl', line 1"),
        ("a.jsonl", b'{"prompt": "a", "answer": 1}\n\n{"prompt": 7, "answer": 1}', "'a.jsonl', line 3: a prompt is text or"),
        ("a.jsonl", b'{"prompt": " ", "answer": 1}', "'a.jsonl', line 1: the prompt is empty"),
        ("a.jsonl", b'{"prompt": [{"role": "robot", "content": "a"}], "answer": 1}', "line 1: a prompt message needs a role"),
        ("a.jsonl", b'{"question": "a", "answer": 1}', r"line 1: there is no column 'prompt'.*columns = \{prompt"),
        ("a.jsonl", b'{"prompt": "a", "answer": 1}\n{"prompt": "b"}', "line 2: the judge 'match' needs a column 'answer'"),
        ("a.jsonl", b'{"prompt": "a", "answer": null}', "line 1: the judge 'match' cannot compare the answer None"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.json", b'{"prompt": "a"}', "a .json file is one list of objects"),
        ("a.json", b'[{"prompt": "a", "answer": 1}, 7]', "'a.json', row 2: 7 is no object"),
        ("a.jsonl.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        ("a.jsonl.zst", b"no zstandard", "cannot be read"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.arrow", b"no arrow", "cannot be read"),
        ("a.csv", b"prompt,answer", "no file of rows; its name must end in .jsonl"),
    ],
)
def test_bad_files_name_the_place_and_exit_with_2(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        make(str(tmp_path / name))
    assert main(["env", "check", "rows", f"path={tmp_path / name}"]) == 2
    assert "error: " in capsys.readouterr().err


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    import importlib

    def absent(name):
        raise ModuleNotFoundError(name=name)

    stream(tmp_path / "a.arrow", ROWS)
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"needs pyarrow; install it with: pip install 'phronesis\[data\]'"):
        read_file(tmp_path / "a.arrow")


# ------------------------------------------------------------------------------------------------- folders


def test_folders_of_datasets(tmp_path):
    one = saved(tmp_path / "one", ROWS)
    assert columns(one) == ROWS
    both = tmp_path / "both"
    saved(both / "train", ROWS[:30])
    saved(both / "test", ROWS[30:])
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert {split: len(files) for split, files in find_files(both).items()} == {"train": 2, "test": 2}
    assert make(str(both)).sizes == {"train": 30, "heldout": 6}
    assert sum(n or 0 for n in make(str(one)).sizes.values()) == 36


README = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: [data/test-*, more/last.jsonl]
- config_name: small
  data_files: small.jsonl
- config_name: folder
  data_dir: data
---
# A data set
"""


def repository(folder):
    (folder / "data").mkdir(parents=True)
    for name, part in (
        ("train-00000-of-00002", ROWS[:10]),
        ("train-00001-of-00002", ROWS[10:20]),
        ("test-00000-of-00001", ROWS[20:30]),
    ):
        parquet.write_table(pyarrow.Table.from_pylist(part), folder / "data" / f"{name}.parquet")
    lines(folder / "more" / "last.jsonl", ROWS[30:])
    lines(folder / "small.jsonl", ROWS[:3])
    return folder


def test_repositories_with_and_without_a_readme(tmp_path, caplog):
    folder = repository(tmp_path / "set")
    with caplog.at_level(logging.WARNING):
        assert make(str(folder)).sizes == {"train": 20, "heldout": 10}  # by the names of the files alone
    assert "2 files whose names say no split are left out: 'last.jsonl', 'small.jsonl'" in caplog.text
    (folder / "README.md").write_text(README)
    assert make(str(folder)).sizes == {"train": 20, "heldout": 16}
    assert sum(n or 0 for n in make(str(folder), config="small").sizes.values()) == 3
    assert make(str(folder), config="folder").sizes == {"train": 20, "heldout": 10}
    with pytest.raises(UnknownName, match="did you mean 'small'"):
        make(str(folder), config="smal")


def test_splits_by_name_and_by_choice(tmp_path):
    lines(tmp_path / "set" / "train.jsonl", ROWS[:20])
    lines(tmp_path / "set" / "validation" / "a.jsonl", ROWS[20:25])
    lines(tmp_path / "set" / "validation" / ".cache" / "b.jsonl", ROWS)
    lines(tmp_path / "set" / "my_test_file.jsonl", ROWS[25:36])
    path = str(tmp_path / "set")
    assert make(path).sizes == {"train": 20, "heldout": 11}
    assert make(path, splits={"heldout": "validation"}).sizes == {"train": 20, "heldout": 5}
    assert make(path, splits={"train": "test"}).sizes == {"train": 11, "heldout": 5}
    assert make(path, str(tmp_path / "set" / "my_test_file.jsonl")).sizes == {"train": 20, "heldout": 11}
    with pytest.raises(UnknownName, match="did you mean 'validation'"):
        make(path, splits={"heldout": "validaton"})
    with pytest.raises(ConfigError, match="train and heldout are both 'train'"):
        make(path, splits={"heldout": "train"})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"state.json": '{"_data_files": [{"filename": "../secret.arrow"}]}'}, "which is not in its folder"),
        ({"state.json": '{"_data_files": [{"filename": "gone.arrow"}]}'}, "names 'gone.arrow', which is not in its folder"),
        ({"state.json": "{"}, "is not what datasets writes"),
        ({"dataset_dict.json": '{"splits": [".."]}'}, "which is not in its folder"),
        ({"README.md": "---\nconfigs:\n- data_files: ../secret.jsonl\n---\n"}, "leads out of its folder"),
        ({"README.md": "---\nconfigs:\n- data_files: none-*.jsonl\n---\n"}, "no file of rows matches 'none-"),
        ({"README.md": "---\nconfigs: [1]\n---\n"}, "cannot be read"),
        ({"README.md": "---\nconfigs: [\n---\n"}, "cannot be read"),
        ({"README.md": "---\nconfigs:\n- config_name: a\n- config_name: b\n---\n"}, "set config to one of 'a', 'b'"),
        ({"note.txt": "nothing here"}, "there is no file of rows"),
        ({}, "there is no file of rows"),
    ],
)
def test_bad_folders(files, message, tmp_path):
    lines(tmp_path / "secret.jsonl", ROWS)
    folder = tmp_path / "set"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        make(str(folder))


def test_what_is_not_there():
    with pytest.raises(ConfigError, match=r"there is no file or folder 'no-such-file.jsonl'"):
        make("no-such-file.jsonl")


# ------------------------------------------------------------------------------------------------- generators


def test_generators():
    spec = make("row_scripts:all_rows")
    assert sum(n or 0 for n in spec.sizes.values()) == 40 and spec.sizes["heldout"]
    assert make("row_scripts:by_split").sizes == {"train": 3, "heldout": 2}
    spec = make("row_scripts:endless")
    assert spec.sizes == {"train": None, "heldout": None}
    assert spec.task("heldout", 10**6).payload == {"answer": 10**6}
    for path, message in (
        ("row_scripts:wrong", "returned 'str', expected rows"),
        ("row_scripts:numbers", "row 1: 'int', expected columns by name"),
        ("row_scripts:nothing", "nothing"),
        ("row_scripts:__doc__", "'str', expected a function"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(path)


def test_a_leak_of_an_endless_generator_is_an_error_when_it_is_met():
    spec = make("row_scripts:leaky")
    spec.task("train", 300)
    with pytest.raises(ConfigError, match=r"'row_scripts:leaky'\('train', 300\) and 'row_scripts:leaky'\('heldout', 300\)"):
        spec.task("heldout", 300)


# ------------------------------------------------------------------------------------------------- splits and leaks


def test_the_split_follows_the_content_and_not_the_order(tmp_path):
    one = make(str(lines(tmp_path / "a.jsonl", ROWS)))
    two = make(str(lines(tmp_path / "b.jsonl", [{"prompt": "Something new?", "answer": "yes"}, *reversed(ROWS)])))

    def prompts(spec, split):
        return {t.messages[0].text: t.content_key for t in (spec.task(split, i) for i in range(spec.sizes[split]))}

    for split in ("train", "heldout"):
        assert prompts(one, split).items() <= prompts(two, split).items()
        assert {split_of(key) for key in prompts(one, split).values()} == {split}
    assert not prompts(one, "train").keys() & prompts(one, "heldout").keys()


@pytest.mark.parametrize(
    ("equal", "caught"),
    [("exact", 1), ("spacing", 2), ("words", 3)],
)
def test_a_leak_names_both_rows(equal, caught, tmp_path):
    train = lines(tmp_path / "train.jsonl", [{"prompt": "What is 2 + 2?", "answer": "4"}, *ROWS[:5]])
    held = [ROWS[30], {"prompt": "What is 2 + 2?", "answer": "4"}, {"prompt": "what IS  2 + 2?", "answer": "4"}]
    test = lines(tmp_path / "test.jsonl", [*held, {"prompt": "What is 2+2", "answer": "4"}])
    message = f"'train.jsonl', line 1 and 'test.jsonl', line 2 are the same .*'What is 2 . 2.'; {caught} held-out rows"
    with pytest.raises(ConfigError, match=message):
        make(str(train), str(test), equal=equal)
    lines(test, [*held[:1], {"prompt": "What is 3 + 9?", "answer": "12"}])
    assert make(str(train), str(test), equal=equal).sizes == {"train": 6, "heldout": 2}


@pytest.mark.parametrize(
    "held",
    [
        "what is\u00a02 + 2?\n",
        "\ufeffWhat is 2\u200b + 2?",
        "What i\u00ads 2 + 2?",
        [{"role": "user", "content": "What is 2 + 2?"}],
        [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}], "name": "x"}],
    ],
    ids=["no-break space", "invisible marks", "soft hyphen", "messages", "parts"],
)
def test_a_leak_written_otherwise_is_found(held, tmp_path):
    train = lines(tmp_path / "train.jsonl", [{"prompt": "What is 2 + 2?", "answer": "4"}, *ROWS[:5]])
    test = lines(tmp_path / "test.jsonl", [{"prompt": held, "answer": "4"}, ROWS[30]])
    with pytest.raises(ConfigError, match=r"'train.jsonl', line 1 and 'test.jsonl', line 1 are the same"):
        make(str(train), str(test))


@pytest.mark.parametrize("right", ["x" * 2001, "The answer: blue", "answer: 1\nanswer: 2", "\\boxed{7} or \\boxed{8}"])
def test_an_answer_that_could_not_be_paid_is_refused(right, tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"prompt": "Go.", "answer": right}, ROWS[0]])
    with pytest.raises(ConfigError, match="line 1: the judge 'match' cannot compare the answer"):
        make(str(path))


def test_other_answers_do_not_hide_a_leak_but_other_keys_tell_problems_apart(tmp_path):
    train = str(lines(tmp_path / "train.jsonl", [{"prompt": "Go.", "answer": "1", "map": "a"}]))
    test = str(lines(tmp_path / "test.jsonl", [{"prompt": "Go.", "answer": "2", "map": "b"}]))
    with pytest.raises(ConfigError, match="by the columns prompt"):
        make(train, test)
    assert make(train, test, key=("prompt", "map")).sizes == {"train": 1, "heldout": 1}
    with pytest.raises(ConfigError, match="line 1: there is no column 'level', which key names"):
        make(train, test, key=("level",))


def test_one_prompt_for_all_is_told(tmp_path):
    path = str(lines(tmp_path / "a.jsonl", [{"prompt": "Go.", "answer": str(n)} for n in range(5)]))
    with pytest.raises(ConfigError, match=r"all 5 rows of .* are one problem by the columns prompt"):
        make(path)
    assert sum(n or 0 for n in make(path, key=("answer",)).sizes.values()) == 5


def test_duplicates_are_counted(tmp_path, caplog):
    path = str(lines(tmp_path / "a.jsonl", [*ROWS, ROWS[3], {**ROWS[3], "prompt": "  WHAT is 0 + 3?"}, ROWS[4]]))
    source = Source(path=path)
    with caplog.at_level(logging.WARNING):
        rows = read("rows", source)
    assert rows.duplicates == {"all": 3} and sum(n or 0 for n in rows.table.sizes.values()) == 39
    assert "3 of 39 rows occur before in their split and are kept, e.g. 'a.jsonl', line 4 and 'a.jsonl', line 37" in caplog.text
    assert "3 duplicates" in make(path).description
    assert sum(n or 0 for n in make(path, duplicates="drop").sizes.values()) == 36
    with pytest.raises(ConfigError, match=r"'a.jsonl', line 4 and 'a.jsonl', line 37 are the same problem"):
        make(path, duplicates="refuse")


@given(st.text(max_size=40))
def test_keys_ignore_what_they_say_they_ignore(text):
    assert normal(normal(text, "words"), "words") == normal(text, "words")
    spaced = {"prompt": [{"role": "user", "content": f" {text}\n"}]}
    assert content_key(spaced, ("prompt",), "spacing") == content_key(
        {"prompt": [{"role": "user", "content": text}]}, ("prompt",), "spacing"
    )


def test_columns_are_renamed_and_templates_filled(tmp_path):
    rows = [{"question": f"Q{n}", "choices": ["a", "b"], "gold": "a"} for n in range(9)]
    path = str(lines(tmp_path / "a.jsonl", rows))
    template = "{question}: {choices}?"
    spec = make(path, columns={"answer": "gold"}, template=template, system="Choose.", key=("question",))
    task = spec.task("train", 0)
    assert [m.role for m in task.messages] == ["system", "user"]
    number = task.payload["question"]
    assert task.messages[1].text == f'{number}: ["a","b"]?' and task.payload["answer"] == "a" and "gold" not in task.payload
    with pytest.raises(ConfigError, match="line 1: the template wants the column 'none'"):
        make(path, columns={"answer": "gold"}, template="{none}")
    with pytest.raises(ConfigError, match="line 1: there is no column 'label' for 'answer'"):
        make(path, columns={"answer": "label"})
    spoken = [{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "answer": "c"}, ROWS[0]]
    assert make(str(lines(tmp_path / "b.jsonl", spoken))).task("train", 0).messages[0].role == "user"


# ------------------------------------------------------------------------------------------------- judges


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12", "12"),
        ("  two\n words ", "two words"),
        ("First 3, then 4.\nAnswer: 12", "12"),
        ("**Final answer:** 12", "12"),
        ("so \\boxed{12}", "12"),
        ("answer: 12\nanswer: 12", "12"),
        ("answer: 12\nanswer: 13", None),
        ("answer: 12 \\boxed{13}", "12 \\boxed{13}"),
        ("answer:", None),
        ("", None),
        ("x" * 2001, None),
    ],
)
def test_what_counts_as_the_answer(text, found):
    assert answered(text) == found


def test_comparisons_by_hand():
    assert same_text(" New  York.", "new york") and not same_text("York", "New York")
    assert number("$1,234.50") == Fraction("1234.5") and number("-3/4") == Fraction(-3, 4) and number("50%") == 50
    for text in ("nan", "inf", "1e3", "0x10", "١٢", "1/0", "9**9", "1,23", "", "12 13", "--1", "1" * 41):
        assert number(text) is None
    assert same_number("-0", "0") and not same_number("5.0001", "5")
    assert gold("6 * 7 = 42\n#### 42") == "42" and gold(7) == "7" and gold("Answer: x") == "x"


def test_the_checker_finds_the_built_in_judges_honest(tmp_path):
    path = str(lines(tmp_path / "a.jsonl", ROWS))
    for reward in ("match", "number"):
        report = asyncio.run(check(registry.get("rows", {"path": path, "reward": reward})))
        assert report.ok, render(report)
        ran = {f.rule for f in report.findings if f.verdict == "ok"}
        assert {"oracle", "null agent", "cheats", "secrecy", "splits"} <= ran
    with pytest.raises(ConfigError, match="line 1: the judge 'number' cannot compare the answer 'red'"):
        make(str(lines(tmp_path / "b.jsonl", [{"prompt": "?", "answer": "red"}])), reward="number")


def test_judges_of_ones_own(tmp_path):
    path = str(lines(tmp_path / "a.jsonl", [{"prompt": f"Be brief, {n}.", "limit": 4} for n in range(9)]))
    spec = make(path, reward="row_scripts:length")
    (_, short), (_, long) = (play(spec, [say("assistant", text)]) for text in ("yes", "certainly"))
    assert (short.value, long.value) == (0.5, 0.0) and short.components[0].name == "length"
    assert play(make(path, reward="row_scripts:turns"), [say("assistant", "")])[1].value == 1.0
    assert spec.oracle_reward is None and spec.demonstrate is None and not spec.secrets
    for reward, message in (
        ("row_scripts:wants_more", "wants 'style', which is no column of every row; it may take completion, episode, limit"),
        ("row_scripts:ROWS", "ROWS"),
        ("exact", "neither 'match' nor 'number' nor an import path"),
        ("row_scripts:__doc__", "expected a function"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(path, reward=reward)


def test_demonstrations_are_right_as_often_as_asked(tmp_path):
    path = str(lines(tmp_path / "a.jsonl", [{"prompt": f"Item {n}?", "answer": f"a{n}"} for n in range(50)]))
    for shown, low, high in ((1.0, 60, 60), (0.0, 0, 6), (0.5, 20, 40)):
        spec = make(path, shown=shown)
        assert spec.demonstrate is not None

        async def right(spec=spec):
            told = [(spec.task("train", i % spec.sizes["train"]), await spec.demonstrate(i, i)) for i in range(60)]
            return sum(c.exchanges[0][0].text == t.payload["answer"] for t, c in told)

        assert low <= asyncio.run(right()) <= high
    with pytest.raises(ConfigError, match="shown must lie in"):
        make(path, shown=2.0)
