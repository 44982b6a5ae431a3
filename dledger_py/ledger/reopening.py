"""The one kind of stop that is not for good: what cannot go on is this life of the ledger, but not
the process.

Elsewhere: what the next opening does with the folder (opening, repairing).
"""

from __future__ import annotations

from dledger_py.actors import FailStop, fail_stop_in
from dledger_py.storage import Corrupt


class Reopen(FailStop):
    """Stop, but opening the folder again helps: it was left so that the next opening mends it, with
    what the other members have.

    A machine cannot forget what it has applied, so whoever made the ledger makes everything anew,
    machine and all, and runs that; or ends the process, whose next start does the same.
    """


class FellBehind(Reopen):
    """This member lacks what no other one keeps any more: it needs a copy of another's log."""


def stop_for(error: BaseException, story: str) -> FailStop:
    """What to stop with because of an error, or a group of them as nurseries raise: a stop in it,
    `Reopen` for damage of files that may be mended by opening them, or else a FailStop with this
    story."""
    found = fail_stop_in(error)
    if found is not None:
        return found
    damaged = isinstance(error, Corrupt) or (
        isinstance(error, BaseExceptionGroup) and error.subgroup(Corrupt) is not None
    )
    return Reopen(story) if damaged else FailStop(story)
