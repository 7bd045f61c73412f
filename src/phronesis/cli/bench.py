"""`phronesis bench`: how fast this machine decodes, beside what others reach on it and what it could do at best."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.engine.speed.run import Line, Measured, Plan, describe, measure
from phronesis.engine.speed.vllm_side import interpreter
from phronesis.engine.speed.workload import SIZES, Work
from phronesis.errors import ConfigError

app = new_app()

HEADER = ("model", "sequences", "prompt", "new", "turns", "engine", "tokens/s", "ours is faster by", "of the bound")
PEERS = ("generate", "continuous", "vllm", "eager")


@app.callback(epilog=examples("phronesis bench engine", "phronesis bench engine --sizes 1M --batches 64"))
def bench() -> None:
    """Measure this machine."""


@app.command(
    "engine",
    epilog=examples(
        "phronesis bench engine",
        "phronesis bench engine --sizes 1M,10M --batches 1,64,256 --prompts 64,512",
        "phronesis bench engine --peers generate,continuous,vllm --sizes 3M --rounds 7 --json",
        "phronesis bench engine --turns 1,4,16 --shared 48 --sizes 1M",
    ),
)
def engine(
    sizes: Annotated[str, typer.Option(help=f"Models: any of {', '.join(SIZES)}.")] = "0.3M,1M,3M,10M",
    batches: Annotated[str, typer.Option(help="Sequences at once.")] = "1,16,64",
    prompts: Annotated[str, typer.Option(help="Ids of a prompt.")] = "64",
    new: Annotated[int, typer.Option(help="Ids sampled in each turn.")] = 64,
    turns: Annotated[str, typer.Option(help="Turns of an episode; the environment's answers come in between.")] = "1",
    shared: Annotated[int, typer.Option(help="Ids that all prompts begin with.")] = 0,
    peers: Annotated[str, typer.Option(help=f"Other engines: any of {', '.join(PEERS)}.")] = "generate",
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 2,
    rounds: Annotated[int, typer.Option(help="Counted rounds; engines take turns in each.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Sampled tokens a second of the embedded engine, beside other engines and the machine's own bound.

    All decode the same random weights in fp32 at temperature 1, each in its own process, in rounds: a ratio compares two
    neighbours in time. The bound is the roofline of matrix products and memory, measured in the same run.
    """
    works = tuple(
        Work(size=size, batch=batch, prompt=prompt, new=new, turns=turn, shared=shared)
        for size in _words(sizes)
        for prompt in _counts("prompts", prompts)
        for turn in _counts("turns", turns)
        for batch in _counts("batches", batches)
    )
    others = _words(peers)
    if unknown := [p for p in others if p not in PEERS]:
        raise ConfigError(f"--peers {unknown[0]!r} is not known; known: {', '.join(PEERS)}")
    if "vllm" in others and interpreter() is None:
        raise ConfigError("--peers vllm needs a Python with vLLM: scripts/setup_vllm.sh, or set PHRONESIS_VLLM_PYTHON")
    plan = Plan(works=works, sides=("ours", *others), threads=threads, rounds=rounds)
    found = measure(plan, lambda text: print(f"bench: {text}", file=sys.stderr, flush=True))
    if as_json:
        say_json(found)
    elif sys.stdout.isatty():
        _pretty(found)
    else:
        say(table([row(line) for line in found.lines], HEADER))
        say(f"\n{footer(found)}")


def row(line: Line) -> tuple[str, ...]:
    """One line of the table."""
    w = line.work
    start = (w.size, str(w.batch), str(w.prompt), str(w.new), str(w.turns), line.name)
    if not line.rates:
        return (*start, "none", line.refused or "", "")
    share = "" if line.share is None else f"{100 * line.share:.0f} %"
    return (*start, f"{line.rate:,.0f}", faster(line), share)


def faster(line: Line) -> str:
    """How many times faster ours was: the median over the rounds, with its range."""
    if not line.ratios:
        return ""
    ordered = sorted(line.ratios)
    return f"{line.ratio:.2f} ({ordered[0]:.2f}-{ordered[-1]:.2f})"


def footer(found: Measured) -> str:
    """What the table rests on."""
    m = found.machine
    return (
        f"{found.threads} threads, medians of {found.rounds} rounds; bound: {m.flops / 1e9:.0f} GFLOP/s of fp32 products, "
        f"{m.memory / 1e9:.0f} GB/s of memory"
    )


def _pretty(found: Measured) -> None:
    shown = Table(title="Sampled tokens a second", caption=footer(found))
    for name in HEADER:
        shown.add_column(name, justify="left" if name in ("model", "engine") else "right")
    before: str | None = None
    for line in found.lines:
        if before not in (None, describe(line.work)):
            shown.add_section()
        before = describe(line.work)
        shown.add_row(*row(line), style="bold" if line.side == "ours" else "")
    Console().print(shown)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(name: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(word) for word in _words(text))
    except ValueError as error:
        raise ConfigError(f"--{name} wants whole numbers with commas between them, got {text!r}") from error
    if not found:
        raise ConfigError(f"--{name} is empty")
    return found
