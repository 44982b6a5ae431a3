"""Golden scripts of the machine: commands above `---`, what became of them below.

    put orders/0 orders/0          a message each: topic/queue[:tags code][*record size]
    ---
    stored orders/0 offset 0 at 66
    stored orders/0 offset 1 at 166
    > IndexMessages orders/0 from 0: 66+100#0 166+100#0

Lines with `>` are effects. Every command goes through the codec, as the payload of a log entry
right behind the one before it. To write new expectations, run pytest with REWRITE=1 and look at the
diff: the run fails once, on purpose.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field, frozen

from broker.formats import UNIT
from broker.machine.attributes import parse_changes
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
from broker.machine.effects import (
    DropEntries,
    DropQueues,
    Effect,
    GroupsChanged,
    IndexMessages,
    OffsetsReset,
    PopsBegan,
    QueueFreed,
    TopicsChanged,
    TrimQueues,
)
from broker.machine.end_transaction import EndTransaction, Verdict
from broker.machine.groups import GroupConfig, standard_groups
from broker.machine.machine import Machine
from broker.machine.moves import Move, encode_move
from broker.machine.pops import Claim, offsets_of, runs_of
from broker.machine.put_messages import Message, encode_put_messages
from broker.machine.replies import Declined, Done, Owned, Popped, Reason, Settled
from broker.machine.revivals import Revival, encode_revival
from broker.machine.topics import TopicConfig, standard_topics

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@frozen
class Entry:
    position: int
    payload: bytes


@define
class Stage:
    """Carries out one command line and tells what came of it; nothing moves by itself."""

    machine: Machine = field(factory=Machine)
    stamped_ms: int = 1000
    position: int = 0

    def run(self, line: str) -> Iterator[str]:
        verb, *words = line.split()
        act: Callable[..., Iterator[str]] = getattr(self, "do_" + verb.replace("-", "_"))
        yield from act(*words)

    def apply(self, command: Command) -> Iterator[str]:
        applied = self.machine.apply(self._entry(encode_command(command)))
        reply = applied.reply
        if isinstance(reply, Done):
            created = " created " + " ".join(reply.created) if reply.created else ""
            yield ("done" if reply.changed else "unchanged") + created
        elif isinstance(reply, Owned):
            yield "owns " + (" ".join(f"{t}/{q}" for t, q in reply.queues) or "nothing")
        else:
            assert isinstance(reply, Declined)
            yield f"declined, {reply.reason.value}: {reply.detail}"
        yield from map(effect_line, applied.effects)

    def do_trim(self, end: str, *starts: str) -> Iterator[str]:
        """`trim index[@position] topic/queue=first …`"""
        index, _, position = end.partition("@")
        queues = []
        for start in starts:
            queue, _, first = start.rpartition("=")
            topic, _, queue_id = queue.rpartition("/")
            queues.append((topic, int(queue_id), int(first)))
        yield from self.apply(
            TrimLog(
                stamped_ms=self.stamped_ms,
                index=int(index),
                position=int(position or 0),
                queues=tuple(queues),
            )
        )

    def do_at(self, stamped_ms: str) -> Iterator[str]:
        self.stamped_ms = int(stamped_ms)
        yield from ()

    def do_initialise(self, cluster: str, broker: str) -> Iterator[str]:
        yield from self.apply(
            Initialise(
                stamped_ms=self.stamped_ms,
                topics=standard_topics(cluster, broker),
                groups=standard_groups(),
            )
        )

    def do_ensure_topics(self, *words: str) -> Iterator[str]:
        topics = tuple(
            TopicConfig(name=name, read_queues=int(queues), write_queues=int(queues))
            for name, _, queues in (word.partition(":") for word in words)
        )
        yield from self.apply(EnsureTopics(stamped_ms=self.stamped_ms, topics=topics))

    def do_put_topic(self, name: str, *words: str) -> Iterator[str]:
        changes = parse_changes(",".join(word for word in words if word[0] in "+-"))
        settings = {
            key: int(value)
            for key, value in (word.split("=") for word in words if word[0] not in "+-")
        }
        yield from self.apply(
            PutTopic(
                stamped_ms=self.stamped_ms,
                name=name,
                read_queues=settings.get("read", 4),
                write_queues=settings.get("write", 4),
                perm=settings.get("perm", 6),
                attribute_changes=changes,
            )
        )

    def do_delete_topic(self, name: str) -> Iterator[str]:
        yield from self.apply(DeleteTopic(stamped_ms=self.stamped_ms, name=name))

    def do_ensure_groups(self, *names: str) -> Iterator[str]:
        groups = tuple(GroupConfig(name=name) for name in names)
        yield from self.apply(EnsureGroups(stamped_ms=self.stamped_ms, groups=groups))

    def do_put_group(self, name: str, *words: str) -> Iterator[str]:
        settings: dict[str, Any] = {k: int(v) for k, v in (word.split("=") for word in words)}
        config = evolve(GroupConfig(name=name), **settings)
        yield from self.apply(PutGroup(stamped_ms=self.stamped_ms, config=config))

    def do_delete_group(self, name: str, *words: str) -> Iterator[str]:
        clean = "clean" in words
        yield from self.apply(
            DeleteGroup(stamped_ms=self.stamped_ms, name=name, clean_offsets=clean)
        )

    def do_commit(self, group: str, *words: str) -> Iterator[str]:
        commits = []
        for word in words:
            queue, offset = word.split("=")
            topic, queue_id = queue.split("/")
            commits.append((group, topic, int(queue_id), int(offset)))
        yield from self.apply(CommitOffsets(stamped_ms=self.stamped_ms, commits=tuple(commits)))

    def do_reset(self, group: str, topic: str, *words: str) -> Iterator[str]:
        queues = _positions(words)
        yield from self.apply(
            ResetOffsets(stamped_ms=self.stamped_ms, group=group, topic=topic, queues=queues)
        )

    def do_end_resets(self, group: str, topic: str, *words: str) -> Iterator[str]:
        queues = _positions(words)
        yield from self.apply(
            EndResets(stamped_ms=self.stamped_ms, group=group, topic=topic, queues=queues)
        )

    def do_resets(self) -> Iterator[str]:
        yield f"{self.machine.resets.count} pending"
        for group, topic, queue_id, offset, stamped_ms in self.machine.resets.state():
            yield f"{group}: {topic}/{queue_id} to {offset} since {stamped_ms}"

    def do_lock(self, group: str, owner: str, *words: str) -> Iterator[str]:
        queues = tuple((t, int(q)) for t, q in (word.split("/") for word in words))
        yield from self.apply(
            LockQueues(stamped_ms=self.stamped_ms, group=group, owner=owner, queues=queues)
        )

    def do_unlock(self, group: str, owner: str, *words: str) -> Iterator[str]:
        queues = tuple((t, int(q)) for t, q in (word.split("/") for word in words))
        yield from self.apply(
            UnlockQueues(stamped_ms=self.stamped_ms, group=group, owner=owner, queues=queues)
        )

    def do_locks(self) -> Iterator[str]:
        """As the replicated state has them: who asked last for a queue, and when."""
        for group, topic, queue_id, owner, renewed_ms in self.machine.locks.state():
            yield f"{group}: {topic}/{queue_id} {owner} since {renewed_ms}"

    def do_put(self, *words: str) -> Iterator[str]:
        messages = messages_of(words)
        yield from self._put(encode_put_messages(self.stamped_ms, messages), messages)

    def do_move(self, source: str, *words: str) -> Iterator[str]:
        """`move queue:first-next [times=soonest-latest] [seen=recalls] put …`"""
        at = words.index("put")
        settings = dict(word.split("=") for word in words[:at])
        queue, _, offsets = source.partition(":")
        topic, queue_id = queue.split("/")
        first, after = (int(each) for each in offsets.split("-"))
        soonest, latest = (int(each) for each in settings.get("times", "0-0").split("-"))
        move = Move(
            stamped_ms=self.stamped_ms,
            topic=topic,
            queue_id=int(queue_id),
            first_offset=first,
            next_offset=after,
            soonest_ms=soonest,
            latest_ms=latest,
            recalls_seen=int(settings.get("seen", 0)),
        )
        messages = messages_of(words[at + 1 :])
        yield from self._put(encode_move(move, messages), messages)

    def do_recall(self, topic: str, unique_id: str, deliver_ms: str) -> Iterator[str]:
        yield from self.apply(
            RecallMessage(
                stamped_ms=self.stamped_ms,
                topic=topic,
                unique_id=unique_id,
                deliver_ms=int(deliver_ms),
            )
        )

    def do_moves(self) -> Iterator[str]:
        moves = self.machine.moves
        for topic, queue_id, offset in moves.cursors():
            yield f"{topic}/{queue_id} moved up to {offset}"
        for number, topic, unique_id, deliver_ms in moves.recalls():
            yield f"recall {number}: {unique_id} of {topic}, which was for {deliver_ms}"
        yield f"delivered up to {moves.moved_ms}"
        for position in self.machine.declined_puts.state():
            yield f"never put: what came at {position}"

    def _put(self, payload: bytes, messages: list[Message]) -> Iterator[str]:
        applied = self.machine.apply(self._entry(payload))
        if isinstance(applied.reply, Declined):
            yield f"declined, {applied.reply.reason.value}: {applied.reply.detail}"
            return
        assert isinstance(applied.reply, list)
        for message, reply in zip(messages, applied.reply, strict=True):
            queue = f"{message[0]}/{message[1]}"
            if isinstance(reply, Reason):
                yield f"declined {queue}, {reply.value}"
            else:
                yield f"stored {queue} offset {reply[0]} at {reply[1]}"
        yield from map(effect_line, applied.effects)

    def do_pop(self, group: str, *words: str) -> Iterator[str]:
        """`pop group queue:first-next[=offset,…] … [for=ms] [in-order] [attempt=id]`"""
        settings = dict(word.split("=") for word in words if word.startswith(("for=", "attempt=")))
        queues = [word for word in words if "/" in word]
        command = PopMessages(
            stamped_ms=self.stamped_ms,
            pops=(
                Pop(
                    group=group,
                    invisible_ms=int(settings.get("for", 60_000)),
                    ordered="in-order" in words,
                    attempt_id=settings.get("attempt", ""),
                    claims=tuple(map(_claim, queues)),
                ),
            ),
        )
        applied = self.machine.apply(self._entry(encode_command(command)))
        assert isinstance(applied.reply, Popped)
        for claim, outcome in zip(command.pops[0].claims, applied.reply.outcomes[0], strict=True):
            queue = f"{claim.topic}/{claim.queue_id}"
            offsets = offsets_of(claim.runs)
            if isinstance(outcome, Reason):
                yield f"declined {queue}, {outcome.value}"
            elif offsets:
                counts = f", counts {' '.join(map(str, outcome))}" if outcome else ""
                listed = ",".join(map(str, offsets))
                yield f"popped {queue} {listed} as {offsets[0]}@{self.stamped_ms}{counts}"
            else:
                yield f"passed {queue} up to {claim.next_offset}"
        yield from map(effect_line, applied.effects)

    def do_ack(self, group: str, queue: str, handle: str, offsets: str) -> Iterator[str]:
        """`ack group queue first@stamp offset,…`"""
        runs = runs_of(int(each) for each in offsets.split(","))
        ack = (*_pop_key(group, queue), *_handle(handle), runs)
        yield from self._settle(SettlePops(stamped_ms=self.stamped_ms, acks=(ack,), changes=()))

    def do_change(
        self, group: str, queue: str, handle: str, offset: str, invisible: str
    ) -> Iterator[str]:
        """`change group queue first@stamp offset for=ms`"""
        invisible_ms = int(invisible.removeprefix("for="))
        change = (*_pop_key(group, queue), *_handle(handle), int(offset), invisible_ms)
        yield from self._settle(SettlePops(stamped_ms=self.stamped_ms, acks=(), changes=(change,)))

    def _settle(self, command: SettlePops) -> Iterator[str]:
        applied = self.machine.apply(self._entry(encode_command(command)))
        assert isinstance(applied.reply, Settled)
        if command.acks:
            yield f"acked {applied.reply.acked}"
        for change, outcome in zip(command.changes, applied.reply.changed, strict=True):
            new = outcome.value if isinstance(outcome, Reason) else f"{change[5]}@{outcome}"
            yield f"changed to {new}"
        yield from map(effect_line, applied.effects)

    def do_revive(self, group: str, queue: str, *words: str) -> Iterator[str]:
        """`revive group queue first@stamp=offset,… … put …`: with the offsets seen in flight"""
        at = words.index("put")
        key = _pop_key(group, queue)
        found = self.machine.pops.get(key)
        expired = []
        for word in words[:at]:
            handle, _, offsets = word.partition("=")
            checkpoint = found.checkpoints.get(_handle(handle)) if found else None
            numbers = [
                checkpoint.offsets.index(int(each)) if checkpoint else 0
                for each in offsets.split(",")
            ]
            expired.append((*_handle(handle), sum(1 << number for number in numbers)))
        revival = Revival(
            stamped_ms=self.stamped_ms,
            group=group,
            topic=key[1],
            queue_id=key[2],
            checkpoints=tuple(expired),
        )
        messages = messages_of(words[at + 1 :])
        applied = self.machine.apply(self._entry(encode_revival(revival, messages)))
        if isinstance(applied.reply, Declined):
            yield f"declined, {applied.reply.reason.value}: {applied.reply.detail}"
        else:
            yield "revived"
        yield from map(effect_line, applied.effects)

    def do_in_flight(self) -> Iterator[str]:
        """What is in flight, and how far each group is with that queue."""
        for (group, topic, queue_id), queue in sorted(
            self.machine.pops.queues(), key=lambda item: item[0]
        ):
            progress = self.machine.offsets.get(group, topic, queue_id)
            yield f"{group} of {topic}/{queue_id} is at {progress}, pops from {queue.frontier}"
            for (first, pop_ms), each in sorted(queue.checkpoints.items(), key=lambda i: i[0]):
                offsets = ",".join(map(str, each.in_flight()))
                yield f"  {first}@{pop_ms}: {offsets} until {each.until_ms}"
            for offset, held in queue.order.held.items():
                until = f"until {held.until_ms}, {held.count} before"
                yield f"  in order {offset}@{held.pop_ms} {until}"
        yield f"{self.machine.pops.count} checkpoints"
        for position in self.machine.declined_puts.state():
            yield f"never put: what came at {position}"

    def do_request_mode(self, topic: str, group: str, mode: str, shared: str) -> Iterator[str]:
        yield from self.apply(
            SetRequestMode(
                stamped_ms=self.stamped_ms,
                topic=topic,
                group=group,
                mode=mode,
                pop_share_queues=int(shared),
            )
        )

    def do_request_modes(self) -> Iterator[str]:
        for topic, group, mode, shared in self.machine.request_modes.state():
            yield f"{group} of {topic}: {mode}, {shared} shared"
        if not self.machine.request_modes.state():
            yield "no modes"

    def do_commit_half(self, position: str, queue: str) -> Iterator[str]:
        """`commit-half 66 orders/0`: end the half at log position 66 with a message there."""
        yield from self._end_half(Verdict.COMMITTED, position, queue)

    def do_roll_back_half(self, position: str) -> Iterator[str]:
        yield from self._end_half(Verdict.ROLLED_BACK, position)

    def do_expire_half(self, position: str, queue: str) -> Iterator[str]:
        yield from self._end_half(Verdict.EXPIRED, position, queue)

    def do_check_halves(self, *positions: str) -> Iterator[str]:
        yield from self.apply(
            CheckedTransactions(stamped_ms=self.stamped_ms, halves=tuple(map(int, positions)))
        )

    def do_halves(self) -> Iterator[str]:
        """The pending ones, as the replicated state has them."""
        for (
            position,
            offset,
            size,
            stored_ms,
            checks,
            checked_ms,
        ) in self.machine.transactions.state():
            checked = f", checked {checks} times, last at {checked_ms}" if checks else ""
            yield f"at {position}+{size}: offset {offset}, stored at {stored_ms}{checked}"
        if not len(self.machine.transactions):
            yield "no halves"
        yield f"needed from {self.machine.transactions.lowest_position()}"

    def _end_half(self, verdict: Verdict, position: str, queue: str = "") -> Iterator[str]:
        put = b""
        if queue:
            topic, queue_id = queue.split("/")
            put = encode_put_messages(self.stamped_ms, [(topic, int(queue_id), 0, bytes(100))])
        yield from self.apply(
            EndTransaction(
                stamped_ms=self.stamped_ms, half_position=int(position), verdict=verdict, put=put
            )
        )

    def do_topics(self) -> Iterator[str]:
        version = self.machine.topics.data_version
        yield f"topics, version {version.counter} of {version.timestamp_ms}"
        for topic in self.machine.topics:
            attributes = "".join(f" {key}={value}" for key, value in topic.attributes)
            queues = f"{topic.read_queues}/{topic.write_queues}"
            yield f"  {topic.name} {queues} perm {topic.perm}{attributes}"

    def do_groups(self) -> Iterator[str]:
        version = self.machine.groups.data_version
        yield f"groups, version {version.counter} of {version.timestamp_ms}"
        for group in self.machine.groups:
            yield f"  {group.name} retries {group.retry_max_times} in {group.retry_queues}"

    def do_queues(self, *topics: str) -> Iterator[str]:
        for topic in topics:
            for queue_id in self.machine.queues.written(topic):
                first = self.machine.queues.min_offset(topic, queue_id)
                after = self.machine.queues.next_offset(topic, queue_id)
                newest = self.machine.queues.last_stored_ms(topic, queue_id)
                yield f"{topic}/{queue_id} {first}..{after}, newest of {newest}"
        totals = self.machine.queues.totals()
        yield f"{totals.messages} messages, {totals.bytes} bytes"

    def do_offsets(self) -> Iterator[str]:
        offsets = self.machine.offsets
        for group in offsets.groups():
            for topic in offsets.topics_of(group):
                line = " ".join(
                    f"{q}={o}" for q, o in sorted(offsets.of_topic(group, topic).items())
                )
                yield f"{group} of {topic}: {line}"
        if not offsets.groups():
            yield "no offsets"

    def _entry(self, payload: bytes) -> Entry:
        entry = Entry(self.position, payload)
        self.position += len(payload)
        return entry


def messages_of(words: Sequence[str]) -> list[Message]:
    messages = []
    for word in words:
        rest, _, size = word.partition("*")
        queue, _, code = rest.partition(":")
        topic, queue_id = queue.split("/")
        messages.append((topic, int(queue_id), int(code or 0), bytes(int(size or 100))))
    return messages


def effect_line(effect: Effect) -> str:
    name = type(effect).__name__
    match effect:
        case IndexMessages():
            units = " ".join(
                f"{position}+{size}#{code}"
                for position, size, code in UNIT.iter_unpack(effect.units)
            )
            return f"> {name} {effect.topic}/{effect.queue_id} from {effect.first_offset}: {units}"
        case DropQueues():
            return f"> {name} {effect.topic}"
        case TrimQueues():
            return f"> {name} " + " ".join(f"{t}/{q} from {first}" for t, q, first in effect.queues)
        case DropEntries():
            return f"> {name} up to {effect.index}"
        case TopicsChanged():
            return f"> {name} {' '.join(effect.topics)}"
        case GroupsChanged():
            return f"> {name} {' '.join(effect.groups)}"
        case OffsetsReset():
            return f"> {name} {effect.group} {effect.topic}"
        case PopsBegan() | QueueFreed():
            return f"> {name} {effect.group} {effect.topic}/{effect.queue_id}"


def _claim(word: str) -> Claim:
    queue, _, rest = word.partition(":")
    stretch, _, offsets = rest.partition("=")
    topic, _, queue_id = queue.rpartition("/")
    first, following = stretch.split("-")
    return Claim(
        topic=topic,
        queue_id=int(queue_id),
        first_offset=int(first),
        next_offset=int(following),
        runs=runs_of(int(each) for each in offsets.split(",")) if offsets else (),
    )


def _pop_key(group: str, queue: str) -> tuple[str, str, int]:
    topic, _, queue_id = queue.rpartition("/")
    return group, topic, int(queue_id)


def _handle(word: str) -> tuple[int, int]:
    first, _, pop_ms = word.partition("@")
    return int(first), int(pop_ms)


def _positions(words: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((int(queue), int(offset)) for queue, offset in (w.split("=") for w in words))


def played(script: str) -> str:
    """The script with the expectations replaced by what really happens."""
    stage = Stage()
    blocks = []
    for block in script.strip().split("\n\n"):
        commands = block.split("\n---")[0].splitlines()
        lines = [line for command in commands if command[0] != "#" for line in stage.run(command)]
        blocks.append("\n".join([*commands, "---", *lines] if lines else commands))
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    expected = path.read_text()

    actual = played(expected)
    if actual != expected and os.environ.get("REWRITE"):
        path.write_text(actual)

    assert expected == actual


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 5
