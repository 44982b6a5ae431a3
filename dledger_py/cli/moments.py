"""Points in time as operators write them, and spans of time they see."""

import time
from datetime import datetime
from typing import Any

import click

FORMATS = (
    "%Y-%m-%d#%H:%M:%S:%f",  # mqadmin's
    "%Y-%m-%d#%H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
)

MOMENT_MS_MAX = 2**63 - 1


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Milliseconds since 1970, `now`, or a date and a time of this machine's zone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if text == "now":
            return round(time.time() * 1000)
        number = text.removeprefix("-")
        if number.isdecimal() and int(number) <= MOMENT_MS_MAX:
            return int(text)
        for each in FORMATS:
            try:
                return round(datetime.strptime(text, each).astimezone().timestamp() * 1000)
            except ValueError:
                continue
        self.fail(
            f"{text!r}: milliseconds since 1970, 'now', or such as '2026-01-31 13:45:00'",
            param,
            ctx,
        )


MOMENT = Moment()
