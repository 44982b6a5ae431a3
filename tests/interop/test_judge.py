"""The judge of the client runs finds what it is there for."""

from __future__ import annotations

import pytest

from tests.interop.judge import (
    NOT_TOLD,
    History,
    conversation_faults,
    faults,
    transaction_faults,
)


def history(*lines: dict[str, object]) -> History:
    taken = History()
    for second, line in enumerate(lines):
        taken.take(line, float(second))
    return taken


def acked(key: str, queue: int = 0, offset: int = 0, broker: str = "a") -> dict[str, object]:
    return {"event": "acked", "key": key, "broker": broker, "queue": queue, "offset": offset}


def received(key: str, queue: int = 0, offset: int = 0, half: int = 0) -> dict[str, object]:
    return {"event": "received", "key": key, "queue": queue, "offset": offset, "half": half}


FAILED: dict[str, object] = {"event": "failed", "key": "f", "error": "no leader"}


@pytest.mark.parametrize(
    "lines, fault",
    [
        ([acked("a")], "1 acknowledged and lost: a"),
        ([acked("a", 0, 1), received("a", 0, 2)], "1 acknowledged and lost: a"),
        ([acked("a", NOT_TOLD, 1), received("a", 0, 2)], "1 acknowledged and lost: a"),
        ([acked("a"), acked("b"), received("a"), received("b")], "one place, several messages"),
        ([acked("a"), received("a"), received("a", 1, 0)], "1 stored twice: a"),
        ([received("a")], "only 0 of 1 sends were acknowledged"),
        ([acked("a"), received("a"), FAILED], "1 sends failed: no leader"),
        ([acked("a"), received("a"), {"event": "error", "error": "other body"}], "other body"),
        ([acked("a"), received("a"), {"event": "surprise"}], "not understood"),
    ],
)
def test_a_fault_is_found(lines: list[dict[str, object]], fault: str) -> None:
    (found,) = faults(history(*lines), wanted=1, failures_allowed=False)

    assert found.startswith(fault)


def test_two_groups_may_each_store_what_a_client_tried_at_both() -> None:
    both = [received("a"), received("a", 1, 0), received("b")]
    taken = history(acked("a"), acked("b", broker="b"), *both)

    assert [] == faults(taken, wanted=2, failures_allowed=True)


def test_only_what_was_asked_for_has_to_come_and_may() -> None:
    taken = history(acked("a", 0, 1), acked("b", 0, 2), received("a", 0, 1))
    taken.chosen = "a".__eq__
    good = faults(taken, wanted=2, failures_allowed=False)
    taken.take(received("b", 0, 2), 4.0)

    assert [] == good
    assert ["1 received and not asked for: b"] == faults(taken, wanted=2, failures_allowed=False)


REPLIED: dict[str, object] = {"event": "replied", "key": "a"}


@pytest.mark.parametrize(
    "lines, fault",
    [
        ([received("a")], "only 0 of 1 requests were replied to"),
        ([received("a"), REPLIED, FAILED], "1 requests failed: no leader"),
        ([REPLIED], "1 replies to requests nobody got: a"),
        ([received("a"), REPLIED, {"event": "error", "error": "other body"}], "other body"),
    ],
)
def test_a_fault_in_a_conversation_is_found(lines: list[dict[str, object]], fault: str) -> None:
    (found,) = conversation_faults(history(*lines), wanted=1, failures_allowed=False)

    assert found.startswith(fault)


def test_requests_may_fail_while_the_leader_dies_and_then_be_replied_to() -> None:
    taken = history(received("a"), FAILED, REPLIED, received("more"))

    assert [] == conversation_faults(taken, wanted=1, failures_allowed=True)


def test_a_message_stored_twice_is_no_loss() -> None:
    """Without an id, a retry after an answer that was lost stores it again; the told place must be
    among them."""
    taken = history(acked("a", 0, 7), received("a", 0, 5), received("a", 0, 7))
    taken.recognised = False

    assert [] == faults(taken, wanted=1, failures_allowed=False)


def test_two_brokers_have_places_of_their_own() -> None:
    taken = history(acked("a"), acked("b", broker="b"), received("a"), received("b"))

    assert [] == faults(taken, wanted=2, failures_allowed=False)
    assert 2 == taken.brokers


def test_failed_sends_are_fine_while_the_leader_dies() -> None:
    taken = history(acked("a"), FAILED, received("a"))

    assert [] == faults(taken, wanted=1, failures_allowed=True)


def test_the_longest_pause_lies_between_two_acknowledgements() -> None:
    taken = history(acked("a"), received("a"), received("a"), acked("b"), acked("c"))

    assert 3.0 == taken.longest_pause_s


def prepared(number: int) -> dict[str, object]:
    return {"event": "prepared", "key": f"k{number}", "number": number}


CHECKED: dict[str, object] = {"event": "checked", "key": "k2"}


@pytest.mark.parametrize(
    "lines, fault",
    [
        ([prepared(0)], "1 committed and lost: k0"),
        ([prepared(2), received("k2")], "1 never checked: k2"),
        ([prepared(1), received("k1")], "1 rolled back and consumed: k1"),
        (
            [prepared(0), received("k0", 0, 0, half=9), received("k0", 0, 1, half=9)],
            "1 stored twice: k0",
        ),
        ([prepared(1), FAILED], "1 sends failed: no leader"),
        ([], "only 0 of 1 sends were acknowledged"),
        ([prepared(1), {"event": "error", "error": "other body"}], "other body"),
    ],
)
def test_a_fault_of_transactions_is_found(lines: list[dict[str, object]], fault: str) -> None:
    (found,) = transaction_faults(history(*lines), wanted=1, failures_allowed=False)

    assert found.startswith(fault)


def test_transactions_that_ended_as_they_should_have_no_faults() -> None:
    taken = history(
        *(prepared(number) for number in range(4)),
        *(received(f"k{number}", 0, number) for number in (0, 2)),
        CHECKED,
        {"event": "checked", "key": "k3"},
        received("k0"),
        received("k2", 0, 2, half=9),
        received("k2", 0, 4, half=8),
    )

    assert [] == transaction_faults(taken, wanted=4, failures_allowed=False)


def test_an_offset_in_a_queue_that_was_not_told_is_a_place_of_its_own() -> None:
    taken = history(
        *(acked("a", NOT_TOLD, 0), acked("b", NOT_TOLD, 0)),
        *(received("a", 3, 0), received("b", 1, 0)),
    )

    assert [] == faults(taken, wanted=2, failures_allowed=False)
