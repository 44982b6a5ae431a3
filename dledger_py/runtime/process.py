"""The life of a server process: signals, readiness, limits, exit codes.

Laws:

- SIGTERM and SIGINT cancel the main function once; how to stop in order is its business. A second
  signal ends the process where it is.
- Exit codes tell the truth: 0 after a stop that was asked for, the error's own `exit_code` for
  errors that have one (a fail-stop, bad settings), said in one line; anything else is our bug and
  shows its traceback with code 1.
- "Ready" is said once, by a line on the descriptor that whoever started us passed in
  `DLEDGER_READY_FD`. Nobody needs to poll a port.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVarTuple, Unpack

import msgspec
import structlog
import trio

Ts = TypeVarTuple("Ts")
log = structlog.get_logger()

GC_THRESHOLDS: Final = (10_000, 10, 10)
"""Containers made and not freed before the youngest are looked at (Python: 700), and how often that
happens before older ones are."""

MALLOPT: Final = {-1: 256 << 10, -3: 128 << 10, -8: 1}
"""glibc's `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD`, in bytes, and `M_ARENA_MAX` (malloc.h)."""

READY_FD = "DLEDGER_READY_FD"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_BY_SIGNAL = 128
"""What shells add to the number of the signal that ended a process."""


def run(main: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts) -> int:
    """Run an async main function under Trio and return the exit code: `sys.exit(run(main,
    config))`.

    Raises what is neither a stop nor an error with an `exit_code`.
    """
    try:
        trio.run(_until_signalled, main, args)
    except BaseException as error:
        named = _with_exit_code(error)
        if named is None:
            raise
        print(f"stopped: {_one_line(named)}", file=sys.stderr, flush=True)
        return int(named.exit_code)  # type: ignore[attr-defined]
    return 0


def announce_ready(**facts: object) -> None:
    """Tell whoever started us, if they asked, that we serve: one JSON line with `pid` and `facts`.

    The variable is taken out of the environment, so that no child of ours writes to a descriptor
    that means something else there.
    """
    text = os.environ.pop(READY_FD, None)
    if text is None:
        return
    line = msgspec.json.encode({"event": "ready", "pid": os.getpid(), **facts}) + b"\n"
    try:
        fd = int(text)
        os.write(fd, line)  # shorter than a pipe's atomic write
        os.close(fd)
    except (ValueError, OSError) as error:  # who asked has gone away; serving matters more
        log.warning("process.ready_unheard", fd=text, error=str(error))


def raise_file_limit() -> int:
    """Allow this process as many open files as it may have at all; returns that number.

    The soft limit is often 1024 for the sake of select(2), which nobody here uses; every client is
    a descriptor.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def return_freed_memory() -> None:
    """Have the C library give large blocks back to the kernel when they are freed.

    By itself glibc notices that blocks of a megabyte come and go, as our buffers do, and keeps what
    was freed from then on, in pieces between what lives on: 25 MB of a broker that was busy once.
    For the whole process, and for good, so it is for programs only. Other C libraries are left as
    they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in MALLOPT.items():
            mallopt(name, value)


def freeze_heap() -> None:
    """Exempt what the start has built from garbage collection: it lives as long as the process.

    Without collecting first: that would stop the loop for a tenth of a second, for the little
    garbage a start leaves. From here on it collects less often than Python does by itself, since
    what a turn makes is mostly gone by reference counts when the turn ends: a tenth of a busy
    broker's processor time, for some 6 MB.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _until_signalled(
    main: Callable[[Unpack[Ts]], Awaitable[object]], args: tuple[*Ts]
) -> None:
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(_watch, signals, scope)
            with scope:
                await main(*args)
            nursery.cancel_scope.cancel()


async def _watch(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if scope.cancel_called:
            log.warning("process.killed", signal=name)
            os._exit(EXIT_BY_SIGNAL + number)
        log.info("process.stop_requested", signal=name)
        scope.cancel()


def _with_exit_code(error: BaseException) -> BaseException | None:
    """The first error in `error`, or in the groups it may be, that knows how the process ends."""
    if isinstance(error, BaseExceptionGroup):
        found = (_with_exit_code(part) for part in error.exceptions)
        return next((part for part in found if part is not None), None)
    return error if hasattr(error, "exit_code") else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
