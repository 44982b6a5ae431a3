"""The broker's machine in the shape the ledger wants, with a memory: the two know nothing of each
other.

What is written down is the machine's tables; what the consume queues hold is made durable with
them, so that a start goes on with both. Where the index files are not what the snapshot says, the
whole log is applied again instead: they are derived from it. A log that has lost its front cannot
be: then they are made anew from what it has, and the snapshot.
"""

from collections.abc import Callable, Iterator

import structlog
from attrs import define, field

from broker.machine.errors import SnapshotRefused
from broker.machine.machine import Machine
from broker.machine.snapshot import Captured, Place, capture, restore_snapshot
from broker.rebuilding import index_again
from broker.store.checkpoints import CannotResume, Checkpoint, Reached
from broker.store.consume_queues import ConsumeQueues
from dledger_py.actors import FailStop
from dledger_py.ledger.machine import Applied, Committed, StatePlace

log = structlog.get_logger()


@define(eq=False)
class RememberingBroker:
    """A `RememberingMachine`."""

    machine: Machine
    queues: ConsumeQueues
    _begun: bool = field(default=False, init=False)

    def apply(self, committed: Committed) -> Applied:
        self._begin()
        applied = self.machine.apply(committed)
        return Applied(reply=applied.reply, effects=applied.effects)

    def capture(self, place: StatePlace) -> "WrittenState":
        self._begin()  # a member may be told to stop before it has applied anything
        at = Place(index=place.index, term=place.term, position=place.position)
        return WrittenState(capture(self.machine, at), self.queues.checkpoint(), self.queues)

    def restore(self, body: bytes) -> bool:
        restored, at = self._read(body)
        reached = {
            (topic, queue_id): Reached(
                min_offset=restored.queues.min_offset(topic, queue_id),
                next_offset=restored.queues.next_offset(topic, queue_id),
            )
            for topic in restored.topics.names()
            for queue_id in restored.queues.written(topic)
        }
        try:
            self.queues.resume(reached, below=at.position)
        except CannotResume as error:
            log.warning("snapshot.not_used", index=at.index, reason=str(error))
            return False
        self._begun = True
        self.machine.become(restored)
        return True

    def rebuild(self, body: bytes, commands: Callable[[], Iterator[Committed]]) -> None:
        restored, at = self._read(body)
        self.queues.clear()
        index_again(self.queues, restored, commands)
        self._begun = True
        self.machine.become(restored)
        log.info("broker.queues_rebuilt", index=at.index)

    def _begin(self) -> None:
        """An earlier life's index is removed only now that the log's folder is known to be ours:
        sooner, and it would be taken from a broker that is running there."""
        if not self._begun:
            self._begun = True
            self.queues.clear()

    def _read(self, body: bytes) -> tuple[Machine, Place]:
        assert not self._begun, "something was applied already"
        try:
            return restore_snapshot(body)
        except SnapshotRefused as error:
            raise FailStop(f"the newest snapshot cannot be used: {error}") from error


@define(eq=False)
class WrittenState:
    """The machine's tables of one moment, and the consume queues as far as they reached then."""

    captured: Captured
    checkpoint: Checkpoint
    queues: ConsumeQueues

    def prepare(self) -> bool:
        return self.checkpoint.write_some()

    def sync(self) -> None:
        self.checkpoint.sync()

    def chunks(self) -> Iterator[bytes]:
        return self.captured.chunks()

    def release(self) -> None:
        self.checkpoint.release()

    def end(self) -> None:
        self.queues.end_checkpoint()
