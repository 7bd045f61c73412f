"""The built-in lessons, told apart by their tag in configs."""

from __future__ import annotations

from phronesis.train.lessons.pairs import PairsLesson

LessonConfig = PairsLesson
"""Each has `begin(ground)`, which gives a `phronesis.train.lessons.lesson.Lesson`."""
