"""A motorway lane, the ramp beside it, and a clock of ten ticks a second. Plain floats, no randomness, exact to replay.

Cars in the lane follow the intelligent driver model: they close up to the car ahead and keep a distance that grows with speed.
Source: Treiber, Hennecke, Helbing, arXiv cond-mat/0002177, eq. 1 to 3; ballistic steps of 0.1 s.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Action = Literal["accelerate", "keep", "brake"]

DT = 0.1
"""Seconds of a tick."""
LENGTH = 5.0
"""Metres of every car."""
RATES: dict[Action, float] = {"accelerate": 2.5, "keep": 0.0, "brake": -4.0}
"""What the agent's car does on the ramp, in m/s^2."""
FASTEST = 33.0
"""Top speed of the agent's car, in m/s."""
WANTED = 30.0
"""Speed the agent's car wants once it is in the lane."""
HARDEST = 3.0
"""Hardest braking of any driver, in m/s^2."""
SETTLED = 30
"""Ticks without a collision after which a merge counts."""
REACTION = 10
"""Ticks until the driver behind notices a car that has merged."""
_A, _B, _S0, _T = 1.5, 2.0, 2.0, 1.0  # comfortable acceleration and braking m/s^2, distance at rest m, time headway s
_BRAKES = 2 * (_A * _B) ** 0.5


class Slowing(NamedTuple):
    """A driver who slows down for a while."""

    car: int
    """Which, counted from the front."""
    start: int
    """Tick."""
    end: int
    """Tick."""
    share: float
    """Of the wanted speed that is left, in (0, 1)."""


def follow(speed: float, wanted: float, gap: float, closing: float) -> float:
    """Acceleration of a driver, in m/s^2.

    >>> follow(20.0, 30.0, 1e9, 0.0), follow(20.0, 30.0, 22.0, 0.0)
    (1.2037037037037037, -0.2962962962962963)

    At 20 m/s the distance wanted is 2 + 20 * 1 = 22 m, so that at 22 m the whole 1.5 m/s^2 is taken off.

    Args:
        speed: m/s.
        wanted: m/s.
        gap: metres to the car ahead.
        closing: own speed minus that of the car ahead, m/s.
    """
    if gap <= 0.1:
        return -HARDEST
    distance = _S0 + max(0.0, speed * _T + speed * closing / _BRAKES)
    share, near = speed / wanted, distance / gap
    return max(-HARDEST, _A * (1.0 - share * share * share * share - near * near))


class Road:
    """All that moves. `x` are positions of front bumpers in metres from the start of the ramp, `v` speeds in m/s."""

    __slots__ = ("crashed", "ego", "end", "forced", "inside", "merged", "slow", "speed", "tick", "v", "wanted", "x")

    def __init__(self, x: list[float], v: list[float], wanted: list[float], slow: tuple[Slowing, ...], *, end: float):
        """At tick 0, with the agent's car at 0 m.

        Args:
            x: of the cars in the lane, from the front.
            v: theirs.
            wanted: theirs.
            slow: who slows down when.
            end: of the ramp, in metres.
        """
        self.x, self.v, self.wanted, self.slow, self.end = x, v, wanted, slow, end
        self.tick = 0
        self.ego, self.speed = 0.0, 0.0
        """Place and speed of the agent's car."""
        self.inside: int | None = None
        """How many cars are ahead of it in the lane; None on the ramp."""
        self.merged = 0
        """Tick of the merge."""
        self.crashed = False
        self.forced = 0.0
        """Hardest braking of the car behind since the merge, m/s^2."""

    def copy(self) -> Road:
        """The same, apart."""
        made = Road(self.x[:], self.v[:], self.wanted, self.slow, end=self.end)
        made.tick, made.ego, made.speed, made.inside = self.tick, self.ego, self.speed, self.inside
        made.crashed, made.forced, made.merged = self.crashed, self.forced, self.merged
        return made

    @property
    def off(self) -> bool:
        """Whether the agent's car ran off the end of the ramp."""
        return self.inside is None and self.ego > self.end

    def step(self, action: Action = "keep") -> None:
        """One tick. On the ramp the agent's car does what it is told; in the lane it follows like all others."""
        rates = self._rates()
        place, x, v = self.inside, self.x, self.v
        if place is None:
            mine = RATES[action]
        else:
            ahead = x[place - 1] if place else 1e9
            mine = follow(self.speed, WANTED, ahead - LENGTH - self.ego, self.speed - (v[place - 1] if place else self.speed))
            if place < len(x) and self.tick >= self.merged + REACTION:
                gap = self.ego - LENGTH - x[place]
                rates[place] = follow(v[place], self._wants(place), gap, v[place] - self.speed)
                self.forced = max(self.forced, -rates[place])
        for i, rate in enumerate(rates):
            x[i], v[i] = _moved(x[i], v[i], rate, 99.0)
        self.ego, self.speed = _moved(self.ego, self.speed, mine, FASTEST)
        self.tick += 1
        if place is not None and self._overlaps(place):
            self.crashed = True

    def ahead(self) -> int:
        """How many cars of the lane are ahead of the agent's car."""
        return sum(x >= self.ego for x in self.x)

    def merge(self) -> None:
        """Into the lane, here and now."""
        self.inside, self.merged = self.ahead(), self.tick
        self.crashed = self._overlaps(self.inside)

    def settle(self) -> bool:
        """Lets the time after a merge pass; whether it went well."""
        for _ in range(SETTLED):
            if self.crashed:
                break
            self.step()
        return not self.crashed

    def _wants(self, i: int) -> float:
        share = 1.0
        for one in self.slow:
            if one.car == i and one.start <= self.tick < one.end:
                share = one.share
        return self.wanted[i] * share

    def _rates(self) -> list[float]:
        x, v = self.x, self.v
        rates = [follow(v[0], self._wants(0), 1e9, 0.0)] if x else []
        rates += [
            follow(v[i], self._wants(i) if self.slow else self.wanted[i], x[i - 1] - LENGTH - x[i], v[i] - v[i - 1])
            for i in range(1, len(x))
        ]
        return rates

    def _overlaps(self, place: int) -> bool:
        return (place > 0 and self.x[place - 1] - LENGTH < self.ego) or (
            place < len(self.x) and self.ego - LENGTH < self.x[place]
        )


def _moved(x: float, v: float, rate: float, most: float) -> tuple[float, float]:
    """Place and speed after a tick; nobody drives backwards."""
    speed = min(max(v + rate * DT, 0.0), most)
    return x + (v + speed) / 2 * DT, speed
