"""Where everything of a local cluster lies, and the configuration files its servers are given.

    DIRECTORY/cluster.json      who runs: ids, addresses (see `state`)
    DIRECTORY/namesrv.toml      DIRECTORY/namesrv/    configuration entries
    DIRECTORY/n0.toml           DIRECTORY/n0/         the log and what derives from it;
                                                      with several groups, a folder of each
    DIRECTORY/logs/n0.log       what the process printed

The files are written anew at each start and are ordinary ones: `dledger broker --config n0.toml`
starts the same member by hand.
"""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from string import ascii_lowercase

from attrs import evolve, frozen

from dledger_py.cluster.errors import ClusterError
from dledger_py.cluster.ports import VIP_BELOW, PortReservations
from dledger_py.cluster.state import KnownPorts

NAMESRV_PORT = 9876
BROKER_BASE_PORT = 10911
PORT_STEP = 10
"""Between members: room for the VIP port below and the peer port above (10909, 10911, 10912; 10919
…).
"""

GROUP_STEP = 100
"""Between groups, on each node: 10911, 11011, 11111 on the first one."""

NODES_MAX = 9
"""Raft groups are small; nine already tolerates four failures."""

GROUPS_MAX = 9
"""As many as nodes: more leaders than nodes spread nothing further."""

NAMESRV = "namesrv"


@frozen(kw_only=True)
class MemberPlace:
    """One broker: its name in its groups and its ports."""

    node: str
    host: str
    ports: tuple[int, ...]
    """For clients, one for each group."""
    peer_port: int

    @property
    def port(self) -> int:
        """Of the first group."""
        return self.ports[0]

    @property
    def address(self) -> str:
        """Of the first group."""
        return self.addresses[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """For clients, one for each group."""
        return tuple(f"{self.host}:{port}" for port in self.ports)

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
    broker_names: tuple[str, ...]
    """The groups; each node has a member of each."""
    flush: str
    dialled: Dialled = directly
    joined: tuple[str, ...] = ()
    """Members that came after the groups were founded."""

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

    def preferred(self, broker_name: str) -> str | None:
        """The node that should lead a group: one after the other, so that all lead as many.
        A single group is led by whoever is elected."""
        if len(self.broker_names) == 1:
            return None
        return self.members[self.broker_names.index(broker_name) % len(self.members)].node

    def group_addresses(self, broker_name: str) -> dict[str, str]:
        """Where clients reach the members of a group."""
        number = self.broker_names.index(broker_name)
        return {each.node: each.addresses[number] for each in self.members}

    def with_joined(self, member: MemberPlace) -> "Layout":
        """The same and one more, who founds nothing and waits to be added."""
        return evolve(self, members=(*self.members, member), joined=(*self.joined, member.node))

    def broker_toml(self, member: MemberPlace) -> str:
        ledger: dict[str, object] = {"peers": self._seen_by(member, lambda each: each.peer_address)}
        if member.node in self.joined:
            ledger["join"] = True
        common = {
            "cluster_name": self.cluster_name,
            "node": member.node,
            "data_dir": str(self.data_path(member.node)),
            "namesrv": [self.namesrv_address],
            "flush": self.flush,
            "ledger": ledger,
        }
        groups = [self._group_of(member, number) for number in range(len(self.broker_names))]
        if len(groups) == 1:
            cluster_id = f"{self.cluster_name}/{self.broker_names[0]}"
            return _toml({**common, "cluster_id": cluster_id, **groups[0]})
        return _toml({**common, "cluster_id": self.cluster_name, "groups": groups})

    def _group_of(self, member: MemberPlace, number: int) -> dict[str, object]:
        broker_name = self.broker_names[number]
        group: dict[str, object] = {
            "broker_name": broker_name,
            "listen": member.addresses[number],
            "members": self._seen_by(member, lambda each: each.addresses[number]),
        }
        if (preferred := self.preferred(broker_name)) is not None:
            group["preferred_leader"] = preferred
        return group

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


def group_names(first: str, count: int) -> tuple[str, ...]:
    """broker-a, broker-b, …; a single group keeps its name, whatever it is."""
    if not 1 <= count <= GROUPS_MAX:
        raise ClusterError(f"{count} groups: 1 to {GROUPS_MAX} are possible")
    if count == 1:
        return (first,)
    stem = first.removesuffix("-a")
    return tuple(f"{stem}-{letter}" for letter in ascii_lowercase[:count])


def reserve_fixed(
    reservations: PortReservations,
    nodes: tuple[str, ...],
    *,
    groups: int = 1,
    namesrv_port: int,
    base_port: int,
) -> tuple[int, tuple[MemberPlace, ...]]:
    """The well-known ports. Raises: PortTaken."""
    reservations.take(namesrv_port, what="the name server")
    members = []
    for number, node in enumerate(nodes):
        first = base_port + number * PORT_STEP
        ports = tuple(first + group * GROUP_STEP for group in range(groups))
        for port in ports:
            reservations.take(port, what=f"broker {node}")
            reservations.take(port - VIP_BELOW, what=f"the VIP channel of broker {node}")
        peer_port = reservations.take(first + 1, what=f"the peers of broker {node}")
        members.append(
            MemberPlace(node=node, host=reservations.host, ports=ports, peer_port=peer_port)
        )
    return namesrv_port, tuple(members)


def reserve_free(
    reservations: PortReservations,
    nodes: tuple[str, ...],
    known: Mapping[str, KnownPorts],
    *,
    groups: int = 1,
) -> tuple[int, tuple[MemberPlace, ...]]:
    """Ports the kernel chooses; where a server had ports before and they are free, those again.

    `known` gives those by name: addresses stand in message ids, so keeping them is kind.
    """
    before = known.get(NAMESRV)
    if before is not None and reservations.take_if_free(before.ports):
        (namesrv_port,) = before.ports
    else:
        namesrv_port = reservations.take_any()
    members = [
        reserve_free_member(reservations, node, known.get(node), groups=groups) for node in nodes
    ]
    return namesrv_port, tuple(members)


def reserve_free_member(
    reservations: PortReservations, node: str, before: KnownPorts | None, *, groups: int = 1
) -> MemberPlace:
    """The ports of one member, those it had before if they are free."""
    if (
        before is not None
        and len(before.ports) == groups
        and reservations.take_if_free(
            [*before.ports, *(port - VIP_BELOW for port in before.ports), before.peer_port]
        )
    ):
        ports, peer_port = before.ports, before.peer_port
    else:
        ports = tuple(reservations.take_any_with_vip() for _ in range(groups))
        peer_port = reservations.take_any()
    return MemberPlace(node=node, host=reservations.host, ports=ports, peer_port=peer_port)


def reachable_host(host: str) -> str:
    """The address of a host name; brokers must tell clients something they can dial."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise ClusterError(f"host {host!r} has no IPv4 address: {error.strerror}") from error


def _toml(document: Mapping[str, object]) -> str:
    """Strings, lists of strings, tables and lists of them; JSON's spelling of them is TOML's."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            tables += ["", f"[{key}]"]
            tables += [f"{name} = {_toml_value(each)}" for name, each in value.items()]
        elif isinstance(value, list) and isinstance(value[0], Mapping):
            for table in value:
                tables += ["", f"[[{key}]]"]
                tables += [f"{name} = {_toml_value(each)}" for name, each in table.items()]
        else:
            lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join([*lines, *tables, ""])


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {_toml_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}"
    return json.dumps(value, ensure_ascii=False)
