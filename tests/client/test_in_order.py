"""One of each queue is out."""

from dledger_py.client.in_order import InOrder


def test_the_next_of_a_queue_waits_for_the_one_before() -> None:
    lanes: InOrder[str, int] = InOrder()

    assert lanes.add("a", [1, 2]) == 1
    assert lanes.add("a", [3]) is None
    assert lanes.add("b", [7]) == 7
    assert [lanes.done("a"), lanes.done("a"), lanes.done("a")] == [2, 3, None]
    assert lanes.add("a", [4]) == 4
    assert lanes.add("b", []) is None
    assert lanes.done("b") is None


def test_what_is_forgotten_is_not_handed_out() -> None:
    lanes: InOrder[str, int] = InOrder()
    lanes.add("a", [1, 2])
    lanes.forget("a")

    assert lanes.done("a") is None
    assert lanes.add("a", [5]) == 5
