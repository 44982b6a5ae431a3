"""Who reads which queue: a table, and the laws over random groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.client.queues import Queue
from dledger_py.client.rebalance import averaged, change


def queues_of(count: int, topic: str = "orders", broker: str = "broker-a") -> list[Queue]:
    return [Queue(topic, broker, number) for number in range(count)]


@pytest.mark.parametrize(
    "queues, members, shares",
    [
        (8, 1, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (8, 3, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        (7, 3, [[0, 1, 2], [3, 4], [5, 6]]),
        (3, 3, [[0], [1], [2]]),
        (2, 3, [[0], [1], []]),
        (0, 2, [[], []]),
    ],
)
def test_shares_are_those_of_java(queues: int, members: int, shares: list[list[int]]) -> None:
    names = [f"client-{place}" for place in range(members)]

    found = [averaged(queues_of(queues), names, name) for name in names]

    assert found == [tuple(queues_of(queues)[number] for number in share) for share in shares]


def test_queues_are_ordered_by_topic_then_broker_then_number() -> None:
    queues = [
        Queue("b", "broker-a", 0),
        Queue("a", "broker-b", 0),
        Queue("a", "broker-a", 10),
        Queue("a", "broker-a", 2),
    ]

    assert averaged(queues, ["c1", "c2"], "c1") == (
        Queue("a", "broker-a", 2),
        Queue("a", "broker-a", 10),
    )


def test_one_who_is_not_a_member_is_told_to_keep_what_it_has() -> None:
    assert averaged(queues_of(4), ["other"], "me") is None
    assert averaged(queues_of(4), [], "me") is None


@given(
    queue_count=st.integers(0, 40),
    members=st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=9),
    order=st.randoms(use_true_random=False),
)
def test_every_queue_has_exactly_one_reader_whatever_the_order(
    queue_count: int, members: set[str], order: object
) -> None:
    queues = queues_of(queue_count)
    shares = []
    for member in members:
        shuffled, names = list(queues), list(members)
        order.shuffle(shuffled)  # type: ignore[attr-defined]
        order.shuffle(names)  # type: ignore[attr-defined]
        share = averaged(shuffled, names, member)
        assert share is not None
        shares.append(share)

    assert sorted(queue for share in shares for queue in share) == queues
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_change_says_what_is_lost_and_what_is_gained() -> None:
    q0, q1, q2 = queues_of(3)

    found = change([q0, q1], [q2, q1])

    assert (found.lost, found.gained) == ((q0,), (q2,))
    assert not change([q0, q1], [q1, q0])
