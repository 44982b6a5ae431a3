"""What operators ask and change, as typed methods: `from dledger_py.admin import Admin`."""

from dledger_py.admin.admin import Admin
from dledger_py.admin.records import (
    BrokerState,
    GroupProgress,
    MemberState,
    QueueLag,
    QueueState,
    RaftState,
    UnknownName,
)

__all__ = [
    "Admin",
    "BrokerState",
    "GroupProgress",
    "MemberState",
    "QueueLag",
    "QueueState",
    "RaftState",
    "UnknownName",
]
