"""Unique message ids (property UNIQ_KEY): 32 hex digits, laid out as Java's clients do.

Four bytes of address, two of process id, four random ones where Java has its class loader's hash,
four of milliseconds since the month began in local time, two of a counter.  Tools estimate the
time of sending from them, so the layout matters; servers treat them as opaque.

A forked child notices that its process id changed and draws new random bytes, so two processes
never share a prefix.
"""

import ipaddress
import os
import secrets
import time


class UniqueIds:
    """Makes ids, one per message.  65,536 a millisecond before one could repeat."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._count = secrets.randbelow(1 << 16)
        self._restart()

    def _restart(self) -> None:
        self._pid = os.getpid()
        head = _ipv4_bytes(self._address) + (self._pid & 0xFFFF).to_bytes(2, "big")
        self._prefix = (head + secrets.token_bytes(4)).hex().upper()
        self._start_month()

    def _start_month(self) -> None:
        now = time.localtime()
        # -1: let the C library find out whether summer time held at that midnight.
        self._month_started_s = time.mktime((now.tm_year, now.tm_mon, 1, 0, 0, 0, 0, 0, -1))
        self._month_ends_s = time.mktime((now.tm_year, now.tm_mon + 1, 1, 0, 0, 0, 0, 0, -1))

    def make(self) -> str:
        """The next id."""
        if os.getpid() != self._pid:
            self._restart()
        now_s = time.time()
        if not self._month_started_s <= now_s < self._month_ends_s:
            self._start_month()
        self._count = count = (self._count + 1) & 0xFFFF
        since_ms = int((now_s - self._month_started_s) * 1000)
        return f"{self._prefix}{since_ms:08X}{count:04X}"


def _ipv4_bytes(address: str) -> bytes:
    """The address as four bytes; of IPv6 the last four, which differ most between hosts."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).packed[-4:]
    except ValueError:
        return bytes((127, 0, 0, 1))
