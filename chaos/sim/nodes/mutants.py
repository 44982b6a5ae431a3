"""Planted bugs in the wiring: what `chaos.sim.mutants` is to the core.

Each mutant replaces one decision of the code around the core by one that has been got wrong
somewhere, for as long as `planted` lasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from broker.store import checkpoints
from chaos.sim.nodes.plan import Fault
from chaos.sim.nodes.run import Result, run
from dledger_py.ledger import snapshotter
from dledger_py.ledger.driver import Driver
from dledger_py.ledger.log_writer import LogWriter, Write
from dledger_py.ledger.machine import StatePlace
from dledger_py.ledger.members import Members
from dledger_py.storage import HardState, HardStateFile, Log

# Any: a mutant replaces attributes of classes and modules.
Patch = tuple[Any, str, Any]


@frozen(kw_only=True)
class Mutant:
    """A planted bug, and within how many seeds it is found."""

    name: str
    patches: tuple[Patch, ...]
    seeds: int = 10
    members: int = 3
    seconds: float = 30.0
    faults: tuple[Fault, ...] | None = None
    """What goes wrong, if it is not the seed's own plan."""


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a bug; dig it out again at the end."""
    undo = [(owner, name, getattr(owner, name)) for owner, name, _ in mutant.patches]
    for owner, name, value in mutant.patches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in undo:
            setattr(owner, name, value)


def hunt(mutant: Mutant) -> Result | None:
    """The first run that catches it."""
    with planted(mutant):
        for seed in range(mutant.seeds):
            result = run(seed, mutant.members, mutant.seconds, mutant.faults)
            if result.violation:
                return result
    return None


write, proposed = Log.write, Driver._proposed
init = LogWriter.__init__


def write_without_sync(self: Log, *what: Any, sync: bool) -> None:
    """`Persisted` is reported once the bytes are in the page cache."""
    write(self, *what, sync=False)


def forget_to_save(self: HardStateFile, term: int, vote: str | None, commit: int) -> None:
    """Term and vote are told, but not written down."""
    self._state = HardState(term, vote, commit)


def apply_what_is_proposed(self: Driver, effect: Any) -> None:
    """The leader applies its own entries before they are committed, and answers."""
    proposed(self, effect)
    self._applier.advance(effect.index)


def hint_at_the_end(self: LogWriter, *what: Any, **how: Any) -> None:
    """The commit index on disk is the end of the log."""
    log = what[0]
    init(self, *what, **(how | {"commit_hint": lambda: log.last_index}))


def perform_with_hint(self: LogWriter, writes: list[Write]) -> None:
    """The same, with every save of the hard state."""
    last = self._log.last_index
    perform(self, [evolve(each, hard=each.hard and (*each.hard[:2], last)) for each in writes])


perform = LogWriter._perform


def one_too_far(**place: int) -> StatePlace:
    """The state is said to stand behind the entry after the last one it has seen."""
    return StatePlace(**(place | {"index": place["index"] + 1}))


def sync_names_only(path: Path) -> bool:
    """A snapshot is written before what is in the consume queues it goes with is on the disk."""
    return path.exists()


def use_and_forget_nothing(self: Members, configuration: Any, index: int) -> tuple[str, ...]:
    """What a member said before it was taken out counts when it is announced again."""
    heard = dict(self._heard)
    use(self, configuration, index)
    self._heard |= heard
    return ()


use = Members.use

LOST_FOLDER = (Fault(at_s=5, kind="empty", target="n1", other="n0", for_s=4.0),)

POWER_CUTS = tuple(
    Fault(at_s=at_s, kind="power cut", target=f"n{at_s % 3}", other="n0", for_s=0.2)
    for at_s in range(5, 28, 2)
)
"""One after the other, so that every state written down is needed."""

MUTANTS = (
    Mutant(
        name="durable is reported before the sync",
        patches=((Log, "write", write_without_sync),),
    ),
    Mutant(
        name="term and vote are not written down",
        patches=((HardStateFile, "save", forget_to_save),),
    ),
    Mutant(
        name="sends are answered before they are committed",
        patches=((Driver, "_proposed", apply_what_is_proposed),),
    ),
    Mutant(
        name="the commit hint is the end of the log",
        patches=(
            (LogWriter, "__init__", hint_at_the_end),
            (LogWriter, "_perform", perform_with_hint),
        ),
    ),
    Mutant(
        name="a snapshot names the wrong entry",
        patches=((snapshotter, "StatePlace", one_too_far),),
    ),
    Mutant(
        name="a snapshot does not wait for the consume queues",
        patches=((checkpoints, "_sync_file", sync_names_only),),
        faults=POWER_CUTS,
    ),
    Mutant(
        name="a replaced member is believed what it said before",
        patches=((Members, "use", use_and_forget_nothing),),
        faults=LOST_FOLDER,
    ),
)
