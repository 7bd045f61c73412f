"""Pins: every generator scores as in the package, nothing that a policy says is executed, and what pays too much is named."""

import functools
import json
import math
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from catalogue_worlds import oracle, played, python_of, saying

from phronesis.envs import registry
from phronesis.envs.adapters import reasoning_gym as adapter
from phronesis.envs.adapters.guests.reasoning_gym_guest import package_seed
from phronesis.envs.check import run_check
from phronesis.envs.worker.hub import hub, now
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.errors import ConfigError

SLOW = {"futoshiki", "intermediate_integration", "knight_swap", "polynomial_equations", "arc_agi", "zebra_puzzles"}
"""Generators that take seconds for a problem."""

REFERENCE = """
import json, os, sys
told = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import reasoning_gym
from reasoning_gym.composite import DatasetSpec
sizes = {"acre": 1000, "word_ladder": 500}
found = {}
for name, asked in json.load(sys.stdin).items():
    more = {"datasets": [DatasetSpec(name=n, weight=1.0, config={}) for n in ("chain_sum", "leg_counting")]}
    more = more if name == "composite" else {}
    problems = reasoning_gym.create_dataset(name, size=sizes.get(name, 1000000), seed=SEED, **more)
    found[name], made = [], {}
    for index, answer in asked:
        made[index] = made[index] if index in made else problems[index]
        try:
            found[name].append(float(problems.score_answer(answer, made[index])))
        except Exception:
            found[name].append(0.0)
json.dump(found, told)
told.close()
"""


@functools.cache
def make(dataset: str, **dials: object):
    python_of("reasoning-gym")
    return registry.get("reasoning_gym", {"dataset": dataset, **dials})


@functools.cache
def names() -> list[str]:
    """All generators of the package."""
    spec = WorkerSpec(name="reasoning-gym", python=python_of("reasoning-gym"), guest=adapter.GUEST, seconds=60.0)
    return now(hub().process(spec)).about["names"]


async def earned(spec, text: str, index: int = 0) -> tuple[float, tuple[str, ...]]:
    found, reward = await played(spec, saying(text), index)
    assert reward is not None and math.isfinite(reward)
    return reward, found.replies[-1].errors


def wrong(answer: str | None) -> str:
    """A well-formed answer that is not this one."""
    return "[[7, 7], [7, 7]]" if answer is None or any(c.isalpha() for c in answer) else "1 + 1"


async def test_all_generators_score_as_the_package_does():
    """106 generators; 101 give a reference answer, which is paid in full; a wrong one earns less, as in the package."""
    assert len(names()) == 106
    asked: dict[str, list[tuple[int, str]]] = {}
    ours: dict[str, list[float]] = {}
    without = set()
    for name in names():
        spec = make(name)
        asked[name], ours[name] = [], []
        for number in range(1 if name in SLOW else 2):
            payload = spec.task("train", number).payload
            gold = payload["answer"]
            without |= set() if isinstance(gold, str) else {name}
            for text in ([gold] if isinstance(gold, str) else []) + [wrong(gold)]:
                reward, _ = await earned(spec, f"I think <answer>{text}</answer>", number)
                asked[name].append((payload["index"], text))
                ours[name].append(reward)
                assert text == gold or isinstance(gold, str) is False or reward < 1, name
            if isinstance(gold, str):
                assert ours[name][-2] == pytest.approx(1.0), name
    assert without == adapter.NO_GOLD
    assert await oracle(make("chain_sum"), 0) == await oracle(make("sudoku"), 1) == 1.0, "the oracle says that answer"
    assert hub().started < 4, "one process serves them all"
    command = [python_of("reasoning-gym"), "-c", f"SEED = {package_seed(0)}\n{REFERENCE}"]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "0"}
    )
    theirs = json.loads(done.stdout)
    free = [name for name in names() if name not in adapter.ANYTHING]
    assert {name: ours[name] for name in free} == {name: pytest.approx(theirs[name]) for name in free}


PAYLOADS = (
    "__import__('os').system('touch {mark}')",
    "[__import__('pathlib').Path('{mark}').touch()]",
    "[open('{mark}', 'w')]",
    "(lambda: open('{mark}', 'w').close())()",
    "().__class__.__base__.__subclasses__()",
    "exec(\"open('{mark}','w')\")",
)


async def test_an_answer_is_never_executed(tmp_path: Path):
    """Each of the nine scorers that execute answers: none of the payloads leaves its mark, and none is paid."""
    mark = tmp_path / "mark"
    for name in adapter.UNSAFE:
        spec = make(name)
        for payload in PAYLOADS:
            assert await earned(spec, f"<answer>{payload.format(mark=mark)}</answer>") == (0.0, ("answer_unsafe",)), name
    assert not mark.exists()


@pytest.mark.parametrize("name", ["binary_matrix", "countdown", "n_queens", "puzzle24", "spiral_matrix", "simple_integration"])
async def test_the_box_holds_where_the_guard_is_off(name: str, tmp_path: Path):
    """The package's scorers do execute answers. Without our guard the mark is left inside of the box, never on the host."""
    tmp_path.chmod(0o777)
    mark = tmp_path / "mark"
    spec = WorkerSpec(name="reasoning-gym", python=python_of("reasoning-gym"), guest=adapter.GUEST, args={"guarded": False})
    process = now(hub().process(spec))
    generator = {"dataset": name, "level": None, "seed": 0, "parts": []}

    def score(answer: str) -> dict:
        return now(process.ask("score", {"generator": generator, "index": 0, "answer": answer}))

    began = time.monotonic()
    score("__import__('time').sleep(3)")
    assert time.monotonic() - began >= 2.9, "it was executed"
    for payload in PAYLOADS:
        score(payload.format(mark=mark))
    assert not mark.exists()


async def test_names_inside_of_a_scorer_give_nothing():
    """`oracle_answer` is a variable of two scorers: evaluated, it is the answer itself."""
    for name in ("string_insertion", "spiral_matrix", "binary_matrix"):
        assert await earned(make(name), "<answer>oracle_answer</answer>") == (0.0, ("answer_unsafe",))


async def test_answers_that_answer_nothing_earn_nothing():
    halting, complex_numbers, factors = make("game_of_life_halting"), make("complex_arithmetic"), make("prime_factorization")
    assert await earned(halting, "It halts, or not.") == (0.0, ("hollow_answer",))
    assert await earned(complex_numbers, "nan") == (0.0, ("hollow_answer",))
    assert await earned(factors, "seven") == (0.0, ("answer_raised",)), "the scorer raises"
    assert await earned(make("chain_sum"), "9" * 20_000) == (0.0, ("answer_long",))
    assert await earned(make("countdown"), "9**9**9**9") == (0.0, ("answer_unsafe",))
    assert await earned(make("chain_sum"), "") == (0.0, ("no_answer",))
    assert await earned(make("chain_sum"), "<answer>1</answer><answer>2</answer>") == (0.0, ("no_answer",))


async def test_padding_pays_in_the_generators_that_are_named_and_in_no_other():
    """Words around the right answer."""
    paid = set()
    for name in sorted(set(names()) - adapter.NO_GOLD - {"composite"}):
        spec = make(name)
        gold = spec.task("train", 0).payload["answer"]
        found = [(await earned(spec, f"<answer>{text}</answer>"))[0] for text in (f"{gold} zzz", f"zzz {gold}")]
        paid |= {name} if max(found) > 1 - 1e-9 else set()
    assert paid <= set(adapter.PADDED), "a scorer pays for padding and is not named"
    assert len(paid) >= 7


def test_a_generator_keeps_the_promises_of_an_environment():
    report = run_check(make("chain_sum"), seconds=120)
    assert report.ok, list(report.failures)
    assert {f.rule for f in report.findings if f.verdict == "ok"} >= {"splits", "oracle", "null agent", "secrecy", "opening"}


def test_difficulty_is_the_level_of_the_curriculum():
    easy, hard = (make("chain_sum", difficulty=level) for level in (0, 3))
    texts = [[spec.task("train", i).messages[0].text for i in range(10)] for spec in (easy, hard)]
    assert sum(map(len, texts[1])) > sum(map(len, texts[0]))
    assert easy.task("train", 0).difficulty == 0 and hard.task("train", 0).difficulty == 3


def test_splits_do_not_share_a_problem_and_seeds_do_not_either():
    spec = make("chain_sum", seed=7)
    keys = [{spec.task(split, i).content_key for i in range(100)} for split in ("train", "heldout")]
    assert not keys[0] & keys[1]
    other = make("chain_sum", seed=8)
    assert not keys[0] & {other.task("train", i).content_key for i in range(100)}, "near seeds share nothing"


def test_what_is_not_there_says_so():
    with pytest.raises(ConfigError, match="has no generator 'chain_summ'"):
        make("chain_summ")
    with pytest.raises(ConfigError, match="has no levels"):
        make("acre", difficulty=1)
    assert msgspec.json.encode(make("composite").task("train", 0))
