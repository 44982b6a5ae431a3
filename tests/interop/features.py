"""What a client can do besides sending and consuming: one check after the other.

Each check is a run of the client's program in the role `check`, which tries one feature against the
cluster by itself and judges what came of it. Where it says `halfway`, the leader may be killed, or
the program goes on undisturbed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import trio
from attrs import define, field
from programs import Program
from scenario import END_TIMEOUT_S, Result, Running, ScenarioFailed

from dledger_py.admin import Admin, groups
from dledger_py.admin.messages import Trace, trace
from dledger_py.client.errors import ClientError
from dledger_py.cluster.errors import ClusterError

NAMESPACES = ("MQ_INST_1", "MQ_INST_2")
"""Of Java's and ali-ons' check, and of Go's."""

EVERY_SECOND = {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [1000]}}

TRACES_TIMEOUT_S = 30.0
"""For the records to come: clients send them from threads of their own."""


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
    _traced: dict[str, str] = field(factory=dict)
    """Key to id."""
    _kept: dict[str, str] = field(factory=dict)
    """Of those, what had all its records before the leader was killed."""
    _halfway: trio.Event = field(factory=trio.Event)

    @property
    def scenario(self) -> str:
        return f"{self.name}, killed" if self.disturb is not None else self.name

    @property
    def topic(self) -> str:
        return f"{self.program.name}-{self.name}{'-killed' if self.disturb else ''}"

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
        for name in (
            self.topic,
            *(f"{each}%{self.topic}" for each in NAMESPACES if self.name == "namespace"),
        ):
            await Admin(self.namesrv).update_topic(
                name, cluster="DefaultCluster", read_queues=4, write_queues=4
            )
        if self.name == "retry-policy":
            changes = {"group_retry_policy": EVERY_SECOND}
            await groups.update(
                Admin(self.namesrv), f"{self.topic}-retry-policy", changes, cluster="DefaultCluster"
            )
        self.folder.mkdir(parents=True)
        command = [*self.program.command(self.folder), "check"]
        for name, value in {
            "check": self.name,
            "namesrv": self.namesrv,
            "topic": self.topic,
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
        if self._traced:
            await self._wait_traces()

    async def _wait_traces(self) -> None:
        """Wait for the records of what is traced. With a leader killed, some that were sent then
        may be lost, for the clients try once: there must be those from before, and of the last."""
        wanted = self._traced
        if self.disturb is not None and self._halfway.is_set():
            wanted = self._kept
            if self.program.client.tracer_follows:
                last = list(self._traced)[-1]
                wanted = wanted | {last: self._traced[last]}
        await self._wait_traced(wanted)

    async def _wait_traced(self, wanted: Mapping[str, str]) -> None:
        """Wait until the traces say of each of these that it was sent and consumed."""
        for key, msg_id in wanted.items():
            found: object = None
            with trio.move_on_after(TRACES_TIMEOUT_S) as waiting:
                while True:
                    try:
                        found = told = await trace(Admin(self.namesrv), msg_id)
                    except ClientError as error:
                        found = error  # the new leader is not known yet
                    else:
                        if _is_whole(told):
                            break
                    await trio.sleep(0.5)
            if waiting.cancelled_caught:
                raise ScenarioFailed(f"{self.program.name}: the trace of {key} is {found}")

    async def _disturb(self, running: Running) -> None:
        await self._halfway.wait()
        assert self.disturb is not None
        if self._traced:
            kept = dict(self._traced)
            await self._wait_traced(kept)
            self._kept = kept
        await self.disturb()
        assert running.process.stdin is not None
        await running.process.stdin.send_all(b"\n")

    def _hear(self, line: dict[str, object]) -> None:
        match line:
            case {"event": "halfway"}:
                self._halfway.set()
            case {"event": "traced", "key": str(key), "id": str(msg_id)}:
                self._traced[key] = msg_id
            case {"event": "error", "error": error}:
                self.errors.append(str(error))
            case _:
                pass


def _is_whole(found: Trace) -> bool:
    """Whether it tells of a send and of a consumption that went well, and can be read."""
    sent, consumed = found.sent, found.consumed
    good = bool(sent and consumed) and sent[0].success and consumed[0].success
    return bool(good) and not found.unreadable
