"""Unique message ids (property UNIQ_KEY): 32 hex digits, laid out as Java's clients do.

Four bytes of address, two of process id, four random ones where Java has its class loader's hash,
four of milliseconds since the month began in local time, two of a counter.  Tools estimate the
time of sending from them, so the layout matters; servers treat them as opaque.

A forked child draws new random bytes, so two processes never share a prefix.
"""

import os
import time

from dledger_py.client.surroundings import HERE, Surroundings
from dledger_py.remoting.wire.message import pack_host, unique_key

_forks = 0
"""How often this process was forked off another.  Asking for the process id is a system call, and
would be a tenth of what a send costs."""


def forks() -> int:
    """How often this process was forked off another."""
    return _forks


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # where it is missing, there is no fork
    os.register_at_fork(after_in_child=_forked)


class UniqueIds:
    """Makes ids, one per message.  65,536 a millisecond before one could repeat."""

    def __init__(self, address: str, surroundings: Surroundings = HERE) -> None:
        """*address* is this host's, as an IP address."""
        self._address = address
        self._pid = surroundings.pid
        self._now_s = surroundings.now_s
        self._randbits = surroundings.randbits
        self._count = self._randbits(16)
        self._restart()

    def _restart(self) -> None:
        self._forks = _forks
        salt = self._randbits(32)
        host = pack_host(self._address, 0)
        self._prefix = unique_key(host, self._pid(), salt, 0, 0)[:-12]
        self._start_month()
        self._moment_ms = -1

    def _start_month(self) -> None:
        now = time.localtime(self._now_s())
        # -1: let the C library find out whether summer time held at that midnight.
        started_s = time.mktime((now.tm_year, now.tm_mon, 1, 0, 0, 0, 0, 0, -1))
        ends_s = time.mktime((now.tm_year, now.tm_mon + 1, 1, 0, 0, 0, 0, 0, -1))
        self._month_started_ms, self._month_ends_ms = int(started_s * 1000), int(ends_s * 1000)

    def make(self) -> str:
        """The next id."""
        if _forks != self._forks:
            self._restart()
        now_ms = int(self._now_s() * 1000)
        if now_ms != self._moment_ms:
            self._start_moment(now_ms)
        self._count = count = (self._count + 1) & 0xFFFF
        return "%s%04X" % (self._stem, count)  # noqa: UP031 - half an f-string's time

    def _start_moment(self, now_ms: int) -> None:
        """All but the counter is the same within a millisecond."""
        if not self._month_started_ms <= now_ms < self._month_ends_ms:
            self._start_month()
        self._moment_ms = now_ms
        self._stem = f"{self._prefix}{now_ms - self._month_started_ms:08X}"
