"""Term, vote and commit hint in two slots that are written in turns, in place.

Elsewhere: the layout, and why a slot without a readable copy is refused (`formats`); what must
be saved before what is sent (raft, through `Persist`).
"""

from __future__ import annotations

from dledger_py.storage.formats import HardState


class HardStateFile:
    """The hard state of one member. Made by `recovery.recover`. One thread (the writer)."""

    def load(self) -> HardState:
        """The state as last saved, from memory."""
        raise NotImplementedError

    def save(self, term: int, vote: str | None, commit: int) -> None:
        """Remember term, vote and commit index.

        The term never goes back and a vote never changes within its term (asserted). `commit`
        is a hint that makes recovery stricter: never more than `Log.durable_index`, and worth
        no save of its own (let it ride on one that is needed, or save once in a while).

        Blocks: one pwrite of 4 KiB, one fdatasync. Durability: on disk on return.
        Raises OSError, and LogFailed ever after: stop the process.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
