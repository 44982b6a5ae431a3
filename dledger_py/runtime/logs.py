"""The one place that configures structlog.

Everyone else says `log = structlog.get_logger()` and `log.info("area.past_participle", key=value)`.
Lines go to standard error: JSON when nobody watches a terminal, for people otherwise. What was
bound with `structlog.contextvars` (`node`, `conn`, …) is inherited by Trio's tasks and joins every
line.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import msgspec
import structlog

LEVELS = ("debug", "info", "warning", "error")


def configure(
    *, level: str = "info", json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Configure logging for this process. Call it first: loggers keep what they saw when first
    used.

    `json=None` means: unless both standard output and standard error are terminals.
    Raises `ValueError` for an unknown level.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r}: one of {', '.join(LEVELS)}")
    stream = stream or sys.stderr
    if json is None:
        json = not (sys.stdout.isatty() and sys.stderr.isatty())
    structlog.configure(
        processors=_processors(json=json),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def _processors(*, json: bool) -> list[Any]:
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if json:
        return [
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    return [
        *shared,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _to_json(event: Any, **_: Any) -> str:
    # A fact that JSON has no word for is shown as text: losing the line would be worse.
    return msgspec.json.encode(event, enc_hook=repr).decode()
