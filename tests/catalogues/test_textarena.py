"""Pins: every game that the package can play is played here, and pays what the package alone pays for the same moves."""

import json
import random
import re
import subprocess
from typing import NamedTuple

import pytest
from catalogue_worlds import HERE, played, python_of, saying

from phronesis.envs import registry
from phronesis.envs.worker.env import WorkerEnv
from phronesis.errors import ConfigError
from phronesis.records import say

ONE = (
    "2048-v0", "Bandit-v0", "Blackjack-v0", "Crosswords-v0", "FifteenPuzzle-v0", "FrozenLake-v0",
    "GuessTheNumber-v0", "LightsOut-v0", "LogicPuzzle-v0", "Mastermind-v0", "Minesweeper-v0", "PegJump-v0",
    "RushHour-v0", "Secretary-v0", "Set-v0", "FrozenLake-v0-random", "Sokoban-v0", "Sudoku-v0", "ThreeCardMonte-v0",
    "TowerOfHanoi-v0", "2048-v0-easy", "Minesweeper-v0-small", "Sudoku-v0-easy",
)  # fmt: skip
TWO = (
    "Alquerque-v0", "Battleship-v0", "Breakthrough-v0", "Briscola-v0", "Chopsticks-v0", "ColonelBlotto-v0",
    "ConnectFour-v0", "GameOfPureStrategy-v0", "IndianPoker-v0", "IteratedMatchingPennies-v0",
    "IteratedPrisonersDilemma-v0", "IteratedRockPaperScissors-v0", "KuhnPoker-v0", "LiarsDice-v0", "LinesOfAction-v0",
    "MemoryGame-v0", "Nim-v0", "Othello-v0", "PigDice-v0", "SimpleTak-v0", "Snake-v0", "Stratego-v0", "Surround-v0",
    "Tak-v0", "TicTacToe-v0", "UltimateTicTacToe-v0", "WildTicTacToe-v0",
)  # fmt: skip
MOVE = re.compile(r"\[[^\[\]\n]{1,40}\]")


class Record(NamedTuple):
    game: dict
    reward: float | None
    metrics: dict
    errors: tuple


class Reader:
    """Says something in brackets that it has read, and notes what the worker says was played."""

    def __init__(self, seed: int):
        self.source, self.texts, self.moves = random.Random(seed), [], []

    async def play(self, spec, index: int) -> Record:
        env = spec.make()
        assert isinstance(env, WorkerEnv)
        task = spec.task("train", index)
        try:
            reply = await env.reset(task, 0)
            self.moves = (await env.state())["moves"]
            while not reply.done and len(self.moves) < 80:
                self.texts += [m.text for m in reply.messages]
                found = [m for m in MOVE.findall("\n".join(self.texts)) if not re.match(r"\[(GAME|Player)", m)][-30:]
                reply = await env.step(say("assistant", self.source.choice(found or ["[1]"])))
                self.moves = (await env.state())["moves"]
        finally:
            await env.close()
        return Record({**task.payload, "moves": self.moves}, reply.reward if reply.done else None, reply.metrics, reply.errors)


def reference(records: list[Record]) -> list[dict]:
    """What the package alone says."""
    lines = "".join(json.dumps(r.game) + "\n" for r in records)
    command = [python_of("textarena"), str(HERE / "textarena_reference.py")]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def spec_of(game: str, **dials: object):
    return registry.get("textarena", {"game": game, "python": python_of("textarena"), **dials})


async def test_single_player_games_pay_what_the_package_pays():
    records = [await Reader(i).play(spec_of(game), 0) for i, game in enumerate(ONE)]
    assert len(records) == len(ONE) == 23 and all(r.game["players"] == 1 for r in records)
    for record, found in zip(records, reference(records), strict=True):
        assert found["done"] == (record.reward is not None), record.game["name"]
        if found["done"]:
            assert found["rewards"]["0"] == record.reward, record.game["name"]
    assert sum(r.reward is not None for r in records) >= 20


async def test_two_player_games_pay_what_the_package_pays():
    """The opponent's moves are among those recorded; each seat earns what the package gives it."""
    records = [await Reader(i).play(spec_of(game, seat=i % 2), 1) for i, game in enumerate(TWO)]
    assert len(records) == 27 and all(r.game["players"] == 2 for r in records)
    for record, found in zip(records, reference(records), strict=True):
        name = record.game["name"]
        assert [player for player, _ in record.game["moves"]] == found["players"], name
        assert found["done"] == (record.reward is not None), name
        if found["done"]:
            assert found["rewards"][str(record.game["seat"])] == record.reward, name
            seats = {k.removeprefix("player_"): v for k, v in record.metrics.items() if k.startswith("player_")}
            assert seats == found["rewards"], name
    assert sum(r.reward is not None for r in records) >= 25
    given = {r.game["name"] for r in records if r.metrics.get("given_away")}
    assert given <= {"Breakthrough-v0", "Briscola-v0", "Tak-v0"}, "the opponent lost by moves that the game forbids"


async def test_chance_goes_on_from_what_an_opponent_did_first():
    """Dice thrown while the opponent opens are not thrown again: the package alone, on the same moves, ends alike."""
    records = [await Reader(i).play(spec_of("PigDice-v0", seat=1), i) for i in range(4)]
    for record, found in zip(records, reference(records), strict=True):
        assert [player for player, _ in record.game["moves"]] == found["players"]
        assert record.reward == (found["rewards"] or {}).get("1")


async def test_a_game_by_hand():
    """Tic-tac-toe against oneself: player 0 takes the upper row."""
    spec = spec_of("TicTacToe-v0", opponent="policy")
    found, reward = await played(spec, saying("[0]", "[3]", "[1]", "[4]", "[2]"))
    said = [m.text.split("\n")[0] for r in (found.opening, *found.replies) for m in r.messages]
    assert said == [f"You are player {i % 2}." for i in range(5)]
    assert reward == 1.0
    assert found.replies[-1].metrics == {"player_0": 1.0, "player_1": -1.0}


async def test_an_impossible_move_is_counted_and_loses():
    found, reward = await played(spec_of("TicTacToe-v0"), saying("[99]"))
    assert reward == -1.0 and found.replies[-1].errors == ("invalid_move",)


@pytest.mark.parametrize("game", ["Countdown-v0", "Cryptarithm-v0", "Slitherlink-v0"])
async def test_an_impossible_move_loses_where_the_package_pays_a_sentence(game: str):
    found, reward = await played(spec_of(game), saying("[banana]"))
    assert reward == -1.0 and found.replies[-1].errors == ("invalid_move",)


async def test_an_opponent_does_not_lose_by_impossible_moves():
    """Doing nothing but repeating one's moves earns nothing that an opponent gave away: it tries its moves on a copy."""
    given = set()
    for game in ("TicTacToe-v0", "ConnectFour-v0", "Nim-v0", "Othello-v0", "SimpleTak-v0"):
        for index in range(3):
            record = await Reader(7).play(spec_of(game, seat=index % 2), index)
            given |= {game} if record.metrics.get("given_away") else set()
    assert given == set()


async def test_the_seed_makes_the_game():
    spec = spec_of("Mastermind-v0")
    first, again, other = [await Reader(5).play(spec, index) for index in (3, 3, 4)]
    assert first == again and first.game["seed"] != other.game["seed"]


@pytest.mark.parametrize(
    ("game", "why"),
    [
        ("Debate-v0", "asks a remote model"),
        ("TwentyQuestions-v0", "asks a remote model"),
        ("Wordle-v0", "word lists of nltk"),
        ("Klondike-v0", "is broken"),
        ("UsedCarNegotiation-v0", "lacks files"),
        ("Chess-v9", "has no game 'Chess-v9'"),
    ],
)
def test_what_cannot_be_played_says_why(game: str, why: str):
    with pytest.raises(ConfigError, match=why):
        spec_of(game)


def test_a_number_of_players_that_the_game_refuses_is_refused():
    with pytest.raises(ConfigError, match="cannot be played here"):
        spec_of("TicTacToe-v0", players=5)
