"""Resets and copies of offsets, asked of the rooms: page 07 §11 and §12."""

import pytest

from broker.rooms import resets as room
from dledger_py.ledger.errors import NotLeader
from dledger_py.remoting.commands.groups import CreateGroup, DeleteGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.offsets import QueryConsumerOffset, UpdateConsumerOffset
from dledger_py.remoting.commands.pulling import (
    CARRIES_SUBSCRIPTION,
    COMMITS_OFFSET,
    MAY_SUSPEND,
    PullMessage,
)
from dledger_py.remoting.commands.resets import (
    CloneOffsets,
    OffsetsByQueue,
    ResetClientOffsets,
    ResetOffsets,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from tests.broker.rooms_kit import Desk, header

GROUP = "shop"
START_MS = 1_700_000_000_000


@pytest.fixture
def desk(tmp_path) -> Desk:
    return furnished(Desk(tmp_path))


@pytest.fixture
def classic(tmp_path) -> Desk:
    return furnished(Desk(tmp_path, server_side_reset=False))


def furnished(desk: Desk) -> Desk:
    """Queue 0 with a message every 10 ms, ten in all; queue 1 with one."""
    for topic in ("orders", "bills"):
        desk.ask(CreateTopic(topic=topic, read_queue_nums=2, write_queue_nums=2, perm=6))
    for group in (GROUP, "audit"):
        desk.ask(CreateGroup(), encode_body(GroupConfig(group_name=group)))
    for _ in range(10):
        desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=0), b"x")
        desk.now_ms += 10
    desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=1), b"x")
    return desk


def reset(time_ms: int = 0, group: str = GROUP, topic: str = "orders", **fields) -> ResetOffsets:
    timestamp = START_MS + time_ms if time_ms >= 0 else time_ms
    return ResetOffsets(group=group, topic=topic, timestamp=timestamp, **fields)


def commit(offset: int, queue_id: int = 0, group: str = GROUP) -> UpdateConsumerOffset:
    return UpdateConsumerOffset(
        consumer_group=group, topic="orders", queue_id=queue_id, commit_offset=offset
    )


def pull(offset: int, queue_id: int = 0, flags: int = 0, **fields) -> PullMessage:
    given = {"subscription": "*", "max_msg_nums": 32, "consumer_group": GROUP} | fields
    return PullMessage(
        topic="orders",
        queue_id=queue_id,
        queue_offset=offset,
        sys_flag=CARRIES_SUBSCRIPTION | flags,
        **given,
    )


def committed(desk: Desk, queue_id: int = 0, group: str = GROUP) -> int | None:
    answer = desk.ask(
        QueryConsumerOffset(
            consumer_group=group, topic="orders", queue_id=queue_id, set_zero_if_not_found=False
        )
    )
    return int(answer.fields["offset"]) if answer.code == 0 else None


def targets(answer) -> dict[int, int]:
    assert 0 == answer.code, answer.remark
    table = decode_body(OffsetsByQueue, answer.body).offset_table
    assert {("orders", "broker-a")} == {(queue.topic, queue.broker_name) for queue in table}
    return {queue.queue_id: offset for queue, offset in table.items()}


def moved(desk: Desk, request: PullMessage, **how) -> tuple[int, int]:
    answer = desk.ask(request, **how)
    return answer.code, header(PullMessage, answer).next_begin_offset


# --- what is asked for ---


@pytest.mark.parametrize(
    "request_, found",
    [
        (reset(-1), {0: 10, 1: 1}),
        (reset(0), {0: 0, 1: 0}),
        (reset(45), {0: 5, 1: 0}),
        (reset(50), {0: 5, 1: 0}),
        (reset(10_000), {0: 10, 1: 1}),
        (reset(45, is_force=True), {0: 5, 1: 0}),
        (reset(45, offset=3), {0: 5, 1: 0}),
        (reset(45, queue_id=-1, offset=3), {0: 5, 1: 0}),
        (reset(45, queue_id=0), {0: 5}),
        (reset(45, queue_id=0, offset=-1), {0: 5}),
        (reset(45, queue_id=0, offset=3), {0: 3}),
        (reset(45, queue_id=0, offset=11), {0: 11}),
        (reset(-1, queue_id=1), {1: 1}),
    ],
    ids=str,
)
def test_where_a_reset_goes(desk, request_, found) -> None:
    assert found == targets(desk.ask(request_))
    assert found == {q: committed(desk, q) for q in (0, 1) if committed(desk, q) is not None}


@pytest.mark.parametrize(
    "request_, code",
    [
        (reset(topic="none"), 17),
        (reset(group="none"), 26),
        (reset(queue_id=2), 29),
        (reset(queue_id=0, offset=12), 1),
        (reset(queue_id=0, offset=-2), 1),
    ],
    ids=str,
)
def test_what_cannot_be_reset_is_refused(desk, request_, code) -> None:
    assert code == desk.ask(request_).code
    assert 0 == desk.machine.resets.count


def test_a_topic_without_queues_to_read_has_nothing_to_reset(desk) -> None:
    desk.ask(CreateTopic(topic="orders", read_queue_nums=0, write_queue_nums=2, perm=6))

    assert 1 == desk.ask(reset(-1)).code


@pytest.mark.parametrize("gone, code", [("topic", 17), ("group", 26)])
def test_what_goes_while_the_reset_is_under_way_is_refused(desk, gone, code) -> None:
    """Proposed in one turn, so the deletion is applied first."""
    if gone == "topic":
        desk.put(DeleteTopic(topic="orders"))
    else:
        desk.put(DeleteGroup(group_name=GROUP))
    desk.put(reset(-1))
    desk.turn()

    assert code == desk.client.answers[-1].code


def test_times_on_a_cold_disk_are_read_by_threads(desk) -> None:
    desk.ledger.cached = False
    assert desk.ask(reset(45)) is None
    for _ in range(20):
        desk.threads.run()
    desk.turn()

    assert {0: 5, 1: 0} == targets(desk.client.answers[-1])


def test_a_topic_of_many_queues_lets_others_have_their_turn(desk, monkeypatch) -> None:
    monkeypatch.setattr(room, "QUEUES_PER_TURN", 1)
    early = desk.ask(reset(-1))
    turns = 0
    while desk.threads.jobs:
        desk.threads.run()
        turns += 1
    desk.turn()

    assert early is None
    assert 2 == turns
    assert {0: 10, 1: 1} == targets(desk.client.answers[-1])


def test_a_reset_tells_what_became_of_it(desk) -> None:
    desk.put(reset(-1))
    desk.ledger.refuse(NotLeader(None))

    assert 14 == desk.client.answers[-1].code


@pytest.mark.parametrize("request_", [reset(), CloneOffsets(src_group="a", dest_group="b")])
def test_followers_hand_it_on(desk, request_) -> None:
    desk.gate.leads = False
    desk.ask(request_)

    assert [request_.code] == [frame.code for frame in desk.gate.relayed]


# --- how consumers take it up ---


@pytest.mark.parametrize("at", [8, 3, 10, 99, -1])
def test_the_next_pull_is_told_wherever_it_is(desk, at) -> None:
    desk.ask(commit(8))
    desk.ask(reset(queue_id=0, offset=5))

    assert (21, 5) == moved(desk, pull(at))
    assert (0, 10) == moved(desk, pull(5))
    assert 0 == desk.machine.resets.count
    assert (0, 10) == moved(desk, pull(6))


def test_who_goes_on_is_not_told_again_while_the_end_is_under_way(desk) -> None:
    desk.ask(reset(queue_id=0, offset=5))
    desk.put(pull(5, max_msg_nums=1))
    desk.ledger.barriers.pop()(None)  # it is answered; the end of the reset is not applied yet
    desk.put(pull(6))
    desk.ledger.barriers.pop()(None)

    assert [0, 0] == [answer.code for answer in desk.client.answers[-2:]]


def test_queues_and_groups_that_are_not_concerned_go_on(desk) -> None:
    desk.ask(reset(queue_id=0, offset=5))

    assert (0, 1) == moved(desk, pull(0, queue_id=1))
    assert (0, 10) == moved(desk, pull(8, consumer_group="audit"))


def test_commits_do_not_count_before_the_reset_was_taken_up(desk) -> None:
    desk.ask(commit(8))
    desk.put(commit(9), one_way=True)
    desk.ask(reset(queue_id=0, offset=5))
    desk.ask(commit(10))
    desk.ask(pull(10, flags=COMMITS_OFFSET, commit_offset=10))
    desk.ticks_ms += 100
    desk.turn()
    assert 5 == committed(desk)

    desk.put(commit(10), one_way=True)
    desk.put(pull(5, flags=COMMITS_OFFSET, commit_offset=10))
    desk.turn()
    desk.ticks_ms += 100
    desk.turn()
    assert 5 == committed(desk)

    desk.ask(commit(6))
    assert 6 == committed(desk)


def test_a_consumer_that_commits_the_offset_has_taken_it_up(desk) -> None:
    """As Java's does, before it gives the queue up and starts over."""
    desk.ask(reset(queue_id=0, offset=5))
    desk.ask(pull(8))
    desk.ask(commit(5))
    desk.ask(commit(7))

    assert 7 == committed(desk)
    assert (0, 10) == moved(desk, pull(8))


def test_a_consumer_that_was_told_and_does_not_care_is_let_go(desk) -> None:
    """A pull consumer that keeps its offsets by itself."""
    desk.ask(reset(queue_id=0, offset=5))
    other = desk.connect()

    assert (21, 5) == moved(desk, pull(8))
    assert (21, 5) == moved(desk, pull(8), by=other)
    assert (0, 10) == moved(desk, pull(8))
    assert (0, 10) == moved(desk, pull(8), by=other)
    assert 0 == desk.machine.resets.count


def test_the_same_offset_again_is_another_reset(desk) -> None:
    desk.ask(reset(queue_id=0, offset=5))
    desk.ask(pull(8))
    desk.ask(commit(5))
    desk.now_ms += 1
    desk.ask(reset(queue_id=0, offset=5))

    assert (21, 5) == moved(desk, pull(8))


def test_a_held_pull_is_told_at_once(desk) -> None:
    assert desk.ask(pull(10, flags=MAY_SUSPEND, suspend_timeout_millis=15_000)) is None
    desk.ask(reset(queue_id=0, offset=5))
    answer = next(a for a in desk.client.answers if a.remark == "OFFSET_RESET")

    assert (21, 5) == (answer.code, header(PullMessage, answer).next_begin_offset)


def test_a_pull_from_the_reset_may_be_held(desk) -> None:
    desk.ask(reset(-1))
    early = desk.ask(pull(10, flags=MAY_SUSPEND, suspend_timeout_millis=15_000))
    desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=0), b"x")

    assert early is None
    assert [0] == [a.code for a in desk.client.answers if "nextBeginOffset" in a.fields]
    assert {1} == {row[2] for row in desk.machine.resets.state()}


def test_who_is_not_certain_to_lead_tells_nobody(desk) -> None:
    desk.ask(reset(queue_id=0, offset=5))
    desk.put(pull(8))
    desk.ledger.refuse(NotLeader(None))
    assert 19 == desk.client.answers[-1].code

    desk.gate.leads = False
    assert (0, 10) == moved(desk, pull(8))
    assert (0, 10) == moved(desk, pull(5))
    assert 1 == desk.machine.resets.count


def test_a_reset_that_was_refused_its_end_ends_with_the_next_pull(desk) -> None:
    desk.ask(reset(queue_id=0, offset=5))
    desk.put(pull(5))
    desk.ledger.barriers.pop()(None)
    desk.ledger.refuse(NotLeader(None))
    assert 1 == desk.machine.resets.count

    desk.ask(pull(5))
    assert 0 == desk.machine.resets.count


# --- the older way ---


def consume(desk: Desk, *offsets: int, **how) -> None:
    desk.beat(GROUP, "orders", **how)
    for queue_id, offset in enumerate(offsets):
        desk.ask(commit(offset, queue_id))


@pytest.mark.parametrize(
    "request_, found",
    [
        (reset(-1, is_force=True), {0: 10, 1: 1}),
        (reset(-1), {0: 8, 1: 0}),
        (reset(45), {0: 5, 1: 0}),
    ],
    ids=str,
)
def test_the_older_way_sends_the_offsets_to_the_consumers(classic, request_, found) -> None:
    consume(classic, 8, 0)
    answer = classic.ask(request_)

    assert found == targets(answer)
    push = classic.client.told[-1]
    assert isinstance(push, ResetClientOffsets)
    assert (GROUP, "orders", request_.timestamp) == (push.group, push.topic, push.timestamp)
    assert 8 == committed(classic)
    assert 0 == classic.machine.resets.count


@pytest.mark.parametrize(
    "language, body",
    [
        (
            "JAVA",
            b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:5,'
            b'{"brokerName":"broker-a","queueId":1,"topic":"orders"}:0}}',
        ),
        (
            "CPP",
            b'{"offsetTable":[{"brokerName":"broker-a","offset":5,"queueId":0,"topic":"orders"},'
            b'{"brokerName":"broker-a","offset":0,"queueId":1,"topic":"orders"}]}',
        ),
    ],
)
def test_each_client_gets_them_in_its_own_form(classic, language, body) -> None:
    consume(classic, 8, 1, language=language)
    classic.ask(reset(45))

    assert body == classic.client.told_bodies[-1]


def test_the_older_way_needs_consumers_that_are_online(classic) -> None:
    classic.ask(commit(8))

    assert 206 == classic.ask(reset(45)).code


def test_the_older_way_needs_consumers_that_know_of_it(classic) -> None:
    consume(classic, 8, 1)
    classic.table.consumer_group(GROUP).clients["c1"].version = 27
    answer = classic.ask(reset(45))

    assert (1, "version=27") == (answer.code, answer.remark.split()[-1])
    assert not [told for told in classic.client.told if isinstance(told, ResetClientOffsets)]


def test_the_older_way_needs_offsets(classic) -> None:
    consume(classic, 8)

    assert 1 == classic.ask(reset(45)).code


def test_consumers_may_leave_while_the_offsets_are_looked_up(classic) -> None:
    consume(classic, 8, 0)
    classic.ledger.cached = False
    classic.put(reset(45))
    classic.client.close()
    other = classic.connect()
    classic.client.closed = False
    for _ in range(20):
        classic.threads.run()

    assert 206 == classic.client.answers[-1].code
    assert not other.told


# --- copies ---


def test_a_copy_takes_the_place_of_what_was_there(desk) -> None:
    desk.ask(commit(3))
    desk.ask(commit(9, queue_id=1, group="audit"))
    desk.put(commit(4), one_way=True)
    answer = desk.ask(CloneOffsets(src_group=GROUP, dest_group="audit"))

    assert 0 == answer.code
    assert (4, None) == (committed(desk, 0, "audit"), committed(desk, 1, "audit"))
    assert 4 == committed(desk)


def test_a_copy_of_many_offsets_is_of_entries_that_the_log_takes(desk, monkeypatch) -> None:
    monkeypatch.setattr("broker.rooms.resets.COPIED_MAX", 1)
    for queue_id in (0, 1):
        desk.ask(commit(queue_id + 5, queue_id=queue_id))
    before = desk.ledger.entries
    answer = desk.ask(CloneOffsets(src_group=GROUP, dest_group="audit"))
    entries = desk.ledger.entries - before

    assert 0 == answer.code
    assert [5, 6] == [committed(desk, queue_id, "audit") for queue_id in (0, 1)]
    assert 3 == entries  # what was under way, and two of copies


@pytest.mark.parametrize(
    "fields, copied",
    [
        ({"topic": "orders"}, 3),
        ({"topic": "bills"}, None),
        ({"topic": "none"}, None),
        ({}, None),  # the connected consumers subscribe to another topic
        ({"offline": True}, 3),
    ],
)
def test_what_is_copied(desk, fields, copied) -> None:
    desk.ask(commit(3))
    desk.beat(GROUP, "orders" if fields.get("topic") == "orders" else "bills")
    answer = desk.ask(CloneOffsets(src_group=GROUP, dest_group="audit", **fields))

    assert 0 == answer.code
    assert copied == committed(desk, 0, "audit")


def test_a_group_that_does_not_exist_gets_no_copy(desk) -> None:
    desk.ask(commit(3))

    assert 26 == desk.ask(CloneOffsets(src_group=GROUP, dest_group="none")).code
    assert () == desk.machine.offsets.topics_of("none")


def test_a_copy_whose_beginning_was_refused_can_be_asked_for_again(desk) -> None:
    desk.put(CloneOffsets(src_group=GROUP, dest_group="audit"))
    desk.ledger.refuse(NotLeader(None))

    assert 14 == desk.client.answers[-1].code
