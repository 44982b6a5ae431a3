"""The replicated state machine of one broker group.

Laws: equal logs give equal states, on every member and at every restart. A command is validated
first and then carried out whole. What every member would refuse alike is a reply; what a member
cannot understand is `errors.Unappliable`, raised before anything changed, and stops it.

One writer, many readers, no lock: only the applier calls `apply`, always between two awaits.
Readers use the tables directly and keep no view of them across an await. Soft state (connections,
long polls, queue locks) is elsewhere, and so is every file.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import define, field, fields

from broker.machine import groups as group_settings
from broker.machine import names
from broker.machine import topics as topic_settings
from broker.machine.apply_pops import (
    pop_messages,
    revive_pops,
    set_request_mode,
    settle_pops,
    trim_pops,
)
from broker.machine.attributes import InvalidAttributes, altered
from broker.machine.codec import GROUP_CONFIG, TOPIC_CONFIG, decode_command
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
from broker.machine.config_tables import DataVersion
from broker.machine.declined_puts import DeclinedPuts
from broker.machine.effects import (
    DropEntries,
    DropQueues,
    Effect,
    GroupsChanged,
    IndexMessages,
    OffsetsReset,
    TopicsChanged,
    TrimQueues,
)
from broker.machine.end_transaction import HEAD as END_HEAD
from broker.machine.end_transaction import EndTransaction
from broker.machine.groups import GroupConfig, Groups
from broker.machine.locks import Locks
from broker.machine.moves import MoveMessages, Moves
from broker.machine.offsets import Offsets
from broker.machine.pops import Pops
from broker.machine.put_messages import PutMessages
from broker.machine.queues import Queues
from broker.machine.replies import Applied, Declined, Done, Owned, Reason
from broker.machine.request_modes import RequestModes
from broker.machine.resets import RESETS_MAX, Resets
from broker.machine.revivals import RevivePops
from broker.machine.shapes import Plain, encode
from broker.machine.topics import TopicConfig, Topics
from broker.machine.transactions import Transactions


class Committed(Protocol):
    """A committed entry, as far as the machine looks at it."""

    @property
    def position(self) -> int:
        """Log position of the payload's byte 0."""

    @property
    def payload(self) -> bytes | memoryview:
        """The command."""


@define(eq=False)
class Machine:
    """The tables, and the one way to change them."""

    topics: Topics = field(factory=Topics)
    groups: Groups = field(factory=Groups)
    queues: Queues = field(factory=Queues)
    offsets: Offsets = field(factory=Offsets)
    locks: Locks = field(factory=Locks)
    moves: Moves = field(factory=Moves)
    declined_puts: DeclinedPuts = field(factory=DeclinedPuts)
    resets: Resets = field(factory=Resets)
    transactions: Transactions = field(factory=Transactions)
    pops: Pops = field(factory=Pops)
    request_modes: RequestModes = field(factory=RequestModes)

    def apply(self, committed: Committed) -> Applied:
        """Carry out one committed entry.

        **Raises** `UnknownCommand`, `MalformedCommand`: the member must stop; nothing changed.
        """
        command = decode_command(committed.payload)
        if type(command) is PutMessages:
            return self._put(command, committed.position)
        if type(command) is MoveMessages:
            return self._move(command, committed.position)
        if type(command) is EndTransaction:
            return self._end(command, committed.position)
        if type(command) is RevivePops:
            return revive_pops(self, command, committed.position)
        return APPLY[type(command)](self, command)

    def become(self, other: "Machine") -> None:
        """Take over the state of a restored machine, which is of no use any more.

        The tables stay the same objects, so that whoever was given one sees what is in it now. What
        readers keep up by effects they have to bring up to date by themselves.
        """
        for mine, theirs in (
            (self.topics, other.topics),
            (self.groups, other.groups),
            (self.queues, other.queues),
            (self.offsets, other.offsets),
            (self.locks, other.locks),
            (self.moves, other.moves),
            (self.declined_puts, other.declined_puts),
            (self.resets, other.resets),
            (self.transactions, other.transactions),
            (self.pops, other.pops),
            (self.request_modes, other.request_modes),
        ):
            for attribute in fields(type(mine)):
                setattr(mine, attribute.name, getattr(theirs, attribute.name))

    def state(self) -> Plain:
        """All of the state as plain values, independent of the order in which it came about."""
        return [
            _version(self.topics.data_version),
            [TOPIC_CONFIG.to_plain(config) for config in sorted(self.topics, key=_name)],
            _version(self.groups.data_version),
            [GROUP_CONFIG.to_plain(config) for config in sorted(self.groups, key=_name)],
            self.queues.state(),
            self.offsets.state(),
            self.locks.state(),
            self.moves.state(),
            self.declined_puts.state(),
            self.resets.state(),
            self.transactions.state(),
            self.pops.state(),
            self.request_modes.state(),
        ]

    def state_digest(self) -> bytes:
        """SHA-256 of the state's canonical CBOR: equal on members that applied the same entries."""
        return hashlib.sha256(encode(self.state())).digest()

    def _move(self, command: MoveMessages, position: int) -> Applied:
        """Put the messages that were due, and remember that they were; or neither."""
        fault = self._fault(command)
        if fault is not None:
            if command.messages.queues:
                self.declined_puts.add(position)
            return Applied(Declined(reason=Reason.OUTDATED, detail=fault))
        applied = self.queues.put(command.messages, self.topics, position + command.messages_at)
        self.moves.advance(command.move)
        return applied

    def _fault(self, command: MoveMessages) -> str | None:
        """Why the messages cannot be moved as things are now."""
        move = command.move
        there = self.queues.next_offset(move.topic, move.queue_id)
        if move.next_offset > there or not self.moves.admits(move):
            return "something else came first"
        for topic, queue_id in command.messages.queues:
            config = self.topics.get(topic)
            # Whoever proposes it again finds them a queue; of a deleted topic nothing is left.
            if config is not None and not 0 <= queue_id < config.queues:
                return f"{topic!r} has shrunk"
        return None

    def _put(self, command: PutMessages, position: int) -> Applied:
        """Store messages whose payload begins at this log position."""
        applied = self.queues.put(command, self.topics, position)
        for effect in applied.effects:  # one for each queue that got any
            if type(effect) is IndexMessages and effect.topic == names.HALF_TOPIC:
                self.transactions.begin(effect.first_offset, effect.units, command.stamped_ms)
        return applied

    def _end(self, command: EndTransaction, position: int) -> Applied:
        """End a half, with what takes its place: both, or neither of them."""
        messages = command.messages
        if self.transactions.get(command.half_position) is None:
            if messages is not None:
                self.declined_puts.add(position)
            detail = f"no half message is pending at log position {command.half_position}"
            return Applied(Declined(reason=Reason.NOT_PENDING, detail=detail))
        effects: Sequence[Effect] = ()
        if messages is not None:
            put = self._put(messages, position + END_HEAD.size)
            assert isinstance(put.reply, list)
            (outcome,) = put.reply
            if isinstance(outcome, Reason):
                self.declined_puts.add(position)
                topic, queue_id = messages.queues[0]
                detail = f"queue {queue_id} of topic {topic!r}: {outcome.value}"
                return Applied(Declined(reason=outcome, detail=detail))
            effects = put.effects
        self.transactions.end(command.half_position)
        return Applied(Done(changed=True), effects)


def _initialise(machine: Machine, command: Initialise) -> Applied:
    return _create(machine, command.stamped_ms, command.topics, command.groups)


def _ensure_topics(machine: Machine, command: EnsureTopics) -> Applied:
    return _create(machine, command.stamped_ms, command.topics, ())


def _ensure_groups(machine: Machine, command: EnsureGroups) -> Applied:
    retry_topics = [
        # An existing group's own setting counts, not the default the proposer came with.
        topic_settings.retry_topic(
            config.name, (machine.groups.get(config.name) or config).retry_queues
        )
        for config in command.groups
    ]
    return _create(machine, command.stamped_ms, retry_topics, command.groups)


def _create(
    machine: Machine, stamped_ms: int, topics: Iterable[TopicConfig], groups: Iterable[GroupConfig]
) -> Applied:
    """Create what is absent: all of it, or nothing if one part is illegal."""
    new_topics = {config.name: config for config in topics if config.name not in machine.topics}
    new_groups = {config.name: config for config in groups if config.name not in machine.groups}
    declined = _check(machine, new_topics.values(), new_groups.values())
    if declined is not None:
        return Applied(declined)
    created_topics = machine.topics.put(new_topics.values(), stamped_ms)
    created_groups = machine.groups.put(new_groups.values(), stamped_ms)
    effects: list[Effect] = []
    if created_topics:
        effects.append(TopicsChanged(created_topics))
    if created_groups:
        effects.append(GroupsChanged(created_groups))
    created = created_topics + created_groups
    return Applied(Done(changed=bool(created), created=created), effects)


def _put_topic(machine: Machine, command: PutTopic) -> Applied:
    before = machine.topics.get(command.name)
    try:
        attributes = altered(before.attributes if before else None, command.attribute_changes)
    except InvalidAttributes as error:
        return Applied(Declined(reason=Reason.INVALID_ATTRIBUTE, detail=str(error)))
    config = TopicConfig(
        name=command.name,
        read_queues=command.read_queues,
        write_queues=command.write_queues,
        perm=command.perm,
        filter_type=command.filter_type,
        sys_flag=command.sys_flag,
        order=command.order,
        attributes=attributes,
    )
    declined = _check(machine, (config,), ())
    if declined is not None:
        return Applied(declined)
    changed = machine.topics.put((config,), command.stamped_ms)
    created = changed if before is None else ()
    return Applied(
        Done(changed=bool(changed), created=created), [TopicsChanged(changed)] if changed else []
    )


def _delete_topic(machine: Machine, command: DeleteTopic) -> Applied:
    if not machine.topics.drop(command.name, command.stamped_ms):
        return Applied(Done(changed=False))
    machine.queues.drop(command.name)
    machine.offsets.drop_topic(command.name)
    machine.locks.drop_topic(command.name)
    machine.moves.drop_topic(command.name)
    machine.resets.drop_topic(command.name)
    machine.pops.drop_topic(command.name)
    machine.request_modes.drop_topic(command.name)
    if command.name == names.HALF_TOPIC:
        machine.transactions.drop()  # their records cannot be found any more
    return Applied(Done(changed=True), [DropQueues(command.name), TopicsChanged((command.name,))])


def _put_group(machine: Machine, command: PutGroup) -> Applied:
    declined = _check(machine, (), (command.config,))
    if declined is not None:
        return Applied(declined)
    existed = command.config.name in machine.groups
    changed = machine.groups.put((command.config,), command.stamped_ms)
    return Applied(
        Done(changed=bool(changed), created=() if existed else changed),
        [GroupsChanged(changed)] if changed else [],
    )


def _delete_group(machine: Machine, command: DeleteGroup) -> Applied:
    dropped = machine.groups.drop(command.name, command.stamped_ms)
    machine.locks.drop_group(command.name)
    machine.resets.drop_group(command.name)
    machine.pops.drop_group(command.name)
    machine.request_modes.drop_group(command.name)
    cleaned = command.clean_offsets and machine.offsets.drop_group(command.name)
    return Applied(
        Done(changed=dropped or cleaned), [GroupsChanged((command.name,))] if dropped else []
    )


def _commit_offsets(machine: Machine, command: CommitOffsets) -> Applied:
    for group, topic, queue_id, offset in command.commits:
        # A commit can arrive after its topic's deletion; it must not outlive it into a new topic.
        # After its queue's removal it is kept: the queue comes back as it was if the topic grows.
        if topic in machine.topics and 0 <= queue_id < topic_settings.QUEUES_MAX:
            if machine.resets.count:
                reset = machine.resets.get(group, topic, queue_id)
                if reset is not None and not machine.resets.end(group, topic, queue_id, offset):
                    continue  # it tells of what was consumed before the reset
            if machine.pops.count and machine.pops.get((group, topic, queue_id)) is not None:
                continue  # how far the group is follows from what is in flight
            machine.offsets.put(group, topic, queue_id, offset)
    return Applied(Done(changed=True))


def _reset_offsets(machine: Machine, command: ResetOffsets) -> Applied:
    group, topic = command.group, command.topic
    config = machine.topics.get(topic)
    if config is None:
        return Applied(Declined(reason=Reason.UNKNOWN_TOPIC, detail=f"there is no topic {topic!r}"))
    if group not in machine.groups:
        return Applied(Declined(reason=Reason.UNKNOWN_GROUP, detail=f"there is no group {group!r}"))
    for queue_id, offset in command.queues:
        if not 0 <= queue_id < config.queues or offset < 0:
            detail = f"offset {offset} of queue {queue_id} of {topic!r} cannot be"
            return Applied(Declined(reason=Reason.UNKNOWN_QUEUE, detail=detail))
    if not machine.resets.has_room(group, topic, (queue_id for queue_id, _ in command.queues)):
        detail = f"only {RESETS_MAX} queues may wait for consumers to take up a reset"
        return Applied(Declined(reason=Reason.TABLE_FULL, detail=detail))
    for queue_id, offset in command.queues:
        machine.offsets.put(group, topic, queue_id, offset)
        machine.resets.put(group, topic, queue_id, (offset, command.stamped_ms))
        machine.pops.drop((group, topic, queue_id))
    return Applied(Done(changed=True), [OffsetsReset(group, topic)])


def _end_resets(machine: Machine, command: EndResets) -> Applied:
    ended = [
        machine.resets.end(command.group, command.topic, queue_id, offset)
        for queue_id, offset in command.queues
    ]
    return Applied(Done(changed=any(ended)))


def _trim_log(machine: Machine, command: TrimLog) -> Applied:
    effects: list[Effect] = []
    if moved := machine.queues.trim(command.queues):
        effects.append(TrimQueues(moved))
        effects += trim_pops(machine, moved)
    if command.index > 0:
        machine.declined_puts.trim(command.position)
        effects.append(DropEntries(command.index))
    return Applied(Done(changed=bool(effects)), effects)


def _lock_queues(machine: Machine, command: LockQueues) -> Applied:
    there = []
    for topic, queue_id in command.queues:
        config = machine.topics.get(topic)
        if config is not None and 0 <= queue_id < config.queues:
            there.append((topic, queue_id))
    owned = machine.locks.take(command.group, command.owner, there, command.stamped_ms)
    return Applied(Owned(queues=owned))


def _unlock_queues(machine: Machine, command: UnlockQueues) -> Applied:
    return Applied(
        Done(changed=machine.locks.release(command.group, command.owner, command.queues))
    )


def _recall_message(machine: Machine, command: RecallMessage) -> Applied:
    fault = machine.moves.recall(command.topic, command.unique_id, command.deliver_ms)
    if fault is not None:
        return Applied(Declined(reason=Reason.OUTDATED, detail=fault))
    return Applied(Done(changed=True))


def _checked_transactions(machine: Machine, command: CheckedTransactions) -> Applied:
    checked = [machine.transactions.checked(at, command.stamped_ms) for at in command.halves]
    return Applied(Done(changed=any(checked)))


# `Any`: each function takes the command of its row, which no type of a mapping can say.
APPLY: Mapping[type[Command], Callable[[Machine, Any], Applied]] = {
    Initialise: _initialise,
    EnsureTopics: _ensure_topics,
    PutTopic: _put_topic,
    DeleteTopic: _delete_topic,
    EnsureGroups: _ensure_groups,
    PutGroup: _put_group,
    DeleteGroup: _delete_group,
    CommitOffsets: _commit_offsets,
    TrimLog: _trim_log,
    LockQueues: _lock_queues,
    UnlockQueues: _unlock_queues,
    RecallMessage: _recall_message,
    ResetOffsets: _reset_offsets,
    EndResets: _end_resets,
    CheckedTransactions: _checked_transactions,
    PopMessages: pop_messages,
    SettlePops: settle_pops,
    SetRequestMode: set_request_mode,
}


def _check(
    machine: Machine, topics: Iterable[TopicConfig], groups: Iterable[GroupConfig]
) -> Declined | None:
    """The first reason not to put these, or None."""
    new_topics = new_groups = 0
    for topic in topics:
        if fault := names.topic_fault(topic.name):
            return Declined(reason=Reason.INVALID_NAME, detail=fault)
        if fault := topic_settings.setting_fault(topic):
            return Declined(reason=Reason.INVALID_SETTING, detail=fault)
        new_topics += topic.name not in machine.topics
    for group in groups:
        if fault := names.group_fault(group.name):
            return Declined(reason=Reason.INVALID_NAME, detail=fault)
        if fault := group_settings.setting_fault(group):
            return Declined(reason=Reason.INVALID_SETTING, detail=fault)
        new_groups += group.name not in machine.groups
    if new_topics and len(machine.topics) + new_topics > topic_settings.TOPICS_MAX:
        return Declined(
            reason=Reason.TABLE_FULL, detail=f"only {topic_settings.TOPICS_MAX} topics are possible"
        )
    if new_groups and len(machine.groups) + new_groups > group_settings.GROUPS_MAX:
        return Declined(
            reason=Reason.TABLE_FULL, detail=f"only {group_settings.GROUPS_MAX} groups are possible"
        )
    return None


def _version(version: DataVersion) -> Plain:
    return [version.counter, version.timestamp_ms]


def _name(config: TopicConfig | GroupConfig) -> str:
    return config.name
