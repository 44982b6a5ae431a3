"""Equal logs, equal states; and what every log must leave behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.formats import UNIT
from broker.machine.codec import encode_command
from broker.machine.commands import EnsureTopics
from broker.machine.effects import DropQueues, IndexMessages
from broker.machine.errors import MalformedCommand
from broker.machine.machine import Machine
from broker.machine.put_messages import HEAD, MESSAGE, QUEUE, encode_put_messages
from broker.machine.topics import TopicConfig
from tests.machine.machine_commands import EXAMPLES, Entry, log_of, payloads

logs = st.lists(payloads, max_size=25)


@given(logs)
def test_two_members_end_alike(log: list[bytes]) -> None:
    one, other = Machine(), Machine()
    for entry in log_of(log):
        assert one.apply(entry) == other.apply(Entry(entry.position, memoryview(entry.payload)))

    assert one.state_digest() == other.state_digest()
    assert one.state() == other.state()


@given(logs)
def test_the_effects_alone_rebuild_every_queue(log: list[bytes]) -> None:
    """What a member's index knows is what the machine promised, without gaps."""
    machine = Machine()
    index: dict[str, dict[int, bytes]] = {}
    for entry in log_of(log):
        for effect in machine.apply(entry).effects:
            if isinstance(effect, DropQueues):
                index.pop(effect.topic, None)
            elif isinstance(effect, IndexMessages):
                queues = index.setdefault(effect.topic, {})
                units = queues.get(effect.queue_id, b"")
                assert effect.first_offset == len(units) // UNIT.size
                queues[effect.queue_id] = units + effect.units

    for topic, queues in index.items():
        assert tuple(sorted(queues)) == machine.queues.written(topic)
        for queue_id, units in queues.items():
            assert len(units) // UNIT.size == machine.queues.next_offset(topic, queue_id)


@given(logs)
def test_no_offset_outlives_its_topic(log: list[bytes]) -> None:
    machine = Machine()
    for entry in log_of(log):
        machine.apply(entry)

    for group in machine.offsets.groups():
        assert set(machine.offsets.topics_of(group)) <= set(machine.topics.names())
        assert all(machine.offsets.of_topic(group, t) for t in machine.offsets.topics_of(group))


def test_the_digest_sees_every_table() -> None:
    """Each example changes something, so each digest is a new one."""
    machine = Machine()
    digests = {machine.state_digest()}
    names = ("02-initialise", "09-commit-offsets", "08-delete-group")
    log = [encode_command(EXAMPLES[name]) for name in names]
    log.insert(1, encode_put_messages(1, [("orders", 0, 0, b"x")]))
    for payload in log:
        machine.apply(Entry(0, payload))
        digests.add(machine.state_digest())

    assert 5 == len(digests)


def test_the_digest_is_blind_to_the_order_of_equal_histories() -> None:
    one, other = Machine(), Machine()
    names = ("a", "b")
    for machine, order in ((one, names), (other, names[::-1])):
        topics = tuple(TopicConfig(name=name) for name in order)
        machine.apply(Entry(0, encode_command(EnsureTopics(stamped_ms=1, topics=topics))))

    assert one.state_digest() == other.state_digest()


@pytest.mark.parametrize(
    "payload",
    [
        encode_put_messages(1, [("orders", 0, 0, b"record")])[:-1],
        encode_put_messages(1, [("orders", 0, 0, b"record")]) + b"x",
        HEAD.pack(1, 1, 1, 1, 1) + QUEUE.pack(0, 6) + b"orders" + MESSAGE.pack(1, 0, 0),
    ],
    ids=["short", "long", "no such queue"],
)
def test_a_malformed_entry_changes_nothing(payload: bytes) -> None:
    machine = Machine()
    topics = (TopicConfig(name="orders"),)
    machine.apply(Entry(0, encode_command(EnsureTopics(stamped_ms=1, topics=topics))))
    before = machine.state_digest()

    with pytest.raises(MalformedCommand):
        machine.apply(Entry(0, payload))

    assert before == machine.state_digest()
