"""Serves one generator of reasoning-gym. Every answer is scored in a process of its own, which has limits and then ends.

Nine of the package's scorers execute the answer. Their answers must first pass a grammar that has no names but those of
mathematics, no attributes and no strings, so that nothing of a policy is ever executed; see `SAFE`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import re
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, cast

LONGEST = 10_000
"""Characters of an answer; a longer one scores nothing."""
SECONDS = 10.0
"""Of one scoring; then it scores nothing."""
MEMORY = 4 << 30
"""Bytes of address space of one scoring."""
KEPT = 1000
"""Problems kept."""
SIZE = 1_000_000
"""Problems of one generator, as far as it can tell."""
SIZES = {"acre": 1000, "word_ladder": 500}
"""Where the package makes them all at once, or has no more."""

Foreign = Any
"""Something of the package."""
_WORDS = "pi exp log ln sqrt sin cos tan cot sec csc asin acos atan sinh cosh tanh Abs Integral Rational"
_NAMES = frozenset(re.findall(r"\w+", _WORDS))
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|([A-Za-z]+)|(\*\*|[-+*/(),^]))")


def literal(text: str) -> bool:
    """Whether Python would only build a value of it, or could not read it at all; a word in capitals names nothing."""
    if re.fullmatch(r"[A-Z]+", text.strip()):
        return True
    try:
        ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        try:
            ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError):
            return True  # eval raises the same
        except (MemoryError, RecursionError):
            return False
        return False
    return True


def arithmetic(text: str) -> bool:
    """Whether it is made of numbers, + - * / ** and brackets alone."""
    return re.fullmatch(r"[-\d+*/(). \t\n]*", text) is not None and _small_powers(text)


def formula(text: str) -> bool:
    """Whether it is made of numbers, operators, single letters and names of functions alone."""
    at, text = 0, text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or (found[2] and len(found[2]) > 1 and found[2] not in _NAMES and not _greek(found[2])):
            return False
        at = found.end()
    return _small_powers(text)


def _greek(name: str) -> bool:
    return name.lower() in ("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "rho", "sigma", "tau", "phi", "psi")


def _small_powers(text: str) -> bool:
    """Whether no power is raised again, nor to more than two digits: these take for ever."""
    return re.search(r"\*\*[^-+,]*\*\*[^-+,]*\*\*", text) is None and re.search(r"(?:\*\*|\^)\s*\(?\s*-?\d{3,}", text) is None


SAFE: dict[str, Callable[[str], bool]] = {
    "binary_matrix": literal,
    "n_queens": literal,
    "spiral_matrix": literal,
    "string_insertion": literal,
    "countdown": arithmetic,
    "puzzle24": arithmetic,
    "intermediate_integration": formula,
    "polynomial_multiplication": formula,
    "simple_integration": formula,
}
"""Generators whose scorer executes the answer, and what an answer must be so that nothing is executed."""


class ReasoningGym:
    """All generators, at any level, with any seed."""

    def __init__(self, guarded: bool):
        self.package = importlib.import_module("reasoning_gym")
        self.factory = importlib.import_module("reasoning_gym.factory")
        self.known = cast("dict[str, Any]", self.factory.DATASETS)
        self.guarded = guarded
        self.open: dict[str, Any] = {}
        self.recent: dict[tuple[str, int], dict[str, Any]] = {}

    def hello(self) -> dict[str, Any]:
        """Version and names."""
        version = importlib.metadata.version("reasoning-gym")
        return {"package": "reasoning-gym", "version": version, "names": sorted(self.known), "unsafe": sorted(SAFE)}

    def list_tasks(self, start: int, count: int, generator: dict[str, Any]) -> dict[str, Any]:
        """Problems by number."""
        stop = min(start + count, self._problems(generator).size)
        return {"tasks": [_task(self._problem(generator, i), i, generator) for i in range(start, stop)]}

    def score(self, generator: dict[str, Any], index: int, answer: str) -> dict[str, Any]:
        """What the package gives for an answer, in [0, 1], and why it is nothing where that is not the package's word."""
        if len(answer) > LONGEST:
            return {"reward": 0.0, "refused": "long"}
        problems = self._problems(generator)
        problem = self._problem(generator, index)
        safe = SAFE.get(_name(problem, generator))
        if safe is not None and self.guarded and not safe(answer):
            return {"reward": 0.0, "refused": "unsafe"}
        value, refused = apart(lambda: problems.score_answer(answer, problem))
        return {"reward": value, "refused": refused}

    def _problem(self, generator: dict[str, Any], index: int) -> dict[str, Any]:
        """One problem; the last thousand are kept, since some take a second to make."""
        key = json.dumps(generator, sort_keys=True), index
        if key not in self.recent:
            if len(self.recent) >= KEPT:
                self.recent.pop(next(iter(self.recent)))
            self.recent[key] = self._problems(generator)[index]
        return self.recent[key]

    def _problems(self, generator: dict[str, Any]) -> Foreign:
        key = json.dumps(generator, sort_keys=True)
        if key not in self.open:
            self.open[key] = self._opened(**generator)
        return self.open[key]

    def _opened(self, dataset: str, level: int | None, seed: int, parts: list[str]) -> Foreign:
        wrong = globals()["Wrong"]
        for name in (dataset, *parts):
            if name not in self.known:
                raise wrong(f"reasoning-gym has no generator {name!r}; it has: {', '.join(sorted(self.known))}")
        if level is not None and not self.factory.has_curriculum(dataset):
            raise wrong(f"generator {dataset!r} has no levels; leave difficulty out")
        settings: dict[str, Any] = {"size": SIZES.get(dataset, SIZE), "seed": package_seed(seed)}
        if dataset == "composite":
            spec = importlib.import_module("reasoning_gym.composite").DatasetSpec
            settings["datasets"] = [spec(name=part, weight=1.0, config={}) for part in parts]
        if level is None:
            return self.package.create_dataset(dataset, **settings)
        curriculum = self.factory.create_curriculum(dataset)
        curriculum.set_global_level(level)
        return self.known[dataset][0](curriculum.generate_configuration(settings))


def package_seed(seed: int) -> int:
    """The package's seed for ours. Its problem k of seed s is problem 0 of seed s + k: near seeds would share problems."""
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")


def _name(problem: dict[str, Any], generator: dict[str, Any]) -> str:
    """The generator that made a problem; a mixture notes it."""
    name = str(generator["dataset"])
    return str(problem["metadata"]["source_dataset"]) if name == "composite" else name


def _task(problem: dict[str, Any], index: int, generator: dict[str, Any]) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": str(problem["question"])}],
        "payload": {"index": index, "answer": problem["answer"], "generator": _name(problem, generator)},
        "difficulty": generator["level"],
    }


def apart(score: Callable[[], object]) -> tuple[float, str]:
    """A score computed by a child that has limits; nothing where it fails, and why."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os.closerange(3, write)  # nothing of it reaches the host
            os.closerange(write + 1, 4096)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS), int(SECONDS) + 1))
            os.write(write, json.dumps(_checked(score)).encode())
        except BaseException as error:
            os.write(write, json.dumps([0.0, f"raised {type(error).__name__}"]).encode())
        finally:
            os._exit(0)
    os.close(write)
    said, until = b"", time.monotonic() + SECONDS
    while True:
        ready, _, _ = select.select([read], [], [], max(until - time.monotonic(), 0))
        part = os.read(read, 4096) if ready else b""
        said += part
        if not part:
            break
    os.close(read)
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        value, refused = json.loads(said)
        return min(max(float(value), 0.0), 1.0), str(refused)
    except (ValueError, TypeError):
        return 0.0, "time" if not ready else "died"


def _checked(score: Callable[[], object]) -> tuple[float, str]:
    value = float(cast("float", score()))
    return (value, "") if math.isfinite(value) else (0.0, "not finite")


def catalogue(guarded: bool = True) -> ReasoningGym:
    """Opens the package.

    Args:
        guarded: refuse answers that a scorer would execute.
    """
    return ReasoningGym(guarded)
