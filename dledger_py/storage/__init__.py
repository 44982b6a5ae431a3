"""Blocking files under the Raft log, behind one small file-system protocol. No Trio here.

`recover` opens a directory and returns a `Log` and a `HardStateFile`; the ledger calls them from
its loop thread and its writer thread. Laws are told where they are kept: bytes in `formats`,
the order of writes in `appender`, what may be cut in `recovery`.
"""

from dledger_py.storage.batch import BadBatch, Batch, StoredEntry, split_raw
from dledger_py.storage.birth import Birth
from dledger_py.storage.files import DirectoryInUse, FileSystem, RealFiles
from dledger_py.storage.formats import Corrupt, HardState, Identity, LogFailed, WrongIdentity
from dledger_py.storage.hard_state import HardStateFile
from dledger_py.storage.log import Cut, Log, LogStatistics
from dledger_py.storage.recovery import CutReport, Recovered, recover
from dledger_py.storage.repair import Contradicted, Mending, Repair, open_repair
from dledger_py.storage.snapshots import (
    SnapshotPlace,
    Snapshots,
    StoredSnapshot,
    open_snapshots,
)

__all__ = [
    "BadBatch",
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
    "Log",
    "LogFailed",
    "LogStatistics",
    "Mending",
    "RealFiles",
    "Recovered",
    "Repair",
    "SnapshotPlace",
    "Snapshots",
    "StoredEntry",
    "StoredSnapshot",
    "WrongIdentity",
    "open_repair",
    "open_snapshots",
    "recover",
    "split_raw",
]
