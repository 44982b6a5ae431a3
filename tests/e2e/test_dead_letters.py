"""A group's dead letters, listed and sent again by the command, against three real brokers."""

import json
import sys
from pathlib import Path

import pytest
import trio

from dledger_py.admin.dead_letters import dead_letters
from dledger_py.client import connect
from dledger_py.client.connection import open_connection
from dledger_py.cluster.local import LocalCluster
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.wire.message import parse_offset_message_id

pytestmark = pytest.mark.e2e

DEADLINE_S = 120


async def give_up(address: str, offset_message_id: str) -> None:
    _host, _port, position = parse_offset_message_id(offset_message_id)
    host, port = address.rsplit(":", 1)
    async with open_connection(host, int(port)) as connection:
        await connection.call(SendBack(offset=position, group="shop", delay_level=-1))


async def run(*command: str) -> str:
    done = await trio.run_process(
        [sys.executable, "-m", "dledger_py.cli", *command], capture_stdout=True
    )
    return done.stdout.decode()


async def test_dead_letters_are_listed_and_come_again(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            names = cluster.namesrv_address
            async with connect(names, timeout_s=30) as mq:
                none = await run("admin", "deadLetters", "-n", names, "-g", "shop")
                for number in range(3):
                    await mq.send("Orders", b"order %d" % number, tag="paid", keys=[f"o-{number}"])
                address = cluster.members[leader].address
                given_up = 0
                async with mq.consumer("shop", "Orders", from_="first") as messages:
                    async for message in messages:
                        await give_up(address, message.offset_message_id)
                        message.ack()
                        given_up += 1
                        if given_up == 3:
                            break
                listed = json.loads(
                    await run("admin", "deadLetters", "--json", "-n", names, "-g", "shop")
                )
                told = await run(
                    *("admin", "resendDeadLetters", "-n", names, "-g", "shop", "-o", "1")
                )
                again = []
                async with mq.consumer("shop", "Orders", from_="first") as messages:
                    async for message in messages:
                        message.ack()
                        if message.reconsume_times == 0 and "RETRY_TOPIC" in message.properties:
                            again.append(message)
                            break
                left = [letter.body async for letter in dead_letters(mq, "shop")]

    order = [int(letter["body"][-1]) for letter in listed]  # as they were consumed, from any queue
    assert "group shop has no dead letters\n" == none
    assert [("Orders", f"order {number}", 1) for number in order] == [
        (letter["topic"], letter["body"], letter["reconsumeTimes"]) for letter in listed
    ]
    assert {0, 1, 2} == set(order)
    assert "1 sent to %RETRY%shop as " in told
    assert [(b"order %d" % order[1], "Orders", "paid", (f"o-{order[1]}",))] == [
        (message.body, message.topic, message.tag, message.keys) for message in again
    ]
    assert [b"order %d" % number for number in order] == left
