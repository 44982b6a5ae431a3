"""What the commands of pop consumption do to the machine: its tables decide, and are kept in step.

Laws: whatever changes what is in flight of a queue, or where its group stands, ends with the
group's progress among the offsets, in the same entry. A reset that an operator has made is over
once the group pops from there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.machine.commands import Pop, PopMessages, SetRequestMode, SettlePops
from broker.machine.effects import Effect, PopsBegan, QueueFreed
from broker.machine.pops import MESSAGES_MAX, Claim, PopKey, count_of, offsets_of
from broker.machine.replies import Applied, Declined, Done, Popped, Reason, Settled
from broker.machine.request_modes import MODES, MODES_MAX, RequestMode
from broker.machine.revivals import RevivePops

if TYPE_CHECKING:
    from broker.machine.machine import Machine

_Before = tuple[int | None, bool]
"""When the first message of a queue was due before it was changed; whether it was in order."""


def pop_messages(machine: "Machine", command: PopMessages) -> Applied:
    """Each claim of each pop is decided by itself."""
    effects: list[Effect] = []
    outcomes = tuple(
        tuple(_claimed(machine, pop, claim, command.stamped_ms, effects) for claim in pop.claims)
        for pop in command.pops
    )
    return Applied(Popped(outcomes=outcomes), effects)


def settle_pops(machine: "Machine", command: SettlePops) -> Applied:
    """Acknowledged first, then changed."""
    effects: list[Effect] = []
    touched: dict[PopKey, _Before] = {}
    acked = 0
    for group, topic, queue_id, first, pop_ms, runs in command.acks:
        key = (group, topic, queue_id)
        touched.setdefault(key, _before(machine, key))
        for offset in _bounded(runs):
            acked += machine.pops.ack(key, (first, pop_ms), offset)
    changed = []
    for group, topic, queue_id, first, pop_ms, offset, invisible_ms in command.changes:
        key = (group, topic, queue_id)
        touched.setdefault(key, _before(machine, key))
        changed.append(
            machine.pops.change(
                key,
                (first, pop_ms),
                offset,
                stamped_ms=command.stamped_ms,
                invisible_ms=invisible_ms,
            )
        )
    for key, before in touched.items():
        _settle(machine, key, before, effects)
    return Applied(Settled(acked=acked, changed=tuple(changed)), effects)


def revive_pops(machine: "Machine", command: RevivePops, position: int) -> Applied:
    """Put the messages whose time was up, and forget that they were in flight; or neither."""
    revival = command.revival
    key = (revival.group, revival.topic, revival.queue_id)
    before = _before(machine, key)
    fault = _revival_fault(machine, command)
    if fault is not None:
        if command.messages.queues:
            machine.declined_puts.add(position)
        return Applied(Declined(reason=Reason.OUTDATED, detail=fault))
    applied = machine.queues.put(command.messages, machine.topics, position + command.messages_at)
    for first, pop_ms, _pending in revival.checkpoints:
        machine.pops.revive(key, (first, pop_ms))
    effects = list(applied.effects)
    _settle(machine, key, before, effects)
    return Applied(Done(changed=True), effects)


def set_request_mode(machine: "Machine", command: SetRequestMode) -> Applied:
    """Remember how a group gets the messages of a topic."""
    topic, group = command.topic, command.group
    if topic not in machine.topics:
        return Applied(Declined(reason=Reason.UNKNOWN_TOPIC, detail=f"there is no topic {topic!r}"))
    if group not in machine.groups:
        return Applied(Declined(reason=Reason.UNKNOWN_GROUP, detail=f"there is no group {group!r}"))
    if command.mode not in MODES:
        detail = f"mode {command.mode!r}: expected one of {', '.join(sorted(MODES))}"
        return Applied(Declined(reason=Reason.INVALID_SETTING, detail=detail))
    if not machine.request_modes.has_room(topic, group):
        detail = f"only {MODES_MAX} modes are kept"
        return Applied(Declined(reason=Reason.TABLE_FULL, detail=detail))
    mode = RequestMode(command.mode, command.pop_share_queues)
    return Applied(Done(changed=machine.request_modes.put(topic, group, mode)))


def trim_pops(machine: "Machine", moved: Sequence[tuple[str, int, int]]) -> list[Effect]:
    """What the log has let go of is not in flight any more."""
    effects: list[Effect] = []
    if machine.pops.count:
        starts = {(topic, queue_id): first for topic, queue_id, first in moved}
        for key in machine.pops.trim(starts):
            _settle(machine, key, (None, True), effects)
    return effects


def frontier(machine: "Machine", key: PopKey) -> int | None:
    """The offset from which the group pops next; None if it has never consumed the queue.

    Before the queue's first message or behind its last it is where the group stands all the same:
    the next pop moves it to where messages are.
    """
    queue = machine.pops.get(key)
    if queue is None:
        return machine.offsets.get(*key)
    return next(iter(queue.order.held), queue.frontier)


def _claimed(
    machine: "Machine", pop: Pop, claim: Claim, stamped_ms: int, effects: list[Effect]
) -> Reason | tuple[int, ...]:
    key = (pop.group, claim.topic, claim.queue_id)
    reason = _claim_fault(machine, key, claim)
    if reason is not None:
        return reason
    before = _before(machine, key)
    times = {"stamped_ms": stamped_ms, "invisible_ms": pop.invisible_ms}
    if pop.ordered:
        outcome = machine.pops.pop_in_order(key, claim, attempt_id=pop.attempt_id, **times)
    else:
        outcome = machine.pops.pop(key, claim, **times)
    if isinstance(outcome, Reason):
        return outcome
    reset = machine.resets.get(*key) if machine.resets.count else None
    if reset is not None:
        machine.resets.end(*key, reset[0])
    if machine.pops.get(key) is None:
        machine.offsets.put(*key, claim.next_offset)
    else:
        _settle(machine, key, before, effects)
    return outcome


def _claim_fault(machine: "Machine", key: PopKey, claim: Claim) -> Reason | None:
    """Why nothing can be claimed so, as things are now."""
    group, topic, queue_id = key
    config = machine.topics.get(topic)
    if config is None:
        return Reason.UNKNOWN_TOPIC
    if group not in machine.groups:
        return Reason.UNKNOWN_GROUP
    if not 0 <= queue_id < config.queues:
        return Reason.UNKNOWN_QUEUE
    if count_of(claim.runs) > MESSAGES_MAX:
        return Reason.INVALID_SETTING
    at = claim.first_offset
    for first, count in claim.runs:
        if first < at or count < 1:
            return Reason.INVALID_SETTING
        at = first + count
    first = machine.queues.min_offset(topic, queue_id)
    end = machine.queues.next_offset(topic, queue_id)
    if not claim.first_offset <= claim.next_offset <= end or claim.next_offset < at:
        return Reason.OUTDATED
    stands = frontier(machine, key)
    if stands is not None and claim.first_offset != max(stands, first) and stands <= end:
        return Reason.OUTDATED
    return None


def _revival_fault(machine: "Machine", command: RevivePops) -> str | None:
    """Why the messages cannot be moved as things are now."""
    revival = command.revival
    queue = machine.pops.get((revival.group, revival.topic, revival.queue_id))
    for first, pop_ms, pending in revival.checkpoints:
        checkpoint = queue.checkpoints.get((first, pop_ms)) if queue is not None else None
        if checkpoint is None or checkpoint.pending != pending:
            return "it was acknowledged meanwhile"
        if checkpoint.until_ms > revival.stamped_ms:
            return "its time is not up"
    for topic, queue_id in command.messages.queues:
        config = machine.topics.get(topic)
        if config is None or not 0 <= queue_id < config.queues:
            return f"queue {queue_id} of {topic!r} is not there"
    if len({checkpoint[:2] for checkpoint in revival.checkpoints}) < len(revival.checkpoints):
        return "a checkpoint is named twice"
    return None


def _before(machine: "Machine", key: PopKey) -> _Before:
    queue = machine.pops.get(key)
    return (None, False) if queue is None else (queue.due_ms, bool(queue.order.held))


def _settle(machine: "Machine", key: PopKey, before: _Before, effects: list[Effect]) -> None:
    """Keep the group's offset in step, and tell what follows from the change of a queue."""
    queue = machine.pops.get(key)
    progress = machine.pops.settle(key)
    if queue is None or progress is None:
        return
    machine.offsets.put(*key, progress)
    due_before_ms, was_ordered = before
    due_ms = queue.due_ms
    if due_ms is not None and (due_before_ms is None or due_ms < due_before_ms):
        effects.append(PopsBegan(*key))
    if was_ordered:
        effects.append(QueueFreed(*key))


def _bounded(runs: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The offsets of an acknowledgement; of no more than a checkpoint has."""
    if any(count < 1 for _first, count in runs) or count_of(runs) > MESSAGES_MAX:
        return ()
    return tuple(offsets_of(runs))
