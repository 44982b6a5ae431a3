"""The rounds: A B C D A B C D …, each time a fresh cluster, one at a time.

Systems that idle still take processor time (Erlang and JVMs some per cent of a core each, and their
page cache), so nobody else is up while one is measured. What drifts on the machine from minute to
minute then hits all of a round about equally, which is why ratios are taken within a round.

A cluster is warmed first, for a JVM compiles what is hot; each measurement then begins with a tenth
more messages that do not count. How many messages a measurement takes is decided in the first round
by a probe and kept.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from bench.peers.measure import Usage, began, look, rss_mb, spent
from bench.peers.peer import Peer, PeerFailed, PeerMissing, Running
from bench.peers.workloads import Workload, e2e_words, send_words

Row = dict[str, Any]

WARM_UP_S = 10.0
"""How long each fresh cluster is sent 1 KiB messages, 64 in flight: a JVM compiles meanwhile."""

WARM_UP_MESSAGES = 5_000
"""In one go of it."""

COLD_REFUSALS_MAX = 10
"""RocketMQ refuses what waits for 200 ms, as much does while a cold JVM compiles on a slow machine:
then the warming begins again, so often."""

COUNT_MAX = 2_000_000
"""A fast machine shall not fill its disk: 2 GB on each node for one measurement."""

LOAD_TIMEOUT_S = 180.0
"""A load that takes longer is given up: sixty times what it is meant to take."""

SILENCE_S = 60
"""Given to the generator: so long without any answer, and it fails."""


SAMPLE_S = 0.1
"""How often processor time is looked at meanwhile: 0.2 ms of work."""

TRIES_MAX = 2
PAUSE_S = 2.0
"""Before the second try: some elections' length."""


class LoadFailed(Exception):
    """The generator gave up; the text is what it said."""


@frozen(kw_only=True)
class Plan:
    """What to run."""

    rounds: int
    peers: Sequence[Peer]
    workloads: Sequence[Workload]
    scale: float
    seconds: float
    """How long a measurement whose count is free shall last."""
    generator: Path
    all_topics: bool = False
    """Whether `topics_max` of the systems is ignored."""
    scratch: Path
    """Where all data goes, all systems' on one file system."""


@define(eq=False)
class Rounds:
    """A run; `write` gets each row as soon as there is one."""

    plan: Plan
    write: Callable[[Row], None]
    _counts: dict[tuple[str, str], int] = field(factory=dict, init=False)

    async def run(self) -> None:
        """Everything. A system that is missing or fails is a row that says so."""
        peers = [peer for peer in self.plan.peers if await self._prepared(peer)]
        for number in range(1, self.plan.rounds + 1):
            for peer in peers:
                _say(f"round {number} of {self.plan.rounds}: {peer.name}")
                scratch = Path(tempfile.mkdtemp(prefix="bench-peers-", dir=self.plan.scratch))
                try:
                    await self._one_cluster(peer, number, scratch)
                except PeerFailed as error:
                    self._write_trouble(peer, "failed", str(error), round=number)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)

    async def _prepared(self, peer: Peer) -> bool:
        try:
            await peer.prepare()
        except PeerMissing as error:
            self._write_trouble(peer, "skipped", str(error))
            return False
        return True

    async def _one_cluster(self, peer: Peer, number: int, scratch: Path) -> None:
        began_s = trio.current_time()
        async with peer.running(scratch) as running:
            about = {
                "round": number,
                "peer": peer.name,
                "like": peer.like,
                "promise": peer.promise,
                "version": running.version,
                "settings": dict(running.settings),
                "start_s": round(trio.current_time() - began_s, 1),
            }
            cluster = _Cluster(plan=self.plan, peer=peer, running=running, counts=self._counts)
            await cluster.warm_up()
            for workload in self.plan.workloads:
                began_s = trio.current_time()
                about |= {"workload": workload.name, "title": workload.title}
                row = about | await _tried(cluster, workload)
                row["took_s"] = round(trio.current_time() - began_s, 1)
                self.write(row)
                _say(f"  {workload.title}: {_short(row)} ({row['took_s']:.0f} s)")

    def _write_trouble(self, peer: Peer, what: str, why: str, **more: object) -> None:
        _say(f"{peer.name} {what}: {why}")
        self.write({"peer": peer.name, "promise": peer.promise, what: why, **more})


@define(eq=False)
class _Cluster:
    """One fresh cluster under its loads."""

    plan: Plan
    peer: Peer
    running: Running
    counts: dict[tuple[str, str], int]
    """By system and workload, kept for all rounds."""

    async def warm_up(self) -> None:
        workload = Workload(name="warm-up", title="", in_flight=64)
        words = send_words(workload, topic="WarmUp", topics=1, count=WARM_UP_MESSAGES, warm=0)
        began_s, left = trio.current_time(), COLD_REFUSALS_MAX
        while trio.current_time() - began_s < WARM_UP_S * min(1.0, self.plan.scale):
            try:
                await self._load(words)
            except LoadFailed as error:
                left -= 1
                if not left:
                    raise PeerFailed(f"{self.peer.name} cannot be warmed: {error}") from error
                began_s = trio.current_time()

    async def measure(self, workload: Workload) -> Row:
        match workload.kind:
            case "send":
                return await self._send(workload)
            case "drain":
                return await self._drain(workload)
            case "e2e":
                seconds = max(1.0, workload.seconds * self.plan.scale)
                words = e2e_words(workload, topic=_topic(workload), seconds=seconds)
                return await self._measured(words)
            case "gap":
                return await self._gap(workload)

    async def _send(self, workload: Workload) -> Row:
        topics = workload.topics
        if not self.plan.all_topics:
            topics = min(topics, self.peer.topics_max)
        topic = _topic(workload)
        if topics > 1:
            prepare = ["prepare", "--topic", topic, "--topics", str(topics)]
            await self._load(prepare)
        key = (self.peer.name, workload.name)
        if key not in self.counts:
            words = send_words(workload, topic=topic, topics=topics, count=workload.probe, warm=0)
            rate = (await self._load(words))["per_s"]
            wanted = int(rate * self.plan.seconds * self.plan.scale)
            self.counts[key] = min(COUNT_MAX, max(workload.probe // 3, wanted))
        count = self.counts[key]
        warm = count // 10
        words = send_words(workload, topic=topic, topics=topics, count=count, warm=warm)
        row = await self._measured(words)
        return row | {"topics": topics} if workload.topics > 1 else row

    async def _drain(self, workload: Workload) -> Row:
        count = max(1_000, int(workload.count * self.plan.scale))
        topic = _topic(workload)
        fill = Workload(name="fill", title="", in_flight=256, batch=32 if self.peer.batches else 1)
        if fill.batch > 1:
            count -= count % fill.batch
        await self._load(send_words(fill, topic=topic, topics=1, count=count, warm=0))
        return await self._measured(["drain", "--topic", topic, "--count", str(count)])

    async def _gap(self, workload: Workload) -> Row:
        topic = _topic(workload)
        await self._load(["prepare", "--topic", topic])
        leader = await self.running.find_leader(topic)
        others = [address for address in self.running.pids if address != leader]
        words = ["gap", "--topic", topic, "--in-flight", str(workload.in_flight)]
        words += ["--seconds", f"{workload.seconds:g}"]
        command = self._command(words, ",".join([leader, *others]))
        pipe = subprocess.PIPE
        load = await trio.lowlevel.open_process(command, stdout=pipe, stderr=pipe)
        try:
            with trio.move_on_after(LOAD_TIMEOUT_S):
                said = await _read_until_ready(load)
                if b"ready" in said:
                    await self.running.kill(leader)
                row = _parsed(await _read_all(load), said)
                return row | {"gap_ended": row["gap_ms"] < (workload.seconds - 1) * 1_000}
            raise LoadFailed(f"not done within {LOAD_TIMEOUT_S:g} s")
        finally:
            with trio.CancelScope(shield=True):  # bounded: it is killed
                load.kill()
                await load.wait()

    async def _measured(self, words: list[str]) -> Row:
        """Run a load, and count what it cost from when it began to measure: it connects, makes
        topics and warms before."""
        samples = [self._look()]

        async def sample() -> None:
            with suppress(PeerFailed):  # the load will say so, too
                while True:
                    await trio.sleep(SAMPLE_S)
                    samples.append(self._look())

        async with _beside(sample):
            row = await self._load(words)
            samples.append(self._look())
        difference = spent(
            began(samples, seconds=row["seconds"]), samples[-1], load_s=row["client_cpu_s"]
        )
        per_message = 1e6 / (row["per_s"] * difference.seconds)
        row["server_us"] = difference.server_cpu_s * per_message
        row["client_us"] = row["client_cpu_s"] * 1e6 / row["count"]
        row["rss_mb"] = max(rss_mb(pid) for pid in self.running.pids.values())
        row["foreign_cpu"] = difference.foreign_share
        return row

    def _look(self) -> Usage:
        try:
            return look(self.running.pids.values())
        except OSError as error:
            raise PeerFailed(f"{self.peer.name}: a server is gone: {error}") from error

    async def _load(self, words: list[str]) -> Row:
        command = self._command(words, await self.running.find_entry())
        with trio.move_on_after(LOAD_TIMEOUT_S):
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False
            )
            return _parsed(done.stdout, done.stderr)
        raise LoadFailed(f"not done within {LOAD_TIMEOUT_S:g} s")

    def _command(self, words: list[str], addresses: str) -> list[str]:
        named = ",".join(f"{name}={address}" for address, name in self.running.names.items())
        command = [str(self.plan.generator), *words, "--dialect", self.peer.dialect]
        command += ["--address", addresses, "--addresses", named, "--timeout", str(SILENCE_S)]
        return command


@asynccontextmanager
async def _beside(fn: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """A task beside the block, cancelled at its end. What the block raises leaves as it is, not as
    a group."""
    failure: LoadFailed | PeerFailed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fn)
        try:
            yield
        except (LoadFailed, PeerFailed) as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _tried(cluster: "_Cluster", workload: Workload) -> Row:
    """Measure, and if it fails once more: the lead may have changed, which `tries` then tells."""
    for tries in range(1, TRIES_MAX + 1):
        try:
            return await cluster.measure(workload) | {"tries": tries}
        except (LoadFailed, PeerFailed) as error:
            said = str(error)
            _say(f"  {workload.title}: {said}")
            await trio.sleep(PAUSE_S)
    return {"failed": said, "tries": TRIES_MAX}


def _topic(workload: Workload) -> str:
    return "Bench-" + workload.name


async def _read_until_ready(load: trio.Process) -> bytes:
    assert load.stderr is not None, "asked for"
    said = b""
    while b"ready" not in said:
        received = await load.stderr.receive_some()
        if not received:
            break
        said += received
    return said


async def _read_all(load: trio.Process) -> bytes:
    assert load.stdout is not None, "asked for"
    return b"".join([part async for part in load.stdout])


def _parsed(stdout: bytes, stderr: bytes) -> Row:
    try:
        row: Row = json.loads(stdout)
    except ValueError:
        raise LoadFailed(stderr.decode(errors="replace").strip()[-600:] or "no output") from None
    return row


def _short(row: Row) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    if "gap_ms" in row:
        return f"{row['gap_ms']:.0f} ms"
    return (
        f"{row['per_s']:,.0f}/s, p50 {row['p50_ms']:.2f} ms, servers {row['server_us']:.0f} µs,"
        f" others {row['foreign_cpu']:.0%}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
