"""Lessons on players that fork: what is refused, what may be learned from branches, and that it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from tiny_jobs import config

from phronesis.credit import ARPOCredit, TrajectoryCredit, TreeCredit
from phronesis.errors import ConfigError
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.reason.players.earl import EARLPlayer
from phronesis.reason.players.tree import TreePlayer
from phronesis.train import job, lint, presets
from phronesis.train.lessons.pairs import PairsLesson

TREE, ARPO, EARL = TreePlayer(widths=(2, 4)), ARPOPlayer(initial=4), EARLPlayer()


def refused(name, player, **changes):
    """Reasons of the rule, and no word of the rule about credit that lessons do not read."""
    run = presets.apply(name, config(), **({"teacher": "x"} if name == "gkd" else {}))
    run = replace(run, player=player, group_size=8, **changes)
    found = {f.rule: f for f in lint.lint(run)}
    assert "branches-unread" not in found
    return [f.reason for f in found.values() if f.rule == "lesson-forks" and f.severity == "refuse"]


@pytest.mark.parametrize("name", ["dpo", "step_dpo", "gkd", "sdpo", "star", "rlag"])
@pytest.mark.parametrize("player", [TREE, ARPO, EARL], ids=lambda p: type(p).__name__)
def test_lessons_that_take_an_episode_for_one_attempt_are_refused(name, player):
    (reason,) = refused(name, player)
    assert "forced attempts" in reason if player is EARL else "several attempts" in reason


def test_steps_are_learned_from_wherever_branches_part():
    assert refused("step_apo", TREE) == refused("step_apo", ARPO) == []
    assert refused("step_apo", EARL) and refused("step_apo", TREE, lesson=PairsLesson(compare="first_step"))


def test_one_forked_episode_has_no_siblings():
    run = replace(config(), group_size=8, credit=TrajectoryCredit())
    for player, alone in ((TreePlayer(widths=(1, 8)), True), (TREE, False), (ARPOPlayer(initial=1), True), (ARPO, False)):
        assert ("lone-group" in {f.rule for f in lint.lint(replace(run, player=player))}) is alone
        for credit in (TreeCredit(), ARPOCredit()):
            assert "lone-group" not in {f.rule for f in lint.lint(replace(run, player=player, credit=credit))}


def test_a_refused_run_does_not_start(tmp_path: Path):
    run = replace(presets.apply("dpo", config()), player=TREE, group_size=8)
    with pytest.raises(ConfigError, match="lesson-forks: player 'tree' plays episodes of several attempts"):
        job.run(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
