"""`phronesis pairs`: learn from preferences that lie in a file, or from the stored attempts of a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec.structs import replace

from phronesis.chat.detect import format_for
from phronesis.chat.format import ChatFormat
from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.cli.player import find, settings
from phronesis.config import load, to_toml
from phronesis.data.preferences import Collected, encode_pair, read_lines
from phronesis.errors import ConfigError
from phronesis.models import checkpoint as model_files
from phronesis.models.tokenizer import load_tokenizer, save_tokenizer
from phronesis.records import Episode, EpisodeGroup
from phronesis.store import Run
from phronesis.store.folder import write_whole
from phronesis.store.index import Where
from phronesis.train.lessons.pairs import Compared, PairsLesson, collect
from phronesis.train.preference import PreferenceConfig, PreferenceStep, PreferenceSummary, fit_pairs

app = new_app()


@app.command(
    epilog=examples(
        "phronesis pairs runs/quickstart-seed0 --file pairs.jsonl --out runs/preferred",
        "phronesis pairs runs/quickstart-seed0 --episodes runs/quickstart-seed0 --out runs/preferred",
        "phronesis pairs path/to/model --episodes runs/mine --compare steps objective.type=step_apo --out runs/preferred",
        "phronesis eval runs/preferred env.name=ledger",
    )
)
def fit(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="Who learns: a run folder, or a model folder.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="PATH=VALUE", help="Settings to change, e.g. objective.beta=0.5.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Model folder to write; must not exist.")] = Path("preferred"),
    file: Annotated[Path | None, typer.Option(help="JSONL: opening, chosen, rejected on each line.")] = None,
    episodes: Annotated[Path | None, typer.Option(metavar="RUN", help="Pair the attempts of this run's groups.")] = None,
    kind: Annotated[str, typer.Option(help="Which of its episodes.")] = "train",
    compare: Annotated[str, typer.Option(help="attempts, first_step or steps.")] = "attempts",
    margin: Annotated[float, typer.Option(help="Only pairs whose values differ by more.")] = 0.0,
    step: Annotated[int | None, typer.Option(help="Learn from the checkpoint of this step on.  [default: newest]")] = None,
    as_json: AsJson = False,
) -> None:
    """Learn from pairs offline: DPO, IPO, Step-DPO or Step-APO against the model as it is now.

    Pairs come from a file, or from a run's stored groups: the best against the worst attempt, the first step in which they
    differ, or the steps wherever attempts part. Writes a model folder with the tokenizer, pairs.toml (the settings) and
    pairs.json (every optimiser step; what was left out, and why).
    """
    if (file is None) == (episodes is None):
        raise ConfigError("give either --file FILE.jsonl or --episodes RUN")
    if out.exists():
        raise ConfigError(f"{str(out)!r} exists; name a new folder with --out")
    lesson = PairsLesson(compare=_compared(compare), margin=margin)
    config = load(PreferenceConfig, overrides=changes or [])
    if compare == "first_step":
        config = replace(config, first_step=True)
    weights = find(source, step)
    tokenizer, decoder = load_tokenizer(weights), model_files.load(weights)
    chat = format_for(tokenizer, settings(source, []).model.retention)
    found = _of_file(file, lesson, chat) if file is not None else collect(stored_groups(Path(episodes or ""), kind), lesson)
    if not found.pairs:
        raise ConfigError(f"no pairs to learn from; left out: {found.left_out!r}")
    summary = fit_pairs(decoder, found.pairs, config)
    left_out = Counter(found.left_out) + Counter(summary.left_out)
    model_files.save(decoder, out)
    save_tokenizer(tokenizer, out)
    write_whole(out / "pairs.toml", to_toml(config).encode())
    report = _report(summary, dict(left_out), len(found.pairs), weights)
    write_whole(out / "pairs.json", msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if as_json:
        say_json(report)
    else:
        say(_line(report, summary.history[-1], out))


def stored_groups(run: Path, kind: str) -> list[EpisodeGroup]:
    """A run's stored groups, in the order they were played; episodes without a group stand alone.

    Raises:
        RunFolderError: it is no run.
    """
    groups: dict[str, list[Episode]] = {}
    with Run.open(run) as opened:
        for episode in opened.episodes(Where(kind=kind)):
            groups.setdefault(episode.group or episode.id, []).append(episode)
    return [EpisodeGroup(id=name, task=es[0].task, episodes=tuple(es)) for name, es in groups.items()]


def _of_file(path: Path, lesson: PairsLesson, chat: ChatFormat) -> Collected:
    if lesson.compare == "steps":
        raise ConfigError("--compare steps lays the attempts of a group over one another; a file has pairs, use first_step")
    pairs = [encode_pair(line, chat) for line in read_lines(path)]
    valued = lesson.margin > 0
    kept = [p for p in pairs if not valued or p.chosen_value - p.rejected_value > lesson.margin]
    return Collected(kept, {"margin": len(pairs) - len(kept)} if len(kept) < len(pairs) else {})


def _compared(text: str) -> Compared:
    if text == "attempts" or text == "first_step" or text == "steps":
        return text
    raise ConfigError(f"--compare {text!r} must be attempts, first_step or steps")


def _report(summary: PreferenceSummary, left_out: dict[str, int], pairs: int, weights: Path) -> dict[str, object]:
    history = [step._asdict() | {"margin": step.margin} for step in summary.history]
    return {"weights": str(weights), "pairs": pairs, "left_out": left_out, "seconds": summary.seconds, "history": history}


def _line(report: dict[str, object], last: PreferenceStep, out: Path) -> str:
    return (
        f"{report['pairs']} pairs, {last.step} steps: loss {last.loss:.4f}, accuracy {last.accuracy:.0%}, margin "
        f"{last.margin:+.3f} nats in the last step; left out {report['left_out'] or 'none'}\nmodel: {out}"
    )
