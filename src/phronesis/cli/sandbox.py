"""`phronesis doctor sandbox`: what isolation this machine gives, found by trying it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import typer

from phronesis.cli.output import AsJson, examples, say, say_json
from phronesis.sandbox import Found, Guarantees, survey

PROMISES = {
    "files": "files outside cannot be read or written",
    "network": "no host or service can be reached",
    "processes": "processes outside cannot be seen or signalled",
    "calls": "dangerous system calls are refused",
    "user": "commands run as a user who is nobody else",
    "kill": "nothing outlives the box",
    "disk": "bytes and files written are bounded in total",
}
"""What each promise means."""
EXAMPLES = examples("phronesis doctor sandbox", "phronesis doctor sandbox --json")


def sandbox(as_json: AsJson = False) -> None:
    """Say what isolation of commands this machine gives: each way is started and tried to get out of.

    Exit code 1 when none does.
    """
    found = asyncio.run(survey())
    if as_json:
        say_json({"tiers": [{"tier": f.tier, "guarantees": f.guarantees, "reason": f.reason} for f in found]})
    else:
        say(render(found))
    if not any(f.guarantees is not None and f.tier != "process" for f in found):
        raise typer.Exit(1)


def render(found: Sequence[Found]) -> str:
    """The tiers as text, the preferred first; then what each promise means."""
    lines: list[str] = []
    for one in found:
        if one.guarantees is None:
            lines.append(f"{one.tier:<11} not here: {one.reason.splitlines()[0]}")
        else:
            lines.append(f"{one.tier:<11} {_promises(one.guarantees)}")
            lines.append(f"{'':<11} {one.guarantees.note}")
    used = next((f.tier for f in found if f.guarantees is not None and f.tier != "process"), None)
    lines.append("")
    lines += [f"{name:<11} {text}" for name, text in PROMISES.items()]
    lines.append(
        f"{'memory':<11} who bounds the memory of the whole box: the kernel (cgroup) or a watcher every 50 ms (polled)"
    )
    lines.append("")
    lines.append(
        f"used where nothing else is asked for: {used}"
        if used
        else "nothing here isolates; worlds that run code refuse to start"
    )
    return "\n".join(lines)


def _promises(promised: Guarantees) -> str:
    held = [name for name in PROMISES if getattr(promised, name)]
    missing = [name for name in PROMISES if not getattr(promised, name)]
    text = f"{', '.join(held) or 'nothing'}; memory {promised.memory}"
    return f"{text}; NOT {', '.join(missing)}" if missing else text
