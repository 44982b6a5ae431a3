"""However verdicts come, repeat and contradict each other: a half message ends once, or not yet."""

from hypothesis import given
from hypothesis import strategies as st

from broker.machine.codec import encode_command
from broker.machine.commands import EnsureTopics
from broker.machine.end_transaction import EndTransaction, Verdict
from broker.machine.machine import Machine
from broker.machine.names import HALF_TOPIC
from broker.machine.put_messages import encode_put_messages
from broker.machine.replies import Declined, Done
from broker.machine.snapshot import Place, encode_snapshot, restore_snapshot
from broker.machine.topics import TopicConfig
from tests.machine.machine_commands import Entry

AT = Place(index=1, term=1, position=1)
TOPICS = tuple(TopicConfig(name=name) for name in (HALF_TOPIC, "orders"))

# Each step: a new half, or a verdict on one of the first five, or a start from a snapshot.
_steps = st.lists(
    st.just("half") | st.just("snapshot") | st.tuples(st.integers(0, 4), st.sampled_from(Verdict)),
    max_size=40,
)


@given(_steps)
def test_the_first_verdict_counts_and_puts_its_message_with_it(steps) -> None:
    machine, position = Machine(), 40
    machine.apply(Entry(0, encode_command(EnsureTopics(stamped_ms=1, topics=TOPICS))))
    halves: list[int] = []
    ended: dict[int, Verdict] = {}
    for step in steps:
        position += 1000
        if step == "half":
            payload = encode_put_messages(1, [(HALF_TOPIC, 0, 0, b"half")])
            machine.apply(Entry(position, payload))
            halves.append(position + len(payload) - len(b"half"))
        elif step == "snapshot":
            machine = restore_snapshot(encode_snapshot(machine, AT))[0]
        elif step[0] < len(halves):
            at, verdict = halves[step[0]], step[1]
            put = b""
            if verdict is not Verdict.ROLLED_BACK:
                put = encode_put_messages(1, [("orders", 0, 0, b"final")])
            command = EndTransaction(stamped_ms=1, half_position=at, verdict=verdict, put=put)
            reply = machine.apply(Entry(position, encode_command(command))).reply
            assert isinstance(reply, Declined if at in ended else Done)
            ended.setdefault(at, verdict)

    put = [verdict for verdict in ended.values() if verdict is not Verdict.ROLLED_BACK]
    waiting = [at for at in halves if at not in ended]
    assert len(put) == machine.queues.next_offset("orders", 0)
    assert waiting == [row[0] for row in machine.transactions.state()]
    assert min(waiting, default=None) == machine.transactions.lowest_position()
