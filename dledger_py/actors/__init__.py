"""Actors and supervisors: what a process of ours is built from. Knows nothing of messages or Raft.

`actors` has mailboxes and questions, `supervision` the trees that keep actors alive, `timers` the
clock as messages.
"""

from dledger_py.actors.actors import Actor, ActorDown, Call, Inbox, Ref
from dledger_py.actors.incarnation import Child, FailStop, Restart, TreeNode, fail_stop_in
from dledger_py.actors.supervision import (
    DynamicSupervisor,
    RestartsExhausted,
    StartChild,
    StopChild,
    Strategy,
    Supervisor,
    SupervisorStatistics,
)
from dledger_py.actors.timers import after, every

__all__ = [
    "Actor",
    "ActorDown",
    "Call",
    "Child",
    "DynamicSupervisor",
    "FailStop",
    "Inbox",
    "Ref",
    "Restart",
    "RestartsExhausted",
    "StartChild",
    "StopChild",
    "Strategy",
    "Supervisor",
    "SupervisorStatistics",
    "TreeNode",
    "after",
    "every",
    "fail_stop_in",
]
