"""Whom operators' questions go to, many at once, and how the answers' bodies are read."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import anyio

from dledger_py.admin.records import UnknownName
from dledger_py.client.errors import ClientError, MalformedAnswer
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body
from dledger_py.remoting.commands.routes import BrokerData, ClusterInfo

ASKED_AT_ONCE = 16
"""Brokers asked side by side: more would be a burst, not a question."""

MASTER_ID = 0

BodyT = TypeVar("BodyT")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


async def side_by_side(
    items: Iterable[ItemT], ask: Callable[[ItemT], Awaitable[ResultT]]
) -> tuple[ResultT, ...]:
    """`ask(item)` for all items at once, in their order; the first failure, if there is one."""
    listed = list(items)
    results: dict[int, ResultT] = {}
    failures: dict[int, ClientError] = {}
    limit = anyio.CapacityLimiter(ASKED_AT_ONCE)

    async def one(number: int, item: ItemT) -> None:
        async with limit:
            try:
                results[number] = await ask(item)
            except ClientError as error:
                failures[number] = error

    async with anyio.create_task_group() as tasks:
        for number, item in enumerate(listed):
            tasks.start_soon(one, number, item)
    if failures:
        raise failures[min(failures)]
    return tuple(results[number] for number in range(len(listed)))


def groups_of(info: ClusterInfo, cluster: str | None) -> Sequence[BrokerData]:
    """The groups of a cluster, or all."""
    if cluster is None:
        return [group for _, group in sorted(info.broker_addr_table.items())]
    if cluster not in info.cluster_addr_table:
        known = ", ".join(sorted(info.cluster_addr_table)) or "none"
        raise UnknownName(f"no cluster {cluster!r} is registered: there is {known}")
    names = info.cluster_addr_table[cluster]
    return [info.broker_addr_table[name] for name in sorted(names)]


def masters_of(group: BrokerData) -> list[str]:
    """Where its leader is, if it has one."""
    return [address for id_, address in group.broker_addrs.items() if id_ == MASTER_ID]


def leader_of(group: BrokerData) -> str:
    """Where its leader is. **Raises** UnknownName."""
    masters = masters_of(group)
    if not masters:
        raise UnknownName(f"broker group {group.broker_name!r} has no leader now")
    return masters[0]


def speaker_of(group: BrokerData) -> str:
    """Whom to ask: the leader, or the member with the smallest id."""
    return group.broker_addrs[min(group.broker_addrs)]


def decoded(kind: type[BodyT], body: bytes, address: str) -> BodyT:
    """The body of this server's answer. **Raises** MalformedAnswer."""
    try:
        return decode_body(kind, body, dialect_bytes_max=len(body))
    except MalformedBody as error:
        raise MalformedAnswer(address, str(error)) from error
