"""Opening a directory: what is there, is it whole, and what may be cut.

The rule: bytes that somebody may have been told are durable are never cut. The attest slots say
up to where everything was synced once; the hard state says how far entries were committed.
Damage below either is Corrupt. Damage behind both is the torn tail of a group nobody was told
about, and is cut and reported.
"""

from __future__ import annotations

from attrs import frozen

from dledger_py.storage.files import FileSystem
from dledger_py.storage.formats import HardState, Identity
from dledger_py.storage.hard_state import HardStateFile
from dledger_py.storage.log import Log


@frozen(kw_only=True)
class CutReport:
    """A torn tail was dropped while opening: for a log line, at WARNING."""

    file: str
    offset: int
    position: int
    size_bytes: int
    reason: str


@frozen(kw_only=True)
class Recovered:
    """An opened directory. `hard_state` is what was loaded; later ones are in the file object."""

    log: Log
    hard_state: HardState
    hard_state_file: HardStateFile
    cut: CutReport | None
    created: bool  # the directory was empty: a new member, or one that lost its disk

    def close(self) -> None:
        """Close log and hard state, and release the directory. Writer thread."""
        raise NotImplementedError


SEGMENT_SIZE_BYTES = 64 * 1024 * 1024


def recover(
    files: FileSystem,
    directory: str,
    identity: Identity,
    segment_size_bytes: int = SEGMENT_SIZE_BYTES,
) -> Recovered:
    """Open (or create) one member's directory, verify every entry in it, lock it.

    Everything in the returned log and hard state is durable: what was found in the page cache
    only (the last process was killed between write and sync) is written and synced again.

    Blocks: reads the whole log once, sequentially.
    Raises Corrupt; DirectoryInUse when another process has it open; WrongIdentity when it belongs
    to another cluster, group or member; OSError.
    """
    raise NotImplementedError
