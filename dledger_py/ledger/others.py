"""The members that a member may fetch from before it takes part, and how it introduces itself.

While a ledger runs, `members` knows the group from the log. Before, there is only what could be
read of the log, and the settings, which may be older.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from attrs import field, frozen

from dledger_py.ledger import details
from dledger_py.ledger.config import LedgerConfig, split_address
from dledger_py.ledger.credentials import Credentials
from dledger_py.ledger.fetch_client import Fetch, open_fetch
from dledger_py.ledger.peer_frames import LANE_FETCH, Hello
from dledger_py.raft import membership
from dledger_py.runtime.host import Host


@frozen(kw_only=True)
class Others:
    """Whom to ask, and where they listen."""

    config: LedgerConfig
    birth: int
    addresses: dict[str, tuple[str, ...]]
    """Of each, best first: the settings' before the log's, as in `members`."""
    credentials: Credentials | None = field(init=False)

    @credentials.default
    def _own(self) -> Credentials | None:
        return Credentials.of(self.config)

    @classmethod
    def of(cls, config: LedgerConfig, birth: int, configuration: bytes | None) -> Others:
        """The members that `configuration`, as it stands in the log, knows; where it is silent, or
        there is none, those of the settings. `birth` is that of this member's folder."""
        names: tuple[str, ...] = tuple(config.peers)
        written: dict[str, str] = {}
        if configuration is not None:
            members = membership.decode(configuration)
            names = members.members
            written = {node: details.decode(raw).address for node, raw in members.details}
        found = {
            name: tuple(
                dict.fromkeys(each for each in (config.peers.get(name), written.get(name)) if each)
            )
            for name in names
            if name != config.node
        }
        addresses = {name: of_name for name, of_name in found.items() if of_name}
        return cls(config=config, birth=birth, addresses=addresses)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.addresses)

    def fetch_from(self, peer: str, host: Host) -> AbstractAsyncContextManager[Fetch]:
        """A connection to this member's fetch lane. **Raises** FetchFailed."""
        config = self.config
        hello = Hello(
            cluster=config.cluster,
            group=config.group,
            lane=LANE_FETCH,
            sender=config.node,
            receiver=peer,
            incarnation=host.random.getrandbits(62),
            birth=self.birth,
        )
        addresses = [split_address(each, of=peer) for each in self.addresses[peer]]
        return open_fetch(hello, addresses, host, self.credentials)
