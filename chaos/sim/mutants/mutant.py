"""Planted bugs: the simulator is worth what it catches.

Each mutant replaces one decision of the core by one that has been got wrong somewhere, for as
long as `planted` lasts. A mutant that survives its seeds means that a fault profile or a check
has gone blind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from chaos.sim.run import Result, run

# Any: a mutant replaces attributes of classes and modules as well as rows of the rule tables.
Patch = tuple[Any, Any, Any]


@frozen(kw_only=True)
class Mutant:
    """A planted bug, the profile that should find it, and within how many seeds."""

    name: str
    profile: str
    seeds: int
    patches: tuple[Patch, ...]
    members: int = 3
    seconds: float = 20.0


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a bug; dig it out again at the end."""
    undo: list[Patch] = []
    for owner, name, value in mutant.patches:
        if isinstance(owner, dict):
            undo.append((owner, name, owner[name]))
            owner[name] = value
        else:
            undo.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in reversed(undo):
            if isinstance(owner, dict):
                owner[name] = value
            else:
                setattr(owner, name, value)


def hunt(mutant: Mutant, first_seed: int = 0) -> Result | None:
    """Run seeds until the mutant is caught; None if it survives all of them."""
    with planted(mutant):
        for seed in range(first_seed, first_seed + mutant.seeds):
            result = run(seed, mutant.profile, mutant.members, mutant.seconds)
            if result.violation:
                return result
    return None
