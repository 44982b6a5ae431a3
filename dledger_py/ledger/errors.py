"""What can go wrong with a proposal or a read, sorted by what the caller may conclude.

Three kinds, as everywhere in this project:

- *refused*: it did not happen and never will; the caller may try elsewhere or again;
- *indefinite*: it may have happened; only a caller who can recognise a repetition may try again;
- *stop*: this process cannot go on. Those are `dledger_py.actors.FailStop` and are not declared
  here, because nobody but the process itself is meant to catch them.
"""

from __future__ import annotations


class LedgerError(Exception):
    """Whatever a proposal or a read barrier can end with instead of a reply."""


class Refused(LedgerError):
    """Definite: nothing happened, nothing will."""


class NotLeader(Refused):
    """Definite: this member does not lead, so it took nothing in. `leader` is who does, if
    known."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"not the leader; the leader is {leader or 'not known'}")
        self.leader = leader


class Busy(Refused):
    """Definite: too much is waiting for the log already. Try again after a pause."""


class TooLarge(Refused, ValueError):
    """Definite: no entry takes so many bytes; nor will it later."""

    def __init__(self, size: int, largest: int) -> None:
        super().__init__(f"payload of {size} bytes: {largest} are possible")


class TransferFailed(Refused):
    """Definite: leadership was not handed to the member asked for. No entry was affected."""


class ChangeRefused(Refused):
    """Definite: the membership was not changed; says why. `passing`: it may be in a moment."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


class Indefinite(LedgerError):
    """It may have happened: leadership or the process was lost after the entry was appended."""


class FrameError(Exception):
    """A peer sent bytes that are no frame of this protocol. The connection is closed, nothing
    else."""
