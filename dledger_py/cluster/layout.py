"""Where everything of a local cluster lies, and the configuration files its servers are given.

    DIRECTORY/cluster.json      who runs: ids, addresses (see `state`)
    DIRECTORY/namesrv.toml      DIRECTORY/namesrv/    configuration entries
    DIRECTORY/n0.toml           DIRECTORY/n0/         the log and what derives from it
    DIRECTORY/logs/n0.log       what the process printed

The files are written anew at each start and are ordinary ones: `dledger broker --config n0.toml`
starts the same member by hand.
"""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import frozen

from dledger_py.cluster.errors import ClusterError
from dledger_py.cluster.ports import VIP_BELOW, PortReservations

NAMESRV_PORT = 9876
BROKER_BASE_PORT = 10911
PORT_STEP = 10
"""Between members: room for the VIP port below and the peer port above (10909, 10911, 10912; 10919
…).
"""

NODES_MAX = 9
"""Raft groups are small; nine already tolerates four failures."""

NAMESRV = "namesrv"


@frozen(kw_only=True)
class MemberPlace:
    """One broker: its name in the group and its ports."""

    node: str
    host: str
    port: int
    peer_port: int

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def peer_address(self) -> str:
        return f"{self.host}:{self.peer_port}"


Dialled = Callable[[str, str, str], str]
"""`(dialler, owner, address)` to the address at which one member reaches what another has there."""


def directly(dialler: str, owner: str, address: str) -> str:
    """Members reach each other where they listen, with nothing in between."""
    return address


@frozen(kw_only=True)
class Layout:
    """One cluster, decided: names, places, files."""

    directory: Path
    host: str
    namesrv_port: int
    members: tuple[MemberPlace, ...]
    cluster_name: str
    broker_name: str
    flush: str
    dialled: Dialled = directly

    @property
    def namesrv_address(self) -> str:
        return f"{self.host}:{self.namesrv_port}"

    def member(self, node: str) -> MemberPlace:
        for member in self.members:
            if member.node == node:
                return member
        known = ", ".join(member.node for member in self.members)
        raise ClusterError(f"no member {node!r}: there are {known}")

    def config_path(self, name: str) -> Path:
        return self.directory / f"{name}.toml"

    def data_path(self, name: str) -> Path:
        return self.directory / name

    def log_path(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def write_files(self) -> None:
        """Create the directories and write every configuration file."""
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        self.config_path(NAMESRV).write_text(self.namesrv_toml())
        for member in self.members:
            self.config_path(member.node).write_text(self.broker_toml(member))

    def namesrv_toml(self) -> str:
        return _toml(
            {"listen": self.namesrv_address, "data_dir": str(self.data_path(NAMESRV))},
        )

    def broker_toml(self, member: MemberPlace) -> str:
        return _toml(
            {
                "cluster_name": self.cluster_name,
                "cluster_id": f"{self.cluster_name}/{self.broker_name}",
                "broker_name": self.broker_name,
                "node": member.node,
                "listen": member.address,
                "data_dir": str(self.data_path(member.node)),
                "namesrv": [self.namesrv_address],
                "flush": self.flush,
                "members": self._seen_by(member, lambda each: each.address),
                "ledger": {"peers": self._seen_by(member, lambda each: each.peer_address)},
            }
        )

    def _seen_by(
        self, member: MemberPlace, address_of: Callable[[MemberPlace], str]
    ) -> dict[str, str]:
        """Its own address as it is, for there it listens; those of the others as it dials them."""
        return {
            each.node: address_of(each)
            if each is member
            else self.dialled(member.node, each.node, address_of(each))
            for each in self.members
        }


def node_names(count: int) -> tuple[str, ...]:
    if not 1 <= count <= NODES_MAX:
        raise ClusterError(f"{count} nodes: 1 to {NODES_MAX} are possible, 3 are usual")
    return tuple(f"n{number}" for number in range(count))


def reserve_fixed(
    reservations: PortReservations, nodes: tuple[str, ...], *, namesrv_port: int, base_port: int
) -> tuple[int, tuple[MemberPlace, ...]]:
    """The well-known ports. Raises: PortTaken."""
    reservations.take(namesrv_port, what="the name server")
    members = []
    for number, node in enumerate(nodes):
        port = base_port + number * PORT_STEP
        place = MemberPlace(node=node, host=reservations.host, port=port, peer_port=port + 1)
        reservations.take(place.port, what=f"broker {node}")
        reservations.take(place.port - VIP_BELOW, what=f"the VIP channel of broker {node}")
        reservations.take(place.peer_port, what=f"the peers of broker {node}")
        members.append(place)
    return namesrv_port, tuple(members)


def reserve_free(
    reservations: PortReservations, nodes: tuple[str, ...], known: Mapping[str, tuple[int, int]]
) -> tuple[int, tuple[MemberPlace, ...]]:
    """Ports the kernel chooses; where a server had ports before and they are free, those again.

    `known` gives (port, peer port) by name: addresses stand in message ids, so keeping them is
    kind.
    """
    namesrv_port, _ = known.get(NAMESRV, (0, 0))
    if not (namesrv_port and reservations.take_if_free([namesrv_port])):
        namesrv_port = reservations.take_any()
    members = []
    for node in nodes:
        port, peer_port = known.get(node, (0, 0))
        before = (port, port - VIP_BELOW, peer_port)
        if not (port and reservations.take_if_free(before)):
            port, peer_port = reservations.take_any_with_vip(), reservations.take_any()
        members.append(
            MemberPlace(node=node, host=reservations.host, port=port, peer_port=peer_port)
        )
    return namesrv_port, tuple(members)


def reachable_host(host: str) -> str:
    """The address of a host name; brokers must tell clients something they can dial."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise ClusterError(f"host {host!r} has no IPv4 address: {error.strerror}") from error


def _toml(document: Mapping[str, object]) -> str:
    """Strings, lists of strings and tables; JSON's spelling of them is TOML's."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            tables += ["", f"[{key}]"]
            tables += [f"{name} = {_toml_value(each)}" for name, each in value.items()]
        else:
            lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join([*lines, *tables, ""])


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {_toml_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}"
    return json.dumps(value, ensure_ascii=False)
