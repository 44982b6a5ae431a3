"""How a message says that it is for later."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dledger_py.client.messages import delay_properties


@pytest.mark.parametrize(
    "delay, properties",
    [
        (timedelta(seconds=30), {"TIMER_DELAY_MS": "30000"}),
        (timedelta(0), {"TIMER_DELAY_MS": "0"}),
        (timedelta(microseconds=1), {"TIMER_DELAY_MS": "1"}),
        (timedelta(days=4000), {"TIMER_DELAY_MS": "345600000000"}),
        (datetime(2030, 1, 1, tzinfo=UTC), {"TIMER_DELIVER_MS": "1893456000000"}),
        (
            datetime(2030, 1, 1, 2, 0, 0, 1, tzinfo=timezone(timedelta(hours=2))),
            {"TIMER_DELIVER_MS": "1893456000001"},
        ),
    ],
)
def test_spans_and_times_are_never_too_early(delay, properties) -> None:
    assert properties == delay_properties(delay)


@pytest.mark.parametrize("delay", [timedelta(seconds=-1), datetime(2030, 1, 1)])  # noqa: DTZ001
def test_what_is_not_clear_is_refused(delay) -> None:
    with pytest.raises(ValueError, match="delay"):
        delay_properties(delay)
