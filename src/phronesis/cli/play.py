"""`phronesis play`: a person takes the policy's place, sees exactly the messages a policy sees, and is scored like one."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import mimetypes
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Awaitable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar, cast

import msgspec
import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.config import arguments
from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.envs.guard import validate_reply
from phronesis.envs.scripted import as_episode, reward_of
from phronesis.errors import ConfigError, EnvFault, UnknownName
from phronesis.pictures import SHELF
from phronesis.records import Episode, ImagePart, Message, Reply, Task, ToolCall, ToolSpec
from phronesis.records import say as message
from phronesis.seeding import stream
from phronesis.tools.shell import NO_OUTPUT
from phronesis.view.terminal import render_message, visible

T = TypeVar("T")

app = new_app()

HELP = """\
  tool arg=value       call a tool, e.g.  guess number=5   or in order, without names:  guess 5   type 7 hello world
  {"name": "guess", "arguments": {"number": 5}}            the same as JSON, as a policy writes it
  anything else        say it
  /say TEXT            say it, whatever it looks like
  /tools  /help  /quit"""
AT_A_SHELL = """\
  COMMAND              runs it
  /done                say that the work is done
  /say TEXT  /tools  /help  /quit"""
"""Where commands are all that can be called, a line is one."""


@app.command(
    epilog=examples(
        "phronesis play guess",
        "phronesis play ledger --task 7 --split heldout",
        "phronesis play frozenlake map_name=8x8",
        "phronesis play miniweb view=browser",
        "phronesis play terminal --task 3",
        "phronesis play my_pkg.my_env:make",
        "echo 'guess 5' | phronesis play guess --json",
    )
)
def play(
    env: Annotated[str, typer.Argument(metavar="ENV", help="Environment name (`phronesis env list`) or package.module:make.")],
    dials: Annotated[list[str] | None, typer.Argument(metavar="DIAL=VALUE", help="The environment's arguments.")] = None,
    task: Annotated[int, typer.Option(help="Number of the task within its split.")] = 0,
    split: Annotated[str, typer.Option(help="train or heldout.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the world's chance.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Take the policy's place in an environment.

    You see what a policy sees and answer in its stead; at the end you are scored as it would be. A line is a tool call
    (`tool arg=value`, or JSON) or plain text. /help repeats this, /quit gives up.
    """
    spec = registry.get(env, arguments(dials or []))
    sizes = spec.sizes
    if split not in sizes:
        raise UnknownName("split", split, sizes)
    size = sizes[split]
    if task < 0 or (size is not None and task >= size):
        raise ConfigError(f"--task {task!r}: split {split!r} of {spec.name!r} has tasks 0 to {size - 1 if size else '...'}")
    person = Person(as_json)
    episode = asyncio.run(_game(spec, spec.task(split, task), seed, person))
    person.verdict(spec, episode)


class Person:
    """Who sits at the terminal: shows messages, reads actions."""

    def __init__(self, as_json: bool):
        """With `as_json` everything shown is one JSON object per line."""
        self.as_json = as_json
        self.tools: tuple[ToolSpec, ...] = ()
        self.turn = 0
        self.gave_up = False

    def show(self, reply: Reply) -> None:
        """Shows what the environment answered, and nothing a policy would not see."""
        if reply.tools is not None:
            self.tools = reply.tools
        if self.as_json:
            say_json({"messages": reply.messages, "tools": reply.tools, "done": reply.done})
            return
        for said in reply.messages:
            pictures = [part for part in said.content if isinstance(part, ImagePart)]
            for part in pictures:
                say(f"   result picture in {self.picture(part)}")
            if pictures and not said.text:
                continue
            if said.role == "tool" and self.at_a_shell:
                if said.text != NO_OUTPUT:
                    say(visible(said.text))
                continue
            say(render_message(said, width=shutil.get_terminal_size((100, 24)).columns, colour=sys.stdout.isatty()))
        if reply.tools is not None:
            self.show_tools()
            if self.at_a_shell:
                say("  Every line is a command; /done when the work is done, /help for more.")

    @property
    def at_a_shell(self) -> bool:
        """Whether all that can be called is a tool that takes a command."""
        return len(self.tools) == 1 and list(_properties(self.tools[0])) == ["command"]

    def picture(self, part: ImagePart) -> str:
        """Writes a picture to a file that a person can open, and says where."""
        try:
            content = SHELF.load(part)
        except KeyError:
            return f"{part.media_type}, no longer at hand"
        path = Path(tempfile.gettempdir()) / f"phronesis-{part.sha256[:12]}{mimetypes.guess_extension(part.media_type) or ''}"
        path.write_bytes(content)
        return str(path)

    def show_tools(self) -> None:
        """Lists the tools with their arguments."""
        for tool in self.tools:
            say(f"  tool {tool.name}({', '.join(signature(tool))}): {tool.description}")

    def read(self) -> Message | None:
        """The next action; None when the person gives up."""
        while True:
            if not self.as_json and sys.stdin.isatty():
                print("$ " if self.at_a_shell else "> ", end="", flush=True)
            line = sys.stdin.readline()
            text = line.strip()
            if not line or text == "/quit":
                self.gave_up = True
                return None
            if text in ("/help", "/tools"):
                say(AT_A_SHELL if self.at_a_shell else HELP) if text == "/help" else self.show_tools()
                continue
            near = mistyped(text, self.tools) if sys.stdin.isatty() and not (self.as_json or self.at_a_shell) else None
            if near is not None:
                say(f"there is no tool {text.split()[0]!r}; did you mean {near!r}? /say {text[:40]} says it")
                continue
            if text:
                self.turn += 1
                if text == "/done" or text.startswith("/say "):
                    return message("assistant", text.removeprefix("/say ").strip() if text != "/done" else "Done.")
                action = read_action(text, self.tools, self.turn - 1)
                if self.at_a_shell and not action.tool_calls:
                    call = _call(self.tools[0].name, {"command": text}, f"call_{self.turn - 1}_0")
                    return Message(role="assistant", tool_calls=(call,))
                return action

    def verdict(self, spec: EnvSpec, episode: Episode) -> None:
        """Shows how it went."""
        value = episode.reward.value if episode.reward is not None else None
        success = None if value is None else value >= spec.success
        parts = episode.reward.components if episode.reward is not None else ()
        if self.as_json:
            say_json(
                {
                    "task": episode.task.id,
                    "gave_up": self.gave_up,
                    "turns": len(episode.turns),
                    "reward": value,
                    "success": success,
                }
                | {"components": parts, "errors": episode.errors}
            )
            return
        for part in parts:
            if part.turn is not None and not part.score:
                continue  # a turn that earned nothing
            answer = f", from {part.answer!r}" if part.answer is not None else ""
            why = f": {part.explanation}" if part.explanation else ""
            when = "" if part.turn is None else f" at turn {part.turn + 1}"
            score_text = "not scored" if part.score is None else f"{part.score:g} x {part.weight:g}"
            say(f"  {part.name}{when}: {score_text}{' (for people only)' if part.audit else ''}{answer}{why}")
        shown = "not scored" if value is None else f"score {value:g} ({'success' if success else 'no success'})"
        say(f"{shown} after {len(episode.turns)} turns of at most {spec.max_turns}{', gave up' if self.gave_up else ''}")


@contextlib.contextmanager
def _interruptible() -> Generator[None]:
    """Lets Ctrl-C end the game at once; inside asyncio it would only cancel a task, after the person's next line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _game(spec: EnvSpec, task: Task, seed: int, person: Person) -> Episode:
    with _interruptible():
        return await take_place(spec, task, seed, person)


async def take_place(spec: EnvSpec, task: Task, seed: int, person: Person) -> Episode:
    """Plays one episode with a person as the policy and scores it.

    Raises:
        EnvFault: the environment raised, or broke its contract.
    """
    env = spec.make()
    actions: list[Message] = []
    replies: list[Reply] = []
    try:
        opening = reply = validate_reply(await _foreign("reset", env.reset(task, stream(seed, "env"))), opening=True)
        person.show(reply)
        while not reply.done and len(replies) < spec.max_turns:
            action = person.read()
            if action is None:
                break
            reply = validate_reply(await _foreign("step", env.step(action)))
            actions.append(action)
            replies.append(reply)
            person.show(reply)
    finally:
        with contextlib.suppress(Exception):  # the verdict matters more than the tidying up
            await env.close()
    episode = as_episode(task, seed, opening, actions=actions, replies=replies)
    return msgspec.structs.replace(episode, reward=await _foreign("rubric.score", reward_of(spec, episode)))


async def _foreign(where: str, call: Awaitable[T]) -> T:
    """Awaits user code; whatever it raises names where."""
    try:
        return await call
    except EnvFault:
        raise
    except Exception as error:  # the boundary to user code
        raise EnvFault(f"the environment raised in {where}: {type(error).__name__}: {error}") from error


def read_action(text: str, tools: Sequence[ToolSpec], turn: int) -> Message:
    """One line as the message a policy would have produced.

    A tool's name as first word, or a JSON object (or list of them) with ``name``, is a call; anything else is said.
    """
    calls: list[object] = []
    if text.startswith(("{", "[")):
        with contextlib.suppress(json.JSONDecodeError):
            read: object = json.loads(text)
            calls = cast(list[object], read) if isinstance(read, list) else [read]
    tables = [cast(dict[str, object], c) for c in calls if isinstance(c, dict) and "name" in c]
    if tables and len(tables) == len(calls):
        made = [_call(str(t["name"]), t.get("arguments", {}), f"call_{turn}_{n}") for n, t in enumerate(tables)]
        return Message(role="assistant", tool_calls=tuple(made))
    name, _, rest = text.partition(" ")
    tool = next((t for t in tools if t.name == name), None)
    if tool is not None:
        return Message(role="assistant", tool_calls=(_call(name, _words(rest, tool), f"call_{turn}_0"),))
    return message("assistant", text)


def _call(name: str, given: object, id: str) -> ToolCall:
    if not isinstance(given, dict):
        return ToolCall(id=id, name=name, arguments={}, error=f"arguments must be an object, got {given!r}")
    return ToolCall(id=id, name=name, arguments=cast(dict[str, object], given))


def mistyped(text: str, tools: Sequence[ToolSpec]) -> str | None:
    """The tool whose name the first word nearly is, when it is none; None otherwise.

    >>> mistyped("clik 3", [ToolSpec(name="click", description="", parameters={})])
    'click'
    """
    word, names = text.partition(" ")[0], [tool.name for tool in tools]
    if word in names or not word.isidentifier():
        return None
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.75)
    return near[0] if near else None


def _words(text: str, tool: ToolSpec) -> dict[str, object]:
    """``a=1 b="two words"`` as arguments; without names they stand in order, and the last takes the rest of the line."""
    known = _properties(tool)
    named = any(text.startswith(f"{name}=") or f" {name}=" in text for name in known)
    if text.strip() and known and not named and (len(known) == 1 or "=" not in text.split()[0]):
        words = text.strip().split(None, len(known) - 1)
        return {name: _value(word.strip(), known[name]) for name, word in zip(known, words, strict=False)}
    try:
        words = shlex.split(text)
    except ValueError:  # an unbalanced quote
        words = text.split()
    found: dict[str, object] = {}
    for word in words:
        name, _, value = word.partition("=")
        found[name] = _value(value, known.get(name))
    return found


def _value(text: str, schema: object) -> object:
    """A word as the schema wants it: text where it says string, else JSON if it is JSON."""
    if isinstance(schema, dict) and cast(Mapping[str, object], schema).get("type") == "string":
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _properties(tool: ToolSpec) -> dict[str, object]:
    properties: object = tool.parameters.get("properties", {})
    return cast(dict[str, object], properties) if isinstance(properties, dict) else {}


def signature(tool: ToolSpec) -> list[str]:
    """A tool's arguments as ``name: type``, optional ones with a question mark."""
    required: object = tool.parameters.get("required", [])
    needed = cast(list[str], required) if isinstance(required, list) else []
    found: list[str] = []
    for name, schema in _properties(tool).items():
        kind = cast(Mapping[str, object], schema).get("type", "any") if isinstance(schema, dict) else "any"
        found.append(f"{name}{'' if name in needed else '?'}: {kind}")
    return found
