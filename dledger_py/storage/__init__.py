"""Blocking files under the Raft log, behind one small file-system protocol. No Trio here.

`recover` opens a directory and returns a `Log` and a `HardStateFile`; the ledger calls them from
its loop thread and its writer. Laws are told where they are kept: bytes in `formats`,
the order of writes in `appender`, what may be cut in `recovery`.
"""

from dledger_py.storage.batch import BadBatch, Batch, StoredEntry, split_raw
from dledger_py.storage.birth import Birth
from dledger_py.storage.files import DirectoryInUse, FileSystem, RealFiles
from dledger_py.storage.formats import Corrupt, HardState, Identity, LogFailed, WrongIdentity
from dledger_py.storage.hard_state import HardStateFile
from dledger_py.storage.incoming import BadSnapshot, Incoming, begin_incoming, open_incoming
from dledger_py.storage.log import Cut, Log, LogStatistics
from dledger_py.storage.recovery import CutReport, Recovered, recover
from dledger_py.storage.repair import Contradicted, Mending, Repair, open_repair
from dledger_py.storage.snapshots import (
    NO_SNAPSHOT,
    SnapshotPlace,
    Snapshots,
    SnapshotSummary,
    StoredSnapshot,
    open_snapshots,
)
from dledger_py.storage.summaries import forget_summaries
from dledger_py.storage.switching import (
    drop_installation,
    installation_wanted,
    want_installation,
)

__all__ = [
    "NO_SNAPSHOT",
    "BadBatch",
    "BadSnapshot",
    "Batch",
    "Birth",
    "Contradicted",
    "Corrupt",
    "Cut",
    "CutReport",
    "DirectoryInUse",
    "FileSystem",
    "HardState",
    "HardStateFile",
    "Identity",
    "Incoming",
    "Log",
    "LogFailed",
    "LogStatistics",
    "Mending",
    "RealFiles",
    "Recovered",
    "Repair",
    "SnapshotPlace",
    "SnapshotSummary",
    "Snapshots",
    "StoredEntry",
    "StoredSnapshot",
    "WrongIdentity",
    "begin_incoming",
    "drop_installation",
    "forget_summaries",
    "installation_wanted",
    "open_incoming",
    "open_repair",
    "open_snapshots",
    "recover",
    "split_raw",
    "want_installation",
]
