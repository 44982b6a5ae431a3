"""Request and reply: a message that waits for its answer, and answering one.

A request is a message like others that names its sender.  Whoever consumes it hands the reply to a
broker, which finds the sender among its connections and pushes it there.  The reply is not stored:
it reaches the client that waits now, or nobody.

The laws.

* The sender is known to the leader of each broker group of the topic before the request is sent.
* A reply is matched by a correlation id that is used once.  What comes too late is refused, and
  whoever replied hears that nobody waits any more.
* A reply goes to the broker the request came from, which knows the sender; to others if that one
  does not.

Source: protocol codes 324 and 326; docs/client.md.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
from attrs import define, field, frozen

from dledger_py.client import retry
from dledger_py.client.asking import Asker
from dledger_py.client.connection import Connection
from dledger_py.client.errors import NoRoute, ResponseError
from dledger_py.client.membership import Membership
from dledger_py.client.messages import Message, Received, as_datetime, render_properties
from dledger_py.client.queues import Queue
from dledger_py.client.retry import Verdict
from dledger_py.client.route_tables import DEFAULT_TOPIC, DEFAULT_TOPIC_QUEUES
from dledger_py.client.routes import Routes
from dledger_py.remoting.commands.relays import PushReply, SendReplyMessage
from dledger_py.remoting.wire import properties as property_text
from dledger_py.remoting.wire import schema
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.frame import Frame

REPLY = "reply"
"""What a reply's MSG_TYPE says."""


@define(eq=False)
class Expected:
    """A reply that somebody waits for."""

    _arrived: anyio.Event = field(factory=anyio.Event)
    _reply: Message | None = None

    def arrive(self, reply: Message) -> None:
        """Here it is."""
        self._reply = reply
        self._arrived.set()

    async def wait(self) -> Message:
        """Wait until it arrives."""
        await self._arrived.wait()
        assert self._reply is not None
        return self._reply


class Requests:
    """The requests of one client that wait for their replies."""

    def __init__(self, routes: Routes, membership: Membership) -> None:
        self._routes = routes
        self._membership = membership
        self._expected: dict[str, Expected] = {}

    def properties(self, timeout_s: float) -> dict[str, str]:
        """What makes a message a request; no two have the same."""
        return {
            property_text.CORRELATION_ID: str(uuid.uuid4()),
            property_text.REPLY_TO_CLIENT: self._membership.client_id,
            property_text.TTL: str(max(1, int(timeout_s * 1000))),
        }

    async def be_known(self, topic: str) -> None:
        """See to it that replies find this client."""
        self._membership.be_known_everywhere()
        route = await self._routes.get(topic, publish=True)
        await self._membership.meet(
            [group.leader or group.addresses[0] for group in route.groups.values()]
        )

    @asynccontextmanager
    async def expecting(self, correlation_id: str) -> AsyncIterator["Expected"]:
        """A reply is expected for as long as the block lasts."""
        expected = self._expected[correlation_id] = Expected()
        try:
            yield expected
        finally:
            self._expected.pop(correlation_id, None)

    def arrived(self, connection: Connection, frame: Frame) -> None:
        """A broker pushes a reply."""
        try:
            pushed = schema.decode(PushReply, frame.fields)
        except schema.MalformedHeader as error:
            connection.answer_nowait(frame, ResponseCode.SYSTEM_ERROR, remark=str(error))
            return
        properties = property_text.decode(pushed.properties or "")
        expected = self._expected.pop(properties.get(property_text.CORRELATION_ID, ""), None)
        if expected is None:
            remark = "nobody waits for this reply any more"
            connection.answer_nowait(frame, ResponseCode.SYSTEM_ERROR, remark=remark)
            return
        expected.arrive(_message(pushed, properties, frame.body, connection.address))
        connection.answer_nowait(frame, ResponseCode.SUCCESS)


@frozen
class Replier:
    """Hands replies to brokers."""

    routes: Routes
    asker: Asker
    producer_group: str
    new_id: Callable[[], str]
    now_s: Callable[[], float]

    async def reply(
        self,
        request: Received,
        body: bytes,
        properties: Mapping[str, str] | None,
        timeout_s: float,
    ) -> None:
        """See `Message.reply`."""
        given = request.properties
        client = given.get(property_text.REPLY_TO_CLIENT)
        cluster = given.get(property_text.CLUSTER)
        if client is None or cluster is None:
            raise ValueError(
                f"message {request.message_id} is no request: nobody waits for a reply"
            )
        told = dict(properties or {})
        told[property_text.MSG_TYPE] = REPLY
        for name in (
            property_text.CORRELATION_ID,
            property_text.REPLY_TO_CLIENT,
            property_text.TTL,
        ):
            if name in given:
                told[name] = given[name]
        text = render_properties(self.new_id(), None, (), None, told)
        due = anyio.current_time() + timeout_s
        failure: ResponseError | None = None
        for queue in await self._queues(f"{cluster}_REPLY_TOPIC", request.queue.broker):
            message = SendReplyMessage(
                producer_group=self.producer_group,
                topic=queue.topic,
                default_topic=DEFAULT_TOPIC,
                default_topic_queue_nums=DEFAULT_TOPIC_QUEUES,
                queue_id=queue.queue_id,
                sys_flag=0,
                born_timestamp=int(self.now_s() * 1000),
                flag=0,
                properties=text,
            )
            left_s = due - anyio.current_time()
            try:
                await self.asker.ask(queue, message, left_s, judge=_judge, body=body)
                return
            except ResponseError as error:
                failure = error
        assert failure is not None
        hint = "whoever asked is gone, or does not wait any more"
        raise ResponseError(failure.code, failure.remark, hint=hint) from failure

    async def _queues(self, topic: str, first: str) -> list[Queue]:
        """A queue of each broker group, that of the group *first* in front."""
        route = await self.routes.get(topic)
        found = {queue.broker: queue for queue in reversed(route.write_queues)}
        if not found:
            raise NoRoute(topic, "none of its queues can be written to")
        return sorted(found.values(), key=lambda queue: (queue.broker != first, queue))


def _judge(code: int) -> Verdict:
    """A broker that does not know the requester, or was refused by it, will not know better."""
    return Verdict.GIVE_UP if code == ResponseCode.SYSTEM_ERROR else retry.judge_read(code)


def _message(
    pushed: PushReply, properties: Mapping[str, str], body: bytes, address: str
) -> Message:
    keys = properties.get(property_text.KEYS)
    return Message(
        topic=pushed.topic,
        queue=Queue(pushed.topic, address, pushed.queue_id),
        queue_offset=0,
        message_id=properties.get(property_text.UNIQ_KEY, ""),
        offset_message_id="",
        tag=properties.get(property_text.TAGS),
        keys=tuple(keys.split()) if keys else (),
        properties=properties,
        born_at=as_datetime(pushed.born_timestamp),
        born_host=pushed.born_host,
        stored_at=as_datetime(pushed.store_timestamp),
        reconsume_times=0,
        stored_body=body,
        sys_flag=pushed.sys_flag,
    )
