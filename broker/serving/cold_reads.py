"""Reads that have to wait for the disk, in worker threads, so that the loop never does.

A read raises FailStop where it finds damage, and that ends the process: whoever cannot read what it
acknowledged must not go on serving.
"""

from collections.abc import Callable
from typing import Any, Never

import trio
from attrs import define, field

from broker.errors import TooBusy
from dledger_py.actors import Inbox
from dledger_py.remoting.rooms import Refused
from dledger_py.runtime.host import Host

THREADS = 4  # as many reads as a disk gains from doing at once
WAITING_MAX = 10_000  # beyond that consumers are told to come back

Found = Callable[[Any], None]
Failed = Callable[[Exception], None]
Job = tuple[Callable[[], Any], Found, Failed]


@define(eq=False)
class ColdReads:
    """Runs blocking reads and hands their results back on the loop."""

    flush: Callable[[], None]
    """Send what was answered: a read ends outside of the server's turns."""
    host: Host
    _jobs: tuple[trio.MemorySendChannel[Job], trio.MemoryReceiveChannel[Job]] = field(
        factory=lambda: trio.open_memory_channel[Job](WAITING_MAX)
    )

    def submit(self, read: Callable[[], Any], found: Found, failed: Failed) -> None:
        """Run `read` in a thread, then `found` with its result on the loop.

        `failed` is called instead, at once, if too many reads wait already; on the loop, if the
        read is refused.
        """
        try:
            self._jobs[0].send_nowait((read, found, failed))
        except trio.WouldBlock:
            failed(TooBusy())

    async def run(self, inbox: Inbox[Never]) -> None:
        """Serve until a stop is asked for. Raises: FailStop, where a read found damage."""
        async with trio.open_nursery() as nursery:
            for _ in range(THREADS):
                nursery.start_soon(self._work)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _work(self) -> None:
        async for read, found, failed in self._jobs[1]:
            try:
                # A disk that hangs must not keep the process from ending.
                result = await self.host.run_in_thread(read, abandon_on_cancel=True)
            except Refused as error:
                failed(error)
            else:
                found(result)
            self.flush()
