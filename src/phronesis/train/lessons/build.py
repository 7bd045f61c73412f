"""The built-in lessons, told apart by their tag in configs."""

from __future__ import annotations

from phronesis.train.lessons.distil import DistilLesson
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.lessons.rationalise import RationaliseLesson
from phronesis.train.lessons.rlag import RLAGLesson
from phronesis.train.lessons.self_distil import SelfDistilLesson

LessonConfig = PairsLesson | DistilLesson | SelfDistilLesson | RationaliseLesson | RLAGLesson
"""Each has `check(spec)`, which refuses before anything is written, and `begin(ground)`, which gives a
`phronesis.train.lessons.lesson.Lesson`."""
