"""The front of the log: how whole old segments are dropped, and why that survives every crash.

The log begins where the *start mark* says: a record, twice, in sectors of its own, in the header
block of the first segment kept. Where it stands everything before was dropped on purpose; without
one the log begins at position 0. What the log then continues (index, term, position and crc of
the entry before) stands in the same header, since the segment was created. Laws:

1. *The mark is durable before the first file goes.* `drop` writes it, syncs, and only then removes
   the files before it. A first file at another position than 0 without a mark has therefore lost
   one before it, which is damage and refused.
2. *The newest mark speaks*, and what lies before it is no part of the log: not read, not judged,
   removed at the next start. So it does not matter in which order the removals reach the disk,
   nor which of the files a crash brings back.
3. *A mark is written once and never changed.* Torn, it is none, and all files are still there.
   Rewriting it puts identical bytes there; it goes when its file is dropped.
4. *The active segment is never dropped*, so the newest attest slot (`formats.Attest`) and the end
   of the log stay where they are, and a drop has no part in what may be cut at the end.

Crash points of a drop to segment S: before the mark is durable, with any part of it: it is read,
and the drop is finished by the next start, or it is not, and nothing was dropped. Before the
directory is synced: any of the files are back; the next start removes them. A mark that is read
may be in the page cache only (the process was killed, or its sync failed): the next start writes
it again and syncs before it removes anything.

An older log store does not know the mark, and refuses such a directory: it misses the first file.

Rejected: a file of its own, which needs either a rename, or slots that must survive being torn
twice, and which can be lost apart from what it describes.

Elsewhere: which entries may go (the ledger: applied, and no longer wanted by consumers or peers),
readers and positions (`log`), finishing an interrupted drop (`recovery`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dledger_py.storage.files import FileSystem
from dledger_py.storage.formats import START_OFFSETS, End, encode_start


def mark_start(files: FileSystem, path: str, before: End) -> None:
    """The log begins with this segment; durable on return. Any number of times."""
    file = files.open(path, write=True)
    try:
        for offset in START_OFFSETS:
            file.pwrite(encode_start(before), offset)
        file.fdatasync()
    finally:
        file.close()


def remove_dropped(files: FileSystem, directory: str, paths: Sequence[str]) -> None:
    """Remove the files before a durable mark; durable on return."""
    for path in paths:
        files.remove(path)
    files.fsync_directory(directory)
