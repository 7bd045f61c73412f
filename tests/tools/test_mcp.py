"""MCP both ways with the SDK: a server made with it becomes tools, our tools are read by its client; and every way in which a
server may be slow, dead or hostile is told apart."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("mcp")

import mcp_theirs
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from phronesis.envs.from_tools import from_tools
from phronesis.envs.rows import make as rows
from phronesis.errors import ConfigError, EnvFault, SandboxUnavailable, ToolError, UnknownName
from phronesis.pictures import SHELF
from phronesis.records import ImagePart, Message, Stop, TextPart, ToolCall, say
from phronesis.rewards import FunctionRubric
from phronesis.sandbox import start
from phronesis.tool import tool
from phronesis.tools.adapters.mcp_client import connected, mcp_tools
from phronesis.tools.adapters.mcp_server import serving
from phronesis.tools.catalogue import check, toolset
from phronesis.tools.mcp import McpServer

HERE = Path(__file__).parent
THEIRS = McpServer(command=(sys.executable, str(HERE / "mcp_theirs.py")))
FAMILIES = ("auto", "handshake", "stateless")


def hostile(how, **settings):
    return McpServer(command=(sys.executable, "-I", str(HERE / "mcp_hostile.py"), how), family="handshake", **settings)


async def _with(server, use):
    async with connected(server) as tools:
        return await use({t.spec.name: t for t in tools})


def using(server, use):
    return asyncio.run(_with(server, use))


@pytest.fixture(scope="module")
def theirs():
    """Their server over HTTP, in a thread of its own."""
    import socket
    import threading

    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(mcp_theirs.server.streamable_http_app(), log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server._serve([listening])), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    server.should_exit = True
    thread.join(10)
    listening.close()


# ------------------------------------------------------------------------------------------------- client


async def look_at_all(tools):
    assert sorted(tools) == ["add", "crash", "environment", "note", "picture", "refuse", "sleep"]
    assert {n: t.effect for n, t in tools.items() if t.effect} == {"add": "pure", "note": "mutating", "crash": "irreversible"}
    add, picture = tools["add"], tools["picture"]
    assert add.spec.description == "Adds two whole numbers." and add.spec.parameters["required"] == ["a"]
    assert await add.call({"a": 2}) == "3" and await add.call({"a": 2, "b": 5}) == "7"
    for arguments, message in (
        ({"a": "2"}, "argument 'a': Expected `int`, got `str`"),
        ({}, "add needs the argument 'a'"),
        ({"a": 1, "c": 1}, "add has no argument 'c'; it takes: a, b"),
    ):
        with pytest.raises(ToolError, match=message):
            await add.call(arguments)
    with pytest.raises(ToolError, match="argument 'kind': must be one of 'dot', 'line'"):
        await picture.call({"kind": "circle"})
    caption, image = await picture.parts({"kind": "dot"})
    assert caption == TextPart(text="a dot") and isinstance(image, ImagePart)
    assert SHELF.load(image) == mcp_theirs.PNG and image.media_type == "image/png"
    with pytest.raises(ToolError, match="refuse"):
        await tools["refuse"].call({})


@pytest.mark.parametrize("family", FAMILIES)
def test_their_server_over_standard_streams(family):
    using(McpServer(command=THEIRS.command, family=family), look_at_all)


@pytest.mark.parametrize("family", FAMILIES)
def test_their_server_over_http(family, theirs):
    using(McpServer(url=theirs, family=family), look_at_all)


def test_a_command_is_of_one_episode_and_dies_with_it(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")

    async def both():
        async with connected(THEIRS) as first, connected(THEIRS) as second:
            a, b = ({t.spec.name: t for t in tools} for tools in (first, second))
            assert await a["note"].call({"text": "one"}) == "one"
            assert await b["note"].call({"text": "two"}) == "two"
            told = await a["environment"].call({})
            assert "SECRET_TOKEN" not in told and "PATH" in told
            number = int(told.split()[0])
            os.kill(number, 0)
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)

    asyncio.run(both())


def test_a_slow_tool_is_told_and_the_server_lives():
    async def use(tools):
        with pytest.raises(ToolError, match=r"sleep gave no answer within 0\.5 s") as raised:
            await tools["sleep"].call({"seconds": 60})
        assert raised.value.kind == "timeout"
        assert await tools["add"].call({"a": 1}) == "2"

    using(McpServer(command=THEIRS.command, call_seconds=0.5), use)


def test_a_crash_is_a_fault_of_the_world():
    async def use(tools):
        with pytest.raises(EnvFault, match="failed at 'crash'"):
            await tools["crash"].call({})
        with pytest.raises(EnvFault):
            await tools["add"].call({"a": 1})

    using(THEIRS, use)


def test_closing_works_from_another_task_and_after_a_cancelled_call():
    async def run():
        entered = connected(THEIRS)
        tools = {t.spec.name: t for t in await entered.__aenter__()}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tools["sleep"].call({"seconds": 60}), 0.2)
        assert await tools["add"].call({"a": 1}) == "2"
        await asyncio.create_task(entered.__aexit__(None, None, None))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("reserved", "has a tool 'reset', a reserved name; set prefix"),
        ("twice", "has two tools called 'speak'"),
        ("many", "lists 500 tools, at most 128 are taken"),
        ("long schema", "the schema of 'speak' is longer than 50000 characters"),
        ("wrong schema", "is no schema of named arguments"),
        ("no tools", "cannot be used: ValidationError"),
        ("endless list", "never ends its list of tools"),
        ("old", "cannot be used"),
    ],
)
def test_hostile_lists_are_faults(how, message):
    async def use(tools):
        raise AssertionError(f"{how} was taken: {tools}")

    with pytest.raises(EnvFault, match=message):
        using(hostile(how), use)


def test_servers_that_never_begin_are_faults():
    async def use(tools):
        raise AssertionError

    for server, message in (
        (hostile("mute", start_seconds=0.5), "did not begin in 0.5 s|Timed out|timed out"),
        (McpServer(command=("no-such-program-abc",)), "cannot be started"),
        (McpServer(command=(sys.executable, "-c", "pass")), "cannot be used: MCPError"),
        (McpServer(url="http://127.0.0.1:9/mcp", start_seconds=5), "cannot be used"),
    ):
        with pytest.raises(EnvFault, match=message):
            using(server, use)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("huge", "h" * 20_000 + "\n[980000 characters cut]"),
        ("blocks", "hello\n" * 64 + "[436 more parts left out]"),
        ("bad picture", "[image/png, which is no base64, not shown]\nhello"),
        ("odd picture", "[text/html, 3 bytes, not shown]"),
        ("nothing", ""),
        ("structured", '{"n":1}'),
        ("noise", "hello"),
        ("other id", "hello"),
    ],
)
def test_odd_results_are_read(how, told):
    async def use(tools):
        return await tools["speak"].call({"x": "a"})

    assert using(hostile(how), use) == told


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("unsaid", ToolError, "does not say why"),
        ("structured failure", ToolError, "does not say why"),
        ("refuses", ToolError, "x must be short"),
        ("breaks", EnvFault, "internal"),
        ("wrong type", EnvFault, "with what is none"),
        ("exit", EnvFault, "failed at 'speak'"),
        ("endless line", EnvFault, "failed at 'speak'"),
        ("endless lines", EnvFault, "failed at 'speak'"),
        ("endless notes", EnvFault, "failed at 'speak'"),
        ("endless requests", EnvFault, "failed at 'speak'"),
    ],
)
def test_bad_results_are_told_or_faults(how, error, message, monkeypatch):
    monkeypatch.setattr("phronesis.tools.adapters.mcp_lines.MOST_NOTES", 1000)

    async def use(tools):
        with pytest.raises(error, match=message):
            await tools["speak"].call({"x": "a"})

    using(hostile(how), use)


def test_sessions_that_nobody_uses_end_by_themselves(monkeypatch):
    monkeypatch.setattr("phronesis.tools.adapters.mcp_server.IDLE", 0.0)
    monkeypatch.setattr("phronesis.tools.adapters.mcp_server.SWEEP", 0.01)

    async def run():
        closed = asyncio.Event()

        @asynccontextmanager
        async def make():
            async with toolset(["calculator"]) as tools:
                yield tools
            closed.set()

        async with serving(make, state=True) as address, Client(streamable_http_client(address), mode="legacy") as client:
            await client.list_tools()
            await asyncio.wait_for(closed.wait(), 30)  # no other request comes

    asyncio.run(run())


def test_an_endless_answer_over_http_is_a_fault(monkeypatch):
    monkeypatch.setattr("phronesis.tools.adapters.mcp_client.LARGEST_ANSWER", 1 << 20)
    speak = {"name": "speak", "description": "Speaks.", "inputSchema": {"type": "object", "properties": {}}}

    async def answer(reader, writer):
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
                asked = json.loads(await reader.readexactly(size)) if size else {}
                info = {"capabilities": {"tools": {}}, "serverInfo": {"name": "hostile", "version": "0"}}
                results = {"initialize": {"protocolVersion": "2025-11-25", **info}, "tools/list": {"tools": [speak]}}
                if asked.get("method") == "tools/call":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                    while True:
                        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                        await writer.drain()
                result = results.get(asked.get("method"))
                body = json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "result": result}).encode() if result else b""
                status = "200 OK" if result else "202 Accepted" if asked else "405 No"
                writer.write(
                    f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
        writer.close()

    async def run():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
            async with connected(McpServer(url=address, family="handshake")) as (tool_,):
                with pytest.raises(EnvFault, match="failed at 'speak'"):
                    await tool_.call({})

    asyncio.run(run())


def test_a_server_that_hangs_is_a_fault(monkeypatch):
    monkeypatch.setattr("phronesis.tools.adapters.mcp_client.PATIENCE", 0.3)

    async def use(tools):
        with pytest.raises(EnvFault, match="hangs since a call of 'speak'"):
            await tools["speak"].call({"x": "a"})

    using(hostile("hang", call_seconds=0.3), use)


def test_names_and_descriptions_are_made_harmless():
    async def use(tools):
        return next(iter(tools.values())).spec

    spec = using(hostile("odd names"), use)
    assert spec.name == "speak_to___im_end__me" + "e" * 43 and len(spec.name) == 64
    spec = using(hostile("long description"), use)
    assert len(spec.description) == 4000 and spec.description.startswith("[2Jddd")
    spec = using(hostile("reserved", prefix="their_"), use)
    assert spec.name == "their_reset"
    with pytest.raises(EnvFault, match="has no tool 'sing'; it has speak"):
        using(hostile("", only=("sing",)), use)


def test_a_server_in_a_box_has_no_network_and_none_of_our_files():
    async def run():
        try:
            (await start()).close()
        except SandboxUnavailable as error:
            pytest.skip(f"no sandbox: {error}")
        code = (HERE / "mcp_hostile.py").read_text()
        server = McpServer(command=("python", "-c", code, ""), sandbox=True, family="handshake")
        async with connected(server) as (speak,):
            assert await speak.call({"x": "a"}) == "hello"
        with pytest.raises(EnvFault, match="cannot be used"):
            async with connected(McpServer(command=hostile("").command, sandbox=True, family="handshake")):
                pass  # a file it may not read it cannot run

    asyncio.run(run())


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (McpServer(), "either a command or a url"),
        (McpServer(command=("a",), url="http://b"), "either a command or a url"),
        (McpServer(url="ftp://b"), "must begin with http"),
        (McpServer(url="http://b", sandbox=True), "a server behind a url runs elsewhere"),
        (McpServer(command=("a",), call_seconds=0), "must be above 0"),
    ],
)
def test_servers_that_cannot_be(server, message):
    with pytest.raises(ConfigError, match=message):
        mcp_tools(server)


# ------------------------------------------------------------------------------------------------- episodes


def calls(name, **arguments):
    return Message(role="assistant", tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))


def test_an_episode_with_the_tools_of_a_server():
    spec = from_tools(
        "theirs", mcp_tools(THEIRS), FunctionRubric(lambda e: 1.0), [{"prompt": "Add."}, {"prompt": "Draw."}], max_turns=4
    )

    async def run():
        env = spec.make()
        opening = await env.reset(spec.task("train", 0), 0)
        assert "add" in [t.name for t in opening.tools or ()]
        reply = await env.step(calls("add", a=40, b=2))
        assert reply.messages[0].text == "42" and reply.effect == "pure"
        reply = await env.step(calls("picture", kind="line"))
        assert [type(p) for p in reply.messages[0].content] == [TextPart, ImagePart]
        reply = await env.step(calls("refuse"))
        assert reply.errors == ("tool_raised",)
        assert (await env.step(say("assistant", "done"))).done
        await env.close()

    asyncio.run(run())


def test_rows_take_tools_and_servers_by_settings(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "What is 6 * 7?", "answer": 42}\n{"prompt": "2 + 2?", "answer": 4}\n')
    spec = rows(str(tmp_path / "a.jsonl"), tools=("calculator",), mcp=(McpServer(command=THEIRS.command, only=("add",)),))
    assert spec.max_turns == 16

    async def run():
        env = spec.make()
        opening = await env.reset(spec.task("train", 0), 0)
        assert [t.name for t in opening.tools or ()] == ["calculate", "add"]
        assert (await env.step(calls("calculate", expression="6 * 7"))).messages[0].text == "42"
        assert (await env.step(calls("add", a=1))).messages[0].text == "2"
        await env.close()

    asyncio.run(run())
    with pytest.raises(UnknownName, match="did you mean 'calculator'"):
        rows(str(tmp_path / "a.jsonl"), tools=("calculater",))
    with pytest.raises(ConfigError, match="either a command or a url"):
        rows(str(tmp_path / "a.jsonl"), mcp=(McpServer(),))


def test_a_dead_server_ends_the_episode_as_a_fault_and_pays_nothing():
    from phronesis.envs.scripted import as_episode
    from phronesis.records import EpisodeGroup

    rubric = FunctionRubric(lambda e: 1.0)
    spec = from_tools("theirs", mcp_tools(THEIRS), rubric, [{"prompt": "Crash."}, {"prompt": "Or not."}])

    async def run():
        env = spec.make()
        opening = await env.reset(spec.task("train", 0), 0)
        with pytest.raises(EnvFault):
            await env.step(calls("crash"))
        await env.close()
        import msgspec

        episode = as_episode(spec.task("train", 0), 0, opening, actions=[], replies=[])
        episode = msgspec.structs.replace(episode, stop=Stop.env_fault)
        (reward,) = await rubric.score(EpisodeGroup(id="g", task=episode.task, episodes=(episode,)))
        assert reward.value is None

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------- server


@tool(effect="irreversible")
def burn(page: str) -> str:
    """Burns a page.

    Args:
        page: its name.
    """
    raise RuntimeError("secret traceback")


def boxes_work():
    async def attempt():
        (await start()).close()

    try:
        asyncio.run(attempt())
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox: {error}")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_our_tools_over_standard_streams(mode):
    async def run():
        command = [sys.executable, "-c", "from phronesis.cli.main import main; raise SystemExit(main())"]
        words = ["mcp", "--tools", "calculator,test_mcp:burn"]
        server = StdioServerParameters(command=command[0], args=[*command[1:], *words], cwd=str(HERE))
        async with Client(server, mode=mode) as client:
            listed = (await client.list_tools()).tools
            assert [t.name for t in listed] == ["calculate", "burn"]
            assert listed[0].annotations.read_only_hint and listed[1].annotations.destructive_hint
            assert listed[0].input_schema["required"] == ["expression"]
            result = await client.call_tool("calculate", {"expression": "2 / 3 + 1/3"})
            assert (result.is_error, result.content[0].text) == (False, "1")
            result = await client.call_tool("calculate", {"expression": "9**9**9"})
            assert result.is_error
            result = await client.call_tool("calculate", {"words": "1"})
            assert result.is_error and "no argument 'words'" in result.content[0].text
            result = await client.call_tool("burn", {"page": "a"})
            assert result.is_error and result.content[0].text == "the tool broke: RuntimeError"
            with pytest.raises(MCPError, match="there is no tool 'sing'"):
                await client.call_tool("sing", {})

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_sessions_over_http_do_not_see_one_another(mode):
    boxes_work()

    async def run():
        names = ["python", "files"]
        async with (
            serving(partial(toolset, names), state=True) as address,
            Client(address, mode=mode) as one,
            Client(address, mode=mode) as other,
        ):
            await one.call_tool("python", {"code": "x = 41\nopen('mine', 'w').write('1')"})
            told = await one.call_tool("python", {"code": "x + 1"})
            assert told.content[0].text == "42"
            told = await other.call_tool("python", {"code": "x"})
            assert told.is_error and "NameError" in told.content[0].text
            assert "mine" in (await one.call_tool("list_files", {})).content[0].text
            assert "mine" not in (await other.call_tool("list_files", {})).content[0].text
            assert one.protocol_version.startswith("2025")  # auto fell back to the family that has sessions

    asyncio.run(run())


def test_tools_without_state_speak_both_families_over_http():
    async def run():
        async with serving(partial(toolset, ["calculator"]), state=False) as address:
            for mode, year in (("auto", "2026"), ("legacy", "2025")):
                async with Client(address, mode=mode) as client:
                    assert client.protocol_version.startswith(year)
                    assert (await client.call_tool("calculate", {"expression": "6*7"})).content[0].text == "42"

    asyncio.run(run())


def test_sessions_end_when_they_are_deleted_or_idle():
    made, closed = [], []

    class Counted:
        async def __aenter__(self):
            made.append(1)
            return []

        async def __aexit__(self, *_):
            closed.append(1)

    async def run():
        async with serving(Counted, state=True) as address:
            async with Client(address, mode="legacy") as client:
                await client.list_tools()
                assert (len(made), len(closed)) == (1, 0)
            await asyncio.sleep(0.1)
            assert (len(made), len(closed)) == (1, 1)
            async with Client(streamable_http_client(address, terminate_on_close=False), mode="legacy") as client:
                await client.list_tools()
            assert (len(made), len(closed)) == (2, 1)
        assert (len(made), len(closed)) == (2, 2)

    asyncio.run(run())


def test_our_client_reads_our_server():
    async def run():
        async with (
            serving(partial(toolset, ["calculator"]), state=False) as address,
            connected(McpServer(url=address)) as (calculate,),
        ):
            assert calculate.effect == "pure"
            assert await calculate.call({"expression": "1 + 1"}) == "2"
            with pytest.raises(ToolError, match="divi"):
                await calculate.call({"expression": "1 / 0"})

    asyncio.run(run())


def test_a_taken_port_and_unknown_tools_are_told(capsys):
    from phronesis.cli.main import main

    assert main(["mcp", "--list"]) == 0
    assert "calculator" in capsys.readouterr().out
    assert main(["mcp", "--tools", "calculater"]) == 2
    assert "did you mean 'calculator'" in capsys.readouterr().err
    for names, message in (
        ([], "name at least one tool"),
        (["calculator", "calculator"], "named twice"),
        (["sql:none.sqlite"], "there is no file 'none.sqlite'"),
        (["no_such_module:f"], "no module"),
    ):
        with pytest.raises(ConfigError, match=message):
            check(names)
