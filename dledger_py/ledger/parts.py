"""The actors of one ledger, made and tied together: the only file that knows all of them.

    log writer ← driver → applier        consensus: the driver asks, the writer and the applier do
        entry reader                     what peers need and memory has no more
        ticker                           the core's clock
        listener, link to …              the other members (a door, where groups share a listener)
        snapshotter                      if the machine can be written down
        scrubber                         looks for rot

What they are to each other is told by each of them; here is only who gets whom.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import trio
from attrs import define, field, frozen

from dledger_py.actors import ActorDown, Child, FailStop, Supervisor
from dledger_py.ledger.applier import Applier
from dledger_py.ledger.config import LedgerConfig, split_address
from dledger_py.ledger.credentials import Credentials
from dledger_py.ledger.details import Details
from dledger_py.ledger.driver import Driver, Vital, vital
from dledger_py.ledger.entry_reader import EntryReader
from dledger_py.ledger.fetch_server import FetchServer, Holdings, Pace, Reached
from dledger_py.ledger.links import Links
from dledger_py.ledger.log_tail import LogTail
from dledger_py.ledger.log_writer import LogWriter
from dledger_py.ledger.machine import Applied, Committed, Machine, RoleView, StatePlace
from dledger_py.ledger.member_keeper import MemberKeeper
from dledger_py.ledger.members import Members
from dledger_py.ledger.peer_frames import LANE_FETCH, LANE_RAFT, Hello, encode_hello
from dledger_py.ledger.peer_link import Answering, PeerLink, PeerListener, Receiver
from dledger_py.ledger.reception import Admit, Door, Reception
from dledger_py.ledger.scrubber import Scrubber
from dledger_py.ledger.settlements import Settlements, Waiter
from dledger_py.ledger.snapshotter import Memory, Snapshotter
from dledger_py.ledger.ticker import Ticker
from dledger_py.raft import vocabulary as raft
from dledger_py.raft.config import SLACK_TICKS, RaftConfig
from dledger_py.raft.log_view import LogView
from dledger_py.raft.membership import MEMBERS_MAX, decode, encode
from dledger_py.raft.raft import Raft
from dledger_py.runtime.host import Host, Socket
from dledger_py.storage import Log, Recovered, Snapshots

TAIL_SURPLUS = 5 / 4
"""The ledger's tail against the core's, which counts bytes a little differently and trims an
eighth late: what the core holds and may send must be here too."""

LATE_TICK = 10
"""A tick is told to be late when a tenth of the election timeout was lost with it."""

LINK_RESTARTS_MAX = 10
"""A link or listener that crashes more often than this in a minute has a bug, not a bad day."""


@frozen(kw_only=True)
class Parts:
    """What a running ledger is made of. For tests and metrics, not for users."""

    core: Raft
    log: Log
    tail: LogTail
    driver: Driver
    applier: Applier
    writer: LogWriter
    ticker: Ticker
    links: Links
    members: Members
    snapshots: Snapshots | None
    snapshotter: Snapshotter | None
    listener: Socket
    supervisor: Supervisor


@define(eq=False, kw_only=True)
class Assembly:
    """What the parts of one ledger are made from."""

    config: LedgerConfig
    machine: Machine
    perform: Callable[[Committed, Applied], None] | None
    settlements: Settlements
    host: Host
    on_role: Callable[[RoleView], None]
    reception: Reception | None
    _credentials: Credentials | None = field(init=False)

    @_credentials.default
    def _own_credentials(self) -> Credentials | None:
        return Credentials.of(self.config)

    def build(self, recovered: Recovered, listener: Socket, memory: Memory | None) -> Parts:
        """Make the parts, and the supervisor they will run under. Nothing runs yet. **Raises**
        FailStop."""
        config = self.config
        start = memory.start if memory is not None else None
        hard = _hard_state(recovered, start)
        core = self._core(recovered, hard)
        tail = LogTail(int(config.tail_max_bytes * TAIL_SURPLUS), recovered.log)
        members = self._members(recovered, listener, core)
        links = self._links(members, core, lambda lost: driver.lost(lost))
        keeper = MemberKeeper(
            members,
            lambda: driver.view,
            self._changer(lambda: driver),
            partial(_has_caught_up, core),
        )
        reader = Child(
            "entry reader",
            lambda: Vital("entry reader", EntryReader(recovered.log, driver.post, self.host)),
            mailbox=MEMBERS_MAX,
        )
        driver = Driver(
            core=core,
            node=config.node,
            hard=hard,
            log=recovered.log,
            tail=tail,
            settlements=self.settlements,
            links=links,
            members=members,
            read_entries=partial(_ask, reader),
            on_role=self.on_role,
            on_members=keeper.look,
            hang_up=lambda peer: acceptor.hang_up(config.group, peer),
        )
        applier = Applier(
            self.machine,
            recovered.log,
            tail,
            perform=self.perform,
            on_applied=driver.applied,
            on_slice=driver.end_slice,
            target=hard.commit,
            start=start,
            host=self.host,
        )
        writer = self._writer(recovered, driver, applier)
        driver.connect(writer, applier)
        snapshotter, snapshotting = self._snapshotter(memory, applier, recovered.log, driver)
        ticker = self._ticker(driver)
        lanes: dict[str, Receiver | Answering] = {
            LANE_RAFT: driver,
            LANE_FETCH: self._fetch_lane(recovered, memory, applier, core),
        }
        acceptor = self._acceptor(listener, partial(_admit, members, driver, lanes))
        supervisor = Supervisor(
            f"ledger of {config.node}",
            (
                vital("log writer", writer),
                vital("driver", driver),
                vital("applier", applier),
                reader,
                vital("ticker", ticker),
                Child("listener", lambda: acceptor),
                links.supervisor,
                vital("links to start", links),
                vital("member keeper", keeper),
                *snapshotting,
                *self._scrubber(recovered.log, members, driver),
            ),
            max_restarts=LINK_RESTARTS_MAX,
        )
        return Parts(
            core=core,
            log=recovered.log,
            tail=tail,
            driver=driver,
            applier=applier,
            writer=writer,
            ticker=ticker,
            links=links,
            members=members,
            snapshots=memory.snapshots if memory is not None else None,
            snapshotter=snapshotter,
            listener=listener,
            supervisor=supervisor,
        )

    def _ticker(self, driver: Driver) -> Ticker:
        stall_s = self.config.election_timeout_ms / 1000 / LATE_TICK
        tick_s = self.config.tick_ms / 1000
        ticker = Ticker(tick_s, driver.tick, stall_s=stall_s, stalled=driver.clock_stalled)
        if self.config.lease_reads:
            driver.look_at_clock = ticker.look
        return ticker

    def _writer(self, recovered: Recovered, driver: Driver, applier: Applier) -> LogWriter:
        return LogWriter(
            recovered.log,
            recovered.hard_state_file,
            sync=self.config.flush == "sync",
            async_flush_s=self.config.async_flush_ms / 1000,
            on_durable=driver.persisted,
            commit_hint=lambda: applier.target,
            host=self.host,
            near=self.reception is None,
        )

    def _core(self, recovered: Recovered, hard: raft.HardState) -> Raft:
        of = recovered.log
        try:
            view = LogView(
                first_index=of.first_index,
                last_index=of.last_index,
                terms=of.terms,
                previous_term=of.start.term,
                configurations=[
                    (index, decode(payload)) for index, payload in recovered.configurations
                ],
            )
            return Raft(
                config=_raft_config(self.config),
                log=view,
                hard=hard,
                random=self.host.random.randrange,
            )
        except ValueError as error:
            story = f"log and hard state of {self.config.node} contradict each other: {error}"
            raise FailStop(story) from error

    def _acceptor(self, listener: Socket, admit: Admit) -> Door | PeerListener:
        if self.reception is not None:
            return Door(self.reception, self.config.group, admit)
        return PeerListener(listener, admit, self.host, self._credentials)

    def _snapshotter(
        self, memory: Memory | None, applier: Applier, of: Log, driver: Driver
    ) -> tuple[Snapshotter | None, tuple[Child[Any], ...]]:
        if memory is None:
            return None, ()
        actor = Snapshotter(
            memory,
            applier,
            of,
            every_bytes=self.config.snapshot_every_bytes,
            drop_before=driver.drop_before,
            host=self.host,
        )
        return actor, (vital("snapshotter", actor),)

    def _scrubber(self, of: Log, members: Members, driver: Driver) -> tuple[Child[Any], ...]:
        rate = self.config.scrub_max_bytes_per_s
        if not rate:
            return ()
        scrubber = Scrubber(
            of=of,
            bytes_per_s=rate,
            alone=lambda: not members.others(),
            give_way=driver.give_way,
            host=self.host,
        )
        return (vital("scrubber", scrubber),)

    def _fetch_lane(
        self, recovered: Recovered, memory: Memory | None, applier: Applier, core: Raft
    ) -> Answering:
        holdings = Holdings(
            log=recovered.log,
            snapshots=memory.snapshots if memory is not None else None,
            applied=lambda: Reached(
                index=applier.applied_index,
                term=applier.applied_term,
                position=applier.applied_position,
            ),
            configuration_before=lambda _index: _committed_configuration(core),
        )
        pace = Pace(self.config.fetch_max_bytes_per_s)
        return Answering(FetchServer(holdings, pace, self.host).serve)

    def _members(self, recovered: Recovered, listener: Socket, core: Raft) -> Members:
        return Members(
            self.config,
            self._own(recovered, listener),
            recovered.birth,
            core.configuration,
            core.log.configuration_index,
        )

    def _own(self, recovered: Recovered, listener: Socket) -> Details:
        """What this member says of itself."""
        config = self.config
        host, port = split_address(config.peers[config.node], of=config.node)
        if not port:  # the system chose one
            port = listener.getsockname()[1]
        host = f"[{host}]" if ":" in host else host
        return Details(
            address=f"{host}:{port}", birth=recovered.birth.number, contact=config.contact
        )

    def _changer(self, driver: Callable[[], Driver]) -> Callable[[raft.Change], Awaitable[None]]:
        async def change(change: raft.Change) -> None:
            waiter = Waiter()
            driver().change(change, waiter.settle)
            await waiter.wait()

        return change

    def _links(self, members: Members, core: Raft, on_lost: Callable[[str], None]) -> Links:
        incarnation = self.host.random.getrandbits(62)

        def hello_to(peer: str) -> bytes:
            return encode_hello(members.hello_to(peer, incarnation, _committed_configuration(core)))

        links = Links(
            lambda peer, addresses: self._link(peer, addresses, partial(hello_to, peer), on_lost)
        )
        links.follow(members.others())
        return links

    def _link(
        self,
        peer: str,
        addresses: tuple[tuple[str, int], ...],
        hello: Callable[[], bytes],
        on_lost: Callable[[str], None],
    ) -> PeerLink:
        config = self.config
        return PeerLink(
            peer,
            addresses,
            hello,
            buffer_max_bytes=config.send_buffer_max_bytes,
            connect_timeout_s=config.connect_timeout_ms / 1000,
            redial_max_s=config.redial_max_ms / 1000,
            on_lost=on_lost,
            host=self.host,
            credentials=self._credentials,
        )


def _admit(
    members: Members, driver: Driver, lanes: Mapping[str, Receiver | Answering], hello: Hello
) -> Receiver | Answering | str:
    reason = members.unwelcome(hello)
    if reason is None and (reason := members.unknown_folder(hello)):
        driver.found_stranger(hello)
    if reason is None and hello.lane == LANE_FETCH and hello.sender not in members.names:
        reason = f"{hello.sender!r} is not a member, and wants the log"
    return reason or lanes.get(hello.lane) or f"{hello.sender!r} wants lane {hello.lane!r}"


def _committed_configuration(core: Raft) -> tuple[int, bytes]:
    """Who the members are, as far as that is settled."""
    index, configuration = core.log.committed_configuration(core.commit)
    return index, encode(configuration)


def _founders(config: LedgerConfig) -> tuple[raft.NodeId, ...]:
    names = config.others if config.join else config.peers
    return tuple(raft.NodeId(name) for name in sorted(names))


def _raft_config(config: LedgerConfig) -> RaftConfig:
    election_timeout_ticks = -(-config.election_timeout_ms // config.tick_ms)
    return RaftConfig(
        node=raft.NodeId(config.node),
        members=_founders(config),
        joining=config.join,
        election_timeout_ticks=election_timeout_ticks,
        heartbeat_ticks=config.heartbeat_ms // config.tick_ms,
        lease_ticks=election_timeout_ticks // 2 - SLACK_TICKS if config.lease_reads else 0,
        append_bytes_max=config.append_max_bytes,
        window_bytes=config.window_max_bytes,
        uncommitted_bytes_max=config.uncommitted_max_bytes,
        tail_bytes_max=config.tail_max_bytes,
    )


def _hard_state(recovered: Recovered, start: StatePlace | None) -> raft.HardState:
    stored = recovered.hard_state
    vote = None if stored.vote is None else raft.NodeId(stored.vote)
    # What a snapshot was taken of was committed, whatever the hint says.
    commit = max(stored.commit, start.index if start is not None else 0)
    return raft.HardState(term=stored.term, vote=vote, commit=commit)


def _ask(reader: Child[raft.ReadEntries], request: raft.ReadEntries) -> bool:
    try:
        reader.ref.tell_nowait(request)
    except (trio.WouldBlock, ActorDown):
        return False  # it is behind (a peer came and went), or the ledger is stopping
    return True


def _has_caught_up(core: Raft, peer: str) -> bool:
    """Whether entries reach this peer as they come; as far as the core asks that, too."""
    found = core.statistics()
    return any(
        each.peer == peer
        and (
            each.state == "streaming"
            or (each.state == "catching-up" and each.match == found.last_index)
        )
        for each in found.peers
    )
