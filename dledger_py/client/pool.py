"""Open connections, one per address, shared by everything a client does.

A connection is opened by whoever needs it first; others who ask meanwhile wait for the same
dial.  A connection that ended is forgotten at once, so the next call opens a new one; when that is
worth trying is the caller's decision (`retry`).  Nothing here waits between attempts.
"""

from collections.abc import Callable, Sequence

import anyio

from dledger_py.client import retry
from dledger_py.client._tasks import Starter
from dledger_py.client.connection import Connection, OnRequest, open_connection, parse_address
from dledger_py.client.errors import ClientClosed, ClientError, Unreachable
from dledger_py.client.surroundings import HERE, Surroundings

FLUSH_S = 1.0
"""How long a client that closes waits for its last bytes to leave."""


class _Dial:
    """One attempt to open a connection, and all who wait for it."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.connection: Connection | None = None
        self.failure: tuple[str, str] | None = None


class Pool:
    """The connections of one client.  Their tasks live in the client's task group."""

    def __init__(
        self,
        tasks: Starter,
        on_request: OnRequest | None = None,
        surroundings: Surroundings = HERE,
    ) -> None:
        self._tasks = tasks
        self._on_request = on_request
        self._dial = surroundings.dial
        self._open: dict[str, Connection] = {}
        self._dials: dict[str, _Dial] = {}
        self._closing = False
        self._on_opened: list[Callable[[str], None]] = []

    def opened(self, address: str) -> Connection | None:
        """The connection to *address*, if it is open now."""
        connection = self._open.get(address)
        return None if connection is None or connection.closed else connection

    def addresses(self) -> tuple[str, ...]:
        """Every address with an open connection."""
        return tuple(address for address in self._open if self.opened(address))

    def on_opened(self, callback: Callable[[str], None]) -> None:
        """Call *callback* with the address of each connection that is opened from now on."""
        self._on_opened.append(callback)

    async def get(self, address: str) -> Connection:
        """The connection to *address*, opened if need be.

        **Raises** Unreachable, ClientClosed, ValueError if it is no address.  A caller that is
        cancelled leaves the dial to the others.
        """
        connection = self.opened(address)
        if connection is not None:
            return connection
        if self._closing:
            raise ClientClosed
        dial = self._dials.get(address)
        if dial is None:
            host, port = parse_address(address)
            dial = self._dials[address] = _Dial()
            self._tasks.start_soon(self._keep, host, port, address, dial, name=f"to {address}")
        await dial.done.wait()
        if dial.connection is None:
            raise self._failure(address, dial)
        return dial.connection

    def _failure(self, address: str, dial: _Dial) -> ClientError:
        if dial.failure is None:
            return ClientClosed()
        reason, hint = dial.failure
        return Unreachable(address, reason, hint=hint)

    async def _keep(self, host: str, port: int, address: str, dial: _Dial) -> None:
        try:
            opening = open_connection(host, port, on_request=self._on_request, dial=self._dial)
            async with opening as connection:
                self._dials.pop(address, None)
                self._open[address] = dial.connection = connection
                dial.done.set()
                for callback in self._on_opened:
                    callback(address)
                await connection.wait_closed()
        except Unreachable as error:
            dial.failure = (error.reason, error.hint)
        finally:
            if self._open.get(address) is dial.connection:
                self._open.pop(address, None)
            if self._dials.get(address) is dial:
                del self._dials[address]
            dial.done.set()

    async def close(self) -> None:
        """Let what was told leave, and end every connection; calls that wait are refused."""
        self._closing = True
        with anyio.move_on_after(FLUSH_S, shield=True):
            for connection in list(self._open.values()):
                await connection.flush()
        for connection in list(self._open.values()):
            connection.end(ClientClosed)


async def reach_one(pool: Pool, addresses: Sequence[str], timeout_s: float) -> Connection:
    """A connection to any name server, tried in turn until *timeout_s* has passed."""
    failure: ClientError = Unreachable(", ".join(addresses), f"no answer within {timeout_s:g} s")
    with anyio.move_on_after(timeout_s):
        while True:
            for address in addresses:
                try:
                    return await pool.get(address)
                except Unreachable as error:
                    failure = error
            await anyio.sleep(retry.LONGEST_PAUSE_S)
    raise failure
