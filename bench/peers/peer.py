"""What a system to be measured looks like from outside: three servers that can be started, asked
who leads, and of which the leader can be killed.
"""

import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import trio
from attrs import field, frozen

NODES = 3
"""Servers of each system: the smallest group that survives the loss of one."""

READY_TIMEOUT_S = 90.0
"""How long a cluster may take until it serves: three JVMs or Erlang nodes need some 40 s."""

READY_POLL_S = 0.05


class PeerMissing(Exception):
    """A system cannot be run here. Refused: nothing was started. The text says what to install."""


class PeerFailed(Exception):
    """A system did not come up or fell over; what ran of it is stopped."""


@frozen(kw_only=True)
class Running:
    """A cluster that serves. Its servers end with the block that gave it."""

    version: str
    names: Mapping[str, str]
    """The servers' own names by the address clients use."""
    pids: Mapping[str, int]
    """The server processes by the same addresses."""
    find_entry: Callable[[], Awaitable[str]]
    """The address where a client creates topics that it then sends to, so that no hop between
    servers is measured."""
    find_leader: Callable[[str], Awaitable[str]]
    """The address of the server that leads a topic (which exists)."""
    kill: Callable[[str], Awaitable[None]]
    """SIGKILL the server with this address."""
    settings: Mapping[str, str] = field(factory=dict)
    """What the report should know of how it was run."""


class Peer(Protocol):
    """A system with one set of settings."""

    @property
    def name(self) -> str:
        """As in `--peers` and in the report."""

    @property
    def promise(self) -> str:
        """What is true of a message when its sender has the answer."""

    @property
    def dialect(self) -> str:
        """The load generator's word for the protocol."""

    @property
    def batches(self) -> bool:
        """Whether several messages can be sent in one request; else it is one large message."""

    @property
    def like(self) -> str:
        """The name of ours whose promise comes nearest: the one to be compared with."""

    @property
    def topics_max(self) -> int:
        """How many topics the workload with many of them uses at most. Where each is a Raft group,
        a thousand take minutes to make and to remove, with little measured in between."""

    async def prepare(self) -> None:
        """Bring what is needed onto this machine, once.

        Raises:
            PeerMissing: a tool is not installed.
        """

    def running(self, scratch: Path) -> AbstractAsyncContextManager[Running]:
        """A fresh cluster with its data in `scratch`.

        Raises:
            PeerFailed: with the end of a log that explains it.
        """


def tool(name: str, *, install: str) -> str:
    """The path of a program.

    Raises:
        PeerMissing: it is not on the PATH; `install` says how to get it.
    """
    found = shutil.which(name)
    if found is None:
        raise PeerMissing(f"{name} is not installed: {install}")
    return found


async def wait_until(
    fn: Callable[[], Awaitable[bool]],
    *,
    what: str,
    explain: Callable[[], str],
    timeout_s: float = READY_TIMEOUT_S,
) -> None:
    """Ask again until the answer is yes.

    Raises:
        PeerFailed: not in time; `explain` gives the rest of the message.
    """
    with trio.move_on_after(timeout_s):
        while True:
            if await fn():
                return
            await trio.sleep(READY_POLL_S)
    raise PeerFailed(f"{what}: not within {timeout_s:g} s\n{explain()}")
