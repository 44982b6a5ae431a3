"""Consume queues made anew from a log without its beginning are what they were."""

from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from broker.formats import UNIT
from broker.machine import names
from broker.machine.codec import encode_command
from broker.machine.commands import (
    DeleteTopic,
    EnsureGroups,
    EnsureTopics,
    Pop,
    PopMessages,
    PutTopic,
    TrimLog,
)
from broker.machine.effects import DropQueues, IndexMessages
from broker.machine.end_transaction import EndTransaction, Verdict
from broker.machine.groups import GroupConfig
from broker.machine.machine import Machine
from broker.machine.moves import Move, encode_move
from broker.machine.pops import Claim
from broker.machine.put_messages import encode_put_messages
from broker.machine.revivals import Revival, encode_revival
from broker.machine.snapshot import Place, capture, restore_snapshot
from broker.machine.topics import TopicConfig
from broker.rebuilding import index_again
from broker.store.consume_queues import ConsumeQueues
from dledger_py.actors import FailStop
from dledger_py.raft.membership import Configuration, encode
from dledger_py.storage import Identity, RealFiles, recover
from tests.broker.broker_kit import brokers, dial, pull, send
from tests.broker.test_reopening import Dialled, Nodes
from tests.machine.machine_commands import Entry, log_of

TOPICS = ("a", "b")
HALF_TOPIC = TopicConfig(name=names.HALF_TOPIC)
_topic = st.sampled_from(TOPICS)
_put = st.lists(st.tuples(_topic, st.integers(0, 3), st.integers(-9, 9), st.binary(max_size=5)))
_settings = st.builds(
    PutTopic,
    stamped_ms=st.just(5),
    name=_topic,
    read_queues=st.integers(1, 4),
    write_queues=st.integers(1, 4),
)
_ensured = st.builds(
    EnsureTopics,
    stamped_ms=st.just(5),
    topics=st.lists(
        st.builds(
            TopicConfig, name=_topic, read_queues=st.integers(1, 4), write_queues=st.integers(1, 4)
        ),
        max_size=2,
    ).map(tuple),
)
_deleted = st.builds(DeleteTopic, stamped_ms=st.just(5), name=_topic)


def perform(queues: ConsumeQueues, effects) -> None:
    for effect in effects:
        match effect:
            case IndexMessages(topic, queue_id, first_offset, units):
                queues.index(topic, queue_id, first_offset, units)
            case DropQueues(topic):
                queues.drop(topic)


def proposable(machine: Machine, messages) -> list:
    """What a leader proposes: it looks whether the queue is there."""
    found = []
    for message in messages:
        config = machine.topics.get(message[0])
        if config is not None and message[1] < config.queues:
            found.append(message)
    return found


def units_of(queues: ConsumeQueues, topic: str, queue_id: int, first: int) -> bytes:
    return queues.range(topic, queue_id, first, 10_000)


def end_of(machine: Machine, topic: str, queue_id: int) -> EndTransaction | None:
    """What a leader proposes for the oldest pending half, whose message goes there."""
    oldest = machine.transactions.lowest_position()
    if oldest is None:
        return None
    put = proposable(machine, [(topic, queue_id, 0, b"final")])
    return EndTransaction(
        stamped_ms=5,
        half_position=oldest,
        verdict=Verdict.COMMITTED if put else Verdict.ROLLED_BACK,
        put=encode_put_messages(5, put) if put else b"",
    )


_half = st.just("half")
_end = st.tuples(_topic, st.integers(0, 3))


@settings(deadline=None)
@given(
    steps=st.lists(_put | _settings | _ensured | _deleted | _half | _end, max_size=30),
    kept=st.integers(0, 30),
)
def test_what_the_log_has_is_indexed_where_it_was(tmp_path_factory, steps, kept) -> None:
    folder: Path = tmp_path_factory.mktemp("queues")
    machine, queues = Machine(), ConsumeQueues.create(folder / "whole")
    halves = EnsureTopics(stamped_ms=1, topics=(HALF_TOPIC,))
    payloads = [encode_command(halves)]
    machine.apply(log_of(payloads)[0])
    firsts: dict[tuple[str, int], int] = {}  # of what is kept
    for step in steps:
        if isinstance(step, list):
            payload = encode_put_messages(5, proposable(machine, step))
        elif step == "half":
            payload = encode_put_messages(5, [(HALF_TOPIC.name, 0, 0, b"half")])
        elif isinstance(step, tuple):
            end = end_of(machine, *step)
            if end is None:
                continue
            payload = encode_command(end)
        else:
            payload = encode_command(step)
        payloads.append(payload)
        effects = machine.apply(log_of(payloads)[-1]).effects
        perform(queues, effects)
        for effect in effects:
            if isinstance(effect, DropQueues):
                firsts = {key: first for key, first in firsts.items() if key[0] != effect.topic}
            elif isinstance(effect, IndexMessages) and len(payloads) > kept:
                firsts.setdefault((effect.topic, effect.queue_id), effect.first_offset)
    log = log_of(payloads)
    again = ConsumeQueues.create(folder / "again")
    index_again(again, machine, lambda: log[kept:])

    for topic in machine.topics.names():
        for queue_id in machine.queues.written(topic):
            first = firsts.get((topic, queue_id))
            reached = machine.queues.next_offset(topic, queue_id)
            first = reached if first is None else first
            assert first == again.min_offset(topic, queue_id)
            assert reached == again.next_offset(topic, queue_id)
            units = units_of(again, topic, queue_id, first)
            assert reached - first == len(units) // UNIT.size
            assert units == units_of(queues, topic, queue_id, first)
    queues.close()
    again.close()


@settings(deadline=None)
@given(
    moved=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 2), st.booleans()), max_size=12),
    kept=st.integers(0, 20),
)
def test_moved_messages_are_indexed_where_they_were_and_declined_ones_are_not(
    tmp_path_factory, moved, kept
) -> None:
    folder: Path = tmp_path_factory.mktemp("queues")
    machine, queues = Machine(), ConsumeQueues.create(folder / "whole")
    topics = tuple(TopicConfig(name=name) for name in ("later", *TOPICS))
    waiting = [("later", 0, 5, b"waits")] * 6
    payloads = [encode_command(EnsureTopics(stamped_ms=1, topics=topics))]
    payloads.append(encode_put_messages(2, waiting))
    for first, count, empty in moved:  # most of them come too late or too early
        move = Move(
            stamped_ms=3,
            topic="later",
            queue_id=0,
            first_offset=first,
            next_offset=first + count,
            soonest_ms=0,
            latest_ms=0,
            recalls_seen=0,
        )
        payloads.append(encode_move(move, [] if empty else [("a", first % 3, 7, b"moved")]))
    log = log_of(payloads)
    for entry in log:
        perform(queues, machine.apply(entry).effects)
    body = b"".join(capture(machine, Place(index=9, term=1, position=9)).chunks())
    restored, _at = restore_snapshot(body)
    again = ConsumeQueues.create(folder / "again")
    index_again(again, restored, lambda: log[kept:])

    for queue_id in machine.queues.written("a"):
        reached = machine.queues.next_offset("a", queue_id)
        first = again.min_offset("a", queue_id)
        assert reached == again.next_offset("a", queue_id)
        assert units_of(queues, "a", queue_id, first) == units_of(again, "a", queue_id, first)
        assert first == 0 or kept > 2
    queues.close()
    again.close()


@settings(deadline=None)
@given(
    revived=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=10),
    kept=st.integers(0, 15),
)
def test_revived_messages_are_indexed_where_they_were_and_declined_ones_are_not(
    tmp_path_factory, revived, kept
) -> None:
    folder: Path = tmp_path_factory.mktemp("queues")
    machine, queues = Machine(), ConsumeQueues.create(folder / "whole")
    topics = tuple(TopicConfig(name=name) for name in TOPICS)
    claims = tuple(
        Claim(topic="b", queue_id=0, first_offset=at, next_offset=at + 1, runs=((at, 1),))
        for at in range(4)
    )
    pops = tuple(
        Pop(group="g", invisible_ms=1, ordered=False, attempt_id="", claims=(claim,))
        for claim in claims
    )
    payloads = [
        encode_command(EnsureTopics(stamped_ms=1, topics=topics)),
        encode_command(EnsureGroups(stamped_ms=1, groups=(GroupConfig(name="g"),))),
        encode_put_messages(2, [("b", 0, 5, b"popped")] * 4),
        encode_command(PopMessages(stamped_ms=3, pops=pops)),
    ]
    for offset, empty in revived:  # the second time, it is in flight no more
        revival = Revival(
            stamped_ms=9, group="g", topic="b", queue_id=0, checkpoints=((offset, 3, 1),)
        )
        payloads.append(encode_revival(revival, [] if empty else [("a", offset % 3, 7, b"again")]))
    log = log_of(payloads)
    for entry in log:
        perform(queues, machine.apply(entry).effects)
    body = b"".join(capture(machine, Place(index=9, term=1, position=9)).chunks())
    restored, _at = restore_snapshot(body)
    again = ConsumeQueues.create(folder / "again")
    index_again(again, restored, lambda: log[kept:])

    for queue_id in machine.queues.written("a"):
        reached = machine.queues.next_offset("a", queue_id)
        first = again.min_offset("a", queue_id)
        assert reached == again.next_offset("a", queue_id)
        assert units_of(queues, "a", queue_id, first) == units_of(again, "a", queue_id, first)
        assert first == 0 or kept > 4
    queues.close()
    again.close()


def test_a_log_that_has_more_than_the_snapshot_is_refused(tmp_path) -> None:
    machine = Machine()
    topic = encode_command(EnsureTopics(stamped_ms=1, topics=(TopicConfig(name="a"),)))
    put = encode_put_messages(2, [("a", 0, 0, b"x")])
    log = log_of([topic, put, put])
    for entry in log[:2]:
        machine.apply(entry)

    with pytest.raises(FailStop, match="2 messages of queue 0 of 'a', but its snapshot 1"):
        index_again(ConsumeQueues.create(tmp_path), machine, lambda: log[1:])


def test_a_message_counts_once_whose_half_message_went_with_the_beginning(tmp_path) -> None:
    machine = Machine()
    topics = EnsureTopics(stamped_ms=1, topics=(HALF_TOPIC, TopicConfig(name="a")))
    put = encode_put_messages(2, [("a", 0, 0, b"x")])
    payloads = [
        encode_command(topics),
        encode_put_messages(2, [(HALF_TOPIC.name, 0, 0, b"half")]),
        put,
        put,
    ]
    for entry in log_of(payloads):
        machine.apply(entry)
    end = end_of(machine, "a", 0)
    assert end is not None
    log = log_of([*payloads, encode_command(end), encode_command(end), put])
    for entry in log[4:]:
        machine.apply(entry)
    queues = ConsumeQueues.create(tmp_path)
    index_again(queues, machine, lambda: log[3:])

    assert (1, 4) == (queues.min_offset("a", 0), queues.next_offset("a", 0))
    position, size, _code = UNIT.unpack(units_of(queues, "a", 0, 2)[: UNIT.size])
    assert log[4].position + len(log[4].payload) == position + size


def test_a_restored_state_is_enough(tmp_path) -> None:
    machine = Machine()
    topic = encode_command(EnsureTopics(stamped_ms=1, topics=(TopicConfig(name="a"),)))
    log: list[Entry] = log_of(
        [topic, *(encode_put_messages(2, [("a", 3, 0, b"x")]) for _ in "12345")]
    )
    for entry in log:
        machine.apply(entry)
    body = b"".join(capture(machine, Place(index=6, term=1, position=999)).chunks())
    restored, _at = restore_snapshot(body)
    queues = ConsumeQueues.create(tmp_path)
    index_again(queues, restored, lambda: log[4:])

    assert (3, 5) == (queues.min_offset("a", 3), queues.next_offset("a", 3))


def test_queues_that_were_trimmed_begin_where_the_state_says(tmp_path) -> None:
    machine = Machine()
    topic = encode_command(EnsureTopics(stamped_ms=1, topics=(TopicConfig(name="a"),)))
    puts = [encode_put_messages(2, [("a", 3, 0, b"x"), ("a", 4, 0, b"y")]) for _ in range(5)]
    trim = TrimLog(stamped_ms=3, index=4, position=9, queues=(("a", 3, 3), ("a", 4, 5)))
    log = log_of([topic, *puts, encode_command(trim)])
    for entry in log:
        machine.apply(entry)
    queues = ConsumeQueues.create(tmp_path)
    index_again(queues, machine, lambda: log[3:])

    assert (3, 5) == (queues.min_offset("a", 3), queues.next_offset("a", 3))
    assert (5, 5) == (queues.min_offset("a", 4), queues.next_offset("a", 4))


async def test_a_member_that_fell_behind_serves_what_the_others_serve(tmp_path) -> None:
    """The whole way: it stops itself, copies log and state, makes its queues anew, and serves."""
    ledger = {"election_timeout_ms": 10_000, "heartbeat_ms": 40, "segment_size_bytes": 2000}
    async with brokers(tmp_path, 3) as group:
        group.ledger_settings = ledger
        nodes = Nodes(group)
        for name in ("n0", "n1"):
            nodes.start(name)
        await nodes.until(lambda: len(nodes.ready) == 2)
        leader = await nodes.wait_leader("n0", "n1")
        async with dial(Dialled(nodes.broker(leader))) as client:
            for number in range(30):
                await send(client, "orders", b"message %d!" % number)
        for name in ("n0", "n1"):
            await nodes.stop(name)
            drop_front(tmp_path / name, name, 20)
        for name in ("n0", "n1"):
            nodes.start(name)
        await nodes.wait_leader("n0", "n1")
        with capture_logs() as logs:
            nodes.start("n2")
            await nodes.until(lambda: "n2" in nodes.ready)
        leader = await nodes.wait_leader("n0", "n1")
        index = nodes.broker(leader).ledger.applied_index
        while nodes.broker("n2").ledger.applied_index < index:
            await trio.lowlevel.checkpoint()
        first = nodes.broker("n2").queues.min_offset("orders", 0)
        bodies = []
        for name in (leader, "n2"):
            async with dial(Dialled(nodes.broker(name))) as client:
                bodies.append((await pull(client, "orders", first)).body)
        events = [each["event"] for each in logs]

        assert 0 < first < 30
        assert bodies[0] == bodies[1]
        assert b"message 29!" in bodies[1]
        expected = ["raft.fell_behind", "broker.reopened", "log.installed", "broker.queues_rebuilt"]
        assert expected == [each for each in events if each in expected]
        group.nursery.cancel_scope.cancel()


def drop_front(folder: Path, name: str, index: int) -> None:
    identity = Identity(cluster="dledger", group="broker-a", member=name)
    opened = recover(RealFiles(), str(folder), identity, 2000)
    founders = (0, encode(Configuration(voters=("n0", "n1", "n2"))))
    known = [each for each in (founders, *opened.configurations) if each[0] < index]
    assert opened.log.drop_before(index, known[-1]) > 1
    opened.close()
