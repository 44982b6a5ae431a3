"""What a planted bug is, and how it is hunted: it is in the code for as long as `planted` lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from chaos.sim.run import Result, run

# Any: a mutant replaces attributes of classes and modules as well as rows of the rule tables.
Patch = tuple[Any, Any, Any]


@frozen(kw_only=True)
class Mutant:
    """A planted bug, the profile that should find it, and within how many seeds.

    One that is `harmless`, which says why, must survive them: a check that complains of it would
    complain of correct cores too.
    """

    name: str
    profile: str
    seeds: int
    patches: tuple[Patch, ...]
    members: int = 3
    seconds: float = 20.0
    first_seed: int = 0
    """Where to begin, if chance takes many seeds to find it."""

    harmless: str = ""


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


def hunt(mutant: Mutant, seeds: range | None = None) -> Result | None:
    """Run its seeds, or others, until the mutant is caught; None if it survives all of them."""
    with planted(mutant):
        for seed in seeds or range(mutant.first_seed, mutant.first_seed + mutant.seeds):
            result = run(seed, mutant.profile, mutant.members, mutant.seconds)
            if result.violation:
                return result
    return None
