"""A consumer gives a message back that it could not handle."""

from attrs import frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Request, wire


@frozen(kw_only=True)
class SendBack(Request[None]):
    """Deliver this message to the group once more, later, or put it to its dead letters. Code 36.

    `offset` is the physical one of the message as it was consumed.
    """

    code = RequestCode.CONSUMER_SEND_MSG_BACK
    offset: int
    group: str
    delay_level: Int32
    """Below 0: to the dead letters; 0: the longer the more often it came back; else this level."""
    origin_msg_id: str | None = None
    origin_topic: str | None = None
    unit_mode: bool = False
    max_reconsume_times: Int32 | None = None
    broker_name: str | None = wire("bname", default=None)
