"""What happened, for the trace and for people: every log event of every process, every fault and
every client's outcome, with the simulated time and whose it was."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import structlog
import trio
from attrs import define, field

from chaos.sim.nodes.scheduling import TASKS

EVENTS = 80
"""How many of the last events a failure tells."""


class Violation(Exception):
    """Something that must hold did not."""


@define(eq=False)
class Story:
    """The last events in words, all events in a checksum."""

    trace: int = 0
    folder: str = ""
    events: int = 0
    _last: deque[tuple[float, str, str]] = field(factory=lambda: deque(maxlen=EVENTS))

    def add(self, who: str, what: str) -> None:
        now = trio.current_time()
        if self.folder:
            what = what.replace(self.folder, "")
        self.events += 1
        self.trace = crc32(f"{now:.6f} {who} {what}".encode(), self.trace)
        self._last.append((now, who, what))

    def tell(self) -> str:
        return "\n".join(f"{now:10.4f} {who:4} {what}" for now, who, what in self._last)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take what the servers and clients log, instead of whoever takes it otherwise."""
        before = structlog.get_config()
        handler = _Handler(self)
        logger = logging.getLogger("dledger_py")
        propagate, logger.propagate = logger.propagate, False
        structlog.configure(
            processors=[self._take],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=False,
        )
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate
            structlog.configure(**before)

    def _take(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> str:
        tasks = TASKS.get(None)
        facts = []
        for key, value in event.items():
            if isinstance(value, BaseException):
                value = repr(value)
            if key not in ("event", "level"):
                facts.append(f"{key}={value}")
        name = event.get("event", "")
        self.add(tasks.name if tasks is not None else "-", f"{name} {' '.join(facts)}")
        raise structlog.DropEvent


class _Handler(logging.Handler):
    """The client logs with the standard library."""

    def __init__(self, story: Story) -> None:
        super().__init__(logging.WARNING)
        self._story = story

    def emit(self, record: logging.LogRecord) -> None:
        tasks = TASKS.get(None)
        self._story.add(tasks.name if tasks is not None else "-", record.getMessage())
