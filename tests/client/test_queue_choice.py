"""Which queue a message goes to: tables."""

from dledger_py.client.queue_choice import Turns, by_key
from dledger_py.client.queues import Queue

A = [Queue("t", "broker-a", number) for number in range(2)]
B = [Queue("t", "broker-b", number) for number in range(2)]


def test_a_key_always_means_the_same_queue() -> None:
    queues = [*A, *B]

    assert by_key(queues, "*") == queues[42 % 4]
    assert by_key(queues, "") == queues[0]
    assert by_key(queues, "a-very-long-tag-name-to-go-negative") == queues[1504546191 % 4]


def test_without_a_key_queues_take_turns() -> None:
    turns = Turns(3)

    assert [turns.choose([*A, *B]) for _ in range(5)] == [B[1], A[0], A[1], B[0], B[1]]


def test_a_failed_broker_is_avoided_while_there_is_another() -> None:
    turns = Turns(0)

    assert {turns.choose([*A, *B], "broker-a").broker for _ in range(4)} == {"broker-b"}
    assert turns.choose(A, "broker-a") in A
