"""The replicated log as the rest of the program uses it.

    ledger = Ledger(config, machine, perform=dispatch)
    ledger.propose(payload, settle)         # never blocks; `settle` is called once, later
    reply = await ledger.commit(payload)    # the same, awaited
    await ledger.read_barrier()             # now the machine shows all that was ever acknowledged

A `Ledger` is an actor: run it under a supervisor (never to be restarted: its machine cannot be),
or with `open_ledger`. It opens the data folder, applies what is committed behind the newest
snapshot and keeps a subtree of actors of its own: the log writer, the driver, the applier, the
entry reader, the ticker, the listener, one link for each peer and the snapshotter. Whatever
endangers a promise ends in FailStop; what fails on the way to a peer is tried again.

Elsewhere: who may be told what when (settlements), what consensus is (raft), what a command means
(the machine's author).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Never

import structlog
import trio
from attrs import frozen

from dledger_py.actors import FailStop, Inbox, RestartsExhausted, Supervisor, TreeNode
from dledger_py.ledger.config import LedgerConfig, split_address
from dledger_py.ledger.details import Details, encode
from dledger_py.ledger.driver import vital
from dledger_py.ledger.errors import ChangeRefused, LedgerError, NotLeader, TooLarge
from dledger_py.ledger.log_writer import WriterStatistics
from dledger_py.ledger.machine import Applied, Committed, Machine, RoleView
from dledger_py.ledger.members import Members
from dledger_py.ledger.opening import Opening
from dledger_py.ledger.parts import Assembly, Parts
from dledger_py.ledger.peer_frames import Hello
from dledger_py.ledger.peer_link import LinkStatistics, open_listener
from dledger_py.ledger.reception import Reception
from dledger_py.ledger.reopening import FellBehind, Reopen
from dledger_py.ledger.settlements import Settlements, Waiter
from dledger_py.ledger.snapshotter import remember
from dledger_py.raft import vocabulary as raft
from dledger_py.raft.statistics import RaftStatistics
from dledger_py.runtime.host import Host, RealHost, Socket
from dledger_py.storage import (
    FileSystem,
    Log,
    LogStatistics,
    RealFiles,
    Recovered,
    forget_summaries,
    want_installation,
)

log = structlog.get_logger()

CHANGE_WAIT_S = 5.0
"""How long a change of members waits for another one to end: a few elections' time."""

CHANGE_PAUSE_S = 0.05
"""Between two attempts."""

SILENT_HEARTBEATS = 3
"""So many in a row have to pass without a word of a member that is to be silent: where this process
or its machine was held up, all have been silent for as long."""


@frozen(kw_only=True)
class LedgerStatistics:
    """A snapshot for metrics and operators."""

    view: RoleView
    applied_index: int
    applied_position: int
    committed_index: int
    snapshot_index: int
    """Of the newest snapshot; 0 if there is none."""
    proposals_waiting: int
    proposals_waiting_bytes: int
    tail_entries: int
    tail_bytes: int
    loop_stalls: int
    raft: RaftStatistics
    log: LogStatistics
    writer: WriterStatistics
    links: tuple[LinkStatistics, ...]


class Ledger:
    """One member of one replicated log, and the machine it drives."""

    def __init__(
        self,
        config: LedgerConfig,
        machine: Machine,
        *,
        perform: Callable[[Committed, Applied], None] | None = None,
        files: FileSystem | None = None,
        listener: Socket | None = None,
        host: Host | None = None,
        reception: Reception | None = None,
    ) -> None:
        """`perform` gets each command that had effects, on every member, in log order, before its
        proposer is answered. `listener` is a listening socket to use instead of opening one; the
        ledger closes it. With a `reception`, which members of other groups share, it has none.
        `files` and `host` are other ones in tests and simulations. **Raises** ValueError if the
        reception knows the group already.
        """
        self.config = config
        self._machine = machine
        self._perform = perform
        self._files = files or RealFiles()
        self._listener = listener
        self._host = host or RealHost()
        self._reception = reception
        if reception is not None:
            reception.expect(config.group)
        self._role_callbacks: list[Callable[[RoleView], None]] = []
        self._settlements = Settlements(config.uncommitted_max_bytes)
        self._parts: Parts | None = None
        self._ran = False
        self._opened = trio.Event()

    # ---- writing and reading

    def propose(self, payload: bytes, settle: Callable[[Any], None]) -> None:
        """Put `payload` into the log of the group. Event loop only; never blocks.

        `settle` is called once, after this call has returned, with the machine's reply, or with
        `NotLeader`, `Busy` or `TooLarge` (definite: it did not happen), or with `Indefinite`.
        **Durability**: with a reply, the entry is committed; under flush "sync" it is on the disks
        of a majority.
        """
        size, largest = len(payload), self.config.payload_max_bytes
        if size > largest:
            self._settlements.refuse(settle, TooLarge(size, largest))
        elif self._parts is None:
            self._settlements.refuse(settle, NotLeader(None))
        else:
            self._parts.driver.propose(payload, settle)

    async def commit(self, payload: bytes) -> Any:
        """Propose, and wait for the reply. **Raises** LedgerError as `propose` settles with.

        Cancelling it only stops the waiting: what was proposed may still happen.
        """
        waiter = Waiter()
        self.propose(payload, waiter.settle)
        return await waiter.wait()

    def read_barrier_nowait(self, settle: Callable[[LedgerError | None], None]) -> None:
        """Call `settle` once the machine here shows every write acknowledged before now.

        `settle` gets None, or `NotLeader`: only a leader can tell. Not before this call has
        returned.
        """
        if self._parts is None:
            self._settlements.refuse(settle, NotLeader(None))
            return
        self._parts.driver.read_barrier(settle)

    async def read_barrier(self) -> None:
        """Wait until the machine here shows every write acknowledged before now. **Raises**
        NotLeader."""
        waiter = Waiter()
        self.read_barrier_nowait(waiter.settle)
        await waiter.wait()

    async def transfer_leadership(self, to: str) -> None:
        """Hand leadership to another member, and wait until it leads.

        Proposals are refused meanwhile, for at most an election timeout. **Raises** NotLeader if
        another member leads, TransferFailed if `to` did not take over; then this member may still
        lead.
        """
        waiter = Waiter()
        if self._parts is None:
            raise NotLeader(None)
        self._parts.driver.transfer(to, waiter.settle)
        await waiter.wait()

    def best_successor(self) -> str | None:
        """The member that could lead soonest: it was heard of lately, and its log is closest to
        this leader's. None if this member does not lead, or leads nobody it hears."""
        statistics = self.statistics()
        if statistics is None:
            return None
        heard = self._heard_lately()
        alive = [
            p for p in statistics.raft.peers if p.peer in heard and p.peer in self.members.voters
        ]
        return max(alive, key=lambda peer: peer.match).peer if alive else None

    async def add_member(self, name: str, address: str, *, stays_learner: bool = False) -> None:
        """Let a new member, with an empty folder, into the group, and wait until that is committed.

        It gets the log as a learner, and becomes a voter by itself once it has caught up, unless
        it is to stay a learner. `address` is where it listens for its peers. **Raises** NotLeader,
        ChangeRefused, Indefinite (look at `members`), ValueError for what is no address.
        """
        split_address(address, of=name)
        details = Details(address=address, stays_learner=stays_learner)
        me = raft.NodeId(self.config.node)
        if self.members.is_alone_and_unknown:
            # Once anybody is written down, a folder that is not has no vote: it comes first.
            await self._change(raft.Describe(details=((me, encode(self.members.own)),)))
        await self._change(raft.AddLearner(node=raft.NodeId(name), details=encode(details)))

    async def remove_member(self, name: str, *, only_silent: bool = False) -> None:
        """Take a member out of the group, and wait until that is committed.

        A leader that removes itself has given leadership away by then. `only_silent`: not if it
        follows, or leads. **Raises** as `add_member`, and ChangeRefused if too few of the others
        are there to go on without it, or it is not silent and should be.
        """
        config = self.config
        patience_ms = config.election_timeout_ms + 2 * config.tick_ms  # whoever ended is silent now
        silent_s = SILENT_HEARTBEATS * config.heartbeat_ms / 1000 if only_silent else 0.0
        now = trio.current_time()
        patience_ends, refused_at = now + patience_ms / 1000, now
        while True:
            reason = self._needs(name) or (self._hears(name) if only_silent else None)
            now = trio.current_time()
            if reason is not None:
                refused_at = now
                if now >= patience_ends:
                    raise ChangeRefused(reason)
            elif now - refused_at >= silent_s:
                break
            await trio.sleep(CHANGE_PAUSE_S)  # a new leader has not heard everybody yet
        await self._change(raft.Remove(node=raft.NodeId(name)))

    async def _change(self, change: raft.Change) -> None:
        """One change at a time: wait for the one that is under way, but not for ever."""
        patience_ends = trio.current_time() + CHANGE_WAIT_S
        while True:
            waiter = Waiter()
            if self._parts is None:
                raise NotLeader(None)
            self._parts.driver.change(change, waiter.settle)
            try:
                await waiter.wait()
                return
            except ChangeRefused as error:
                if not error.passing or trio.current_time() >= patience_ends:
                    raise
            await trio.sleep(CHANGE_PAUSE_S)

    def _needs(self, name: str) -> str | None:
        """Why the group could not go on without this member; None if it can."""
        statistics = self.statistics()
        if statistics is None or not statistics.raft.peers:
            return None
        rest = [each for each in self.members.voters if each != name]
        alive = [each for each in rest if each == self.config.node or each in self._heard_lately()]
        if 2 * len(alive) > len(rest) or name not in self.members.voters:
            return None
        gone = ", ".join(each for each in rest if each not in alive)
        return f"without {name} there would be no majority: {gone} cannot be reached"

    def _hears(self, name: str) -> str | None:
        """That this member has not lost its folder; None if it may have."""
        leads = name == self.config.node
        if not leads and name not in self._heard_lately():
            return None
        does = "leads" if leads else "follows"
        return f"{name} {does}, so its data folder is there (replaceMember --force replaces it)"

    def _heard_lately(self) -> tuple[str, ...]:
        """Those who have told this leader that they follow it. At its election it takes everybody
        for heard, so as to lead for an election timeout at least; that is not enough here."""
        statistics = self.statistics()
        if statistics is None:
            return ()
        timeout_ticks = self.config.election_timeout_ms // self.config.tick_ms
        peers = statistics.raft.peers
        return tuple(
            each.peer for each in peers if each.match and each.ticks_since_contact < timeout_ticks
        )

    def trim(self, index: int) -> None:
        """The machine needs no entry up to `index` any more: let go of them. Event loop only.

        To be called when an entry is applied, on every member, so that all let go of the same; each
        in whole files, and once a snapshot of what is being applied now is on its disk.
        """
        snapshotter = self.parts.snapshotter
        assert snapshotter is not None, "a machine that cannot be written down needs all entries"
        snapshotter.trim(index)

    def furthest_behind(self) -> tuple[str, int]:
        """Of this leader's followers the one that has the least of the log, and its last entry;
        this member itself if it follows or is alone."""
        core = self.parts.core.statistics()
        matches = [(peer.match, peer.peer) for peer in core.peers]
        index, name = min(matches, default=(core.last_index, core.node))
        return name, index

    # ---- what others watch

    @property
    def view(self) -> RoleView:
        """This member's role, now."""
        if self._parts is None:
            return RoleView(role="follower", term=0, leader=None, ready=False)
        return self._parts.driver.view

    @property
    def members(self) -> Members:
        """Who belongs to the group, as far as this member knows. Once the ledger is open."""
        return self.parts.members

    @property
    def current(self) -> bool:
        """Whether the machine here is worth asking.

        False from the start until this member has applied what its leader said was committed when
        it first spoke, or leads and is ready: until then its state may be older than anything a
        caller has seen. Stays true afterwards, though a follower may lag by a moment.
        """
        return self._parts is not None and self._parts.driver.current

    @property
    def alone(self) -> bool:
        """Whether no other member was heard for an election timeout: it is cut off, or the others
        are down, and no leader is to be expected."""
        return self._parts is not None and self._parts.driver.alone

    def set_electable(self, electable: bool) -> None:
        """Whether this member may lead: one that may not gives way and does not stand for election.

        For what only its user can see, such as a disk that is nearly full. It goes on voting and
        replicating.
        """
        if self._parts is not None:
            self._parts.driver.set_electable(electable)

    async def wait_current(self) -> None:
        """Wait until `current` is true; for ever, if this member's group has no majority."""
        await self._opened.wait()
        await self.parts.driver.joined.wait()

    def on_role_change(self, callback: Callable[[RoleView], None]) -> None:
        """Have `callback` called with every new view. It must not block, and may propose."""
        self._role_callbacks.append(callback)

    def after_turn(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once after each burst of answers or effects."""
        self._settlements.after_turn(callback)

    async def wait_replayed(self) -> None:
        """Wait until everything known as committed when the folder was opened is applied."""
        await self._opened.wait()
        await self.parts.applier.replayed.wait()

    @property
    def log(self) -> Log:
        """The log, for reading bodies by position: `ledger.log.read_bytes(…)`. Once it is open."""
        return self.parts.log

    @property
    def first_position(self) -> int:
        """The log position of the first byte kept."""
        return self._parts.log.first_position if self._parts is not None else 0

    @property
    def committed_position(self) -> int:
        """The log position behind the last entry applied here."""
        return self._parts.applier.applied_position if self._parts is not None else 0

    @property
    def applied_index(self) -> int:
        return self._parts.applier.applied_index if self._parts is not None else 0

    @property
    def peer_address(self) -> tuple[str, int]:
        """Where this member listens for its peers. Once it is open."""
        host, port = self.parts.listener.getsockname()[:2]
        return host, port

    @property
    def parts(self) -> Parts:
        """What a running ledger is made of. For tests and metrics, not for users."""
        assert self._parts is not None, "the ledger is not open yet"
        return self._parts

    def statistics(self) -> LedgerStatistics | None:
        """A snapshot, or nothing while the folder is being opened."""
        parts = self._parts
        if parts is None:
            return None
        return LedgerStatistics(
            view=parts.driver.view,
            applied_index=parts.applier.applied_index,
            applied_position=parts.applier.applied_position,
            committed_index=parts.applier.target,
            snapshot_index=parts.snapshots.newest_index if parts.snapshots is not None else 0,
            proposals_waiting=self._settlements.waiting,
            proposals_waiting_bytes=self._settlements.waiting_bytes,
            tail_entries=len(parts.tail),
            tail_bytes=parts.tail.size_bytes,
            loop_stalls=parts.ticker.stalls,
            raft=parts.core.statistics(),
            log=parts.log.statistics(),
            writer=parts.writer.statistics(),
            links=tuple(link.statistics() for link in parts.links.all()),
        )

    def tree(self) -> TreeNode:
        """The ledger's actors as they are now."""
        return self.parts.supervisor.tree()

    # ---- living

    async def run(self, inbox: Inbox[Never]) -> None:
        """Open the folder, then take part until a stop is asked for. **Raises** FailStop."""
        config = self.config
        assert not self._ran, "a machine that has applied a log cannot apply it again"
        self._ran = True
        recovered = await self._open(inbox)
        if recovered is None:
            return
        listener = self._listener
        try:
            if self._reception is None:
                listener = listener or self._listen()
            else:
                listener = self._reception.listener
            memory = await remember(config, self._files, self._machine, recovered.log, self._host)
            self._parts = parts = self._assembly().build(recovered, listener, memory)
            self._opened.set()
            await parts.supervisor.run(inbox)
        except RestartsExhausted as error:
            raise FailStop(f"{self.config.node} cannot reach its peers: {error}") from error
        except FellBehind:
            # Raft has ended, and the folder is still ours.
            await self._host.run_in_thread(want_installation, self._files, config.data_dir)
            raise
        except Reopen:
            await self._host.run_in_thread(forget_summaries, self._files, config.data_dir)
            raise
        finally:
            self._settlements.abandon()
            if listener is not None and self._reception is None:
                listener.close()
            if self._parts is None or self._parts.writer.ended:
                # Otherwise the disk hangs, and closing would hang on it too.
                with trio.CancelScope(shield=True):
                    await self._host.run_in_thread(recovered.close)

    async def _open(self, inbox: Inbox[Never]) -> Recovered | None:
        """The folder, once it is whole; None if a stop was asked for before that."""
        recovered: Recovered | None = None
        opening = Opening(
            config=self.config, files=self._files, host=self._host, on_delay=self._refuse_peers
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_closed, inbox, nursery.cancel_scope)
            recovered = await opening.open()
            nursery.cancel_scope.cancel()
        return recovered

    def _refuse_peers(self) -> None:
        """Let those of the other groups in meanwhile; ours come again."""
        if self._reception is not None:
            self._reception.open(self.config.group, _not_yet)

    def _listen(self) -> Socket:
        config = self.config
        address = config.listen or config.peers[config.node]
        try:
            return open_listener(*split_address(address, of=config.node), self._host)
        except OSError as error:
            raise FailStop(
                f"{config.node} cannot listen for its peers at {address}: {error}"
            ) from error

    def _assembly(self) -> Assembly:
        return Assembly(
            config=self.config,
            machine=self._machine,
            perform=self._perform,
            settlements=self._settlements,
            host=self._host,
            on_role=self._tell_role,
            reception=self._reception,
        )

    def _tell_role(self, view: RoleView) -> None:
        for callback in self._role_callbacks:
            callback(view)


async def _cancel_when_closed(inbox: Inbox[Never], scope: trio.CancelScope) -> None:
    await inbox.wait_closed()
    scope.cancel()


def _not_yet(hello: Hello) -> str:
    return f"{hello.sender!r} comes too early: the log is being opened"


@asynccontextmanager
async def open_ledger(
    config: LedgerConfig,
    machine: Machine,
    *,
    perform: Callable[[Committed, Applied], None] | None = None,
    files: FileSystem | None = None,
    listener: Socket | None = None,
) -> AsyncIterator[Ledger]:
    """Run a ledger for the time of an `async with` block, which begins once its actors are up.

    **Raises** FailStop, inside an exception group if the block was running.
    """
    ledger = Ledger(config, machine, perform=perform, files=files, listener=listener)
    supervisor = Supervisor(f"around {config.node}", (vital("ledger", ledger),))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.serve)
        yield ledger
        nursery.cancel_scope.cancel()
