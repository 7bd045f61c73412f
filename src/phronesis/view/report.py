"""One self-contained `report.html` of a run: what was reached, whether to believe it, and what the agent does.

The page needs no network, no server and no JavaScript; a content security policy forbids all of the first and every script
but its own. The same folder always gives the same bytes.

What is read is described in `phronesis.view.folder`. Of `summary.json` it uses: `name`, `seed`, `config_hash`,
`seconds` (per phase), `episodes`, `tokens`, `heldout_*` (success, n, ci_low, ci_high, mean_turns, mean_tokens,
by_difficulty), `references` (optimum, chance), `failure`. All are optional.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from phronesis.errors import RunFolderError
from phronesis.evals.pick import pick
from phronesis.store import write_whole
from phronesis.view.alarms import Finding, findings
from phronesis.view.bars import Dot, DotRow, Phase, dot_plot, waterfall
from phronesis.view.chart import draw
from phronesis.view.curves import groups, others
from phronesis.view.episode import Setting, card
from phronesis.view.folder import Run, load
from phronesis.view.headline import facts, headline, numbers_table, phases
from phronesis.view.html import Html, join, tag
from phronesis.view.outcome import describe, evaluations, outcome

NAME = "report.html"
CURVES_NOTE = (
    "Thin lines are the values of every step, thick lines their centred mean over a twentieth of the run on each side. "
    "Point at a curve, or focus it and use the arrow keys, to read values; every figure has its table."
)


def write(run_folder: Path, run: Run | None = None) -> Path:
    """Writes the report into the run folder, replacing an older one at once.

    Args:
        run_folder: where the run lies.
        run: what was read of it already; None reads it.

    Raises:
        RunFolderError: the folder does not exist.
        DiskError: it cannot be written.
    """
    if not run_folder.is_dir():
        raise RunFolderError(f"no run folder at {str(run_folder)!r}; give the folder that holds metrics.jsonl and summary.json")
    path = run_folder / NAME
    write_whole(path, page(run or load(run_folder)).encode(), f"run: phronesis report {run_folder}")
    return path


def page(run: Run) -> Html:
    """The whole document."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    sections = _sections(run)
    navigation = tag("nav", *(tag("a", title, href=f"#{anchor}") for anchor, title, _ in sections), aria_label="Sections")
    return join(
        [
            Html("<!doctype html>\n"),
            tag(
                "html",
                tag(
                    "head",
                    tag("meta", charset="utf-8"),
                    tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                    tag("meta", name="color-scheme", content="light dark"),
                    tag("meta", http_equiv="Content-Security-Policy", content=policy),
                    tag("title", f"{run.name} · Phronesis"),
                    tag("style", Html(_asset("report.css"))),
                ),
                tag(
                    "body",
                    _masthead(run),
                    tag("main", headline(run), navigation if len(sections) > 1 else None, *(_section(*s) for s in sections)),
                    tag(
                        "footer",
                        "Written by ",
                        tag("code", f"phronesis report {run.folder.name}"),
                        ". Every number comes from the files of the run folder.",
                    ),
                    tag("script", Html(script)),
                ),
                lang="en",
            ),
            Html("\n"),
        ]
    )


def _asset(name: str) -> str:
    return files("phronesis.view").joinpath("assets", name).read_text(encoding="utf-8")


def _masthead(run: Run) -> Html:
    words = {
        "empty": "nothing recorded yet",
        "running": "in progress",
        "stopped": "stopped",
        "finished": "finished",
        "failed": "failed",
    }
    return tag(
        "header",
        tag("span", "φ", class_="mark", aria_hidden="true"),
        tag("span", "Phronesis", class_="brand"),
        tag("h1", run.name),
        tag("span", words.get(run.state, run.state), class_=f"state {run.state}"),
        class_="masthead",
    )


def _section(anchor: str, title: str, body: Html) -> Html:
    return tag("section", tag("h2", title), body, id=anchor, class_="part")


def _sections(run: Run) -> list[tuple[str, str, Html]]:
    """(anchor, title, content) of every part that has something to show."""
    if run.state == "empty":
        return []
    parts = [
        ("checks", "Checks", _checks(run)),
        ("evidence", "Evidence", _evidence(run)),
        ("curves", "Curves", _curves(run)),
        ("episodes", "Episodes worth reading", _episodes(run)),
        ("time", "Time and tokens", _time(run)),
        ("setup", "Set-up", _setup(run)),
    ]
    return [(anchor, title, body) for anchor, title, body in parts if body is not None]


def _checks(run: Run) -> Html:
    found = findings(run)
    urgent = [f for f in found if f.level in ("alarm", "note")]
    calm = [f for f in found if f.level not in ("alarm", "note")]
    passed = sum(f.level == "ok" for f in calm)
    line = f"{passed} of {len(found)} checks passed" + (
        f", {len(calm) - passed} had nothing to look at" if len(calm) > passed else ""
    )
    return join(
        [
            tag("ul", *(_finding(f) for f in urgent), class_="findings") if urgent else None,
            tag("details", tag("summary", line), tag("ul", *(_finding(f) for f in calm), class_="findings"), class_="calm")
            if calm
            else None,
        ]
    )


def _finding(finding: Finding) -> Html:
    sign = {"alarm": "!", "note": "i", "ok": "✓", "unknown": "?"}[finding.level]
    return tag(
        "li",
        tag("span", sign, class_="sign", title=finding.level),
        tag("div", tag("b", finding.check), tag("span", finding.text)),
        class_=finding.level,
    )


def _evidence(run: Run) -> Html | None:
    """All held-out evaluations side by side, and success by difficulty before and after."""
    found = evaluations(run)
    if not found:
        return None
    rows = [
        DotRow(
            describe(key),
            [Dot("", o.success, o.low, o.high, o.n, "before" if "before" in key else "other" if "swap" in key else "after")],
        )
        for key, o in found.items()
    ]
    parts = [
        tag(
            "figure",
            tag("figcaption", tag("h3", "Held-out success"), tag("p", _held_out_text(run))),
            dot_plot(rows, "Held-out success by evaluation"),
            class_="chart wide",
        )
    ]
    levels = _levels(run)
    if levels:
        parts.append(
            tag(
                "figure",
                tag(
                    "figcaption",
                    tag("h3", "By difficulty"),
                    tag(
                        "p",
                        "Held-out success by setting of the task generator's difficulty dial, with 95 % Wilson intervals.",
                    ),
                ),
                dot_plot(levels, "Held-out success by difficulty"),
                class_="chart wide",
            )
        )
    return tag("div", *parts, numbers_table(found), class_="charts")


def _held_out_text(run: Run) -> str:
    text = "Share of held-out episodes that succeed, with 95 % Wilson intervals."
    after, swapped = outcome(run.summary, "heldout_after"), outcome(run.summary, "heldout_swapped")
    if after is None or swapped is None:
        return text
    text += " Thoughts swapped: every episode is played again with the think blocks of another task."
    if swapped.high < after.low:
        return text + " Success falls, so the thoughts carry the result."
    return text + " Success does not clearly fall, so the thoughts may not matter."


def _levels(run: Run) -> list[DotRow]:
    """Rows by difficulty; intervals are computed here, since summaries keep shares and counts only."""
    sides = {"before": outcome(run.summary, "heldout_before"), "after": outcome(run.summary, "heldout_after")}
    names = list(dict.fromkeys(level for o in sides.values() if o is not None for level in o.levels))
    rows: list[DotRow] = []
    for level in sorted(names, key=_by_number):
        dots: list[Dot] = []
        if (before := sides["before"]) is not None and level in before.levels:
            dots.append(Dot.of("before", *before.levels[level], "before"))
        if (after := sides["after"]) is not None and level in after.levels:
            dots.append(Dot.of("after", *after.levels[level], "after"))
        rows.append(DotRow(f"difficulty {level}", dots))
    return rows


def _by_number(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name


def _curves(run: Run) -> Html | None:
    parts: list[Html] = []
    for group in groups(run):
        drawn = [figure for chart in group.charts if (figure := draw(chart)) is not None]
        if drawn:
            if not parts:
                parts.append(tag("p", CURVES_NOTE, class_="quiet"))
            parts += [tag("h4", group.question, class_="question"), tag("div", *drawn, class_="charts")]
    rest = [figure for chart in others(run) if (figure := draw(chart)) is not None]
    if rest:
        parts.append(
            tag("details", tag("summary", f"{len(rest)} more curves"), tag("div", *rest, class_="charts"), class_="more")
        )
    return join(parts) if parts else None


def _episodes(run: Run) -> Html | None:
    after = run.episodes.get("after", []) or run.episodes.get("train", [])
    picks = pick(run.episodes.get("before", []), after, run.success)
    if not picks:
        return None
    setting = Setting(run=str(run.folder), decode=run.decode, success=run.success)
    source = "held-out evaluation after training"
    if not run.episodes.get("after"):
        source = (
            "held-out evaluation before training"
            if not after
            else "latest training episodes, since there is no held-out evaluation yet"
        )
    pool = len(after or run.episodes.get("before", []))
    note = f"Chosen by rule from {pool} episodes of the {source}. Keys: n and p go from one to the next, t opens the tokens."
    return join([tag("p", note, class_="quiet"), *(card(p, setting) for p in picks)])


def _time(run: Run) -> Html | None:
    spent = phases(run)
    figure = None
    if spent:
        figure = tag(
            "figure",
            tag(
                "figcaption",
                tag("h3", "Seconds per phase"),
                tag("p", "Wall-clock time of the whole job, each phase starting where the one before ended."),
            ),
            waterfall([Phase(*p) for p in spent]),
            class_="chart wide",
        )
    table = facts(run)
    return tag("div", figure, table, class_="charts") if figure is not None or table is not None else None


def _setup(run: Run) -> Html | None:
    parts = [
        tag("details", tag("summary", title), tag("pre", text), class_="raw-file")
        for title, text in (("Resolved settings (config.toml)", run.config_text), ("Versions (code.json)", _indented(run.code)))
        if text is not None
    ]
    return join(parts) if parts else None


def _indented(found: Mapping[str, object] | None) -> str | None:
    return None if found is None else json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True)
