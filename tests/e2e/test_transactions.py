"""The client's transactions, with a killed leader between the half message and its end."""

import os
import sys
from pathlib import Path

import pytest
import trio

from dledger_py.client import Consumer, Message, TransactionState, connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 120
TOPIC = "Orders"

# A process that dies in its transaction: argv is the name server's address.
DIES = f"""
import os, sys, anyio
from dledger_py.client import connect

async def main():
    async with connect(sys.argv[1], producer_group="shop") as mq:
        async with mq.transaction({TOPIC!r}, b"left open", keys=["o-2"]):
            os._exit(7)

anyio.run(main)
"""


async def take(messages: Consumer, count: int) -> list[bytes]:
    found = []
    async for message in messages:
        found.append(message.body)
        message.ack()
        if len(found) == count:
            break
    return found


async def test_transactions_outlive_leaders_and_producers(tmp_path: Path) -> None:
    asked: list[str] = []

    async def check(message: Message) -> TransactionState:
        asked.append(message.keys[0])
        return TransactionState.COMMIT

    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            names = cluster.namesrv_address
            dead = await trio.run_process(
                [sys.executable, "-c", DIES, names], check=False, env=dict(os.environ)
            )
            async with connect(names, timeout_s=30, producer_group="shop", check=check) as mq:
                async with mq.transaction(TOPIC, b"committed"):
                    await cluster.kill_leader()
                with pytest.raises(ZeroDivisionError):
                    async with mq.transaction(TOPIC, b"rolled back"):
                        raise ZeroDivisionError
                await cluster.wait_leader(other_than=leader)
                async with mq.consumer("billing", TOPIC, from_="first") as messages:
                    found = await take(messages, 2)
                    await mq.send(TOPIC, b"last")
                    found += await take(messages, 1)

    assert 7 == dead.returncode
    assert {b"committed", b"left open", b"last"} == set(found)
    assert ["o-2"] == asked
