"""What a client can do besides sending and consuming: one check after the other.

Each check is a run of the client's program in the role `check`, which tries one feature against the
cluster by itself and judges what came of it. Where it says `halfway`, the leader may be killed, or
the program goes on undisturbed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from attrs import define, field
from programs import Program
from scenario import END_TIMEOUT_S, Result, Running, ScenarioFailed

from dledger_py.admin import Admin
from dledger_py.admin.messages import trace
from dledger_py.client.errors import ClientError
from dledger_py.cluster.errors import ClusterError

NAMESPACES = ("MQ_INST_1", "MQ_INST_2")
"""Of Java's check and of Go's."""

UNDISTURBED = frozenset({"trace"})
"""Checks without a killed leader: clients do not send a trace again that was lost with one."""

TRACE_LIMIT_S = 15.0
"""Traces are gathered for some seconds before they are sent."""


@define
class Check:
    """One feature of one client. `disturb` is called when the program is halfway."""

    program: Program
    name: str
    namesrv: str
    broker: str
    """host:port of a member that is not killed."""
    folder: Path
    limit_s: int
    disturb: Callable[[], Awaitable[object]] | None = None
    errors: list[str] = field(factory=list)
    traced: str = ""
    """The message whose trace is to be looked at afterwards."""
    _halfway: trio.Event = field(factory=trio.Event)

    @property
    def scenario(self) -> str:
        return f"{self.name}, killed" if self.disturb is not None else self.name

    async def run(self) -> Result:
        began = time.monotonic()
        try:
            await self._play()
        except (ScenarioFailed, ClusterError, ClientError) as error:
            self.errors.append(str(error))
        return Result(
            client=self.program.name,
            scenario=self.scenario,
            history=None,
            duration_s=time.monotonic() - began,
            faults=tuple(self.errors),
        )

    async def _play(self) -> None:
        topic = f"{self.program.name}-{self.name}{'-killed' if self.disturb else ''}"
        for name in (
            topic,
            *(f"{each}%{topic}" for each in NAMESPACES if self.name == "namespace"),
        ):
            await Admin(self.namesrv).update_topic(
                name, cluster="DefaultCluster", read_queues=4, write_queues=4
            )
        self.folder.mkdir(parents=True)
        command = [*self.program.command(self.folder), "check"]
        for name, value in {
            "check": self.name,
            "namesrv": self.namesrv,
            "topic": topic,
            "broker": self.broker,
            "failover": str(self.disturb is not None).lower(),
            "deadline-s": self.limit_s,
            "log": self.folder / "client.log",
        }.items():
            command += [f"--{name}", str(value)]
        with (self.folder / "stderr.log").open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        running = Running(f"{self.program.name} {self.scenario}", process, self.folder, self._hear)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(running.listen)
                if self.disturb is not None:
                    nursery.start_soon(self._disturb, running)
                try:
                    await running.wait_end(self.limit_s + END_TIMEOUT_S)
                finally:
                    nursery.cancel_scope.cancel()
        except* ScenarioFailed as group:
            raise group.exceptions[0] from None
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        if self.disturb is not None and not self._halfway.is_set():
            raise ScenarioFailed(f"{running.name}: it ended before the leader was killed")

        if self.traced:
            await self._see_trace()

    async def _see_trace(self) -> None:
        """The trace of the message that the program says it traced: sent, and consumed."""
        found = None
        with trio.move_on_after(TRACE_LIMIT_S):
            while True:
                found = await trace(Admin(self.namesrv), self.traced)
                sent, consumed = found.sent, found.consumed
                if sent and consumed and sent[0].success and consumed[0].success:
                    if found.unreadable:
                        raise ScenarioFailed(
                            f"{found.unreadable} records of {found} are unreadable"
                        )
                    return
                await trio.sleep(0.2)
        raise ScenarioFailed(f"the trace is {found}")

    async def _disturb(self, running: Running) -> None:
        await self._halfway.wait()
        assert self.disturb is not None
        await self.disturb()
        assert running.process.stdin is not None
        await running.process.stdin.send_all(b"\n")

    def _hear(self, line: dict[str, object]) -> None:
        match line:
            case {"event": "halfway"}:
                self._halfway.set()
            case {"event": "traced", "id": str(message_id)}:
                self.traced = message_id
            case {"event": "error", "error": error}:
                self.errors.append(str(error))
            case _:
                pass
