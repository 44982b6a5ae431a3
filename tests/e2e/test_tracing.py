"""What the client traces is found by the command, and by whoever else reads traces."""

import json
import sys
from pathlib import Path

import pytest
import trio

from dledger_py.client import connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 120


async def test_a_traced_message_has_a_story(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            await cluster.wait_leader()
            names = cluster.namesrv_address
            async with connect(names, producer_group="shop", trace=True) as mq:
                receipt = await mq.send("Orders", b"body", keys=["o-1"])
                async with mq.consumer("billing", "Orders", from_="first") as messages:
                    (await anext(messages)).ack()
            done = await trio.run_process(
                [
                    *(sys.executable, "-m", "dledger_py.cli", "admin", "queryTrace", "--json"),
                    *("-n", names, "-i", receipt.message_id),
                ],
                capture_stdout=True,
            )

    found = json.loads(done.stdout)
    assert [("Orders", "shop", True)] == [
        (each["topic"], each["group"], each["success"]) for each in found["sent"]
    ]
    assert [("billing", "success")] == [
        (each["group"], each["outcome"]) for each in found["consumed"]
    ]
