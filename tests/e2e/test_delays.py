"""The client's delays and recalls, with a killed leader in between."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from dledger_py.client import ResponseError, connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 120
TOPIC = "Orders"


async def test_what_is_delayed_comes_in_time_and_what_is_recalled_does_not(tmp_path: Path) -> None:
    found: list[tuple[bytes, datetime]] = []
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                at_once = await mq.send(TOPIC, b"at once")
                due = datetime.now(UTC) + timedelta(seconds=3)
                await mq.send(TOPIC, b"at a time", delay=due)
                recalled = await mq.send(TOPIC, b"recalled", delay=timedelta(seconds=2.5))
                span = await mq.send(TOPIC, b"after a span", delay=timedelta(seconds=3.5))
                await cluster.kill_leader()
                await mq.recall(recalled)
                async with mq.consumer("shop", TOPIC, from_="first") as messages:
                    async for message in messages:
                        found.append((message.body, message.stored_at))
                        message.ack()
                        if len(found) == 3:
                            break
                with pytest.raises(ResponseError, match="too late"):
                    await mq.recall(span)
                with pytest.raises(ValueError, match="delay"):
                    await mq.recall(at_once)

    assert [b"at once", b"at a time", b"after a span"] == [body for body, _ in found]
    assert due <= found[1][1]
