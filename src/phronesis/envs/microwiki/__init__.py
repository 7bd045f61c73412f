"""The `microwiki` environment."""

from phronesis.envs.microwiki.env import MicroWiki, Verdict, judge, make
from phronesis.envs.microwiki.pages import altered, provenance
from phronesis.envs.microwiki.tasks import Dials, corpus_of, renamed, task

__all__ = ["Dials", "MicroWiki", "Verdict", "altered", "corpus_of", "judge", "make", "provenance", "renamed", "task"]
