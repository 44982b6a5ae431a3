"""Apache's mqadmin against a cluster: one subcommand after the other, and what it has to print.

The subcommands run in one process (`mqadmin/`), each as if it had one of its own. A consumer of
Java's client is online while they do. The table in docs/compatibility.md says which are here.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field, frozen
from programs import Program
from scenario import Result, Running, ScenarioFailed

from dledger_py.cluster.local import LocalCluster

COMMAND_LIMIT_S = 40.0
"""Several wait some seconds for their own threads to end."""

SETTLE_LIMIT_S = 30.0
"""For what a consumer or a name server has to learn first."""

MESSAGES = 12


@frozen
class Step:
    """A subcommand with its arguments, and patterns that its output must have, each on a line.

    Words in braces are known from the cluster, or are named groups of patterns before.
    """

    command: str
    expected: tuple[str, ...]
    settles: bool = False
    """Whether to ask again until it is so, as others have to do something first."""


def step(command: str, *expected: str, settles: bool = False) -> Step:
    return Step(command, expected, settles)


# The topic `orders` has MESSAGES messages, three in each queue, and the group `shop` consumes them.
STEPS = (
    # Cluster and brokers.
    step(
        "clusterList",
        r"^DefaultCluster +broker-a +0 +{leader} +V5_\S+ .* true$",
        r"^DefaultCluster +broker-a +\d+ +{follower} +V5_\S+ .* true$",
    ),
    step("clusterList -m", r"^DefaultCluster +broker-a( +\d+){{4}} *$"),
    step("brokerStatus -b {leader}", r"^brokerVersionDesc +: V5_", r"^raftRole +: leader$"),
    step("brokerStatus -c DefaultCluster", r"^{follower} +raftRole +: follower$"),
    step("getBrokerConfig -b {leader}", r"^brokerName += +broker-a$"),
    step(
        "updateBrokerConfig -c DefaultCluster -k maxMessageSize -v 1000000",
        r"^update broker config success, {leader}",
    ),
    step(
        "getBrokerConfig -b {follower}", r"^maxMessageSize += +1000000$", r"^brokerRole += +SLAVE"
    ),
    step("getBrokerConfig -b {leader}", r"^brokerId += +0$"),
    step("updateBrokerConfig -b {follower} -k brokerPermission -v 4", r"CODE: 16 "),
    step("getNamesrvConfig", r"^=+{namesrv}=+$"),
    # Topics.
    step("updateTopic -c DefaultCluster -t bills -r 2 -w 2", r"^create topic to {leader} success"),
    step("updateTopic -b {follower} -t bills -r 4 -w 4", r"^create topic to {follower} success"),
    step("topicList", r"^orders$", r"^bills$", r"^%RETRY%shop$", settles=True),
    step("topicList -c", r"^DefaultCluster +orders +shop *$", settles=True),
    step("topicRoute -t bills", r'0:"{leader}"', r'"readQueueNums":4', settles=True),
    step("topicClusterList -t orders", r"^DefaultCluster$"),
    step("topicStatus -t orders", r"^broker-a +3 +0 +3 +20"),
    step("updateTopicPerm -b {leader} -t bills -p 4", r"update topic perm from 6 to 4 .* success"),
    step("topicRoute -t bills", r'"perm":4', settles=True),
    step("allocateMQ -t orders -i 10.0.0.1,10.0.0.2", r'"10\.0\.0\.2":\[.*"queueId":'),
    step("updateOrderConf -t bills -m put -v broker-a:4", r"^update orderConf success"),
    step("updateOrderConf -t bills -m get", r"orderConf=\[broker-a:4\]"),
    step("updateOrderConf -t bills -m delete", r"^delete orderConf success"),
    # Messages.
    step(
        "sendMessage -t mail -p hello -k key1 -c TagA", r"^broker-a +\d+ +SEND_OK +[0-9A-F]{{32}}"
    ),
    step(
        "sendMsgStatus -b broker-a -s 16 -c 2",
        r"sendStatus=SEND_OK.* offsetMsgId=(?P<message_id>[0-9A-F]{{32}})",
    ),
    step("checkMsgSendRT -t mail -a 4 -s 16", r"^broker-a +\d +true", r"^Avg RT: "),
    step(
        "queryMsgById -i {message_id} -t broker-a",
        r"^OffsetID: +{message_id}$",
        r"^Topic: +broker-a$",
    ),
    step(
        "queryMsgByKey -t orders -k shop-producer-000003",
        r"^(?P<unique_id>[0-9A-F]{{32,64}}) +\d +\d+( +\S+)? *$",
    ),
    step("queryMsgByUniqueKey -t orders -i {unique_id}", r"^Keys: +\[shop-producer-000003\]$"),
    step("queryMsgById -t orders -i {unique_id}", r"^Keys: +\[shop-producer-000003\]$"),
    step("queryMsgByKey -t orders -k nobody", r"CODE: 208 "),
    step(
        "sendMessage -t mail -p traced -k key2 -m true",
        r"^broker-a +\d+ +SEND_OK +(?P<traced>[0-9A-F]{{32,64}})",
    ),
    step(
        "queryMsgTraceById -i {traced}",
        r"^Pub +\S+ +\S+ +\S+ \S+ +\d+ms +success",
        settles=True,
    ),
    step(
        "queryMsgByOffset -t orders -b broker-a -i 1 -o 2",
        r"^Queue Offset: +2$",
        r"^Topic: +orders$",
    ),
    step("printMsg -t orders", r"^minOffset=0, maxOffset=3, .*queueId=2\]$", r"^MSGID: \S+ "),
    step("printMsgByQueue -t orders -a broker-a -i 1 -p true", r"^MSGID: \S+ .*queueOffset=2,"),
    step("consumeMessage -t orders -b broker-a -i 0 -o 1 -c 1", r"^MSGID: \S+ .*queueOffset=1,"),
    step("queryCq -t orders -q 1 -i 1 -c 1 -g shop", r"^max: 3, min: 0$", r"tagsCode=\d+"),
    # Groups.
    step("updateSubGroup -c DefaultCluster -g audit", r"^create subscription group to {leader}"),
    step(
        "updateSubGroup -c DefaultCluster -g audit"
        ' -p {{"type":"EXPONENTIAL","exponentialRetryPolicy":{{"initial":1000}}}}',
        r"^create subscription group to {leader}",
    ),
    step("getConsumerConfig -g audit", r"^groupRetryPolicy += .*EXPONENTIAL"),
    step("getConsumerConfig -g audit", r"^groupName += +audit$", r"^retryMaxTimes += +16$"),
    step(
        "consumerConnection -g shop",
        r"^\S+ +\S+ +JAVA +V5_",
        r"^orders +\S+",
        r"^MessageModel: CLUSTERING$",
    ),
    step("producerConnection -g CLIENT_INNER_PRODUCER -t orders", r" JAVA "),
    step("producer -b {leader}", r"CLIENT_INNER_PRODUCER"),
    step("consumerStatus -g shop", r"^\S+ +\S+ +V5_"),
    step(
        "consumerProgress -g shop",
        *(rf"^orders +broker-a +{queue} +3 +3 +0 +0 " for queue in range(4)),
        r"^Consume Diff Total: 0$",
        settles=True,
    ),
    step("consumerProgress", r"^shop +1 +V5_\S+ .* 0$"),
    step("brokerConsumeStats -b {leader}", r"^orders +shop +broker-a +0 +3 +3 +0 "),
    step("statsAll -t orders", r"^orders +shop +0 +\d\S+ +\d\S+ +12 +12 *$", settles=True),
    step("cloneGroupOffset -s shop -d audit -t orders -o true", r"^clone group offset success"),
    step("brokerConsumeStats -b {leader}", r"^orders +audit +broker-a +3 +3 +3 +0 "),
    # Resets: the consumer is online, and gets all of it again.
    step(
        "resetOffsetByTime -g shop -t orders -s 0",
        *(rf"^broker-a +{queue} +0 *$" for queue in range(4)),
    ),
    step("CONSUMED 2"),
    step("consumerProgress -g shop", r"^Consume Diff Total: 0$", settles=True),
    step(
        "resetOffsetByTime -g audit -t orders -s -1 -q 1 -b {leader} -o 2",
        r"^reset consumer offset to 2$",
    ),
    step("brokerConsumeStats -b {leader}", r"^orders +audit +broker-a +1 +3 +2 +1 "),
    step(
        "setConsumeMode -c DefaultCluster -t orders -g audit -m POP -q 8",
        r"^set consume mode to {leader} success",
        r"consume mode\[POP\] popShareQueueNum\[8\]$",
    ),
    step("setConsumeMode -b {follower} -t orders -g audit -m PULL", r"to {follower} success"),
    step("skipAccumulatedMessage -g audit -t orders -f true", r"^broker-a +1 +3 *$"),
    step("resetOffsetByTime -g nobody -t orders -s 0", r"CODE: 26 "),
    # Name servers.
    step("updateKvConfig -s ns -k k -v v", r"^create or update kv config to namespace success"),
    step("deleteKvConfig -s ns -k k", r"^delete kv config from namespace success"),
    step("wipeWritePerm -b broker-a", r"^wipe write perm of broker\[broker-a\] .* OK, \d+$"),
    step("topicRoute -t orders", r'"perm":4'),
    step("addWritePerm -b broker-a", r"^add write perm of broker\[broker-a\] .* OK, \d+$"),
    step("topicRoute -t orders", r'"perm":6'),
    # Files.
    step("exportMetadata -c DefaultCluster -f {folder}", r"^export {folder}/metadata.json success"),
    step("exportConfigs -c DefaultCluster -f {folder}", r"^export {folder}/configs.json success"),
    step("exportMetrics -c DefaultCluster -f {folder}", r"^export {folder}/metrics.json success"),
    # What is not there says so.
    step("haStatus -c DefaultCluster", r"CODE: 3 "),
    step("getBrokerEpoch -c DefaultCluster", r"CODE: 3 "),
    step("cleanExpiredCQ -c DefaultCluster", r"CODE: 3 "),
    step("deleteExpiredCommitLog -c DefaultCluster", r"CODE: 3 "),
    step("cleanUnusedTopic -c DefaultCluster", r"CODE: 3 "),
    # Away with it.
    step(
        "deleteSubGroup -c DefaultCluster -g audit -r true", r"^delete subscription group \[audit\]"
    ),
    step(
        "deleteTopic -c DefaultCluster -t bills", r"^delete topic \[bills\] from cluster .* success"
    ),
    step("topicRoute -t bills", r"CODE: 17 "),
)


@define
class MQAdminRun:
    """Every step in turn."""

    cluster: LocalCluster
    folder: Path
    tool: Program
    java: Program
    """The client of the same version."""
    known: dict[str, str] = field(factory=dict)
    faults: list[str] = field(factory=list)
    consumed: dict[str, int] = field(factory=dict)
    _running: trio.Process | None = None
    _output: bytearray = field(factory=bytearray)
    _news: trio.Event = field(factory=trio.Event)

    async def run(self) -> Result:
        began = time.monotonic()
        self.folder.mkdir(parents=True)
        try:
            await self._learn()
            async with self._client("producer", {"count": MESSAGES}) as producer:
                await producer.wait_end(SETTLE_LIMIT_S)
            async with self._client("consumer", {"count": 10**6}), self._started():
                await self._consumed(1)
                for each in STEPS:
                    await self._do(each)
        except* ScenarioFailed as group:
            self.faults += [str(error) for error in group.exceptions]
        return Result(
            client=self.tool.name,
            scenario=f"{len(STEPS)} steps",
            history=None,
            duration_s=time.monotonic() - began,
            faults=tuple(self.faults),
        )

    async def _learn(self) -> None:
        leader = await self.cluster.wait_leader()
        members = self.cluster.members
        follower = next(node for node in members if node != leader)
        self.known = {
            "namesrv": self.cluster.namesrv_address,
            "leader": members[leader].address,
            "follower": members[follower].address,
            "folder": str(self.folder),
        }

    async def _do(self, each: Step) -> None:
        try:
            command = each.command.format(**self.known)
        except KeyError as error:
            self.faults.append(f"{each.command}: nothing before it told {error}")
            return
        if command.startswith("CONSUMED "):
            await self._consumed(int(command.split()[1]))
            return
        deadline = trio.current_time() + SETTLE_LIMIT_S
        while True:
            output = await self._ask(command)
            missing = [pattern for pattern in each.expected if not self._find(pattern, output)]
            if not missing:
                return
            if not each.settles or trio.current_time() > deadline:
                lines = "\n    ".join([f"no line matches {missing}", *output.splitlines()[:20]])
                self.faults.append(f"{command}: {lines}")
                return

    def _find(self, pattern: str, output: str) -> bool:
        known = {name: re.escape(value) for name, value in self.known.items()}
        found = re.search(pattern.format(**known), output, re.MULTILINE)
        if found is not None:
            self.known |= found.groupdict()
        return found is not None

    async def _ask(self, command: str) -> str:
        assert self._running is not None
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        await self._running.stdin.send_all("\t".join(command.split()).encode() + b"\n")
        with trio.move_on_after(COMMAND_LIMIT_S):
            while b"\nDONE\n" not in self._output:
                chunk = await self._running.stdout.receive_some()
                if not chunk:
                    raise ScenarioFailed(f"{command}: mqadmin ended")
                self._output += chunk
            text, _, rest = bytes(self._output).partition(b"\nDONE\n")
            self._output = bytearray(rest)
            return text.decode(errors="replace").replace("\r", "")
        raise ScenarioFailed(f"{command}: no end within {COMMAND_LIMIT_S:g} s")

    async def _consumed(self, often: int) -> None:
        """Wait until every message of `orders` was consumed so often."""
        with trio.move_on_after(SETTLE_LIMIT_S):
            while len(self.consumed) < MESSAGES or min(self.consumed.values()) < often:
                self._news = trio.Event()
                await self._news.wait()
            return
        raise ScenarioFailed(f"not consumed {often} times: {self.consumed}")

    def _hear(self, line: dict[str, object]) -> None:
        match line:
            case {"event": "received", "key": str(key)}:
                self.consumed[key] = self.consumed.get(key, 0) + 1
                self._news.set()
            case _:
                pass

    # --- processes -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[None]:
        folder = self.folder / "mqadmin"
        folder.mkdir()
        async with _killed_after(self.tool.command(folder), folder, self.known) as running:
            self._running = running
            yield

    @asynccontextmanager
    async def _client(self, role: str, options: dict[str, object]) -> AsyncIterator[Running]:
        """Java's client, until the end of the block."""
        folder = self.folder / role
        folder.mkdir()
        given = options | {
            "namesrv": self.known["namesrv"],
            "topic": "orders",
            "group": "shop" if role == "consumer" else "shop-producer",
            "deadline-s": 600,
            "log": folder / "client.log",
        }
        arguments = [role]
        for name, value in given.items():
            arguments += [f"--{name}", str(value)]
        command = [*self.java.command(folder), *arguments]
        async with _killed_after(command, folder, self.known) as process:
            running = Running(f"java {role}", process, folder, self._hear)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(running.listen)
                await running.wait_ready()
                yield running
                process.kill()


@asynccontextmanager
async def _killed_after(
    words: Sequence[str], folder: Path, known: dict[str, str]
) -> AsyncIterator[trio.Process]:
    command = [word.replace("NAMESRV", known["namesrv"]) for word in words]
    with (folder / "stderr.log").open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,  # consumerStatus writes into it
        )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
