"""The readable queues of a topic, of all broker groups: our own as we have them, those of others as
the name servers say.

Name servers are asked by the connections that the registrar keeps; what they say is believed for
some seconds. Source: TopicRouteInfoManager.java, which asks every 30 s.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from attrs import define, field

from broker.machine.topics import PERM_READ, Topics
from dledger_py.client.errors import ClientError, ResponseError
from dledger_py.client.queues import Queue
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body
from dledger_py.remoting.commands.routes import TopicRoute
from dledger_py.remoting.commands.routing import GetRoute
from dledger_py.remoting.wire.codes import ResponseCode

BELIEVED_MS: Final = 5_000
"""Consumers ask for each topic every 20 s: many of them cost the name servers little."""

KEPT_MAX: Final = 10_000
"""Topics that answers are kept of."""

Others = dict[str, int]
"""Number of readable queues by broker group."""


@define(eq=False, kw_only=True)
class TopicQueues:
    """Asks for them."""

    broker_name: str
    topics: Topics
    ask: Callable[[GetRoute], Awaitable[bytes]] | None
    """A name server's answer; None if there are no name servers. Raises: ClientError."""
    monotonic_ms: Callable[[], int]
    _heard: dict[str, tuple[int, Others]] = field(factory=dict, init=False)

    async def of(self, topic: str) -> Sequence[Queue] | None:
        """All readable queues of the topic, sorted; None if nobody knows it, or could be asked."""
        counts = {} if self.ask is None else await self._others(topic)
        if counts is None:
            return None
        config = self.topics.get(topic)
        counts = {name: count for name, count in counts.items() if name != self.broker_name}
        if config is not None and config.readable:
            counts[self.broker_name] = config.read_queues
        elif config is None and not counts:
            return None
        return [
            Queue(topic, name, queue_id)
            for name, count in sorted(counts.items())
            for queue_id in range(count)
        ]

    async def _others(self, topic: str) -> Others | None:
        assert self.ask is not None
        now_ms = self.monotonic_ms()
        heard = self._heard.get(topic)
        if heard is not None and now_ms - heard[0] < BELIEVED_MS:
            return heard[1]
        try:
            counts = _counts(await self.ask(GetRoute(topic=topic)))
        except ResponseError as error:
            if error.code != ResponseCode.TOPIC_NOT_EXIST:
                return None
            counts = {}
        except (ClientError, MalformedBody):
            return None
        if len(self._heard) >= KEPT_MAX:
            self._heard.clear()
        self._heard[topic] = (now_ms, counts)
        return counts


def _counts(body: bytes) -> Others:
    route = decode_body(TopicRoute, body)
    there = {broker.broker_name for broker in route.broker_datas if broker.broker_addrs}
    return {
        queues.broker_name: queues.read_queue_nums
        for queues in route.queue_datas
        if queues.perm & PERM_READ and queues.broker_name in there
    }
