"""The ways to the other members, as they come and go.

A way exists to every member of the configuration in force whose address is known, and to each
*guest*: one that has dialled us without being a member, and said where it listens. A leader that
this member's log does not know yet is a guest, and so is a member that was removed. A guest's way
goes with its connection.

Laws: what is to exist changes at once, and a frame for nobody is dropped; starting and stopping
follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Never

import structlog
import trio
from attrs import define, field

from dledger_py.actors import Child, DynamicSupervisor, Inbox, StartChild, StopChild
from dledger_py.ledger.config import split_address
from dledger_py.ledger.peer_link import PeerLink

log = structlog.get_logger()

GUESTS_MAX: Final = 16
"""Groups change one member at a time; more strangers than this are not answered."""

RESTARTS_MAX: Final = 10
"""Links that crash more often than this in a minute have a bug, not a bad day."""


@define(eq=False)
class Links:
    """Actor: starts and stops links as the set of them changes. The set itself may be used before
    it runs."""

    make: Callable[[str, tuple[tuple[str, int], ...]], PeerLink]
    supervisor: Child[Any] = field(
        init=False,
        factory=lambda: Child(
            "links", lambda: DynamicSupervisor("links", max_restarts=RESTARTS_MAX)
        ),
    )
    """Where the links run; to be started before this actor."""
    _links: dict[str, PeerLink] = field(factory=dict, init=False)
    _addresses: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _guests: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _members: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)

    def get(self, peer: str) -> PeerLink | None:
        return self._links.get(peer)

    def all(self) -> Iterable[PeerLink]:
        return self._links.values()

    def follow(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """The other members, and where each may listen. Who was one until now is a guest: its last
        questions are still answered."""
        for name in [each for each in self._members if each not in addresses]:
            self._guests[name] = self._members[name]
        self._members = dict(addresses)
        for name in addresses:
            self._guests.pop(name, None)
        self._choose()

    def welcome(self, guest: str, address: str) -> None:
        """Somebody has dialled us, and listens there."""
        if guest in self._members:
            return
        if len(self._guests) >= GUESTS_MAX:
            log.warning("peer.not_answered", peer=guest, reason="too many that are no members")
            return
        self._guests[guest] = (address,)
        self._choose()

    def part(self, guest: str) -> None:
        """The connection with somebody broke; a guest is forgotten with it."""
        if self._guests.pop(guest, None) is not None:
            self._choose()

    def _choose(self) -> None:
        wanted = self._guests | self._members
        for peer in [each for each in self._links if self._addresses[each] != wanted.get(each)]:
            del self._links[peer], self._addresses[peer]
        for peer, addresses in wanted.items():
            if peer in self._links:
                continue
            try:
                places = tuple(split_address(address, of=peer) for address in addresses)
            except ValueError as error:
                log.warning("peer.not_answered", peer=peer, reason=str(error))
                continue
            self._links[peer] = self.make(peer, places)
            self._addresses[peer] = addresses
        self._news.set()

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _keep(self) -> None:
        running: dict[str, PeerLink] = {}
        while True:
            self._news = trio.Event()
            wanted = dict(self._links)
            for peer in [each for each, link in running.items() if wanted.get(each) is not link]:
                del running[peer]
                await self.supervisor.ref.ask(StopChild(_name(peer)))
            for peer, link in wanted.items():
                if peer not in running:
                    running[peer] = link
                    await self.supervisor.ref.ask(StartChild(_child(peer, link)))
            await self._news.wait()


def _supervisor() -> DynamicSupervisor:
    return DynamicSupervisor("links", max_restarts=RESTARTS_MAX)


def _name(peer: str) -> str:
    return f"link to {peer}"


def _child(peer: str, link: PeerLink) -> Child[Any]:
    return Child(_name(peer), lambda: link)
