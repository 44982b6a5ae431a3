"""What a client takes from outside: connections, the wall clock, and chance for names.

The defaults are this process's own. Simulations put others in their place; jitter and pauses are
not here, since the event loop's clock and the `random` module can be set as they are.
"""

import os
import secrets
import time
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import ByteStream
from attrs import frozen

Dial = Callable[[str, int], Awaitable[ByteStream]]
"""Opens a connection to host and port.  The stream has `SocketAttribute.local_address`; whatever
keeps it from being opened is an OSError."""


async def dial(host: str, port: int) -> ByteStream:
    """A TCP connection.  **Raises** OSError."""
    return await anyio.connect_tcp(host, port)


@frozen(kw_only=True)
class Surroundings:
    """See the module."""

    dial: Dial = dial

    now_s: Callable[[], float] = time.time
    """Seconds since 1970: stamped into messages, compared with nothing."""

    pid: Callable[[], int] = os.getpid
    """A part of the client's name and of its messages' unique ids."""

    randbits: Callable[[int], int] = secrets.randbits
    """So many bits that nobody else draws."""


HERE = Surroundings()
