"""What a member does while its disk is nearly full, before a write fails and ends it.

Two floors in bytes, because a percentage of a large disk is a lot and of a small one nothing:

    below `floor_bytes`        sends are refused with a remark that says so; reads, offsets and
                               operators' changes go on, so that consumers can catch up
    below half of it           this member also gives up leading and does not stand for election

Each ends by itself once there is space again, a little above where it began. A member whose disk
is really full still stops at the failed write: that is the ledger's law.
"""

from collections.abc import Callable
from typing import Final

import structlog
from attrs import define, frozen

from broker.errors import DiskLow

log = structlog.get_logger()

RELIEF_PERCENT: Final = 110  # of the floor, where sends are taken again, so that it does not flap


@frozen(kw_only=True)
class DiskStatistics:
    """What was seen last, and what follows."""

    free_bytes: int
    floor_bytes: int
    refusing: bool
    electable: bool


@define(eq=False, kw_only=True)
class DiskWatch:
    """Looks at the free bytes when told to, and remembers what follows."""

    floor_bytes: int
    free_bytes: Callable[[], int]
    set_electable: Callable[[bool], None]
    _seen_bytes: int = 0
    _refusing: bool = False
    _electable: bool = True

    @property
    def refusing(self) -> bool:
        """Whether no message may be stored now."""
        return self._refusing

    def admit(self) -> None:
        """Raises: DiskLow while no message may be stored."""
        if self._refusing:
            raise DiskLow(self._seen_bytes, self.floor_bytes)

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(
            free_bytes=self._seen_bytes,
            floor_bytes=self.floor_bytes,
            refusing=self._refusing,
            electable=self._electable,
        )

    def look(self) -> None:
        """See how much is free; called about once a second. Raises: OSError."""
        free = self._seen_bytes = self.free_bytes()
        percent = RELIEF_PERCENT if self._refusing else 100
        refusing = free * 100 < self.floor_bytes * percent
        if refusing != self._refusing:
            self._refusing = refusing
            if refusing:
                log.warning("disk.ran_low", free_bytes=free, floor_bytes=self.floor_bytes)
            else:
                log.info("disk.recovered", free_bytes=free, floor_bytes=self.floor_bytes)
        electable = free >= (self.floor_bytes // 2 if self._electable else self.floor_bytes)
        if electable != self._electable:
            self._electable = electable
            self.set_electable(electable)
