"""The top of the report: the one line that matters, the facts beside it, and what the job cost."""

from __future__ import annotations

from collections.abc import Mapping

from phronesis.evals.statistics import PairedDifference
from phronesis.view.folder import Run
from phronesis.view.html import Html, join, table, tag
from phronesis.view.outcome import Outcome, describe, get, mapping, outcome, paired
from phronesis.view.quantity import DASH, count, number, percent, seconds


def headline(run: Run) -> Html:
    """What was reached, in the designed form of the run's state."""
    before, after = outcome(run.summary, "heldout_before"), outcome(run.summary, "heldout_after")
    parts: list[Html | None] = []
    if run.failure is not None:
        parts.append(_failed(run))
    if before is not None and after is not None:
        parts += [_result(before, after), _scale(before, after), _pairs(paired(run, run.success))]
    elif before is not None or after is not None:
        found = after or before
        when = "after training" if after is not None else "before training"
        parts.append(_single(found, when))
    elif run.state != "failed":
        parts.append(_without(run))
    return tag("section", *parts, _facts(run), class_=f"hero {run.state}")


def _result(before: Outcome, after: Outcome) -> Html:
    return tag(
        "p",
        tag("span", "Held-out success", class_="kicker"),
        tag("span", percent(before.success), class_="number before"),
        tag("span", "→", class_="arrow", aria_label="to"),
        tag("span", percent(after.success), class_="number after"),
        class_="result",
    )


def _single(found: Outcome | None, when: str) -> Html:
    if found is None:
        return tag("p", DASH)
    return join(
        [
            tag(
                "p",
                tag("span", f"Held-out success {when}", class_="kicker"),
                tag("span", percent(found.success), class_="number after"),
                class_="result",
            ),
            tag("p", f"95 % interval {percent(found.low)} to {percent(found.high)}, n = {found.n}", class_="lede"),
        ]
    )


def _scale(before: Outcome, after: Outcome) -> Html:
    """Both results on an axis from 0 to 100 %, intervals as bars."""
    marks: list[Html] = []
    for name, o in (("before", before), ("after", after)):
        low, high, x = (f"{100 * v:.2f}%" for v in (o.low, o.high, o.success))
        marks.append(
            tag(
                "g",
                tag("title", f"{name}: {percent(o.success)}, 95 % interval {percent(o.low)} to {percent(o.high)}, n = {o.n}"),
                tag("line", class_="interval", x1=low, x2=high, y1="18", y2="18"),
                tag("circle", cx=x, cy="18", r=6),
                class_=name,
            )
        )
    ends = [tag("line", class_="track", x1="0", x2="100%", y1="18", y2="18")]
    for share in (0, 25, 50, 75, 100):
        ends.append(tag("line", class_="rule", x1=f"{share}%", x2=f"{share}%", y1="8", y2="28"))
        ends.append(tag("text", f"{share}" + (" %" if share == 100 else ""), x=f"{share}%", y="46", class_="tick x"))
    text = [
        tag(
            "span",
            tag("i", class_=f"key dot {name}"),
            f"{name} {100 * o.low:.1f} to {100 * o.high:.1f} %, n = {number(o.n)}",
            class_="entry",
        )
        for name, o in (("before", before), ("after", after))
    ]
    return tag(
        "div",
        tag(
            "svg",
            tag("title", "Held-out success before and after on an axis from 0 to 100 %"),
            *ends,
            *marks,
            role="img",
            width="100%",
            height=52,
            class_="plot",
        ),
        tag("div", *text, tag("span", "95 % Wilson intervals", class_="entry quiet"), class_="legend"),
        class_="scale",
    )


def _pairs(difference: PairedDifference | None) -> Html | None:
    if difference is None:
        return None
    d = difference
    points = f"{100 * d.difference:+.1f} points".replace("-", "−")
    interval = f"95 % interval {100 * d.low:+.1f} to {100 * d.high:+.1f}".replace("-", "−")
    same = d.tasks - d.improved - d.worsened
    left_out = f"; {count(d.unpaired, 'task')} scored on one side only left out" if d.unpaired else ""
    return tag(
        "p",
        tag("b", points),
        f" on the same tasks ({interval}, paired bootstrap over {number(d.tasks)} tasks): ",
        f"{number(d.improved)} tasks better, {number(d.worsened)} worse, {number(same)} unchanged{left_out}.",
        class_="lede",
    )


def _failed(run: Run) -> Html:
    return tag("div", tag("p", "The run failed", class_="kicker"), tag("p", run.failure, class_="failure"), class_="failed-box")


def _without(run: Run) -> Html:
    """The designed states without a result."""
    if run.state == "empty":
        return join(
            [
                tag("p", "Nothing recorded yet", class_="statement"),
                tag(
                    "p",
                    "This folder holds no settings, metrics, episodes or summary. A run writes them as it goes; start one: ",
                    tag("code", "phronesis train quickstart"),
                    ".",
                    class_="lede",
                ),
            ]
        )
    steps = [x for key, points in run.series.items() if not key.startswith("prime/") for x, _ in points]
    if run.state in ("running", "stopped"):
        where = f"Last training step written: {number(max(steps))}" if steps else "No training step has been written yet"
        what_next = "The result appears here after the held-out evaluation; write the report again then."
        if not run.active:
            what_next = "No process is writing this run any more and it has no summary; continue it with --resume."
        stamp = f", at {run.last_stamp}" if run.last_stamp else ""
        return join(
            [
                tag("p", "Run in progress" if run.active else "Stopped before the end", class_="statement"),
                tag(
                    "p",
                    f"{where}{stamp}. {what_next}",
                    class_="lede",
                ),
            ]
        )
    return join(
        [
            tag("p", "No held-out evaluation", class_="statement"),
            tag(
                "p",
                "The run played no held-out tasks, so what it learned is not measured. The curves are about training tasks.",
                class_="lede",
            ),
        ]
    )


def phases(run: Run) -> list[tuple[str, float]]:
    """(phase, seconds) in the order written; a total is left out, since it is the sum."""
    entry = mapping(run.summary, "seconds", "phases", "seconds_per_phase")
    found = [(_phase(name), get(entry, name)) for name in entry or {} if name not in ("total", "all", "wall")]
    return [(name, s) for name, s in found if s is not None and s >= 0]


def _phase(name: str) -> str:
    if name.startswith("heldout"):
        return f"evaluation {describe(name)}"
    known = {"make": "model and tokenizer", "prime": "priming", "train": "reinforcement learning"}
    return known.get(name, name.replace("_", " "))


def _total(run: Run) -> float | None:
    known = get(run.summary, "seconds_total", "total_seconds", "seconds") or get(
        mapping(run.summary, "seconds"), "total", "wall", "all"
    )
    spent = phases(run)
    return known if known is not None else sum(s for _, s in spent) if spent else None


def _facts(run: Run) -> Html | None:
    """Seed, settings, cost: what must stand beside a result."""
    seed = get(run.summary, "seed")
    seed = get(run.config, "seed") if seed is None else seed
    hashed = (run.summary or {}).get("config_hash") or (run.code or {}).get("config_hash")
    pairs = [
        ("seed", None if seed is None else f"{seed:g}"),
        ("settings", str(hashed)[:12] if isinstance(hashed, str) else None),
        ("wall-clock time", None if _total(run) is None else seconds(_total(run))),
        ("episodes", _maybe(get(run.summary, "episodes"))),
        ("tokens sampled", _maybe(get(mapping(run.summary, "tokens"), "sampled"))),
        (
            "largest |Δ log p|",
            _maybe(get(run.summary, "max_logprob_difference", "max_abs_logprob_difference", "max_dlogp"), " nats"),
        ),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", text)) for name, text in pairs if text is not None]
    return tag("dl", *shown, class_="facts") if shown else None


def _maybe(value: float | None, unit: str = "") -> str | None:
    return None if value is None else number(value) + unit


def numbers_table(found: Mapping[str, Outcome]) -> Html:
    """All held-out evaluations as numbers."""
    rows = [
        [
            describe(key),
            percent(o.success),
            f"{percent(o.low)} to {percent(o.high)}",
            number(o.n),
            number(o.reward),
            number(o.turns),
            number(o.tokens),
            number(o.faults),
        ]
        for key, o in found.items()
    ]
    head = [
        "evaluation",
        "success",
        "95 % interval",
        "episodes",
        "mean reward",
        "turns per episode",
        "sampled tokens per episode",
        "faults",
    ]
    return tag("div", table(head, rows, "Held-out evaluations"), class_="wide")


def facts(run: Run) -> Html | None:
    """Every number of the summary that is not shown elsewhere, by its path."""
    rows = [[path, text] for path, text in _flat(run.summary or {}) if not path.startswith("heldout")]
    return tag("div", table(["of the whole job", "value"], rows, "Numbers of the summary"), class_="wide") if rows else None


def _flat(entry: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, found in entry.items():
        inner = mapping(entry, key)
        path = f"{prefix}{key.replace('_', ' ')}"
        if inner is not None:
            rows += _flat(inner, f"{path} · ")
        elif get(entry, key) is not None:
            rows.append((path, number(get(entry, key))))
        elif isinstance(found, str | bool):
            rows.append((path, str(found)))
    return rows
