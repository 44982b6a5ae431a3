"""Commands ↔ the payloads of log entries.

Every payload begins with a tag and a version, one byte each. `PutMessages`, `MoveMessages`,
`EndTransaction` and `RevivePops` go on with layouts of their own (`put_messages`, `moves`,
`end_transaction`, `revivals`); every other with one canonical CBOR array, its fields in the order
below.

Laws: a tag is never reused and a table row never changes once released: a new meaning is a new tag,
more fields are a new version beside the old one. What cannot be understood stops the member
(`errors`): skipping an entry would let its state drift from the others'.
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from broker.machine import end_transaction, moves, put_messages, revivals
from broker.machine.commands import (
    CheckedTransactions,
    Command,
    CommitOffsets,
    DeleteGroup,
    DeleteTopic,
    EndResets,
    EnsureGroups,
    EnsureTopics,
    Initialise,
    LockQueues,
    Pop,
    PopMessages,
    PutGroup,
    PutTopic,
    RecallMessage,
    ResetOffsets,
    SetRequestMode,
    SettlePops,
    TrimLog,
    UnlockQueues,
)
from broker.machine.end_transaction import (
    EndTransaction,
    decode_end_transaction,
    encode_end_transaction,
)
from broker.machine.errors import MalformedCommand, UnknownCommand
from broker.machine.groups import GroupConfig
from broker.machine.moves import MoveMessages, decode_move
from broker.machine.pops import Claim
from broker.machine.put_messages import PutMessages, decode_put_messages
from broker.machine.revivals import RevivePops, decode_revival
from broker.machine.shapes import (
    FLAG,
    INT,
    TEXT,
    Shape,
    decode,
    encode,
    many,
    optional,
    record,
    row,
)
from broker.machine.topics import TopicConfig

QUEUES: Final = many(row(TEXT, INT))

POSITIONS: Final = many(row(INT, INT))

RUNS: Final = many(row(INT, INT))

ATTRIBUTES: Final = many(row(TEXT, TEXT))

TOPIC_CONFIG: Final = record(
    TopicConfig,
    name=TEXT,
    read_queues=INT,
    write_queues=INT,
    perm=INT,
    filter_type=TEXT,
    sys_flag=INT,
    order=FLAG,
    attributes=ATTRIBUTES,
)

GROUP_CONFIG: Final = record(
    GroupConfig,
    name=TEXT,
    consume_enable=FLAG,
    consume_from_min_enable=FLAG,
    consume_broadcast_enable=FLAG,
    consume_message_orderly=FLAG,
    retry_queues=INT,
    retry_max_times=INT,
    retry_policy=TEXT,
    broker_id=INT,
    which_broker_when_consume_slowly=INT,
    notify_consumer_ids_changed_enable=FLAG,
    sys_flag=INT,
    consume_timeout_minutes=INT,
    attributes=ATTRIBUTES,
)


CLAIM: Final = record(Claim, topic=TEXT, queue_id=INT, first_offset=INT, next_offset=INT, runs=RUNS)

POP: Final = record(
    Pop, group=TEXT, invisible_ms=INT, ordered=FLAG, attempt_id=TEXT, claims=many(CLAIM)
)


@frozen
class _Row:
    tag: int
    version: int
    shape: Shape[Any]


ROWS: Mapping[type[Command], _Row] = {
    # Tag 1 is PutMessages.
    Initialise: _Row(
        2,
        1,
        record(Initialise, stamped_ms=INT, topics=many(TOPIC_CONFIG), groups=many(GROUP_CONFIG)),
    ),
    EnsureTopics: _Row(3, 1, record(EnsureTopics, stamped_ms=INT, topics=many(TOPIC_CONFIG))),
    PutTopic: _Row(
        4,
        1,
        record(
            PutTopic,
            stamped_ms=INT,
            name=TEXT,
            read_queues=INT,
            write_queues=INT,
            perm=INT,
            filter_type=TEXT,
            sys_flag=INT,
            order=FLAG,
            attribute_changes=many(row(TEXT, optional(TEXT))),
        ),
    ),
    DeleteTopic: _Row(5, 1, record(DeleteTopic, stamped_ms=INT, name=TEXT)),
    EnsureGroups: _Row(6, 1, record(EnsureGroups, stamped_ms=INT, groups=many(GROUP_CONFIG))),
    PutGroup: _Row(7, 1, record(PutGroup, stamped_ms=INT, config=GROUP_CONFIG)),
    DeleteGroup: _Row(8, 1, record(DeleteGroup, stamped_ms=INT, name=TEXT, clean_offsets=FLAG)),
    CommitOffsets: _Row(
        9, 1, record(CommitOffsets, stamped_ms=INT, commits=many(row(TEXT, TEXT, INT, INT)))
    ),
    TrimLog: _Row(
        10,
        1,
        record(TrimLog, stamped_ms=INT, index=INT, position=INT, queues=many(row(TEXT, INT, INT))),
    ),
    LockQueues: _Row(
        11, 1, record(LockQueues, stamped_ms=INT, group=TEXT, owner=TEXT, queues=QUEUES)
    ),
    UnlockQueues: _Row(
        12, 1, record(UnlockQueues, stamped_ms=INT, group=TEXT, owner=TEXT, queues=QUEUES)
    ),
    # Tag 13 is MoveMessages.
    RecallMessage: _Row(
        14,
        1,
        record(RecallMessage, stamped_ms=INT, topic=TEXT, unique_id=TEXT, deliver_ms=INT),
    ),
    # Tag 15 is EndTransaction.
    CheckedTransactions: _Row(16, 1, record(CheckedTransactions, stamped_ms=INT, halves=many(INT))),
    ResetOffsets: _Row(
        17, 1, record(ResetOffsets, stamped_ms=INT, group=TEXT, topic=TEXT, queues=POSITIONS)
    ),
    EndResets: _Row(
        18, 1, record(EndResets, stamped_ms=INT, group=TEXT, topic=TEXT, queues=POSITIONS)
    ),
    PopMessages: _Row(19, 1, record(PopMessages, stamped_ms=INT, pops=many(POP))),
    SettlePops: _Row(
        20,
        1,
        record(
            SettlePops,
            stamped_ms=INT,
            acks=many(row(TEXT, TEXT, INT, INT, INT, RUNS)),
            changes=many(row(TEXT, TEXT, INT, INT, INT, INT, INT)),
        ),
    ),
    # Tag 21 is RevivePops.
    SetRequestMode: _Row(
        22,
        1,
        record(
            SetRequestMode, stamped_ms=INT, topic=TEXT, group=TEXT, mode=TEXT, pop_share_queues=INT
        ),
    ),
}

_BY_TAG: Mapping[tuple[int, int], _Row] = {(row.tag, row.version): row for row in ROWS.values()}
assert len(_BY_TAG) == len(ROWS)
OWN_TAGS: Final = frozenset({put_messages.TAG, moves.TAG, end_transaction.TAG, revivals.TAG})
assert not OWN_TAGS & {tag for tag, _version in _BY_TAG}


def encode_command(command: Command) -> bytes:
    """The payload of a command. Messages go through `encode_put_messages` instead, moved ones
    through `encode_move` and revived ones through `encode_revival`."""
    assert not isinstance(command, PutMessages | MoveMessages | RevivePops)
    if isinstance(command, EndTransaction):
        return encode_end_transaction(command)
    found = ROWS[type(command)]
    return bytes((found.tag, found.version)) + encode(found.shape.to_plain(command))


def decode_command(payload: bytes | memoryview) -> Command:
    """The command of a payload.

    **Raises** `UnknownCommand` for a tag or version of another build, `MalformedCommand` for bytes
    the encoders never write.
    """
    if len(payload) < 2:
        raise MalformedCommand(f"a payload of {len(payload)} bytes has no tag and version")
    tag, version = payload[0], payload[1]
    if tag == put_messages.TAG:
        return decode_put_messages(payload)
    if tag == moves.TAG:
        return decode_move(payload)
    if tag == end_transaction.TAG:
        return decode_end_transaction(payload)
    if tag == revivals.TAG:
        return decode_revival(payload)
    found = _BY_TAG.get((tag, version))
    if found is None:
        raise UnknownCommand(tag, version)
    command: Command = found.shape.from_plain(decode(bytes(payload[2:])))
    return command


def first_record_at(payload: bytes | memoryview) -> int | None:
    """Where in the payload of a command its first record begins; None if it carries none.

    **Raises** as `decode_command`.
    """
    if payload[0] == put_messages.TAG:
        return decode_put_messages(payload).records_at
    if payload[0] == end_transaction.TAG:
        messages = decode_end_transaction(payload).messages
        return None if messages is None else end_transaction.HEAD.size + messages.records_at
    if payload[0] == moves.TAG:
        moved = decode_move(payload)
        return moved.messages_at + moved.messages.records_at if moved.messages.table else None
    if payload[0] == revivals.TAG:
        revived = decode_revival(payload)
        return revived.messages_at + revived.messages.records_at if revived.messages.table else None
    return None
