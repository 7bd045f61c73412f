"""Players that fork episodes, or force attempts, against what learns from them."""

from __future__ import annotations

from phronesis.train.config import RunConfig
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.lint_rules.kinds import tag_of

FORKS = frozenset(("tree", "arpo"))
"""Players, by tag, whose episodes hold several attempts."""
FORCES = frozenset(("earl",))
"""Players, by tag, whose attempts hold turns nobody chose."""


def lesson_forks(run: RunConfig) -> str | None:
    """Lessons compare, show and verify episodes as one attempt each; pairs of steps alone are made wherever branches part."""
    player, lesson = tag_of(run.player), run.lesson
    if lesson is None:
        return None
    if player in FORCES:
        return f"player {player!r} forces routes, and lesson {tag_of(lesson)!r} takes forced attempts for free ones"
    if player not in FORKS or (isinstance(lesson, PairsLesson) and lesson.compare == "steps"):
        return None
    how = f" with compare = {lesson.compare!r}" if isinstance(lesson, PairsLesson) else ""
    return (
        f"player {player!r} plays episodes of several attempts, and lesson {tag_of(lesson)!r}{how} takes each for one attempt: "
        "rewards are means over branches, and texts run through all of them"
    )
