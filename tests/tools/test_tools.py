"""Tools: what they answer, what they refuse, and that nothing leaks from one episode to the next."""

import asyncio
import sqlite3
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError, ToolError
from phronesis.sandbox import Box, BoxSpec, Limits, start
from phronesis.tool import as_tool, call
from phronesis.tools import Corpus, FileTools, Page, PythonTool, SearchTools, ShellTool, SqlTools, calculate, evaluate
from phronesis.tools.calculator import shown
from phronesis.tools.catalogue import check


def ask(tool, **arguments):
    return asyncio.run(call(tool, arguments))


def boxed(play):
    async def run():
        sandbox = await start("landlock")
        try:
            async with await sandbox.open(BoxSpec()) as box:
                return await play(box)
        finally:
            sandbox.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("7 / 2", "3.5"),
        ("1/3", "1/3 (about 0.333333)"),
        ("0.1 + 0.2", "0.3"),
        ("-7 // 2", "-4"),
        ("-1/8", "-0.125"),
        ("2 ** 10 - 1", "1023"),
        ("10 % 4", "2"),
        ("1_000 + 1", "1001"),
    ],
)
def test_arithmetic_is_exact(expression, answer):
    assert ask(calculate, expression=expression) == answer


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "9**9**9", "10**400", "1/0", "a + 1", "'x' * 9", "True + 1", "(1).__class__", "2 **", "", "1 if 1 else 2",
     "٣ + 1", "1" * 600, "[1][0]", "1e999", "0b11 << 3", "2 ** 0.5", "(" * 200 + ")" * 200, "1j"],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused(expression):
    with pytest.raises(ToolError):
        ask(calculate, expression=expression)


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=1000))
def test_shown_numbers_are_the_numbers(value):
    assert Fraction(shown(value).split(" ")[0]) == value


@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 99), st.sampled_from("+-*"))
def test_precedence_is_pythons(a, b, c, op):
    assert (
        Fraction(evaluate(f"{a} {op} {b} / {c}"))
        == {"+": a + Fraction(b, c), "-": a - Fraction(b, c), "*": a * Fraction(b, c)}[op]
    )


def test_python_keeps_variables_and_tells_errors():
    async def play(box: Box):
        made = PythonTool(box, Limits(seconds=1, output=2000))
        (python,) = made.tools()
        said = [await python.call({"code": code}) for code in ("x = 2", "print('a'); x ** 10", "'y' * 3")]
        with pytest.raises(ToolError, match="ZeroDivisionError"):
            await python.call({"code": "print('before'); 1 / 0"})
        with pytest.raises(ToolError, match="out of time"):
            await python.call({"code": "while True: pass"})
        with pytest.raises(ToolError, match="NameError"):
            await python.call({"code": "x"})
        flood = await python.call({"code": "print('z' * 100000)"})
        await made.close()
        return said, flood

    said, flood = boxed(play)
    assert said == ["(no output)", "a\n1024", "'yyy'"]
    assert "bytes left out" in flood and len(flood) < 2200


def test_a_shell_stays_in_its_folder_and_says_how_it_ended():
    async def play(box: Box):
        (shell,) = ShellTool(box, Limits(seconds=1)).tools()
        lines = (
            "mkdir -p a/b && cd a/b",
            "pwd; echo x > here; ls",
            "cd ..; ls; false",
            "exit 4",
            "pwd",
            "echo hi; sleep 30",
            "echo $((1+1))",
        )
        return [await shell.call({"command": line}) for line in lines]

    made, here, failed, left, after, slow, last = boxed(play)
    assert made == "(no output)"
    assert here.endswith("/a/b\nhere")
    assert failed == "b\n[exit status 1]"
    assert left == "[exit status 4]"
    assert after.endswith(("/a", "/a/b", "work"))
    assert slow.startswith("hi\n") and "stopped after 1 s" in slow
    assert last == "2"


def test_files_are_listed_read_written_and_edited():
    async def play(box: Box):
        tools = {t.spec.name: t for t in FileTools(box).tools()}
        said = [await tools["write_file"].call({"path": "src/a.py", "content": "x = 1\ny = 2\n"})]
        said.append(await tools["edit_file"].call({"path": f"{box.work}/src/a.py", "old": "y = 2", "new": "y = 3"}))
        said.append(await tools["read_file"].call({"path": "src/a.py", "line": 2}))
        said.append(await tools["list_files"].call({}))
        await tools["write_file"].call({"path": "long", "content": "line\n" * 450})
        said.append((await tools["read_file"].call({"path": "long"})).splitlines()[-1])
        for name, arguments, text in (
            ("read_file", {"path": "missing"}, "No such file"),
            ("read_file", {"path": "../etc/passwd"}, "outside of the work folder"),
            ("read_file", {"path": "/etc/passwd"}, "outside of the work folder"),
            ("read_file", {"path": "src/a.py", "line": 9}, "has 2 lines"),
            ("edit_file", {"path": "long", "old": "line", "new": "x"}, "occurs 450 times"),
            ("edit_file", {"path": "long", "old": "", "new": "x"}, "occurs 0 times"),
        ):
            with pytest.raises(ToolError, match=text):
                await tools[name].call(arguments)
        return said

    assert boxed(play) == [
        "wrote 12 bytes to src/a.py", "edited src/a.py, line 2", "    2  y = 3", "src/\nsrc/a.py  12",
        "[250 more lines; continue with line=201]",
    ]  # fmt: skip


@pytest.fixture
def corpus():
    made = Corpus()
    made.add(
        [
            Page(id="sea", title="The sea", text="Salt water. " * 300 + "Whales sing at night.", source="handbook"),
            Page(id="whale", title="Whales", text="A whale is a mammal. It breathes air."),
            Page(id="air", title="Air", text="Nitrogen and oxygen."),
        ]
    )
    return made


def test_search_ranks_titles_first_and_says_where_it_is_from(corpus):
    tools = SearchTools(corpus)
    hits = tools.search("whales")
    assert hits.splitlines()[0] == "[whale] Whales"
    assert "[sea] The sea (handbook)" in hits and "Whales sing at night" in hits
    assert tools.search("zebra") == "no page matches"
    assert tools.search('" OR * NEAR( ^') == "no page matches"
    assert tools.opened == ["whale", "sea"]


def test_pages_are_read_piece_by_piece(corpus):
    tools = SearchTools(corpus)
    first = tools.open_page("sea")
    assert first.endswith("[1621 more characters; continue with cursor=2000]")
    assert tools.open_page("sea", 2000).endswith("Whales sing at night.")
    assert tools.find_in_page("sea", "WHALES").splitlines()[0] == "1 places"
    with pytest.raises(ToolError, match="there is no page 'sky'"):
        tools.open_page("sky")
    with pytest.raises(ToolError, match="beyond"):
        tools.open_page("sea", 10_000)


def test_a_corpus_in_a_file_is_read_by_many(tmp_path, corpus):
    path = tmp_path / "pages.sqlite"
    Corpus.build(path, [Page(id="a", title="A", text="alpha")])
    Corpus.build(path, [Page(id="b", title="B", text="beta")])
    one, two = Corpus(path), Corpus(path)
    assert len(one) == len(two) == 1
    assert two.search("beta")[0][0].id == "b"
    with pytest.raises(sqlite3.OperationalError):
        one.add([Page(id="c", title="C", text="")])
    with pytest.raises(ConfigError, match="no corpus"):
        Corpus(tmp_path / "none")


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as rows:
        rows.execute("create table item(id integer primary key, name text, price real)")
        rows.executemany("insert into item values (?, ?, ?)", [(i, f"item {i}", i / 2) for i in range(100)])
    rows.close()
    return path


def test_sql_answers_and_caps(shop):
    tools = SqlTools(shop)
    assert tools.schema() == "item(id INTEGER primary key, name TEXT, price REAL): 100 rows"
    assert tools.query("select name, price from item where id = 3") == "name | price\nitem 3 | 1.5"
    assert tools.query("select * from item").splitlines()[-1] == "[more than 50 rows; narrow the question]"
    assert tools.query("select * from item where id > 1000").endswith("(no rows)")
    assert [t.effect for t in tools.tools()] == ["pure", "pure"]


@pytest.mark.parametrize(
    "sql",
    ["delete from item", "drop table item", "attach 'x' as y", "pragma journal_mode = wal", "select load_extension('x')", "vacuum into 'x'",
     "create table t(a)", "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t", "select 1; select 2",
     "select zeroblob(1000000000)", "select nonsense", "insert into item values (1, 2, 3)", "select replace(hex(zeroblob(99999)), '0', 'xx')"],
)  # fmt: skip
def test_sql_that_may_not_be_is_refused(shop, sql):
    before = shop.read_bytes()
    with pytest.raises(ToolError):
        SqlTools(shop).query(sql)
    assert shop.read_bytes() == before


def test_a_copy_cannot_grow_without_end_and_others_are_not_bounded_by_it(shop):
    tools = SqlTools(shop, write=True, memory=1 << 20)
    with pytest.raises(ToolError, match="full"):
        for _ in range(200):
            tools.query("insert into item(name) select hex(printf('%.20000c', 'x'))")
    tools.close()
    rows = sqlite3.connect(":memory:")
    rows.execute("create table t(x)")
    rows.executemany("insert into t values(?)", [("y" * 100_000,)] * 100)  # 10 MB, in a database of somebody else
    assert rows.execute("select count(*) from t").fetchone() == (100,)
    rows.close()


def test_what_is_no_database_or_corpus_is_refused_before_it_is_needed(tmp_path, shop):
    plain = tmp_path / "notes.sqlite"
    plain.write_text("These are notes and no database at all.")
    for name, message in (
        (f"sql:{plain}", "is no SQLite database"),
        (f"search:{plain}", "is no corpus"),
        (f"search:{shop}", "corpus"),
    ):
        with pytest.raises(ConfigError, match=message):
            check([name])


def test_files_may_have_any_name(tmp_path, shop):
    odd = tmp_path / "a?b#c%20.sqlite"
    odd.write_bytes(shop.read_bytes())
    opened = SqlTools(odd)
    assert opened.query("select count(*) from item").endswith("\n100")
    opened.close()
    made = Corpus.build(tmp_path / "d?e#f.corpus", [Page(id="a", title="Ada", text="wrote programs")])
    assert [page.id for page, _ in made.search("programs")] == ["a"] and sorted(p.name for p in tmp_path.glob("d*")) == [
        "d?e#f.corpus"
    ]
    made.rows.close()


def test_changes_belong_to_one_episode(shop):
    before = shop.read_bytes()
    one, two = SqlTools(shop, write=True), SqlTools(shop, write=True)
    start_digest = one.digest()
    assert one.query("update item set price = 0 where id < 10") == "10 rows changed"
    assert one.digest() != start_digest == two.digest()
    assert one.query("update item set price = id / 2.0 where id < 10") == "10 rows changed"
    assert one.digest() == start_digest
    for sql in ("drop table item", "create table t(a)", "update sqlite_master set name = 'x'", "pragma writable_schema = 1"):
        with pytest.raises(ToolError):
            one.query(sql)
    assert shop.read_bytes() == before
    assert as_tool(one.tools()[1]).effect == "mutating"
