"""Processor time and memory of processes, and what of the machine others used meanwhile.

All from /proc, in ticks of 10 ms: a measurement of three seconds on two cores is 600 of them.
"""

import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

PROC = Path("/proc")

_OTHERS_FIELDS = (0, 1, 2, 7)
"""Of /proc/stat's first line: user, nice, system, steal. Time in interrupts is nobody's: loopback
traffic is handled there, ours as well as theirs."""


@frozen(kw_only=True)
class Usage:
    """What was used since the start, by whom."""

    at_s: float
    cpu_s: dict[int, float]
    """Of each process with all its threads, also those that have ended; user and system."""
    own_s: float
    """Of this process, without its children."""
    machine_s: float
    """Of everybody."""


@frozen(kw_only=True)
class Spent:
    """What was used between two looks."""

    seconds: float
    server_cpu_s: float
    foreign_share: float
    """Of all processor time that there was, what neither servers nor load nor we used: 0 to 1."""


def look(pids: Collection[int]) -> Usage:
    """Count now."""
    own = os.times()
    return Usage(
        at_s=time.monotonic(),
        cpu_s={pid: cpu_seconds(pid) for pid in pids},
        own_s=own.user + own.system,
        machine_s=_machine_seconds(),
    )


def began(samples: Sequence[Usage], *, seconds: float) -> Usage:
    """Of samples in order, the one nearest to so many seconds before the last: where a measurement
    began that ended with the last one."""
    return min(samples, key=lambda sample: abs(samples[-1].at_s - seconds - sample.at_s))


def spent(before: Usage, after: Usage, *, load_s: float) -> Spent:
    """The difference; `load_s` is what the load generator says it used itself."""
    seconds = after.at_s - before.at_s
    servers = sum(after.cpu_s[pid] - before.cpu_s[pid] for pid in before.cpu_s)
    known = servers + load_s + (after.own_s - before.own_s)
    foreign = (after.machine_s - before.machine_s) - known
    capacity = seconds * (os.cpu_count() or 1)
    return Spent(
        seconds=seconds,
        server_cpu_s=servers,
        foreign_share=max(0.0, foreign / capacity) if capacity else 0.0,
    )


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, user and system. Raises: OSError if it is gone."""
    # The second field is the name in brackets, which may hold spaces and brackets.
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mb(pid: int) -> float:
    """Resident memory of a process, mapped files included."""
    pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    return pages * PAGE_BYTES / 1e6


def _machine_seconds() -> float:
    fields = (PROC / "stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[place]) for place in _OTHERS_FIELDS) / TICKS_PER_S
