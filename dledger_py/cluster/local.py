"""A cluster on this machine: a name server and brokers in one Raft group or in several, as child
processes.

    async with LocalCluster(directory, nodes=3).running() as cluster:
        leader = await cluster.wait_leader()
        await cluster.kill_leader()
        await cluster.wait_leader(other_than=leader)
        await cluster.start(leader)

With `groups=3` each node has a member of each group, and the groups are led by one node after the
other, while all are well. A node is one process: it starts, dies and is paused as a whole.

Laws:
- Leaving the block, for whatever reason, leaves no process behind; nor does being killed.
- One cluster per directory at a time, held by a lock the kernel drops with the process.
- Ports stay reserved while a server is down, so that it comes back where others look for it.
- Every wait has a deadline, and its error shows the end of the log that explains it.

The data outlives the block: the next cluster in the directory finds it.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

import trio
from attrs import define, field, frozen

from dledger_py.cluster.errors import AlreadyRunning, ClusterError, NoLeader, NotRunning
from dledger_py.cluster.layout import (
    BROKER_BASE_PORT,
    NAMESRV,
    NAMESRV_PORT,
    Dialled,
    Layout,
    MemberPlace,
    directly,
    group_names,
    node_names,
    reachable_host,
    reserve_fixed,
    reserve_free,
    reserve_free_member,
)
from dledger_py.cluster.leaders import addresses_by_group
from dledger_py.cluster.ports import PortReservations
from dledger_py.cluster.processes import ProcessId
from dledger_py.cluster.servers import ServerProcess
from dledger_py.cluster.state import (
    ClusterState,
    ServerState,
    known_ports,
    read_state,
    write_state,
)

LEADER_POLL_S = 0.05
"""How often the name server is asked while nobody leads: an election takes some hundred
milliseconds.
"""

LOCK_FILE = "cluster.lock"


@frozen(kw_only=True)
class FixedPorts:
    """The well-known ports, or others in the same pattern; taken ones are an error that says by
    whom.
    """

    namesrv: int = NAMESRV_PORT
    brokers: int = BROKER_BASE_PORT


@frozen(kw_only=True)
class FreePorts:
    """Ports the kernel chooses: any number of clusters side by side."""


@frozen(kw_only=True)
class Member:
    """One broker as it is now."""

    node: str
    address: str
    """For clients; in the first group."""
    pid: int | None
    state: Literal["running", "paused", "down"]


def _absolute(path: str | Path) -> Path:
    return Path(path).absolute()


@define(eq=False)
class LocalCluster:
    """What to run, and while it is running, the handle on it."""

    directory: Path = field(converter=_absolute)
    nodes: int = field(default=3, kw_only=True)
    ports: FixedPorts | FreePorts = field(factory=FreePorts, kw_only=True)
    host: str = field(default="127.0.0.1", kw_only=True)
    cluster_name: str = field(default="DefaultCluster", kw_only=True)
    broker_name: str = field(default="broker-a", kw_only=True)
    """The group, or the first of several: the others are called broker-b, broker-c, …"""
    groups: int = field(default=1, kw_only=True)
    flush: Literal["sync", "async"] = field(default="sync", kw_only=True)
    settings: Mapping[str, str] = field(factory=dict, kw_only=True)
    """Further settings of every broker, as `--set` takes them."""
    ready_timeout_s: float = field(default=300.0, kw_only=True)
    """A broker reads and checks its whole log before it serves; one that cannot, ends at once."""
    grace_s: float = field(default=10.0, kw_only=True)
    """How long a server may take to end in good order before it is killed."""
    modules: Mapping[str, str] = field(
        factory=lambda: {"namesrv": "namesrv", "broker": "broker"}, kw_only=True
    )
    """What is run as `python -m`; tests run stand-ins."""
    dialled: Dialled = field(default=directly, kw_only=True)
    """Where members find each other: somebody who wants to be in between gives other addresses."""
    on_exit: Callable[[str, int | None], None] = field(
        default=lambda name, code: None, kw_only=True
    )
    """Called when a server ended that nobody told to."""
    _layout: Layout | None = field(default=None, init=False)
    _reservations: PortReservations | None = field(default=None, init=False)
    _servers: dict[str, ServerProcess] = field(factory=dict, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["LocalCluster"]:
        """Start everything, wait until all serve, and stop it all at the end.

        Raises:
            PortTaken, AlreadyRunning, ServerFailed: nothing is left running then.
        """
        with self._lock(), self._reserved_ports() as layout:
            self._check_same_members(layout)
            self._layout = layout
            layout.write_files()
            self._servers = self._make_servers(layout)
            async with self._watching():
                await self._start_all()
                yield self

    # -- what is there -----------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        assert self._layout is not None, "running() decides names and ports"
        return self._layout

    @property
    def namesrv_address(self) -> str:
        """What clients are given."""
        return self.layout.namesrv_address

    @property
    def members(self) -> Mapping[str, Member]:
        """The brokers by node."""
        return {place.node: self._member(place) for place in self.layout.members}

    async def leaders(self) -> Mapping[str, str | None]:
        """For each group the node that the name server shows as its leader now, if it runs."""
        shown = await addresses_by_group(self.namesrv_address)
        members = self.members
        leaders: dict[str, str | None] = dict.fromkeys(self.layout.broker_names)
        for group in leaders:
            address = shown.get(group, {}).get(0)
            for node, its_address in self.layout.group_addresses(group).items():
                if its_address == address and members[node].state == "running":
                    leaders[group] = node
        return leaders

    async def leader(self, *, group: str | None = None) -> str | None:
        """The leader of one group; of the first one, if none is named."""
        return (await self.leaders())[self._group(group)]

    async def wait_leaders(
        self, *, timeout_s: float = 30.0, other_than: str | None = None
    ) -> Mapping[str, str]:
        """All groups' leaders, as soon as each has one; `other_than` waits until this node leads
        none.

        Raises:
            NoLeader: not in time.
        """
        return await self._wait_leaders(self.layout.broker_names, timeout_s, other_than)

    async def wait_leader(
        self, *, timeout_s: float = 30.0, other_than: str | None = None, group: str | None = None
    ) -> str:
        """The leader of one group, as soon as there is one; `other_than` waits for a change.

        Raises:
            NoLeader: not in time.
        """
        group = self._group(group)
        return (await self._wait_leaders((group,), timeout_s, other_than))[group]

    async def wait_preferred(self, *, timeout_s: float = 30.0) -> bool:
        """Wait until each group is led by the node that it prefers; False if not in time. At once
        with a single group, which prefers nobody."""
        names = self.layout.broker_names
        preferred = {group: self.layout.preferred(group) for group in names}
        with trio.move_on_after(timeout_s):
            while True:
                if len(names) == 1 or await self.leaders() == preferred:
                    return True
                await trio.sleep(LEADER_POLL_S)
        return False

    async def _wait_leaders(
        self, groups: Collection[str], timeout_s: float, other_than: str | None
    ) -> Mapping[str, str]:
        with trio.move_on_after(timeout_s):
            while True:
                found = {
                    group: node
                    for group, node in (await self.leaders()).items()
                    if group in groups and node not in (None, other_than)
                }
                if len(found) == len(groups):
                    return {group: node for group, node in found.items() if node is not None}
                await trio.sleep(LEADER_POLL_S)
        raise self._no_leader(timeout_s, other_than)

    # -- what can be done to it --------------------------------------------------------------------

    async def add_broker(self, node: str) -> MemberPlace:
        """Start a further broker, on ports the kernel chooses. It waits to be let into the group,
        which is somebody else's to ask for.

        The next cluster in this directory has to be told of as many nodes. Raises: ServerFailed,
        and ClusterError if there is such a node already.
        """
        assert self._reservations is not None, "only while running"
        if node in self._servers:
            raise ClusterError(f"there is a {node} already")
        place = reserve_free_member(self._reservations, node, None, groups=self.groups)
        layout = self._layout = self.layout.with_joined(place)
        layout.config_path(node).write_text(layout.broker_toml(place))
        self._servers[node] = self._make_servers(layout)[node]
        await self.start(node)
        return place

    async def start(self, name: str) -> None:
        """Start a server that is down (a node, or "namesrv") and wait until it serves."""
        assert self._nursery is not None, "only while running"
        server = self._server(name)
        try:
            await server.start(self._nursery, timeout_s=self.ready_timeout_s)
        finally:
            self._write_state()

    async def stop(self, name: str) -> None:
        """End a server in good order."""
        await self._server(name).stop(grace_s=self.grace_s)
        self._write_state()

    async def kill(self, name: str) -> None:
        """SIGKILL a server."""
        await self._server(name).kill()
        self._write_state()

    async def kill_leader(self, *, group: str | None = None) -> str:
        """SIGKILL the node that leads a group, the first one if none is named; waits for a leader
        first. Returns the node."""
        leader = await self.wait_leader(group=group)
        await self.kill(leader)
        return leader

    def pause(self, name: str) -> None:
        """SIGSTOP a server: it answers nobody, but its connections stay open."""
        self._server(name).pause()

    def resume(self, name: str) -> None:
        self._server(name).resume()

    # -- start and stop ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """The tasks that watch servers. What the block raises leaves as it is, not as a group."""
        manager = trio.open_nursery()
        self._nursery = await manager.__aenter__()
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):  # bounded: grace_s, then SIGKILL
                await self._stop_all()
            self._nursery = None
            await manager.__aexit__(None, None, None)

    async def _start_all(self) -> None:
        """All at once: brokers try again until the name server is there."""
        failures: list[ClusterError] = []

        async def start(name: str) -> None:
            try:
                await self.start(name)
            except ClusterError as error:
                failures.append(error)

        async with trio.open_nursery() as starting:
            for name in self._servers:
                starting.start_soon(start, name)
        if failures:
            raise failures[0]  # usually all fail for one reason

    async def _stop_all(self) -> None:
        """Followers and leader together, then the name server, so that brokers can sign off."""
        async with trio.open_nursery() as stopping:
            for place in self.layout.members:
                stopping.start_soon(self.stop, place.node)
        await self.stop(NAMESRV)

    def _make_servers(self, layout: Layout) -> dict[str, ServerProcess]:
        options = [
            word for key, value in self.settings.items() for word in ("--set", f"{key}={value}")
        ]
        plans: dict[str, tuple[str, list[str]]] = {NAMESRV: (self.modules["namesrv"], [])}
        plans.update({place.node: (self.modules["broker"], options) for place in layout.members})
        return {
            name: ServerProcess(
                name=name,
                module=module,
                arguments=["--config", str(layout.config_path(name)), *more],
                log_path=layout.log_path(name),
                on_exit=self._exited,
            )
            for name, (module, more) in plans.items()
        }

    def _exited(self, server: ServerProcess, expected: bool) -> None:
        self._write_state()
        if not expected:
            self.on_exit(server.name, server.exit_code)

    @contextmanager
    def _reserved_ports(self) -> Iterator[Layout]:
        nodes = node_names(self.nodes)
        broker_names = group_names(self.broker_name, self.groups)
        reservations = self._reservations = PortReservations(reachable_host(self.host))
        try:
            match self.ports:
                case FixedPorts(namesrv=namesrv, brokers=brokers):
                    namesrv_port, members = reserve_fixed(
                        reservations,
                        nodes,
                        groups=self.groups,
                        namesrv_port=namesrv,
                        base_port=brokers,
                    )
                case FreePorts():
                    known = known_ports(self.directory)
                    namesrv_port, members = reserve_free(
                        reservations, nodes, known, groups=self.groups
                    )
            yield Layout(
                directory=self.directory,
                host=reservations.host,
                namesrv_port=namesrv_port,
                members=members,
                cluster_name=self.cluster_name,
                broker_names=broker_names,
                flush=self.flush,
                dialled=self.dialled,
            )
        finally:
            reservations.close()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the directory, which is made if need be and not left behind with nothing in it."""
        made = not self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / LOCK_FILE
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._already_running() from error
            if not _is_at(path, fd):  # whoever held it gave up, and took it away
                raise self._already_running()
            try:
                yield
            finally:
                if [LOCK_FILE] == os.listdir(self.directory):
                    path.unlink()
                    if made:
                        self.directory.rmdir()
        finally:
            os.close(fd)

    def _check_same_members(self, layout: Layout) -> None:
        """A group of another size would count other majorities over the same logs, and lose."""
        try:
            before = read_state(self.directory)
        except NotRunning:
            return
        known = [server.name for server in before.brokers]
        if known != [member.node for member in layout.members]:
            raise ClusterError(
                f"the data in {self.directory} belongs to {len(known)} brokers "
                f"({', '.join(known)}), not {len(layout.members)}",
                hint="start as many, or choose another directory.",
            )
        if before.broker_names != layout.broker_names:
            raise ClusterError(
                f"the data in {self.directory} belongs to {_groups(before.broker_names)}, not to "
                f"{_groups(layout.broker_names)}",
                hint="start the same ones, or choose another directory.",
            )

    def _already_running(self) -> AlreadyRunning:
        try:
            who = f"process {read_state(self.directory).keeper.pid}"
        except ClusterError:
            who = "another process"
        return AlreadyRunning(
            f"{who} runs a cluster in {self.directory}",
            hint=f"look at it: dledger cluster status --data {self.directory}",
        )

    # -- small parts -------------------------------------------------------------------------------

    def _group(self, name: str | None) -> str:
        known = self.layout.broker_names
        if name is not None and name not in known:
            raise ClusterError(f"no group {name!r}: there are {', '.join(known)}")
        return known[0] if name is None else name

    def _server(self, name: str) -> ServerProcess:
        if name != NAMESRV:
            self.layout.member(name)  # says which there are
        return self._servers[name]

    def _member(self, place: MemberPlace) -> Member:
        server = self._servers[place.node]
        if not server.running:
            return Member(node=place.node, address=place.address, pid=None, state="down")
        state: Literal["running", "paused"] = "paused" if server.paused else "running"
        return Member(node=place.node, address=place.address, pid=server.pid, state=state)

    def _write_state(self) -> None:
        keeper = ProcessId.of(os.getpid())
        assert keeper is not None, "this process is alive"
        layout = self.layout
        namesrv = self._state_of(NAMESRV, layout.namesrv_address, None, {})
        brokers = [
            self._state_of(
                m.node,
                m.address,
                m.peer_address,
                dict(zip(layout.broker_names, m.addresses, strict=True)),
            )
            for m in layout.members
        ]
        write_state(
            self.directory,
            ClusterState(
                keeper=keeper,
                cluster_name=self.cluster_name,
                broker_name=layout.broker_names[0],
                servers=(namesrv, *brokers),
            ),
        )

    def _state_of(
        self, name: str, address: str, peer_address: str | None, groups: Mapping[str, str]
    ) -> ServerState:
        return ServerState(
            name=name,
            address=address,
            peer_address=peer_address,
            log_path=str(self.layout.log_path(name)),
            process=self._servers[name].process,
            groups=groups,
        )

    def _no_leader(self, timeout_s: float, other_than: str | None) -> NoLeader:
        what = "no leader" if other_than is None else f"no leader other than {other_than}"
        states = ", ".join(f"{m.node} {m.state}" for m in self.members.values())
        tails = "\n".join(
            f"the end of {self._servers[m.node].log_path}:\n{self._servers[m.node].tail()}"
            for m in self.members.values()
        )
        return NoLeader(f"{what} within {timeout_s:g} s ({states})", hint=tails)


def _groups(names: tuple[str, ...]) -> str:
    return f"group {names[0]}" if len(names) == 1 else f"groups {', '.join(names)}"


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
