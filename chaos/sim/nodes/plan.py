"""What goes wrong in one run, and when: a list drawn from the seed before anything begins.

Because it is a list, a failing run can be made shorter by leaving things out (`shrink`), and what
is left happens at the same moments as before.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from attrs import frozen

LEADER = "leader"
"""Stands for whoever leads at that moment."""


@frozen(kw_only=True)
class Fault:
    """One thing that goes wrong. `for_s`: how long, or how long until the member is started again;
    `size` is what the kind makes of it."""

    at_s: float
    kind: str
    target: str
    other: str = ""
    for_s: float = 0.0
    size: float = 0.0

    def __str__(self) -> str:
        other = f" {self.other}" if self.other else ""
        return f"{self.at_s:8.3f} {self.kind} {self.target}{other} {self.for_s:.2f} {self.size:.3g}"


Draw = Callable[[Random, float, str, str], Fault]


def _lasting(kind: str, for_s: tuple[float, float], size: tuple[float, float] = (0, 0)) -> Draw:
    def draw(random: Random, at_s: float, target: str, other: str) -> Fault:
        return Fault(
            at_s=at_s,
            kind=kind,
            target=target,
            other=other,
            for_s=random.uniform(*for_s),
            size=random.uniform(*size),
        )

    return draw


KINDS: dict[str, tuple[float, Draw]] = {
    # weight, and how the rest is drawn
    "kill": (2.0, _lasting("kill", (0.05, 4.0))),
    "power cut": (2.0, _lasting("power cut", (0.05, 4.0))),
    "torn write": (2.0, _lasting("torn write", (0.05, 4.0), (0, 12))),
    "stop": (1.0, _lasting("stop", (0.05, 2.0))),
    "power cut of all": (0.5, _lasting("power cut of all", (0.05, 2.0))),
    "cut off": (2.0, _lasting("cut off", (0.2, 8.0))),
    "restart while cut off": (1.5, _lasting("restart while cut off", (2.0, 8.0), (0, 2))),
    "cut": (1.5, _lasting("cut", (0.2, 8.0))),
    "cut one way": (2.0, _lasting("cut one way", (0.2, 8.0))),
    "reset": (2.0, _lasting("reset", (0, 0))),
    "slow link": (1.5, _lasting("slow link", (0.5, 10.0), (0.02, 0.6))),
    "pause": (2.0, _lasting("pause", (0.05, 4.0))),
    "clock jump": (1.0, _lasting("clock jump", (0, 0), (-3600.0, 3600.0))),
    "full disk": (0.7, _lasting("full disk", (0.5, 6.0), (0, 4096))),
    "write error": (0.7, _lasting("write error", (0.05, 2.0), (0, 20))),
    "sync error": (0.7, _lasting("sync error", (0.05, 2.0), (0, 20))),
    "rot": (0.5, _lasting("rot", (0.05, 1.0), (0, 1))),
    "rot while it runs": (0.5, _lasting("rot while it runs", (0.5, 4.0))),
    "slow disk": (1.5, _lasting("slow disk", (0.5, 8.0), (0.01, 0.5))),
    "transfer": (1.5, _lasting("transfer", (0, 0))),
    "send away": (1.0, _lasting("send away", (0.5, 8.0))),
    "empty": (1.0, _lasting("empty", (0.05, 4.0))),
    "name server kill": (0.5, _lasting("name server kill", (0.1, 5.0))),
}


def draw(random: Random, members: tuple[str, ...], seconds: float) -> tuple[Fault, ...]:
    """The faults of one run, in order. Some runs are rough, some are nearly quiet; each leaves out
    some kinds altogether, since what happens all the time hides what is rare."""
    pause_s = random.choice((0.8, 2.0, 4.0, 8.0))
    kinds = [kind for kind in KINDS if random.random() < 0.6] or ["kill"]
    weights = [KINDS[kind][0] for kind in kinds]
    faults = []
    at_s = 2.0 + random.expovariate(1 / pause_s)
    while at_s < seconds:
        target, other = random.sample(members, 2)
        if random.random() < 0.4:
            target = LEADER
        (kind,) = random.choices(kinds, weights)
        faults.append(KINDS[kind][1](random, at_s, target, other))
        at_s += random.expovariate(1 / pause_s)
    return tuple(faults)


def shrink(
    faults: tuple[Fault, ...], fails: Callable[[tuple[Fault, ...]], bool], runs_max: int
) -> tuple[Fault, ...]:
    """A shorter plan that `fails` too: leave out ever smaller pieces (delta debugging), with so
    many runs at most."""
    piece = max(1, len(faults) // 2)
    while faults and runs_max > 0:
        for start in range(0, len(faults), piece):
            shorter = faults[:start] + faults[start + piece :]
            runs_max -= 1
            if fails(shorter):
                faults = shorter
                break
            if runs_max <= 0:
                break
        else:
            if piece == 1:
                break
            piece = max(1, piece // 2)
        piece = min(piece, max(1, len(faults)))
    return faults
