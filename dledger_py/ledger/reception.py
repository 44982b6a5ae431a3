"""One peer listener for a process that has members of several groups.

    reception = Reception(listener, host)
    Ledger(config_a, machine_a, reception=reception)
    Ledger(config_b, machine_b, reception=reception)
    # then run all three, the reception first

The hello names its group, and that group decides whether to admit it. Each ledger has a `Door`
among its actors, which opens and closes with it.

Laws:
- Nobody is let in before every group's door was open once. What dials earlier waits in the
  kernel's queue: a group whose folder takes a while to open would otherwise refuse its peers, who
  would dial again and again.
- Behind a closed door nobody reads: a ledger that stops gets no frame and no news after its door
  has ended, as with a listener of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

import trio
from attrs import define, field

from dledger_py.actors import Inbox
from dledger_py.ledger.conversation import Conversation
from dledger_py.ledger.credentials import Credentials
from dledger_py.ledger.peer_frames import Hello
from dledger_py.ledger.peer_link import Answering, PeerListener, Receiver
from dledger_py.runtime.host import Host, Socket

Admit = Callable[[Hello], Receiver | Answering | str]
"""Who takes the frames behind a hello, or the reason to refuse it."""


class Reception:
    """Actor: accepts connections for all groups and takes each to the group its hello names."""

    def __init__(
        self, listener: Socket, host: Host, credentials: Credentials | None = None
    ) -> None:
        """`listener` stays its opener's to close, after everything else has ended."""
        self.listener = listener
        self._awaited: set[str] = set()
        self._all_seen = trio.Event()
        self._open: dict[str, Admit] = {}
        self._closed: set[str] = set()
        self._acceptor = PeerListener(listener, self._admit, host, credentials)

    def expect(self, group: str) -> None:
        """Wait for this group's door before anybody is let in. **Raises** ValueError if the name
        is taken."""
        if group in self._awaited:
            raise ValueError(f"two groups named {group!r} in one process")
        self._awaited.add(group)

    def open(self, group: str, admit: Admit) -> None:
        self._open[group] = admit
        self._closed.discard(group)
        self._awaited.discard(group)
        if not self._awaited:
            self._all_seen.set()

    def close(self, group: str) -> None:
        """Turn this group's peers away, and read no more of those that were admitted."""
        self._open.pop(group, None)
        self._closed.add(group)
        self._acceptor.dismiss(group)

    def hang_up(self, group: str, peer: str) -> None:
        """Close the connection of this member of this group, if there is one."""
        self._acceptor.hang_up(group, peer)

    async def run(self, inbox: Inbox[Never]) -> None:
        inbox.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_closed, inbox, nursery.cancel_scope)
            await self._all_seen.wait()
            nursery.cancel_scope.cancel()
        await self._acceptor.run(inbox)

    def _admit(self, hello: Hello) -> Receiver | Answering | str:
        admit = self._open.get(hello.group)
        if admit is None and hello.group in self._closed:
            return Answering(_turn_away)
        if admit is None:
            here = ", ".join(sorted(self._open)) or "none"
            return f"{hello.sender!r} looks for group {hello.group!r}; open here: {here}"
        return admit(hello)


@define(eq=False)
class Door:
    """Actor: a ledger's part of the reception."""

    reception: Reception
    group: str
    admit: Admit = field(repr=False)

    def hang_up(self, group: str, peer: str) -> None:
        self.reception.hang_up(group, peer)

    async def run(self, inbox: Inbox[Never]) -> None:
        self.reception.open(self.group, self.admit)
        try:
            inbox.ready()
            await inbox.wait_closed()
        finally:
            self.reception.close(self.group)


async def _turn_away(hello: Hello, conversation: Conversation) -> None:
    """Close the connection without a word: the member is stopping, or opens its folder again, and
    its peers dial again by themselves."""


async def _cancel_when_closed(inbox: Inbox[Never], scope: trio.CancelScope) -> None:
    await inbox.wait_closed()
    scope.cancel()
