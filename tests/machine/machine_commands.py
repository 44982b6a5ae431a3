"""Commands for the tests of this floor: one of each kind, and any of them."""

from attrs import frozen
from hypothesis import strategies as st

from broker.machine.attributes import KNOWN
from broker.machine.codec import encode_command
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
from broker.machine.end_transaction import EndTransaction, Verdict
from broker.machine.groups import GroupConfig
from broker.machine.moves import Move, encode_move
from broker.machine.names import HALF_TOPIC
from broker.machine.pops import Claim
from broker.machine.put_messages import Message, encode_put_messages
from broker.machine.revivals import Revival, encode_revival
from broker.machine.topics import TopicConfig


@frozen
class Entry:
    """A committed entry, as far as the machine looks at it."""

    position: int
    payload: bytes | memoryview


TOPIC = TopicConfig(
    name="orders",
    read_queues=4,
    write_queues=8,
    perm=7,
    filter_type="MULTI_TAG",
    sys_flag=1,
    order=True,
    attributes=(("message.type", "FIFO"),),
)

GROUP = GroupConfig(
    name="shop",
    consume_enable=False,
    consume_message_orderly=True,
    retry_queues=2,
    retry_max_times=3,
    retry_policy='{"type":"EXPONENTIAL"}',
    broker_id=1,
    attributes=(("a", "b"),),
)

EXAMPLES: dict[str, Command] = {
    "02-initialise": Initialise(
        stamped_ms=1_700_000_000_000, topics=(TOPIC,), groups=(GROUP, GroupConfig(name="g"))
    ),
    "03-ensure-topics": EnsureTopics(stamped_ms=1_700_000_000_000, topics=(TOPIC,)),
    "04-put-topic": PutTopic(
        stamped_ms=1_700_000_000_000,
        name="orders",
        read_queues=4,
        attribute_changes=(("message.type", "DELAY"), ("reserve.time", None)),
    ),
    "05-delete-topic": DeleteTopic(stamped_ms=1_700_000_000_000, name="orders"),
    "06-ensure-groups": EnsureGroups(stamped_ms=1_700_000_000_000, groups=(GROUP,)),
    "07-put-group": PutGroup(stamped_ms=1_700_000_000_000, config=GROUP),
    "08-delete-group": DeleteGroup(stamped_ms=1_700_000_000_000, name="shop", clean_offsets=True),
    "09-commit-offsets": CommitOffsets(
        stamped_ms=1_700_000_000_000, commits=(("shop", "orders", 3, 42), ("shop", "orders", 0, -1))
    ),
    "10-trim-log": TrimLog(
        stamped_ms=1_700_000_000_000,
        index=812,
        position=67108864,
        queues=(("orders", 3, 42), ("%RETRY%shop", 0, 1)),
    ),
    "11-lock-queues": LockQueues(
        stamped_ms=1_700_000_000_000,
        group="shop",
        owner="10.0.0.9@4711#1",
        queues=(("orders", 3), ("orders", 0)),
    ),
    "12-unlock-queues": UnlockQueues(
        stamped_ms=1_700_000_000_000,
        group="shop",
        owner="10.0.0.9@4711#1",
        queues=(("orders", 0),),
    ),
    "14-recall-message": RecallMessage(
        stamped_ms=1_700_000_000_000,
        topic="orders",
        unique_id="0A000009162E18B4AAC2000000000000",
        deliver_ms=1_700_000_060_000,
    ),
    "15-end-transaction": EndTransaction(
        stamped_ms=1_700_000_000_000,
        half_position=4711,
        verdict=Verdict.COMMITTED,
        put=encode_put_messages(1_700_000_000_000, [("orders", 3, 2598919, b"final record")]),
    ),
    "16-checked-transactions": CheckedTransactions(
        stamped_ms=1_700_000_000_000, halves=(4711, 4811)
    ),
    "17-reset-offsets": ResetOffsets(
        stamped_ms=1_700_000_000_000, group="shop", topic="orders", queues=((0, 7), (3, 42))
    ),
    "18-end-resets": EndResets(
        stamped_ms=1_700_000_000_000, group="shop", topic="orders", queues=((3, 42),)
    ),
    "19-pop-messages": PopMessages(
        stamped_ms=1_700_000_000_000,
        pops=(
            Pop(
                group="shop",
                invisible_ms=60_000,
                ordered=False,
                attempt_id="",
                claims=(
                    Claim(
                        topic="orders",
                        queue_id=3,
                        first_offset=0,
                        next_offset=2,
                        runs=((0, 2),),
                    ),
                ),
            ),
            Pop(
                group="shop",
                invisible_ms=30_000,
                ordered=True,
                attempt_id="a1",
                claims=(
                    Claim(
                        topic="%RETRY%shop",
                        queue_id=0,
                        first_offset=0,
                        next_offset=1,
                        runs=((0, 1),),
                    ),
                ),
            ),
        ),
    ),
    "20-settle-pops": SettlePops(
        stamped_ms=1_700_000_001_000,
        acks=(("shop", "orders", 3, 0, 1_700_000_000_000, ((0, 1), (2, 2))),),
        changes=(("shop", "orders", 3, 0, 1_700_000_000_000, 1, 10_000),),
    ),
    "22-set-request-mode": SetRequestMode(
        stamped_ms=1_700_000_000_000,
        topic="orders",
        group="shop",
        mode="POP",
        pop_share_queues=8,
    ),
}

MOVE = Move(
    stamped_ms=1_700_000_060_001,
    topic="SCHEDULE_TOPIC_XXXX",
    queue_id=2,
    first_offset=0,
    next_offset=3,
    soonest_ms=0,
    latest_ms=0,
    recalls_seen=0,
)

REVIVAL = Revival(
    stamped_ms=1_700_000_060_001,
    group="shop",
    topic="orders",
    queue_id=3,
    checkpoints=((0, 1_700_000_000_000, 3),),
)

MESSAGES: list[Message] = [
    ("orders", 3, 2598919, b"first record"),
    ("%RETRY%shop", 0, 0, b"second"),
    ("orders", 3, -1504546191, b"third one"),
]

# Few names, so that commands meet the same topics, groups and queues again and again.
_names = st.sampled_from(["a", "b", "c", "%RETRY%g", "not.legal", HALF_TOPIC])
_groups = st.sampled_from(["g", "h", "not/legal"])
_times = st.integers(0, 2**40)
_small = st.integers(-1, 4)
_topics = st.builds(TopicConfig, name=_names, read_queues=_small, write_queues=_small)
_configs = st.builds(GroupConfig, name=_groups, retry_queues=_small)
_changes = st.lists(
    st.tuples(
        st.sampled_from([*KNOWN, "odd"]),
        st.none() | st.sampled_from(["FIFO", "DELAY", "BatchCQ", "SimpleCQ", "7"]),
    ),
    max_size=2,
    unique_by=lambda change: change[0],
).map(tuple)

_queue_ids = st.integers(-1, 3)
_offsets = st.integers(-1, 3) | st.integers(0, 2**40)
_commits = st.lists(st.tuples(_groups, _names, _queue_ids, _offsets), max_size=4).map(tuple)

_owned = {
    "stamped_ms": st.integers(0, 200_000),  # a few leases
    "group": _groups,
    "owner": st.sampled_from(["one", "other"]),
    "queues": st.lists(st.tuples(_names, _queue_ids), max_size=3).map(tuple),
}

_reset = {
    "stamped_ms": _times,
    "group": _groups,
    "topic": _names,
    "queues": st.lists(st.tuples(_queue_ids, st.integers(-1, 3)), max_size=3).map(tuple),
}
# Where the records of the first entries are, and where none is.
_positions = st.integers(0, 3000)

_claims = st.builds(
    lambda first, count, skipped, **fields: Claim(
        first_offset=first,
        next_offset=first + count + skipped,
        runs=((first + skipped, count),) if count else (),
        **fields,
    ),
    first=st.integers(0, 3),
    count=st.integers(0, 3),
    skipped=st.integers(0, 1),
    topic=_names,
    queue_id=_queue_ids,
)
_soon = st.integers(0, 5)
_handled = (_groups, _names, _queue_ids, st.integers(0, 3), _soon)
_runs = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), max_size=2).map(tuple)

_pops = st.one_of(
    st.builds(
        PopMessages,
        stamped_ms=_soon,
        pops=st.lists(
            st.builds(
                Pop,
                group=_groups,
                invisible_ms=_soon,
                ordered=st.booleans(),
                attempt_id=st.sampled_from(["", "a"]),
                claims=st.lists(_claims, max_size=3).map(tuple),
            ),
            max_size=2,
        ).map(tuple),
    ),
    st.builds(
        SettlePops,
        stamped_ms=_soon,
        acks=st.lists(st.tuples(*_handled, _runs), max_size=3).map(tuple),
        changes=st.lists(st.tuples(*_handled, st.integers(0, 3), _soon), max_size=3).map(tuple),
    ),
    st.builds(
        SetRequestMode,
        stamped_ms=_times,
        topic=_names,
        group=_groups,
        mode=st.sampled_from(["POP", "PULL", "PUSH"]),
        pop_share_queues=_small,
    ),
)

_ends = st.one_of(
    st.builds(
        EndTransaction,
        stamped_ms=_times,
        half_position=_positions,
        verdict=st.just(Verdict.ROLLED_BACK),
    ),
    st.builds(
        EndTransaction,
        stamped_ms=_times,
        half_position=_positions,
        verdict=st.sampled_from([Verdict.COMMITTED, Verdict.EXPIRED]),
        put=st.builds(
            encode_put_messages,
            _times,
            st.tuples(st.tuples(_names, _queue_ids, st.integers(-9, 9), st.binary(max_size=9))),
        ),
    ),
)

commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        Initialise,
        stamped_ms=_times,
        topics=st.lists(_topics, max_size=2).map(tuple),
        groups=st.lists(_configs, max_size=2).map(tuple),
    ),
    st.builds(EnsureTopics, stamped_ms=_times, topics=st.lists(_topics, max_size=3).map(tuple)),
    st.builds(
        PutTopic,
        stamped_ms=_times,
        name=_names,
        read_queues=_small,
        write_queues=_small,
        attribute_changes=_changes,
    ),
    st.builds(DeleteTopic, stamped_ms=_times, name=_names),
    st.builds(EnsureGroups, stamped_ms=_times, groups=st.lists(_configs, max_size=2).map(tuple)),
    st.builds(PutGroup, stamped_ms=_times, config=_configs),
    st.builds(DeleteGroup, stamped_ms=_times, name=_groups, clean_offsets=st.booleans()),
    st.builds(CommitOffsets, stamped_ms=_times, commits=_commits),
    st.builds(
        TrimLog,
        stamped_ms=_times,
        index=_small,
        position=_times,
        queues=st.lists(st.tuples(_names, _queue_ids, _small), max_size=3).map(tuple),
    ),
    st.builds(LockQueues, **_owned),
    st.builds(UnlockQueues, **_owned),
    st.builds(
        RecallMessage,
        stamped_ms=_times,
        topic=_names,
        unique_id=st.sampled_from(["U1", "U2"]),
        deliver_ms=st.integers(0, 100),
    ),
    st.builds(ResetOffsets, **_reset),
    st.builds(EndResets, **_reset),
    _ends,
    _pops,
    st.builds(
        CheckedTransactions,
        stamped_ms=_times,
        halves=st.lists(_positions, max_size=3).map(tuple),
    ),
)

messages: st.SearchStrategy[list[Message]] = st.lists(
    st.tuples(_names, _queue_ids, st.integers(-(2**31), 2**31 - 1), st.binary(max_size=9)),
    max_size=6,
)

_moves = st.builds(
    lambda first, count, **fields: Move(first_offset=first, next_offset=first + count, **fields),
    first=st.integers(0, 3),
    count=st.integers(1, 3),
    stamped_ms=_times,
    topic=_names,
    queue_id=st.integers(0, 3),
    soonest_ms=st.integers(0, 50),
    latest_ms=st.integers(50, 100),
    recalls_seen=st.integers(0, 2),
)

_revivals = st.builds(
    Revival,
    stamped_ms=_soon,
    group=_groups,
    topic=_names,
    queue_id=st.integers(0, 3),
    checkpoints=st.lists(
        st.tuples(st.integers(0, 3), _soon, st.integers(0, 7)), min_size=1, max_size=2
    ).map(tuple),
)

payloads: st.SearchStrategy[bytes] = st.one_of(
    commands.map(encode_command),
    st.builds(encode_put_messages, _times, messages),
    st.builds(encode_move, _moves, messages),
    st.builds(encode_revival, _revivals, messages),
)


def log_of(payloads: list[bytes]) -> list[Entry]:
    """Entries whose payloads lie 40 bytes apart, as entry headers would have it."""
    entries = []
    position = 0
    for payload in payloads:
        position += 40
        entries.append(Entry(position, payload))
        position += len(payload)
    return entries
