"""The whole name server on one page: the table, its rooms, a server, and the clock that expires."""

from collections.abc import Callable

import structlog
import trio
from attrs import define, field

from dledger_py.actors import FailStop
from dledger_py.remoting.rooms import routes
from dledger_py.remoting.server import AddressUnavailable, Server
from dledger_py.runtime import process
from dledger_py.runtime.host import Host, RealHost
from namesrv.config import NamesrvConfig
from namesrv.kv_file import KvFile
from namesrv.rooms import Entries, Operating, Registering, Routing, report_gone
from namesrv.routes import RouteTable

log = structlog.get_logger()


@define(eq=False)
class NameServer:
    """One name server. It has no state to lose: brokers register again within 30 s."""

    config: NamesrvConfig
    clock: Callable[[], int] | None = None
    """Monotonic, in ms; the host's, unless a test has another one."""
    host: Host = field(factory=RealHost)
    table: RouteTable = field(init=False)
    server: Server = field(init=False)

    def __attrs_post_init__(self) -> None:
        clock = self._now_ms
        file = KvFile(self.config.data_dir)
        self.table = RouteTable(self.config.policy)
        entries = Entries(file.load(), file.save)
        rooms = [
            Registering(self.table, entries, clock),
            Routing(self.table, entries, clock, clock()),
            entries,
            Operating(self.table),
        ]
        self.server = Server(routes(rooms), [self.config.listen_address], host=self.host)

    async def run(
        self, task_status: trio.TaskStatus[tuple[tuple[str, int], ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled. Started with the addresses it listens on.

        Raises: AddressUnavailable, in a group.
        """
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(self.server.run)
            nursery.start_soon(self._expire)
            task_status.started(addresses)

    def _now_ms(self) -> int:
        return self.clock() if self.clock else self.host.monotonic_ns() // 1_000_000

    async def _expire(self) -> None:
        while True:
            await trio.sleep(self.config.expiry_scan_ms / 1000)
            report_gone(self.table.expire(now_ms=self._now_ms()), reason="expired")


async def serve(config: NamesrvConfig) -> None:
    """Run one name server and say when it serves. Raises: FailStop if it cannot listen, or use its
    folder."""
    process.return_freed_memory()
    try:
        with KvFile(config.data_dir).held():
            await _serve(config)
    except* AddressUnavailable as group:
        raise FailStop(str(_first(group))) from None


async def _serve(config: NamesrvConfig) -> None:
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(NameServer(config).run)
        process.freeze_heap()
        process.announce_ready(addresses=[f"{host}:{port}" for host, port in addresses])
        log.info("namesrv.started", addresses=addresses)


def _first(group: BaseExceptionGroup[AddressUnavailable]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
