"""When to try again: tables."""

import pytest

from dledger_py.client import retry
from dledger_py.client.retry import BackOff, Verdict


@pytest.mark.parametrize(
    "code, verdict",
    [
        (0, Verdict.DONE),
        (10, Verdict.DONE),
        (11, Verdict.DONE),
        (12, Verdict.DONE),
        (1, Verdict.UNCERTAIN),
        (2, Verdict.TRY_AGAIN),
        (14, Verdict.TRY_AGAIN),
        (17, Verdict.TRY_AGAIN),
        (215, Verdict.TRY_AGAIN),
        (1500, Verdict.TRY_AGAIN),
        (16, Verdict.TRY_ELSEWHERE),
        (13, Verdict.GIVE_UP),
        (29, Verdict.GIVE_UP),
        (26, Verdict.GIVE_UP),
        (-7, Verdict.GIVE_UP),
    ],
)
def test_a_send_is_judged_by_its_code(code: int, verdict: Verdict) -> None:
    assert retry.judge_send(code) is verdict


@pytest.mark.parametrize(
    "code, verdict",
    [(0, Verdict.DONE), (1, Verdict.TRY_AGAIN), (14, Verdict.TRY_AGAIN), (29, Verdict.GIVE_UP)],
)
def test_a_read_is_judged_by_its_code(code: int, verdict: Verdict) -> None:
    assert retry.judge_read(code) is verdict


def test_another_member_is_asked_after_some_codes_only() -> None:
    assert [code for code in range(2000) if retry.member_failed(code)] == [1, 14]


@pytest.mark.parametrize(
    "failures, shortest_s, longest_s",
    [(1, 0.01, 0.02), (2, 0.02, 0.04), (3, 0.04, 0.08), (5, 0.1, 0.2), (1000, 0.1, 0.2)],
)
def test_pauses_double_up_to_a_limit_and_are_spread_by_half(
    failures: int, shortest_s: float, longest_s: float
) -> None:
    back_off = BackOff()

    assert back_off.pause_s(failures, 0.0) == pytest.approx(shortest_s)
    assert back_off.pause_s(failures, 1 - 1e-12) == pytest.approx(longest_s)


@pytest.mark.parametrize("left_s, expected", [(10.0, 2.0), (1.5, 1.5), (0.0, None), (-1.0, None)])
def test_an_attempt_never_outlives_the_deadline(left_s: float, expected: float | None) -> None:
    assert retry.attempt_timeout_s(left_s) == expected
