"""Half messages and verdicts, asked of the rooms of a `Desk`."""

from typing import Any

from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, PullMessage
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.transactions import COMMIT, EndTransaction
from dledger_py.remoting.wire.message import Record, decode_records, parse_offset_message_id
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.rooms_kit import Desk, header

GROUP = "payers"


def half_send(name: str = "orders", queue_id: int = 1, **properties: str) -> SendMessage:
    """As Java's TransactionMQProducer sends it."""
    given = {"TRAN_MSG": "true", "PGROUP": GROUP, "UNIQ_KEY": "U1", "TAGS": "TagA"}
    return SendMessage(
        producer_group=GROUP,
        topic=name,
        queue_id=queue_id,
        default_topic="TBW102",
        default_topic_queue_nums=4,
        sys_flag=4,
        born_timestamp=1_600_000_000_000,
        properties=properties_text(given | properties),
    )


def prepared(desk: Desk, body: bytes = b"pay", name: str = "orders", **properties: str) -> Any:
    """The answer to a half message that was stored: clients make the verdict of it."""
    return header(SendMessage, desk.ask(half_send(name, **properties), body, code=310))


def position_of(reply: Any) -> int:
    return parse_offset_message_id(reply.msg_id)[2]


def verdict(reply: Any, what: int = COMMIT, **fields: Any) -> EndTransaction:
    """What a producer says of its half message."""
    given = {
        "producer_group": GROUP,
        "tran_state_table_offset": reply.queue_offset,
        "commit_log_offset": position_of(reply),
        "commit_or_rollback": what,
        "msg_id": reply.transaction_id,
        "transaction_id": reply.transaction_id,
    }
    return EndTransaction(**(given | fields))


def stored(desk: Desk, name: str = "orders", queue_id: int = 1) -> list[Record]:
    pull = PullMessage(
        consumer_group="TOOLS_CONSUMER",
        topic=name,
        queue_id=queue_id,
        queue_offset=0,
        max_msg_nums=32,
        sys_flag=CARRIES_SUBSCRIPTION,
        subscription="*",
    )
    answer = desk.ask(pull)
    assert answer is not None
    return decode_records(answer.body) if answer.code == 0 else []
