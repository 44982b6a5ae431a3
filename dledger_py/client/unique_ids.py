"""Unique message ids (property UNIQ_KEY): 32 hex digits, laid out as Java's clients do.

Four bytes of address, two of process id, four random ones where Java has its class loader's hash,
four of milliseconds since the month began in local time, two of a counter.  Tools estimate the
time of sending from them, so the layout matters; servers treat them as opaque.

A forked child notices that its process id changed and draws new random bytes, so two processes
never share a prefix.
"""

import time

from dledger_py.client.surroundings import HERE, Surroundings
from dledger_py.remoting.wire.message import pack_host, unique_key


class UniqueIds:
    """Makes ids, one per message.  65,536 a millisecond before one could repeat."""

    def __init__(self, address: str, surroundings: Surroundings = HERE) -> None:
        """*address* is this host's, as an IP address."""
        self._address = address
        self._pid_now = surroundings.pid
        self._now_s = surroundings.now_s
        self._randbits = surroundings.randbits
        self._count = self._randbits(16)
        self._restart()

    def _restart(self) -> None:
        self._pid = self._pid_now()
        salt = self._randbits(32)
        host = pack_host(self._address, 0)
        self._prefix = unique_key(host, self._pid, salt, 0, 0)[:-12]
        self._start_month()

    def _start_month(self) -> None:
        now = time.localtime(self._now_s())
        # -1: let the C library find out whether summer time held at that midnight.
        self._month_started_s = time.mktime((now.tm_year, now.tm_mon, 1, 0, 0, 0, 0, 0, -1))
        self._month_ends_s = time.mktime((now.tm_year, now.tm_mon + 1, 1, 0, 0, 0, 0, 0, -1))

    def make(self) -> str:
        """The next id."""
        if self._pid_now() != self._pid:
            self._restart()
        now_s = self._now_s()
        if not self._month_started_s <= now_s < self._month_ends_s:
            self._start_month()
        self._count = count = (self._count + 1) & 0xFFFF
        since_ms = int((now_s - self._month_started_s) * 1000)
        return f"{self._prefix}{since_ms:08X}{count:04X}"
