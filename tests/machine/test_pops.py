"""Whatever consumers do: nothing is in flight twice, is lost, or comes again after its ack."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.machine import pops
from broker.machine.apply_pops import frontier
from broker.machine.codec import encode_command
from broker.machine.commands import (
    EnsureGroups,
    EnsureTopics,
    Pop,
    PopMessages,
    ResetOffsets,
    SettlePops,
)
from broker.machine.groups import GroupConfig
from broker.machine.machine import Machine
from broker.machine.pops import Claim, offsets_of, runs_of
from broker.machine.put_messages import encode_put_messages
from broker.machine.replies import Done, Popped, Reason, Settled
from broker.machine.revivals import Revival, encode_revival
from broker.machine.topics import TopicConfig
from tests.machine.machine_commands import Entry

KEY = ("shop", "orders", 0)
MESSAGES = 40


def machine_with(messages: int = MESSAGES) -> Machine:
    machine = Machine()
    topics = tuple(TopicConfig(name=name) for name in ("orders", "again"))
    for payload in (
        encode_command(EnsureTopics(stamped_ms=1, topics=topics)),
        encode_command(EnsureGroups(stamped_ms=1, groups=(GroupConfig(name="shop"),))),
        encode_put_messages(1, [("orders", 0, 0, b"x")] * messages),
    ):
        machine.apply(Entry(0, payload))
    return machine


def pop(
    machine: Machine, first: int, count: int, *, at_ms: int = 1, ordered: bool = False
) -> object:
    claim = Claim(
        topic="orders",
        queue_id=0,
        first_offset=first,
        next_offset=first + count,
        runs=((first, count),) if count else (),
    )
    each = Pop(group="shop", invisible_ms=10, ordered=ordered, attempt_id="", claims=(claim,))
    reply = machine.apply(
        Entry(0, encode_command(PopMessages(stamped_ms=at_ms, pops=(each,))))
    ).reply
    assert isinstance(reply, Popped)
    return reply.outcomes[0][0]


def settle(machine: Machine, *, at_ms: int = 2, acks: tuple = (), changes: tuple = ()) -> Settled:
    command = SettlePops(stamped_ms=at_ms, acks=acks, changes=changes)
    reply = machine.apply(Entry(0, encode_command(command))).reply
    assert isinstance(reply, Settled)
    return reply


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pop"), st.integers(1, 5), st.integers(0, 2)),
        st.tuples(st.just("ack"), st.integers(0, 99), st.booleans()),
        st.tuples(st.just("change"), st.integers(0, 99), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.integers(0, 12), st.none()),
        st.tuples(st.just("revive"), st.none(), st.none()),
    ),
    max_size=40,
)


@given(steps)
def test_every_message_is_with_one_consumer_then_acknowledged_or_moved(plan: list) -> None:
    machine = machine_with()
    now = 10
    with_whom: dict[int, tuple[int, int]] = {}
    outdated: list[tuple[int, tuple[int, int]]] = []
    acked: set[int] = set()
    moved: Counter[int] = Counter()
    passed = 0
    for verb, number, more in plan:
        if verb == "wait":
            now += number
        elif verb == "pop":
            first = frontier(machine, KEY) or 0
            taken = range(first + more, min(first + more + number, MESSAGES))
            if not taken:
                continue
            claim = Claim(
                topic="orders",
                queue_id=0,
                first_offset=first,
                next_offset=taken[-1] + 1,
                runs=runs_of(taken),
            )
            each = Pop(group="shop", invisible_ms=10, ordered=False, attempt_id="", claims=(claim,))
            command = PopMessages(stamped_ms=now, pops=(each,))
            assert (
                Popped(outcomes=(((),),)) == machine.apply(Entry(0, encode_command(command))).reply
            )
            assert not with_whom.keys() & set(taken)
            assert not acked & set(taken)
            with_whom |= dict.fromkeys(taken, (taken[0], now))
            passed += more
        elif verb in ("ack", "change") and with_whom:
            offset = sorted(with_whom)[number % len(with_whom)]
            handle = with_whom[offset]
            if verb == "ack":
                if more and outdated:
                    offset_then, then = outdated[number % len(outdated)]
                    row = (*KEY, *then, ((offset_then, 1),))
                    assert 0 == settle(machine, at_ms=now, acks=(row,)).acked
                    continue
                assert (
                    1 == settle(machine, at_ms=now, acks=((*KEY, *handle, ((offset, 1),)),)).acked
                )
                outdated.append((offset, handle))
                acked.add(offset)
                del with_whom[offset]
            else:
                row = (*KEY, *handle, offset, more)
                (stamp,) = settle(machine, at_ms=now, changes=(row,)).changed
                assert isinstance(stamp, int)
                outdated.append((offset, handle))
                with_whom[offset] = (offset, stamp)
        elif verb == "revive":
            queue = machine.pops.get(KEY)
            due = list(queue.due(now)) if queue else []
            if not due:
                continue
            revival = Revival(
                stamped_ms=now,
                group="shop",
                topic="orders",
                queue_id=0,
                checkpoints=tuple((*handle, each.pending) for handle, each in due),
            )
            gone = [offset for _, each in due for offset in each.in_flight()]
            payload = encode_revival(revival, [("again", 0, 0, b"x")] * len(gone))
            assert Done(changed=True) == machine.apply(Entry(0, payload)).reply
            moved.update(gone)
            outdated += [(offset, with_whom.pop(offset)) for offset in gone]
        follows(machine, with_whom)

    there = frontier(machine, KEY) or 0
    assert there == len(acked) + len(with_whom) + moved.total() + passed
    assert all(count == 1 for count in moved.values())
    assert moved.total() == machine.queues.next_offset("again", 0)
    assert not acked & moved.keys()


def follows(machine: Machine, with_whom: dict[int, tuple[int, int]]) -> None:
    """What is kept beside the checkpoints is what follows from them."""
    queue = machine.pops.get(KEY)
    if queue is None:
        assert not with_whom
        assert 0 == machine.pops.count
        return
    there = {o: h for h, each in queue.checkpoints.items() for o in each.in_flight()}
    assert with_whom == there
    assert len(there) == queue.in_flight
    assert len(queue.checkpoints) == machine.pops.count
    assert min(there) == queue.progress == machine.offsets.get(*KEY)
    assert min(each.until_ms for each in queue.checkpoints.values()) == queue.due_ms


@given(st.sets(st.integers(0, 60), min_size=1))
def test_runs_are_offsets(offsets: set[int]) -> None:
    runs = runs_of(sorted(offsets))

    assert sorted(offsets) == list(offsets_of(runs))
    assert all(sum(run) < following for run, (following, _) in pairwise(runs))


def test_the_heaps_keep_within_what_is_in_flight() -> None:
    """A message that is changed again and again leaves nothing behind."""
    machine = machine_with()
    pop(machine, 0, 2)
    handle = (0, 1)
    for number in range(500):
        row = (*KEY, *handle, 0, 1000 - number)
        (stamp,) = settle(machine, at_ms=2 + number, changes=(row,)).changed
        handle = (0, stamp)

    queue = machine.pops.get(KEY)
    assert len(queue._by_time) < 2 * pops.STALE_MAX > len(queue._by_lowest)
    assert 2 == queue.in_flight


def test_what_may_be_in_flight_of_a_queue_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(pops, "IN_FLIGHT_MAX", 3)
    machine = machine_with()
    assert () == pop(machine, 0, 2)
    assert Reason.TABLE_FULL is pop(machine, 2, 2)
    assert () == pop(machine, 2, 1)
    settle(machine, acks=((*KEY, 0, 1, ((0, 2),)),))

    assert () == pop(machine, 3, 2)


@pytest.mark.parametrize("ordered", [False, True])
def test_so_are_the_checkpoints(monkeypatch, ordered) -> None:
    monkeypatch.setattr(pops, "CHECKPOINTS_MAX", 1)
    machine = machine_with()
    assert () == pop(machine, 0, 2)
    assert Reason.TABLE_FULL is pop(machine, 2, 1)
    (declined,) = settle(machine, changes=((*KEY, 0, 1, 0, 5),)).changed
    assert Reason.TABLE_FULL is declined
    settle(machine, acks=((*KEY, 0, 1, ((0, 1),)),))
    (changed,) = settle(machine, changes=((*KEY, 0, 1, 1, 5),)).changed
    settle(machine, acks=((*KEY, 1, changed, ((1, 1),)),))

    assert 0 == machine.pops.count
    assert not isinstance(pop(machine, 2, 1, ordered=ordered), Reason)
    machine.apply(
        Entry(
            0,
            encode_command(
                ResetOffsets(stamped_ms=3, group="shop", topic="orders", queues=((0, 0),))
            ),
        )
    )
    assert 0 == machine.pops.count


def test_no_more_is_popped_or_acknowledged_at_once_than_a_checkpoint_holds() -> None:
    machine = machine_with(messages=100)
    assert Reason.INVALID_SETTING is pop(machine, 0, pops.MESSAGES_MAX + 1)
    assert () == pop(machine, 0, pops.MESSAGES_MAX)
    many = ((0, 2**62),), ((0, 2**62), (0, -(2**62)))

    assert [0, 0] == [settle(machine, acks=((*KEY, 0, 1, runs),)).acked for runs in many]
