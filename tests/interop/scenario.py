"""One client sends and consumes, perhaps disturbed; its programs are started, heard and ended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field, frozen
from judge import History, conversation_faults, faults, transaction_faults
from operator_calls import ask_consumers, send_one
from programs import Program

from dledger_py.admin import Admin
from dledger_py.client.errors import ClientError
from dledger_py.cluster.errors import ClusterError

READY_TIMEOUT_S = 30.0
ROUTE_TIMEOUT_S = 15.0
END_TIMEOUT_S = 15.0
CONSUME_TIMEOUT_S = 75.0
"""For what was acknowledged to arrive after the last send. A client asks for a new leader every
30 s, and its consumer may need two rounds: one for the route, one to share out the queues."""

TRANSACTIONS_TIMEOUT_S = 150.0
"""For every transaction to end: a half message is checked after 6 s, and every 30 s from then on;
a new leader knows a producer by its heartbeat, up to 30 s after that has asked for the route."""

TAIL_LINES = 12


class ScenarioFailed(Exception):
    """A program did not do its part; the message says which and shows the end of its logs."""


@frozen(kw_only=True)
class Result:
    client: str
    scenario: str
    history: History | None
    """None where the program itself has judged."""
    duration_s: float
    faults: tuple[str, ...]


@define
class Running:
    """One client program that runs."""

    name: str
    process: trio.Process
    folder: Path
    hear: Callable[[dict[str, object]], None]
    is_ready: bool = False
    _ready_or_over: trio.Event = field(factory=trio.Event, init=False)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for text in lines:
                try:
                    line = json.loads(text)
                except ValueError:
                    continue  # a client's own chatter
                if line.get("event") == "ready":
                    self.is_ready = True
                    self._ready_or_over.set()
                self.hear(line)
        self._ready_or_over.set()

    async def wait_ready(self) -> None:
        with trio.move_on_after(READY_TIMEOUT_S):
            await self._ready_or_over.wait()
            if self.is_ready:
                return
            raise self.failed("it ended before it was ready")
        raise self.failed(f"not ready within {READY_TIMEOUT_S:g} s")

    async def wait_end(self, timeout_s: float) -> None:
        """Wait for a good end."""
        with trio.move_on_after(timeout_s):
            code = await self.process.wait()
            if code != 0:
                raise self.failed(f"exit code {code}")
            return
        raise self.failed(f"not at its end after {timeout_s:g} s")

    def failed(self, what: str) -> ScenarioFailed:
        return ScenarioFailed(
            f"{self.name}: {what}" + "".join(map(_tail, sorted(self.folder.glob("*.log"))))
        )


@define
class Scenario:
    """`disturb` is called once, when a third of the sends are acknowledged. With `sql`, `history`
    has to know what it chooses."""

    program: Program
    name: str
    namesrv: str
    folder: Path
    count: int
    interval_ms: int
    limit_s: int
    disturb: Callable[[], Awaitable[object]] | None = None
    sql: str | None = None
    """What the consumer subscribes to, instead of the tag."""
    converses: bool = False
    """One asks and another replies, instead of one sending and another consuming."""
    history: History = field(factory=History)
    _news: trio.Event = field(factory=trio.Event, init=False)

    async def run(self) -> Result:
        began = time.monotonic()
        found: list[str] = []
        try:
            if self.converses:
                found += await self._converse()
            else:
                await self._play()
        except (ScenarioFailed, ClusterError, ClientError) as error:
            found.append(str(error))
        found += self._faults(failures_allowed=self.disturb is not None)
        return Result(
            client=self.program.name,
            scenario=self.name,
            history=self.history,
            duration_s=time.monotonic() - began,
            faults=tuple(found),
        )

    def _faults(self, *, failures_allowed: bool) -> list[str]:
        self.history.recognised = self.program.gives_ids
        judge = conversation_faults if self.converses else faults
        return judge(self.history, wanted=self.count, failures_allowed=failures_allowed)

    async def _play(self) -> None:
        topic = f"interop-{self.program.name}-{self.name}"
        if not self.program.creates_topics:
            await Admin(self.namesrv).update_topic(topic, cluster="DefaultCluster")
        async with self._started("producer", topic) as producer:
            await producer.wait_ready()
            await self._wait_route(topic)
            async with self._started("consumer", topic) as consumer:
                await consumer.wait_ready()
                if self.disturb is not None:
                    await self._wait(lambda: len(self.history.acked) >= self.count // 3, producer)
                    await self.disturb()
                await producer.wait_end(self.limit_s + END_TIMEOUT_S)
                with trio.move_on_after(CONSUME_TIMEOUT_S):
                    await self._wait(lambda: not self.history.missing, consumer)
                assert consumer.process.stdin is not None
                await consumer.process.stdin.aclose()
                await consumer.wait_end(END_TIMEOUT_S)

    async def _converse(self) -> list[str]:
        """Requests and replies; then a tool asks the replier through every member."""
        topic = f"interop-{self.program.name}-{self.name}"
        found: list[str] = []
        await Admin(self.namesrv).update_topic(topic, cluster="DefaultCluster")
        await self._wait_route(topic)
        async with self._started("replier", topic) as replier:
            await replier.wait_ready()
            await self._wait_consuming(topic, replier)
            async with self._started("requester", topic) as requester:
                await requester.wait_ready()
                if self.disturb is not None:
                    await self._wait(
                        lambda: len(self.history.replied) >= self.count // 3, requester
                    )
                    await self.disturb()
                await requester.wait_end(self.limit_s + END_TIMEOUT_S)
            if self.disturb is None:
                found += await ask_consumers(self.namesrv, topic, f"{topic}-replier")
            assert replier.process.stdin is not None
            await replier.process.stdin.aclose()
            await replier.wait_end(END_TIMEOUT_S)
        return found

    async def _wait_consuming(self, topic: str, replier: Running) -> None:
        """Wait until the replier has its queues: Go's may take ten seconds for that."""
        await send_one(self.namesrv, topic)
        with trio.move_on_after(READY_TIMEOUT_S):
            await self._wait(lambda: bool(self.history.received), replier)
        if not self.history.received:
            raise replier.failed(f"it consumed nothing within {READY_TIMEOUT_S:g} s")

    async def _wait_route(self, topic: str) -> None:
        """Wait until the name server knows `topic`: Go's consumer does not start before."""
        with trio.move_on_after(ROUTE_TIMEOUT_S):
            while topic not in await Admin(self.namesrv).topic_list():  # noqa: ASYNC110
                await trio.sleep(0.1)
            return
        raise ScenarioFailed(f"no route for {topic!r} after {ROUTE_TIMEOUT_S:g} s")

    @asynccontextmanager
    async def _started(self, role: str, topic: str) -> AsyncIterator[Running]:
        """A program that is killed at the end of the block if it still runs."""
        folder = self.folder / role
        folder.mkdir(parents=True)
        group = f"{topic}-{role}"
        arguments = {
            "namesrv": self.namesrv,
            "topic": topic,
            "group": group,
            "count": self.count,
            "interval-ms": self.interval_ms,
            "deadline-s": 10 * self.limit_s if role in ("consumer", "replier") else self.limit_s,
            "log": folder / "client.log",
        }
        if role == "consumer" and self.sql is not None:
            arguments["sql"] = self.sql
        command = [*self.program.command(folder), role]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        with (folder / "stderr.log").open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        running = Running(f"{self.program.name} {role}", process, folder, self._hear)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.listen)
            try:
                yield running
            except Exception as error:  # raised below: as it is, not as the nursery's group
                failure = error
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        if failure is not None:
            raise failure

    def _hear(self, line: dict[str, object]) -> None:
        self.history.take(line, time.monotonic())
        self._news.set()

    async def _wait(self, condition: Callable[[], bool], program: Running) -> None:
        """Wait until what was heard makes `condition` true, or `program` has ended."""
        while not condition() and program.process.poll() is None:
            self._news = trio.Event()
            with trio.move_on_after(1):
                await self._news.wait()


@define
class TransactionScenario(Scenario):
    """Half messages, and what becomes of them."""

    def _faults(self, *, failures_allowed: bool) -> list[str]:
        history = self.history
        return transaction_faults(history, wanted=self.count, failures_allowed=failures_allowed)

    async def _play(self) -> None:
        topic = f"interop-{self.program.name}-{self.name}"
        admin, history = Admin(self.namesrv), self.history
        await admin.update_topic(topic, cluster="DefaultCluster")
        async with (
            self._started("consumer", topic) as consumer,
            self._started("transactions", topic) as producer,
        ):
            await consumer.wait_ready()
            await producer.wait_ready()
            if self.disturb is not None:
                await self._wait(lambda: len(history.prepared) >= self.count // 3, producer)
                await self.disturb()
            await self._wait(lambda: len(history.prepared) >= self.count, producer)
            with trio.move_on_after(TRANSACTIONS_TIMEOUT_S) as waiting:
                await self._wait(
                    lambda: not (history.not_committed or history.not_checked), consumer
                )
                await self._wait_none_pending(admin)
            if waiting.cancelled_caught:
                raise producer.failed("some of its transactions have not ended")
            for program in (producer, consumer):
                assert program.process.stdin is not None
                await program.process.stdin.aclose()
                await program.wait_end(END_TIMEOUT_S)

    async def _wait_none_pending(self, admin: Admin) -> None:
        """Wait until each transaction has ended: a message of one that was rolled back would have
        come by then."""
        while any(  # noqa: ASYNC110
            state.table["transactionsPending"] != "0" for state in await admin.broker_status()
        ):
            await trio.sleep(1)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return ""
    return "".join(f"\n    {line[:300]}" for line in [f"{log} ends with", *lines]) if lines else ""
