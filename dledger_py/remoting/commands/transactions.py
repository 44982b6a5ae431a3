"""Ending transactions, and being asked how they ended."""

from typing import Final

from attrs import frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Request, wire

UNKNOWN: Final = 0
COMMIT: Final = 8
ROLLBACK: Final = 12


@frozen(kw_only=True)
class EndTransaction(Request[None]):
    """What became of a local transaction: `UNKNOWN`, `COMMIT` or `ROLLBACK`. Code 37.

    Clients do not wait for an answer. The two offsets are those of the half message: from the
    answer to its send, or from the check that asked.
    """

    code = RequestCode.END_TRANSACTION
    producer_group: str
    tran_state_table_offset: int
    commit_log_offset: int
    commit_or_rollback: Int32
    from_transaction_check: bool = False
    msg_id: str = ""
    transaction_id: str | None = None
    topic: str | None = None
    broker_name: str | None = wire("bname", default=None)


@frozen(kw_only=True)
class CheckTransactionState(Request[None]):
    """Server to client, one-way: say what became of this transaction; body: the half message, with
    its real topic and queue. Code 39."""

    code = RequestCode.CHECK_TRANSACTION_STATE
    tran_state_table_offset: int
    commit_log_offset: int
    msg_id: str | None = None
    transaction_id: str | None = None
    offset_msg_id: str | None = None
    topic: str | None = None
    broker_name: str | None = wire("bname", default=None)


@frozen(kw_only=True)
class ResumeCheck(Request[None]):
    """Let the producer be asked again about a half message that expired; `msg_id` is the offset
    message id of what was kept of it. Code 323."""

    code = RequestCode.RESUME_CHECK_HALF_MESSAGE
    msg_id: str
    topic: str | None = None
