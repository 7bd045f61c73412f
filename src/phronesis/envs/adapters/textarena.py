"""TextArena: text games for one or more players, where an action stands in brackets: ``[4]``, ``[up]``, ``[d2d4]``.

The package lives in an environment of its own (``phronesis catalogue setup textarena``), and its worker in a box of the
sandbox. The policy has one seat. Games that ask a remote model, or that the package cannot run on its Python, are refused with
the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from phronesis.env import EnvSpec
from phronesis.envs.adapters.catalogues import advice, interpreter
from phronesis.envs.worker.env import WorkerEnv
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.envs.worker.tasks import ListedTasks
from phronesis.rewards import EnvReward

GUEST = Path(__file__).parent / "guests" / "textarena_guest.py"


def worker(python: str = "", isolated: bool = True) -> WorkerSpec:
    """The process that runs all games."""
    return WorkerSpec(
        name="textarena",
        python=interpreter("textarena", python),
        guest=GUEST,
        isolated=isolated,
        install=advice("textarena"),
    )


def make(
    game: str = "TicTacToe-v0",
    *,
    opponent: Literal["random", "last", "policy"] = "random",
    seat: int = 0,
    players: int = 0,
    max_turns: int = 64,
    python: str = "",
    isolated: bool = True,
) -> EnvSpec:
    """One game of TextArena. Reward: what the game gives the seat at its end, in [-1, 1]; a task is a seed.

    Args:
        game: its name, with its variant: ``Mastermind-v0``, ``Sudoku-v0-easy``.
        opponent: who plays the other seats: ``random`` picks from the bracketed moves that it was shown, and others of their
            form, what the game allows; ``last`` takes the last of them that is allowed; the metric ``given_away`` counts games
            that they lost by a forbidden move, having found no other. ``policy`` is the policy itself, which is told each time
            which player it is; the metrics ``player_0``, ``player_1``, … then say what each seat earned.
        seat: number of the policy's player.
        players: how many play; 0 takes as few as the game allows.
        max_turns: actions of the policy at most.
        python: interpreter that has the package; that of the catalogue's own environment by default.
        isolated: play in a box of the sandbox.

    Raises:
        ConfigError: not installed, no such game, or one that cannot be played here.
        SandboxUnavailable: isolated, and this machine cannot.
    """
    spec = worker(python, isolated)
    asked = {"name": game, "seat": seat, "opponent": opponent, "players": players}
    tasks = ListedTasks("textarena", spec, endless=True, about={"game": asked})
    return EnvSpec(
        name="textarena",
        make=lambda: WorkerEnv(spec),
        task=tasks.task,
        sizes=tasks.sizes,
        rubric=EnvReward(by="episode", name="success"),
        description=f"TextArena, {game}: actions in brackets",
        max_turns=max_turns,
        oracle_reward=None,
        null_reward=None,
        secrets=("seed",),
    )
