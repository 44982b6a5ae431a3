"""The replicated log as actors: the public Raft API. Knows nothing of RocketMQ.

`Ledger` is the door; a `Machine` is what its users bring; errors say what may be concluded.
"""

from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.errors import (
    Busy,
    Indefinite,
    LedgerError,
    NotLeader,
    Refused,
    TooLarge,
    TransferFailed,
)
from dledger_py.ledger.ledger import Ledger, LedgerStatistics, open_ledger
from dledger_py.ledger.machine import Applied, Committed, Machine, RoleView

__all__ = [
    "Applied",
    "Busy",
    "Committed",
    "Indefinite",
    "Ledger",
    "LedgerConfig",
    "LedgerError",
    "LedgerStatistics",
    "Machine",
    "NotLeader",
    "Refused",
    "RoleView",
    "TooLarge",
    "TransferFailed",
    "open_ledger",
]
