"""The page of a run: what it says, that nothing in a run can run in it, and that every state has its design."""

from __future__ import annotations

import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
import synthetic_run

from phronesis.errors import RunFolderError
from phronesis.evals.pick import pick
from phronesis.evals.statistics import wilson
from phronesis.records import Component, Message, Reply, TextPart, ToolCall
from phronesis.store import Run as StoredRun
from phronesis.train.metrics import METRICS
from phronesis.view.alarms import findings
from phronesis.view.curves import SHOWN, groups, heldout_points, others
from phronesis.view.episode import Setting, card, chat
from phronesis.view.folder import Run, load, role
from phronesis.view.outcome import describe, evaluations, paired
from phronesis.view.report import page, write

EVIL = "</script><script>boom()</script><img src=x onerror=boom()>\"'><svg onload=boom()>&amp;"


class Reader(HTMLParser):
    """What a browser would see: elements, attributes, text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "input", "br"):
            self._inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self._inside or self._inside.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["script"]:
            self.scripts.append(data)
        elif self._inside[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.write_run(tmp_path_factory.mktemp("runs") / "quick start")


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    return write(finished).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen(html: str) -> Reader:
    return Reader(html)


def test_the_headline_has_both_results_with_intervals_and_the_paired_difference(finished: Path, seen: Reader):
    summary = json.loads((finished / "summary.json").read_text())
    before, after = summary["heldout_before"], summary["heldout_after"]
    for side in (before, after):
        assert f"{100 * side['success']:.1f} %" in seen.text
        assert f"{100 * side['ci_low']:.1f} to {100 * side['ci_high']:.1f} %, n = {side['n']}" in seen.text
    # 59 of 60 tasks are scored on both sides: the last one ended in a fault after training
    assert "paired bootstrap over 59 tasks" in seen.text and "1 task scored on one side only left out" in seen.text
    assert "3f9c2ab417e0" in seen.text and "1 min 58 s" in seen.text


def test_the_page_is_whole_markup_and_asks_for_nothing(html: str, seen: Reader):
    assert seen.unbalanced == []
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(seen.elements)
    links = [value for _, name, value in seen.attributes if name in ("href", "src", "xlink:href", "action", "data")]
    assert links and all(value is not None and value.startswith("#") for value in links)
    assert "http://" not in html and "https://" not in html and "@import" not in html and "url(" not in html
    policy = next(v for t, n, v in seen.attributes if t == "meta" and n == "content" and v and "default-src" in v)
    assert policy.startswith("default-src 'none'")


def test_every_link_inside_the_page_has_its_target_and_ids_are_unique(seen: Reader):
    ids = [value for _, name, value in seen.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = [value[1:] for _, name, value in seen.attributes if name == "href" and value]
    targets += [value or "" for tag, name, value in seen.attributes if tag == "label" and name == "for"]
    assert targets and set(targets) <= set(ids)


def test_every_chart_names_its_axes_units_and_definition(html: str, seen: Reader):
    titles = html.count('class="title y"')
    assert titles == html.count("data-chart=") >= 18
    assert html.count('class="title x"') >= titles
    for key in ("policy/entropy", "mismatch/kl", "update/grad_norm", "signal/zero_variance", "episode/turns"):
        assert METRICS[key].definition in seen.text
    for unit in ("nats", "nats, log scale", "tokens/s", "seconds", "%"):
        assert f">{unit}</text>" in html


def test_hover_values_are_the_metrics(finished: Path, seen: Reader):
    hover = [json.loads(value or "") for _, name, value in seen.attributes if name == "data-chart"]
    entropy = next(h for h in hover if any("thinking: " in line for line in h["read"][0]) and "0." in h["read"][0][1])
    wanted = load(finished).series["policy/entropy"]
    assert len(entropy["at"]) == len(wanted) == 60
    assert entropy["at"][0] == 0 and entropy["at"][-1] == 100
    assert entropy["read"][-1][:2] == ["training step 60", f"all: {wanted[-1][1]:.3g}"]


def test_five_episodes_with_their_commands(finished: Path, html: str, seen: Reader):
    assert [v for t, n, v in seen.attributes if t == "article" and n == "id"] == [
        f"episode-{c}" for c in ("best", "worst", "median", "most_changed", "failed")
    ]
    assert "OperationalError in env.step: database is locked" in seen.text
    assert f"phronesis replay '{finished}' heldout-59-0" in seen.text  # the fault, in a folder whose name has a blank
    assert "malformed: not a JSON object" in seen.text and "mistake: malformed_json" in seen.text
    assert "audit only, never part of the reward" in seen.text


def test_difficulty_rows_carry_wilson_intervals(finished: Path, seen: Reader):
    level = json.loads((finished / "summary.json").read_text())["heldout_after"]["by_difficulty"]["1"]
    wins, n = round(level[0] * level[1]), level[1]
    low, high = wilson(wins, n)
    assert f"{100 * low:.1f} to {100 * high:.1f}, n {n}" in seen.text
    assert [f"difficulty {i}" in seen.text for i in (1, 2, 3, 4)] == [True] * 4


def test_the_same_folder_gives_the_same_bytes(finished: Path, html: str):
    assert write(finished).read_text(encoding="utf-8") == html
    assert not list(finished.glob(".*partial"))


def test_text_of_an_episode_cannot_run(tmp_path: Path):
    player = synthetic_run.Player(0.9, synthetic_run.tokenizer())
    victim = player.episode("heldout-0-0", 0, 1)
    spoken = Message(
        role="assistant",
        thought=EVIL,
        content=(TextPart(text=EVIL),),
        tool_calls=(
            ToolCall(id="c", name=EVIL, arguments={EVIL: [EVIL]}),
            ToolCall(id="d", name="x", arguments={}, error=EVIL),
        ),
    )
    answer = Message(role="tool", content=(TextPart(text=EVIL),), name=EVIL)
    replace = msgspec.structs.replace
    turn = replace(
        victim.turns[0], action=spoken, parse_error=EVIL, author=EVIL, reply=Reply(messages=(answer,), errors=(EVIL,))
    )
    component = replace(victim.reward.components[0], name=EVIL, explanation=EVIL, answer=EVIL)
    hostile = replace(
        victim,
        id=EVIL,
        task=replace(victim.task, id=EVIL, env=EVIL),
        opening=(Message(role="system", content=(TextPart(text=EVIL),)), *victim.opening),
        turns=(turn, *victim.turns[1:]),
        reward=replace(victim.reward, components=(component,)),
    )
    folder = tmp_path / "run"
    with StoredRun.create(folder, synthetic_run.Settings(name=EVIL)) as run:
        run.append(hostile, "heldout_after")
        run.append(synthetic_run.faulted(hostile), "heldout_before")
        run.metrics(1, {"reward/mean": 0.5, f"evil/{EVIL}": 1.0})
        run.event("alarm", EVIL, step=1)
        after = {"success": 1.0, "n": 3, "by_difficulty": {EVIL: [1.0, 3]}}
        evil = {"name": EVIL, "config_hash": EVIL, EVIL: EVIL, "seconds": {EVIL: 1.0}}
        run.write_summary(evil | {"heldout_after": after, f"heldout_{EVIL}": {"success": 1, "n": 1}})
    text = write(folder).read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.unbalanced == []
    assert reader.elements.count("script") == 1 and "boom" not in reader.scripts[0]
    assert "img" not in reader.elements
    assert not [a for a in reader.attributes if a[1].startswith("on")]
    assert reader.text.count("boom()") > 20  # it is all there, as text


def test_a_tokenizer_cannot_inject_either():
    episode = synthetic_run.Player(0.9, synthetic_run.tokenizer()).episode("a", 0, 1)
    drawn = Reader(chat(episode, Setting(run="r", decode=lambda i: EVIL), "x"))
    assert "script" not in drawn.elements and "boom" in drawn.text


def test_token_strip_tells_given_forced_and_sampled_apart():
    tokens = synthetic_run.tokenizer()
    episode = synthetic_run.Player(0.9, tokens).episode("a", 0, 1)
    turn = msgspec.structs.replace(
        episode.turns[0],
        context=(40, 41),
        completion=(42, 43, 44),
        sampled=(True, False, True),
        logprobs=(-0.5, -2.0, -9.0),
        entropies=(0.0, 1.5, 99.0),
        spans=(),
    )
    text = chat(msgspec.structs.replace(episode, turns=(turn,)), Setting(run="r"), "x")
    assert "Tokens: 2 given, 2 sampled, 1 forced" in text
    assert text.count('class="t given"') == 2
    # 0.5 of 4 nats is heat 1, 2 of 4 is 4, 9 is the top; 1.5 of 3 nats of entropy is 4
    for wanted in ('"t say sampled l1 e0"', '"t say forced l4 e4"', '"t say sampled l9 e9"'):
        assert f"class={wanted}" in text
    assert 'title="id 42, say, sampled, log p −0.5 nats, p 0.607, entropy 0 nats"' in text


def test_rewards_stand_at_the_turn_that_earned_them(finished: Path):
    episode = synthetic_run.Player(0.9, synthetic_run.tokenizer()).episode("a", 1, 1)
    first = msgspec.structs.replace(episode.reward.components[0], turn=0, name="early")
    moved = msgspec.structs.replace(episode, reward=msgspec.structs.replace(episode.reward, components=(first,)))
    text = chat(moved, Setting(run="r"), "x")
    assert text.index("early") < text.index("<b>turn 2</b>")


def test_a_turn_that_could_not_be_parsed_is_shown_as_written():
    episode = synthetic_run.Player(0.9, synthetic_run.tokenizer()).episode("a", 1, 1)
    turn = msgspec.structs.replace(episode.turns[0], completion=(72, 105), parse_error="never closed", spans=())
    reply = Reply(errors=("malformed_call", "malformed_call", "unknown_tool"))
    broken = msgspec.structs.replace(episode, turns=(msgspec.structs.replace(turn, reply=reply),))
    text = Reader(chat(broken, Setting(run="r", decode=lambda i: chr(i)), "x")).text
    assert "could not be parsed: never closed" in text and "as writtenHi" in text
    assert "mistake: malformed_call × 2" in text and "mistake: unknown_tool" in text


def test_branches_say_where_they_continue():
    episode = synthetic_run.Player(0.9, synthetic_run.tokenizer()).episode("a", 1, 1)
    forked = msgspec.structs.replace(episode.turns[1], parent=0)
    text = chat(msgspec.structs.replace(episode, turns=(*episode.turns, forked)), Setting(run="r"), "x")
    assert text.count("branch of turn 1") == 1


def test_long_texts_are_cut_and_the_cut_is_counted():
    episode = synthetic_run.Player(0.9, synthetic_run.tokenizer()).episode("a", 1, 1)
    said = Message(role="user", content=(TextPart(text="x" * 7500),))
    text = chat(msgspec.structs.replace(episode, opening=(said,), turns=episode.turns * 30), Setting(run="r"), "x")
    assert "… 1 500 more characters" in text
    assert f"{len(episode.turns) * 30 - 60} more turns not shown here" in text


def test_running_state(tmp_path: Path):
    folder = tmp_path / "live"
    with StoredRun.create(folder, synthetic_run.Settings()) as run:
        run.metrics(1, synthetic_run.curve(1, 60))
        run.metrics(2, synthetic_run.curve(2, 60))
        text = Reader(write(folder).read_text(encoding="utf-8")).text
    assert "Run in progress" in text and "Last training step written: 2" in text and "in progress" in text
    assert load(folder).state == "stopped"
    assert "Stopped before the end" in Reader(page(load(folder))).text


def test_empty_state(tmp_path: Path):
    text = Reader(write(tmp_path).read_text(encoding="utf-8")).text
    assert "Nothing recorded yet" in text and "phronesis train quickstart" in text
    assert "Checks" not in text


def test_failed_state_shows_the_failure_first(tmp_path: Path):
    folder = synthetic_run.write_run(tmp_path / "run", steps=3, heldout=3, finish=False)
    (folder / "summary.json").write_text('{"failure": {"kind": "MismatchError", "message": "differ by 0.31 nats"}}')
    text = Reader(page(load(folder))).text
    assert text.index("The run failed") < text.index("MismatchError: differ by 0.31 nats") < text.index("Curves")


def test_a_failure_event_fails_the_run_until_it_is_resumed(tmp_path: Path):
    folder = tmp_path / "run"
    with StoredRun.create(folder, synthetic_run.Settings()) as run:
        run.event("failure", "all 64 episodes faulted", step=3)
    assert load(folder).failure == "all 64 episodes faulted (step 3)"
    with StoredRun.create(folder, synthetic_run.Settings(), resume=True) as run:
        assert load(folder).state == "running"
        run.event("resume", "from step 2")
    assert load(folder).state == "stopped"


def test_no_held_out_state(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if not k.startswith("heldout")}))
    shutil.rmtree(folder / "episodes")
    text = Reader(page(load(folder))).text
    assert "No held-out evaluation" in text and "what it learned is not measured" in text
    assert "Evidence" not in text and "Episodes worth reading" not in text and "Curves" in text


def test_training_episodes_are_read_while_there_is_no_evaluation(tmp_path: Path):
    player = synthetic_run.Player(0.5, synthetic_run.tokenizer())
    with StoredRun.create(tmp_path / "run", synthetic_run.Settings()) as run:
        for i in range(6):
            run.append(player.episode(f"train-0-{i}-0", i, i))
    text = Reader(page(load(tmp_path / "run"))).text
    assert "6 episodes of the latest training episodes, since there is no held-out evaluation yet" in text


def test_broken_files_are_noted_and_never_stop_the_page(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[3] = "{broken"
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99, "mystery/number": 1.0}', '{"step": 61, "rew']))
    (folder / "config.toml").write_text("= nonsense")
    (folder / "code.json").write_text("[1]")
    (folder / "checkpoints" / "start" / "tokenizer.json").write_text("{}")
    episodes = next(folder.glob("episodes/heldout_after-*"))
    episodes.write_bytes(episodes.read_bytes()[:-20])
    run = load(folder)
    records = next(f for f in findings(run) if f.check == "Records")
    assert records.level == "note"
    broken = ("1 lines of metrics.jsonl", "config.toml cannot be parsed", "code.json is not an object")
    for part in (*broken, "tokenizer", "mystery/number"):
        assert part in records.text
    assert len(run.episodes["after"]) == 59
    assert "Held-out success" in Reader(page(run)).text


def test_a_step_done_again_counts_once(tmp_path: Path):
    with StoredRun.create(tmp_path / "run", synthetic_run.Settings()) as run:
        for step, reward in ((1, 0.1), (2, 0.2), (2, 0.25), (3, 0.3)):
            run.metrics(step, {"reward/mean": reward, "update/loss": math.nan if step == 3 else 1.0})
    series = load(tmp_path / "run").series
    assert series["reward/mean"] == [(1, 0.1), (2, 0.25), (3, 0.3)]
    assert math.isnan(series["update/loss"][-1][1])
    assert "NaN or infinite" in next(f.text for f in findings(load(tmp_path / "run")) if f.check == "Finite numbers")


def test_long_runs_stay_small(tmp_path: Path):
    with StoredRun.create(tmp_path / "run", synthetic_run.Settings()) as run:
        for step in range(5000):
            run.metrics(step, {"reward/mean": 1.0 if step == 1234 else 0.5, "reward/std": 0.1})
    text = page(load(tmp_path / "run"))
    assert len(text) < 150_000
    assert "4600 of 5000 steps left out, evenly" in text


def test_priming_counts_its_own_steps(tmp_path: Path):
    with StoredRun.create(tmp_path / "run", synthetic_run.Settings()) as run:
        for step in (-3, -2, -1):
            run.metrics(step, {"prime/loss": -float(step)})
    assert load(tmp_path / "run").series["prime/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_missing_folder_is_a_clear_error(tmp_path: Path):
    with pytest.raises(RunFolderError, match="no run folder"):
        write(tmp_path / "nowhere")


def alarm(run: Run, check: str) -> str:
    return next(f.level for f in findings(run) if f.check == check)


def made(folder: Path, **series: list[float]) -> Run:
    """A run with these metrics, `__` for the slash."""
    values = {k.replace("__", "/"): [(float(i), v) for i, v in enumerate(vs)] for k, vs in series.items()}
    return Run(folder, series=values)


@pytest.mark.parametrize(
    ("check", "series", "level"),
    [
        ("Signal", {"signal__zero_variance": [0.95] * 6, "success__rate": [0.1] * 6}, "alarm"),
        ("Signal", {"signal__zero_variance": [0.95] * 6, "success__rate": [0.97] * 6}, "note"),
        ("Signal", {"signal__zero_variance": [1.0] * 6 + [0.2] * 5}, "ok"),
        ("Signal", {}, "unknown"),
        ("Sampler and learner agree", {"mismatch__max_logprob_difference": [1e-5, 0.02, 1e-5]}, "alarm"),
        ("Sampler and learner agree", {"mismatch__max_logprob_difference": [1e-5, 0.009]}, "ok"),
        ("Finite numbers", {"update__grad_norm": [1.0, math.inf]}, "alarm"),
        ("Finite numbers", {"update__grad_norm": [1.0, 2.0]}, "ok"),
        ("Exploration", {"policy__entropy": [1.0] * 5 + [0.01] * 5}, "alarm"),
        ("Exploration", {"policy__entropy": [1.0] * 5 + [0.2] * 5}, "ok"),
        ("Clipping", {"update__clip_share": [0.0, 0.0]}, "note"),
        ("Clipping", {"update__clip_share": [0.5] * 5}, "alarm"),
        ("Limits", {"episode__truncated": [0.6] * 5}, "alarm"),
        ("Faults", {"episode__faults": [0.0] * 99 + [0.5]}, "note"),
        ("Faults", {"episode__faults": [0.1]}, "alarm"),
        ("Faults", {"episode__faults": [0.0]}, "ok"),
    ],
)
def test_alarms_by_hand(tmp_path: Path, check: str, series: dict[str, list[float]], level: str):
    assert alarm(made(tmp_path, **series), check) == level


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [((20, 100), (80, 100), "ok"), ((20, 100), (25, 100), "alarm"), ((80, 100), (20, 100), "alarm")],
)
def test_improvement_needs_separate_intervals(tmp_path: Path, before: tuple[int, int], after: tuple[int, int], level: str):
    sides = {"heldout_before": before, "heldout_after": after}
    run = Run(tmp_path, summary={k: {"success": c / n, "n": n} for k, (c, n) in sides.items()})
    assert alarm(run, "Held-out improvement") == level


def test_pairing_decides_where_separate_intervals_cannot(tmp_path: Path):
    player = synthetic_run.Player(0.5, synthetic_run.tokenizer())
    sides = {"before": [], "after": []}
    for i in range(40):  # the same task scores 0 before and 1 after in 8 of 40 pairs, and never the other way
        for side in sides:
            right = i < 12 or (side == "after" and i < 20)
            played = player.episode(f"{side}-{i}", i, i)
            reward = msgspec.structs.replace(played.reward, components=(Component(name="success", score=float(right)),))
            sides[side].append(msgspec.structs.replace(played, reward=reward))
    summary = {"heldout_before": {"success": 0.3, "n": 40}, "heldout_after": {"success": 0.5, "n": 40}}
    run = Run(tmp_path, summary=summary)
    assert alarm(run, "Held-out improvement") == "alarm"  # 18 to 45 % against 35 to 65 %
    run.episodes = sides
    assert alarm(run, "Held-out improvement") == "ok"
    run.episodes = {"before": sides["after"], "after": sides["before"]}
    assert alarm(run, "Held-out improvement") == "alarm"


def test_memorising_is_an_alarm(tmp_path: Path):
    run = made(tmp_path, success__rate=[0.95] * 5)
    run.summary = {"heldout_after": {"success": 0.6, "n": 100}}
    assert alarm(run, "Training against held-out") == "alarm"


def test_alarms_of_the_run_come_first(tmp_path: Path):
    run = Run(tmp_path, alarms=["no signal for 5 steps"] * 2 + ["another"])
    assert [(f.level, f.text) for f in findings(run)[:3]] == [
        ("alarm", "no signal for 5 steps"),
        ("alarm", "another"),
        ("note", "3 alarms, 2 shown"),
    ]


def test_settings_noted_at_the_start_are_shown(tmp_path: Path):
    events = [{"kind": "lint", "message": "kl-k3: the other direction. Use k3plus", "step": None}, {"kind": "phase"}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    run = load(tmp_path)
    assert next((f.check, f.level, f.text) for f in findings(run)) == (
        "Settings",
        "note",
        "kl-k3: the other direction. Use k3plus",
    )


def test_every_metric_has_a_place(tmp_path: Path):
    run = Run(tmp_path, series={key: [(0.0, 1.0), (1.0, 2.0)] for key in METRICS})
    assert {k for group in SHOWN for k in group} <= set(METRICS)
    drawn = [c for group in groups(run) for c in group.charts] + list(others(run))
    shown = sum(bool(line.points) for chart in drawn for line in chart.lines)
    # spread and count are shown through the curves they belong to
    assert shown == len(METRICS) - len({"reward/std", "heldout/episodes"})


def test_held_out_points_come_from_metrics_or_from_the_summary(tmp_path: Path):
    run = made(tmp_path, heldout__success=[0.5, 0.75], heldout__episodes=[4.0, 4.0])
    points, band = heldout_points(run)
    assert points == [(0.0, 0.5), (1.0, 0.75)]
    assert band[0][1:] == pytest.approx(wilson(2, 4))
    run = made(tmp_path, success__rate=[0.1, 0.2, 0.3])
    run.summary = {"heldout_before": {"success": 0.25, "n": 8}, "heldout_after": {"success": 0.5, "n": 8}}
    points, band = heldout_points(run)
    assert points == [(0.0, 0.25), (3.0, 0.5)]
    assert band[0][1:] == pytest.approx((0.07147768885802763, 0.5907301208974108))


def test_roles_and_names():
    assert [
        role(k) for k in ("heldout_before", "heldout_after", "heldout_before_greedy", "heldout_swapped", "train", "evaluation")
    ] == [
        "before",
        "after",
        "greedy_before",
        "swapped",
        "train",
        "other",
    ]
    assert describe("heldout_after_greedy") == "after training, greedy"


def test_summaries_are_read_in_any_spelling(finished: Path):
    run = Run(
        finished, summary={"heldout_after": {"success_rate": 0.5, "episodes": 8}, "heldout_bad": {"success": 2}, "heldout_x": 3}
    )
    found = evaluations(run)
    assert list(found) == ["heldout_after"] and found["heldout_after"].n == 8
    assert paired(run, 1.0) is None


def test_a_twin_is_shown_beside_the_episode(finished: Path):
    run = load(finished)
    picks = pick(run.episodes["before"], run.episodes["after"])
    changed = next(p for p in picks if p.category == "most_changed")
    text = card(changed, Setting(run="r"))
    assert "The same task and seed before training" in text and '<details class="twin" open>' in text
