"""Making the consume queues anew from a log that does not begin with its first entry.

The snapshot says how far each queue reaches, and the log which messages were put up to there; not
from which offset on, since that was decided by all that came before. But offsets are dense: what
the log still has of a queue are its last messages, so the first of them has the offset that the
queue reached less their number. Two passes: count, then index. A topic that was deleted meanwhile
begins again, in both.

Whether a put counted then is decided by the machine itself, as on the day; but where messages came
with a condition, the snapshot says whether it held. Of the topics' settings
at the log's start nothing is known, so every queue of every topic is taken to be there, until the
log says otherwise; who leads looks before it proposes a put, so that none of them is for a queue
that was not.

Elsewhere: which files that ends up in (`store.consume_queues`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from attrs import evolve

from broker.formats import UNIT
from broker.machine import end_transaction, moves, revivals
from broker.machine.codec import decode_command
from broker.machine.commands import Queue
from broker.machine.effects import DropQueues, Effect, IndexMessages
from broker.machine.end_transaction import EndTransaction
from broker.machine.machine import Machine
from broker.machine.moves import MoveMessages
from broker.machine.put_messages import PutMessages
from broker.machine.revivals import RevivePops
from broker.machine.topics import QUEUES_MAX
from broker.store.consume_queues import ConsumeQueues
from dledger_py.actors import FailStop
from dledger_py.ledger.machine import Committed


def index_again(
    queues: ConsumeQueues, state: Machine, commands: Callable[[], Iterable[Committed]]
) -> None:
    """Put what `commands` say about messages into the queues, which are empty. **Blocks.**

    **Raises** FailStop if they say more than the state knows of.
    """
    reached = {
        (topic, queue_id): state.queues.next_offset(topic, queue_id)
        for topic in state.topics.names()
        for queue_id in state.queues.written(topic)
    }
    counts, begun = _count(state, commands())
    bases: dict[Queue, int] = {}
    for (topic, queue_id), end in reached.items():
        count = counts[topic, queue_id]
        base = end - count
        if base < 0 or (base and topic in begun):
            raise FailStop(
                f"the log has {count} messages of queue {queue_id} of {topic!r}, but its snapshot"
                f" {end} in all: have the member replaced"
            )
        if topic not in begun:
            bases[topic, queue_id] = base
            queues.begin(topic, queue_id, base)
    for effect in _replayed(state, bases, commands()):
        match effect:
            case IndexMessages(topic, queue_id, first_offset, units):
                if (topic, queue_id) in reached:
                    queues.index(topic, queue_id, first_offset, units)
            case DropQueues(topic):
                queues.drop(topic)
    for topic, queue_id in reached:
        queues.trim(topic, queue_id, state.queues.min_offset(topic, queue_id))


def _count(state: Machine, commands: Iterable[Committed]) -> tuple[Counter[Queue], set[str]]:
    """How many messages each queue got, and the topics that began again in between."""
    counts: Counter[Queue] = Counter()
    begun: set[str] = set()
    for effect in _replayed(state, {}, commands):
        match effect:
            case IndexMessages(topic, queue_id, _first_offset, units):
                counts[topic, queue_id] += len(units) // UNIT.size
            case DropQueues(topic):
                begun.add(topic)
                for queue in [each for each in counts if each[0] == topic]:
                    del counts[queue]
    return counts, begun


def _replayed(
    state: Machine, bases: dict[Queue, int], commands: Iterable[Committed]
) -> Iterator[IndexMessages | DropQueues]:
    """What follows from the commands for the queues, which begin at `bases`."""
    machine = Machine()
    generous = [
        evolve(config, read_queues=QUEUES_MAX, write_queues=QUEUES_MAX, attributes=())
        for config in state.topics
    ]
    machine.topics.put(generous, 0)
    machine.queues.begin_at(bases)
    for command in commands:
        for effect in _effects(machine, state, command):
            if isinstance(effect, IndexMessages | DropQueues):
                yield effect


def _effects(machine: Machine, state: Machine, command: Committed) -> Iterable[Effect]:
    if command.payload[0] not in (moves.TAG, end_transaction.TAG, revivals.TAG):
        return machine.apply(command).effects
    if command.position in state.declined_puts:
        return ()
    match decode_command(command.payload):
        case MoveMessages() as move:
            messages, messages_at = move.messages, move.messages_at
        case RevivePops() as revived:
            messages, messages_at = revived.messages, revived.messages_at
        case EndTransaction(messages=PutMessages() as messages):
            messages_at = end_transaction.HEAD.size
        case _:
            return ()
    return machine.queues.put(messages, machine.topics, command.position + messages_at).effects
