"""Commands and files of a work folder in a box: the hands of an agent that works on a computer."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Awaitable
from typing import TypeVar

from phronesis.errors import SandboxFault, ToolError
from phronesis.sandbox import Box, Limits, Refused
from phronesis.tool import Tool, as_tool, tool

T = TypeVar("T")

NO_OUTPUT = "(no output)"
"""What is answered where a command prints nothing and ends well."""
LONGEST = 60_000
"""Bytes of a command, as JSON."""
LINES = 200
"""Lines of a file shown at once."""


class ShellTool:
    """The tool ``shell`` of one episode: each call is a shell of its own, in the folder where the last one ended."""

    def __init__(self, box: Box, limits: Limits | None = None, *, linger: bool = True):
        """For one episode.

        Args:
            box: of this episode alone.
            limits: of each call; None means those of the box.
            linger: whether processes that a command leaves in the background go on after it.
        """
        self.box, self.limits, self.linger = box, limits, linger
        self.folder = box.work

    def tools(self) -> list[Tool]:
        """As tools of an environment."""
        return [as_tool(self.shell)]

    @tool(effect="mutating")
    async def shell(self, command: str) -> str:
        """Runs a shell command in the work folder and returns its output and, if that is not 0, its exit status.

        Args:
            command: for sh; there is no network and no terminal, so give every answer as an argument or by a pipe.
        """
        if "\0" in command or len(json.dumps(command)) > LONGEST:
            raise ToolError(f"a command has no null bytes and at most {LONGEST} bytes; write a file instead", "bad_argument")
        script = f'cd -- "$1" && shift; {command}\nstatus=$?\npwd > {self.box.work}/.tmp/.folder\nexit $status'
        ran = await self.box.run(["sh", "-c", script, "sh", self.folder], limits=self.limits, linger=self.linger)
        try:
            self.folder = (await self.box.read(".tmp/.folder")).decode("utf-8", "replace").rstrip("\n") or self.folder
        except Refused:  # the command ended before the folder was noted
            self.folder = self.box.work
        text = ran.stdout.text + ran.stderr.text
        if ran.stopped == "time":
            return f"{text}\n[stopped after {ran.seconds:.0f} s]".lstrip("\n")
        if ran.stopped is not None:
            return f"{text}\n[stopped: out of memory]".lstrip("\n") if ran.stopped == "memory" else _died(text)
        status = f"[exit status {ran.code}]" if ran.code else ""
        return "\n".join(part for part in (text.rstrip("\n"), status) if part) or NO_OUTPUT


class FileTools:
    """The tools ``read_file``, ``write_file``, ``edit_file`` and ``list_files`` over the work folder of a box."""

    def __init__(self, box: Box):
        """For one episode.

        Args:
            box: of this episode alone.
        """
        self.box = box

    def tools(self) -> list[Tool]:
        """As tools of an environment."""
        return [as_tool(f) for f in (self.list_files, self.read_file, self.write_file, self.edit_file)]

    @tool(effect="pure")
    async def list_files(self, folder: str = ".") -> str:
        """Lists files below a folder of the work folder, with their sizes in bytes.

        Args:
            folder: relative to the work folder.
        """
        found = await _told(self.box.entries(_inside(folder), 500))
        lines = [f"{e.path}/" if e.kind == "folder" else f"{e.path}  {e.size}" for e in found]
        return "\n".join(lines) + ("\n[only the first 500]" if len(found) == 500 else "") or "(empty)"

    @tool(effect="pure")
    async def read_file(self, path: str, line: int = 1) -> str:
        """Shows up to 200 numbered lines of a text file.

        Args:
            path: relative to the work folder.
            line: the first line to show, from 1.
        """
        lines = (await _told(self.box.read(_inside(path)))).decode("utf-8", "replace").splitlines()
        if line < 1 or line > max(len(lines), 1):
            raise ToolError(f"{path!r} has {len(lines)} lines; there is no line {line}", "bad_argument")
        part = lines[line - 1 : line - 1 + LINES]
        left = len(lines) - (line - 1 + len(part))
        note = f"\n[{left} more lines; continue with line={line + len(part)}]" if left else ""
        return "\n".join(f"{n:>5}  {text}" for n, text in enumerate(part, line)) + note or "(empty)"

    @tool(effect="mutating")
    async def write_file(self, path: str, content: str) -> str:
        """Makes a file, or replaces all of it.

        Args:
            path: relative to the work folder; folders above it are made.
            content: the whole text.
        """
        await _told(self.box.write(_inside(path), content.encode()))
        return f"wrote {len(content.encode())} bytes to {path}"

    @tool(effect="mutating")
    async def edit_file(self, path: str, old: str, new: str) -> str:
        """Replaces a piece of text that occurs exactly once in a file.

        Args:
            path: relative to the work folder.
            old: the text to replace, copied exactly, with enough around it to occur only once.
            new: what to put in its place.
        """
        place = _inside(path)
        text = (await _told(self.box.read(place))).decode("utf-8", "surrogateescape")
        count = text.count(old) if old else 0
        if count != 1:
            raise ToolError(f"the old text occurs {count} times in {path!r}; it must occur exactly once", "bad_argument")
        beside = await self.box.entries(posixpath.dirname(place) or ".", 2000)
        executable = any(e.path == place and e.executable for e in beside)
        await _told(self.box.write(place, text.replace(old, new).encode("utf-8", "surrogateescape"), executable=executable))
        return f"edited {place}, line {text[: text.index(old)].count(chr(10)) + 1}"


def _inside(path: str) -> str:
    clean = posixpath.normpath(re.sub(r"^/work(?=/|$)/?", "", path) or ".")
    if clean.startswith(("/", "..")):
        raise ToolError(f"{path!r} is outside of the work folder", "bad_argument")
    return clean


def _died(text: str) -> str:
    raise SandboxFault(f"the box died while a command ran; its output so far: {text[-200:]!r}")


async def _told(action: Awaitable[T]) -> T:
    """What a box gives; what it cannot do is told to the policy."""
    try:
        return await action
    except Refused as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ToolError(f"not done: {reason}", "no_such_file") from error
