"""The state file: what another shell needs to look at a cluster, take part of it down, or all of
it.

Written by the one process that runs the cluster, replaced as a whole at each change; whoever
reads it trusts no process id without its start time (`processes`).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, asdict, frozen

from dledger_py.cluster.errors import ClusterError, NotRunning
from dledger_py.cluster.processes import ProcessId

STATE_FILE = "cluster.json"
_VERSION = 1


@frozen(kw_only=True)
class ServerState:
    """One server as it was when the file was written."""

    name: str
    address: str
    """For clients; a broker's in its first group."""
    peer_address: str | None
    log_path: str
    process: ProcessId | None
    """None: it was not running."""
    groups: Mapping[str, str] = Factory(dict)
    """A broker's address in each of its groups."""


@frozen(kw_only=True)
class ClusterState:
    """The whole cluster; `keeper` is the process that runs it."""

    keeper: ProcessId
    cluster_name: str
    broker_name: str
    """The first group."""
    servers: tuple[ServerState, ...]

    @property
    def broker_names(self) -> tuple[str, ...]:
        """The groups; each broker is a process with a member of each."""
        return tuple(self.brokers[0].groups) if self.brokers else ()

    @property
    def namesrv(self) -> ServerState:
        return self.servers[0]

    @property
    def brokers(self) -> tuple[ServerState, ...]:
        return self.servers[1:]

    def broker(self, node: str) -> ServerState:
        for server in self.brokers:
            if server.name == node:
                return server
        known = ", ".join(server.name for server in self.brokers)
        raise ClusterError(f"no member {node!r}: there are {known}")


def write_state(directory: Path, state: ClusterState) -> None:
    """Replace the state file; a reader sees the old one or the new one.

    No fsync: after a power failure none of the processes it names is alive.
    """
    document = {"version": _VERSION, **asdict(state)}
    new = directory / f"{STATE_FILE}.new"
    new.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(new, directory / STATE_FILE)


def read_state(directory: Path) -> ClusterState:
    """Raises: NotRunning without such a file, ClusterError for one that is not ours."""
    path = directory / STATE_FILE
    try:
        document = json.loads(path.read_text())
        if document.get("version") != _VERSION:
            raise ValueError(f"version {document.get('version')!r}, not {_VERSION}")
        return ClusterState(
            keeper=_process(document["keeper"]),
            cluster_name=document["cluster_name"],
            broker_name=document["broker_name"],
            servers=tuple(
                _server(each, None if number == 0 else document["broker_name"])
                for number, each in enumerate(document["servers"])
            ),
        )
    except FileNotFoundError as error:
        raise NotRunning(
            f"no cluster was started in {directory}",
            hint=f"start one: dledger cluster up --data {directory}",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{path} cannot be read: {error}") from error


@frozen(kw_only=True)
class KnownPorts:
    """What a server listened on before."""

    ports: tuple[int, ...]
    """For clients; a broker has one for each group."""
    peer_port: int
    """0 if it has none."""


def known_ports(directory: Path) -> dict[str, KnownPorts]:
    """The ports by name, from an earlier start; empty if there was none."""
    try:
        servers = read_state(directory).servers
    except ClusterError:
        return {}
    return {
        server.name: KnownPorts(
            ports=tuple(map(_port, server.groups.values())) or (_port(server.address),),
            peer_port=_port(server.peer_address),
        )
        for server in servers
    }


def _server(document: Mapping[str, Any], only_group: str | None) -> ServerState:
    """`only_group` is what a broker is in if the file does not tell: there was one group."""
    groups = {} if only_group is None else {only_group: document["address"]}
    process = document["process"]
    return ServerState(
        name=document["name"],
        address=document["address"],
        peer_address=document["peer_address"],
        log_path=document["log_path"],
        process=None if process is None else _process(process),
        groups=document.get("groups", groups),
    )


def _process(document: Mapping[str, Any]) -> ProcessId:
    return ProcessId(
        pid=int(document["pid"]),
        start_ticks=int(document["start_ticks"]),
        boot=str(document["boot"]),
    )


def _port(address: str | None) -> int:
    return 0 if address is None else int(address.rpartition(":")[2])
