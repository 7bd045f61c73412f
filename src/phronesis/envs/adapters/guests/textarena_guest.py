"""Serves the games of TextArena. The policy has one seat; the others are played here at random, or by the policy as well."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import itertools
import random
import re
from typing import Any, cast

Foreign = Any
"""Something of the package."""
MOST_PLAYERS = 8
TRIES = 200
"""Moves that an opponent makes up before it gives in."""
_MOVE = re.compile(r"\[[^\[\]\n]{1,40}\]")
_NO_MOVE = re.compile(r"\[(?:GAME|Player \d+|You)\]")


class Game:
    """One episode. Games draw from Python's shared random numbers; each episode has its own stream of them."""

    def __init__(self, env: Foreign, seat: int, opponent: str, seed: int, players: int):
        self.env, self.seat, self.opponent, self.seed = env, seat, opponent, seed
        self.source = random.Random(f"opponent {seed}")
        self.seen: dict[int, str] = {}
        self.moves: list[tuple[int, str]] = []
        self.done = False
        self.turn = seat
        """Whose turn it is."""
        random.seed(seed)
        env.reset(num_players=players, seed=seed)
        self.stream = random.getstate()

    def look(self) -> tuple[int, str]:
        """Who is to move, and what is new to that player."""
        player, found = self.env.get_observation()
        text = found if isinstance(found, str) else "\n".join(_line(*piece) for piece in cast("list[Any]", found))
        self.seen[player] = (self.seen.get(player, "") + "\n" + text)[-20_000:]
        return player, text

    def move(self, player: int, text: str) -> None:
        """One action."""
        self.moves.append((player, text))
        self.done, _ = self.env.step(text)

    def others(self) -> str:
        """Plays the other seats until it is the policy's turn; what is new to it then."""
        while not self.done:
            self.turn, text = self.look()
            player = self.turn
            if player == self.seat or self.opponent == "policy":
                return text if self.opponent != "policy" else f"You are player {player}.\n{text}"
            self.move(player, self._chosen(player))
        return ""

    def _chosen(self, player: int) -> str:
        """Something in brackets that this player has read, or the like of it, that the game allows; else something forbidden.

        An opponent that loses by its mistakes would reward a policy that does nothing.
        """
        found = [m for m in _MOVE.findall(self.seen.get(player, "")) if not _NO_MOVE.fullmatch(m)][-40:] or ["[1]"]
        tried = list(dict.fromkeys(reversed(found)))
        if self.opponent == "random":
            self.source.shuffle(tried)
        like = (self._like(self.source.choice(found)) for _ in range(TRIES))
        return next((move for move in itertools.chain(tried, like) if self._allowed(player, move)), tried[0])

    def _like(self, move: str) -> str:
        """A move of the same form, with other numbers and other columns of a board."""
        text = re.sub(r"\d+", lambda _: str(self.source.randrange(10)), move)
        return re.sub(r"(?<![a-z])[a-h](?=\d)", lambda _: self.source.choice("abcdefgh"), text)

    def _allowed(self, player: int, text: str) -> bool:
        """Whether the game takes a move, tried on a copy of it."""
        kept = random.getstate()
        try:
            trial = copy.deepcopy(self.env)
            errors = getattr(trial.state, "error_count", 0)
            trial.step(text)
            about = cast("dict[int, dict[str, Any]]", trial.state.game_info)
            refused = cast("bool", about.get(player, {}).get("invalid_move", False))
            return not refused and getattr(trial.state, "error_count", 0) <= errors
        except Exception:  # a move that breaks the game is none
            return False
        finally:
            random.setstate(kept)


def _number(value: object, wrong: bool) -> float:
    """A reward of the package. Three games give a sentence for an impossible move, which in all others is worth -1."""
    return -1.0 if wrong and isinstance(value, str) else float(cast("float", value or 0.0))


def _line(player: int, text: str, kind: object) -> str:
    return f"[{'GAME' if player == -1 else f'Player {player}'}] {text}"


class TextArena:
    """All games, many episodes."""

    def __init__(self) -> None:
        self.package = importlib.import_module("textarena")
        self.registry = importlib.import_module("textarena.envs.registration").ENV_REGISTRY
        self.games: dict[str, Game] = {}

    def hello(self) -> dict[str, Any]:
        """Version and names."""
        names = sorted(name for name in cast("dict[str, Any]", self.registry) if name.endswith("-raw"))
        version = importlib.metadata.version("textarena")
        return {"package": "textarena", "version": version, "names": [n.removesuffix("-raw") for n in names]}

    def list_tasks(self, start: int, count: int, game: dict[str, Any]) -> dict[str, Any]:
        """Seeds, as tasks. Refuses games that cannot be played here."""
        players = self._players(game["name"], game["players"])
        seeds = range(start, start + count)
        rows = [
            {"messages": [], "payload": {**game, "players": players, "seed": s}, "content": [game["name"], s]} for s in seeds
        ]
        return {"tasks": rows}

    def reset(self, episode: str, task: dict[str, Any], seed: int) -> dict[str, Any]:
        """Begins a game, and lets the others move first where it is their turn."""
        asked = task["payload"]
        env = self.package.make(f"{asked['name']}-raw")
        game = Game(env, asked["seat"], asked["opponent"], asked["seed"], asked["players"])
        self.games[episode] = game
        told = self._told(game, game.others())
        game.stream = random.getstate()
        return told

    def step(self, episode: str, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """One action of the policy, and what the others answer."""
        game = self.games[episode]
        random.setstate(game.stream)
        game.move(game.turn, text)
        told = self._told(game, game.others())
        game.stream = random.getstate()
        return told

    def state(self, episode: str) -> dict[str, Any]:
        """All moves so far."""
        game = self.games[episode]
        return {"moves": game.moves, "done": game.done}

    def close(self, episode: str) -> dict[str, Any]:
        """Forgets a game."""
        self.games.pop(episode, None)
        return {}

    def _told(self, game: Game, text: str) -> dict[str, Any]:
        if not game.done:
            return {"messages": [{"role": "user", "content": text or "It is your turn."}], "tools": []}
        rewards, about = game.env.close()
        players = cast("dict[int, dict[str, Any]]", about or {})
        wrong = {player for player, told in players.items() if told.get("invalid_move")}
        earned = {int(p): _number(value, p in wrong) for p, value in cast("dict[Any, Any]", rewards or {}).items()}
        mine = players.get(game.seat, {})
        return {
            "done": True,
            "truncated": "turn limit" in str(mine.get("reason", "")).lower(),
            "reward": earned.get(game.seat, 0.0),
            "errors": ["invalid_move"] if mine.get("invalid_move") else [],
            "metrics": {
                **{f"player_{player}": value for player, value in earned.items()},
                **({"given_away": 1.0} if wrong - {game.seat} and game.opponent != "policy" else {}),
            },
        }

    def _players(self, name: str, asked: int) -> int:
        """How many play: as asked, or as few as the game takes."""
        wrong = globals()["Wrong"]
        if f"{name}-raw" not in self.registry:
            raise wrong(f"TextArena has no game {name!r}; it has e.g. TicTacToe-v0, Mastermind-v0, ConnectFour-v0, Wordle-v0")
        reason = ""
        for players in [asked] if asked else range(1, MOST_PLAYERS + 1):
            state = random.getstate()
            try:
                self.package.make(f"{name}-raw").reset(num_players=players, seed=0)
                return players
            except Exception as error:
                reason = _reason(error)
                if not isinstance(error, AssertionError) and "layer" not in str(error):
                    break
            finally:
                random.setstate(state)
        raise wrong(f"game {name!r} cannot be played here: {reason}")


def _reason(error: Exception) -> str:
    """Why a game does not start, in words."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and "f-string" in text:
        return "the package's code for it needs Python 3.12"
    if isinstance(error, SyntaxError):
        return "the package's code for it is broken"
    if "API key" in text:
        return "it asks a remote model"
    if isinstance(error, LookupError) and "NLTK" in text:
        return "it needs word lists of nltk, which are not installed"
    if isinstance(error, FileNotFoundError):
        return "the package lacks files for it"
    return f"{type(error).__name__}: {text[:200]}"


def catalogue() -> TextArena:
    """Opens the package."""
    return TextArena()
