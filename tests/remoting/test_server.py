"""The server over real loopback sockets: what it serves, what it refuses, what it never does."""

import gc
import random
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import structlog
import trio
from attrs import define, field, frozen

from dledger_py.actors.incarnation import FailStop
from dledger_py.remoting.commands.clients import NotifyConsumersChanged
from dledger_py.remoting.commands.offsets import GetMaxOffset, GetMinOffset, OffsetReply
from dledger_py.remoting.commands.queries import ViewMessage
from dledger_py.remoting.commands.sending import SendMessage, SendReply
from dledger_py.remoting.commands.topics import DeleteTopic
from dledger_py.remoting.inbound import REPLIES_AWAITED_MAX
from dledger_py.remoting.rooms import (
    Answer,
    Caller,
    Connection,
    Later,
    Port,
    Refused,
    handles,
    quick,
    routes,
)
from dledger_py.remoting.server import AddressUnavailable, Server, ServerLimits
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.frame import (
    Frame,
    Framer,
    encode_frame,
    encode_request,
    head_renderer,
)

MAX_OFFSET = 30
SEND_FIELDS = {"a": "pg", "b": "T", "e": "0"}


@define(eq=False)
class Room:
    """One handler of each kind."""

    waiting: list[Later[SendReply]] = field(factory=list)
    connections: list[Connection] = field(factory=list)
    lost: list[str] = field(factory=list)
    turns: int = 0
    slow: trio.Event = field(factory=trio.Event)

    @handles(GetMaxOffset)
    def max_offset(self, request: GetMaxOffset, caller: Caller) -> Answer[OffsetReply]:
        if request.topic == "bug":
            raise KeyError("bug")
        if request.topic == "stop":
            raise FailStop("the disk is gone")
        return Answer(OffsetReply(offset=request.queue_id))

    @handles(ViewMessage)
    def view(self, request: ViewMessage, caller: Caller) -> Answer[None]:
        return Answer(body=bytes(request.offset))

    @handles(SendMessage)
    def send(self, request: SendMessage, caller: Caller) -> Later[SendReply]:
        self.waiting.append(caller.later())
        return self.waiting[-1]

    @handles(GetMinOffset)
    async def min_offset(self, request: GetMinOffset, caller: Caller) -> Answer[OffsetReply]:
        await self.slow.wait()
        if request.topic == "gone":
            raise Refused("gone", code=17)
        return Answer(OffsetReply(offset=-1))

    @handles(DeleteTopic)
    def remember(self, request: DeleteTopic, caller: Caller) -> Answer[None]:
        self.connections.append(caller.connection)
        caller.connection.on_close(lambda: self.lost.append(request.topic))
        return Answer()

    def end_turn(self) -> None:
        self.turns += 1


def settle(later: Later[SendReply]) -> None:
    later.answer(Answer(SendReply(msg_id="m", queue_id=0, queue_offset=0)))


@define(eq=False)
class QuickRoom:
    """Takes every second send the quick way, and the others the plain one."""

    taken: list[tuple[Port, int, int]] = field(factory=list)

    @quick(RequestCode.SEND_MESSAGE_V2)
    def take(self, connection: Port, frame: Frame) -> bool:
        if frame.opaque % 2:
            return False
        if "b" not in frame.fields:
            raise KeyError("b")
        self.taken.append((connection, frame.opaque, frame.size))
        return True

    def answer(self) -> None:
        """All that was taken, in one go."""
        connection = self.taken[0][0]
        render = head_renderer(b'{"msgId":"%s"}')
        connection.respond_all(
            sum(size for _, _, size in self.taken),
            [render("m", opaque) for _, opaque, _ in self.taken],
        )
        self.taken.clear()


@frozen
class Client:
    """A connection on which tests say bytes and hear frames."""

    stream: trio.SocketStream
    framer: Framer = field(factory=Framer)

    async def say(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def hear(self, count: int = 1) -> list[Frame]:
        found: list[Frame] = []
        with trio.fail_after(20):
            while len(found) < count:
                data = await self.stream.receive_some(1 << 20)
                assert data, f"closed after {len(found)} of {count} frames"
                found += self.framer.feed(data)
        return found

    async def hear_end(self) -> None:
        """Closed by the server; resets count, since it may not have read all we sent."""
        with trio.fail_after(20):
            try:
                while await self.stream.receive_some(1 << 20):
                    pass
            except trio.BrokenResourceError:
                pass

    async def works(self) -> None:
        await self.say(ask(7))
        (response,) = await self.hear()
        assert (response.opaque, response.fields) == (7, {"offset": "7"})


def ask(opaque: int, topic: str = "T", **more: Any) -> bytes:
    """A request that is answered at once, with its own number."""
    return encode_request(MAX_OFFSET, opaque, {"topic": topic, "queueId": str(opaque)}, **more)


@define(eq=False)
class Served:
    server: Server
    room: Room
    clients: list[Client] = field(factory=list)

    async def connect(self, which: int = 0) -> Client:
        client = Client(await trio.open_tcp_stream(*self.server.addresses[which]))
        self.clients.append(client)
        return client

    def connections(self) -> int:
        return self.server.statistics().connections


@asynccontextmanager
async def serving(
    limits: ServerLimits | None = None,
    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 0),),
    *more_rooms: object,
) -> AsyncIterator[Served]:
    room = Room()
    server = Server(routes([room, *more_rooms]), listen, on_turn_end=room.end_turn, limits=limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        served = Served(server, room)
        try:
            yield served
        finally:
            nursery.cancel_scope.cancel()
            for client in served.clients:
                client.stream.socket.close()


async def until(condition: Any) -> None:
    """Let the server run until something is so."""
    with trio.fail_after(20):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_requests_are_answered_in_turn() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.works()
        await client.works()

        assert served.server.statistics().requests == 2


async def test_a_thousand_pipelined_requests_take_few_turns() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(*(ask(opaque) for opaque in range(1000)))

        assert [frame.opaque for frame in await client.hear(1000)] == list(range(1000))
        assert served.room.turns < 100


NOT_FRAMES = {
    "two_gigabytes": struct.pack(">II", 2**31 - 1, 100),
    "negative_length": struct.pack(">II", 2**32 - 100, 100),
    "header_longer_than_frame": struct.pack(">II", 10, 100) + bytes(100),
    "truncated_json": struct.pack(">II", 4 + 12, 12) + b'{"code":30,"',
    "tls": b"\x16\x03\x01" + bytes(100),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("data", NOT_FRAMES.values(), ids=NOT_FRAMES)
async def test_what_is_no_frame_closes_only_its_connection(data: bytes) -> None:
    async with serving() as served:
        other, bad = await served.connect(), await served.connect()
        await other.works()
        with structlog.testing.capture_logs() as logs:
            await bad.say(data)
            await bad.hear_end()

        closed = [line for line in logs if line["event"] == "remoting.connection_closed"]
        assert len(closed) == 1
        assert closed[0]["log_level"] == "warning"
        assert closed[0]["peer"] == "{}:{}".format(*bad.stream.socket.getsockname()[:2])
        assert closed[0]["reason"]
        await other.works()
        assert served.connections() == 1


async def test_requests_before_the_bad_bytes_are_still_served() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(310, 1, SEND_FIELDS), NOT_FRAMES["two_gigabytes"])
        await client.hear_end()

        assert len(served.room.waiting) == 1
        assert served.room.waiting[0].abandoned
        settle(served.room.waiting[0])


async def test_random_bytes_harm_nobody() -> None:
    dice = random.Random(20260101)
    async with serving() as served:
        other = await served.connect()
        for _ in range(50):
            bad = await served.connect()
            with structlog.testing.capture_logs():
                # A plausible length first, so that every layer gets its share.
                head = struct.pack(">II", dice.randrange(300), dice.randrange(300))
                try:
                    await bad.say(head, dice.randbytes(dice.randrange(2000)))
                    await bad.stream.send_eof()
                except trio.BrokenResourceError:
                    pass
                await bad.hear_end()
        await other.works()
        assert served.connections() == 1


async def test_an_unknown_code_and_a_missing_field_are_answered() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(9999, 1), encode_request(MAX_OFFSET, 2, {"topic": "T"}))

        first, second = await client.hear(2)
        assert (first.code, first.remark) == (3, " request type 9999 not supported")
        assert (second.code, second.remark) == (1, "GetMaxOffset.queueId: missing")
        await client.works()


async def test_one_way_requests_get_no_answer_not_even_an_error() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(
            ask(1, one_way=True),
            encode_request(9999, 2, one_way=True),
            encode_request(MAX_OFFSET, 3, {}, one_way=True),
            encode_request(310, 4, SEND_FIELDS, one_way=True),
            ask(5),
        )
        (response,) = await client.hear()
        settle(served.room.waiting[0])

        assert response.opaque == 5
        await client.works()


async def test_a_bug_in_a_handler_is_logged_and_answered() -> None:
    async with serving() as served:
        client = await served.connect()
        with structlog.testing.capture_logs() as logs:
            await client.say(ask(1, "bug"))
            (response,) = await client.hear()

        assert (response.code, response.remark) == (1, "KeyError: 'bug'")
        assert [line["event"] for line in logs] == ["remoting.handler_failed"]
        await client.works()


async def test_a_fail_stop_passes_through_the_server() -> None:
    with pytest.RaisesGroup(pytest.RaisesGroup(FailStop)):
        async with serving() as served:
            client = await served.connect()
            await client.say(ask(1, "stop"))
            await trio.sleep_forever()


# --- answers that come later ---------------------------------------------------------------------


async def test_a_later_answer_leaves_without_being_flushed() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(310, 1, SEND_FIELDS), ask(2))
        assert [frame.opaque for frame in await client.hear()] == [2]

        settle(served.room.waiting[0])
        assert [frame.opaque for frame in await client.hear()] == [1]


async def test_an_async_handler_holds_up_nobody() -> None:
    async with serving() as served:
        client = await served.connect()
        slow = [
            encode_request(31, opaque, {"topic": topic, "queueId": "0"})
            for opaque, topic in enumerate(["T", "gone"])
        ]
        await client.say(*slow)
        await client.works()

        served.room.slow.set()
        answers = sorted(await client.hear(2), key=lambda frame: frame.opaque)
        assert [(frame.code, frame.fields) for frame in answers] == [
            (0, {"offset": "-1"}),
            (17, {}),
        ]


# --- quotas --------------------------------------------------------------------------------------


async def test_a_slow_reader_is_paused_and_others_are_served() -> None:
    limits = ServerLimits(out_bytes_max=1 << 20)
    answer_size, count = 64 * 1024, 1000
    async with serving(limits) as served:
        slow, other = await served.connect(), await served.connect()
        view = {"offset": str(answer_size)}
        requests = [encode_request(33, opaque, view) for opaque in range(count)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.say, *requests)
            await until(lambda: served.server.statistics().paused == 1)
            for _ in range(20):
                await other.works()

            (stuck,) = [
                connection
                for connection in served.server._connections.values()
                if connection.paused
            ]
            assert stuck.out_bytes < limits.out_bytes_max + 2 * answer_size

            answers = await slow.hear(count)
        assert [frame.opaque for frame in answers] == list(range(count))
        await slow.works()
        assert served.server.statistics().paused == 0


async def test_unanswered_requests_are_bounded() -> None:
    async with serving(ServerLimits(unanswered_max=10)) as served:
        client, other = await served.connect(), await served.connect()
        await client.say(*(encode_request(310, opaque, SEND_FIELDS) for opaque in range(100)))
        await until(lambda: served.server.statistics().paused == 1)
        await other.works()
        assert len(served.room.waiting) == 10

        heard: list[int] = []
        settled = 0
        while len(heard) < 100:
            for later in served.room.waiting[settled:]:
                settle(later)
                settled += 1
            heard += [frame.opaque for frame in await client.hear()]
        assert sorted(heard) == list(range(100))
        await client.works()


async def test_what_is_taken_the_quick_way_is_bounded_and_answered_together() -> None:
    quick_room = QuickRoom()
    sends = [encode_request(310, opaque, SEND_FIELDS, b"body") for opaque in range(100)]
    limits = ServerLimits(unanswered_max=10, unanswered_bytes_max=10 * len(sends[0]))
    async with serving(limits, (("127.0.0.1", 0),), quick_room) as served:
        client, other = await served.connect(), await served.connect()
        await client.say(*sends)
        heard: list[Frame] = []
        settled = 0
        while len(heard) < 100:
            await until(lambda: len(quick_room.taken) == 5)
            assert len(served.room.waiting) == settled + 5
            await other.works()
            for later in served.room.waiting[settled:]:
                settle(later)
                settled += 1
            quick_room.answer()
            heard += await client.hear(10)
        assert sorted(frame.opaque for frame in heard) == list(range(100))
        assert {frame.fields["msgId"] for frame in heard} == {"m"}
        await client.works()


async def test_a_bug_in_a_quick_way_is_answered() -> None:
    async with serving(None, (("127.0.0.1", 0),), QuickRoom()) as served:
        client = await served.connect()
        await client.say(encode_request(310, 2, {}))
        (answer,) = await client.hear()
        assert (answer.opaque, answer.code, answer.remark) == (2, 1, "KeyError: 'b'")
        await client.works()


async def test_unanswered_one_way_requests_are_bounded_too() -> None:
    async with serving(ServerLimits(unanswered_max=10)) as served:
        client = await served.connect()
        send = [encode_request(310, 1, SEND_FIELDS, one_way=True) for _ in range(30)]
        await client.say(*send, ask(2))
        for expected in (10, 20, 30):
            await until(lambda expected=expected: len(served.room.waiting) >= expected - 5)
            for later in served.room.waiting:
                if not later.settled:
                    settle(later)

        await until(lambda: len(served.room.waiting) == 30)
        for later in served.room.waiting:
            if not later.settled:
                settle(later)
        assert [frame.opaque for frame in await client.hear()] == [2]


async def test_bodies_on_their_way_are_bounded() -> None:
    async with serving(ServerLimits(unanswered_bytes_max=1 << 20)) as served:
        client = await served.connect()
        send = encode_request(310, 1, SEND_FIELDS, bytes(200_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.say, *[send] * 20)
            await until(lambda: served.server.statistics().paused == 1)

            assert len(served.room.waiting) == 6
            while len(served.room.waiting) < 20 or not served.room.waiting[-1].settled:
                for later in served.room.waiting:
                    if not later.settled:
                        settle(later)
                await trio.lowlevel.checkpoint()
        assert len(await client.hear(20)) == 20


async def test_a_reader_far_too_slow_is_given_up() -> None:
    """Held requests that come due at once may pass the pausing limit, but not every limit."""
    async with serving(ServerLimits(out_bytes_fatal=1 << 20)) as served:
        client, other = await served.connect(), await served.connect()
        await client.say(*(encode_request(310, opaque, SEND_FIELDS) for opaque in range(100)))
        await until(lambda: len(served.room.waiting) == 100)
        with structlog.testing.capture_logs() as logs:
            for later in served.room.waiting:
                later.answer(Answer(body=bytes(256 * 1024)))
            await until(lambda: served.connections() == 1)

        assert [line["reason"] for line in logs] == ["reads too slowly"]
        await other.works()


async def test_incomplete_frames_of_all_connections_are_bounded() -> None:
    async with serving(ServerLimits(partial_bytes_max=300_000)) as served:
        greedy = [await served.connect() for _ in range(4)]
        promise = struct.pack(">II", 10_000_000, 100)
        with structlog.testing.capture_logs() as logs:
            for client in greedy:
                await client.say(promise, bytes(100_000))
            await until(lambda: served.connections() < 4)

        assert [line["reason"] for line in logs] == ["too many bytes of incomplete frames"] * (
            4 - served.connections()
        )
        assert served.server._partial_bytes <= 300_000


async def test_a_connection_over_the_cap_is_turned_away() -> None:
    async with serving(ServerLimits(connections_max=2)) as served:
        first, second = await served.connect(), await served.connect()
        await first.works()
        await second.works()
        third = await served.connect()
        await third.hear_end()

        await first.stream.aclose()
        await until(lambda: served.connections() == 1)
        await (await served.connect()).works()


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_idle_connections_cost_a_working_one_nothing() -> None:
    gc.collect()
    with descriptors(4096):
        async with serving() as served:
            idle = [await served.connect() for _ in range(1000)]
            client = await served.connect()
            await client.say(*(ask(opaque) for opaque in range(100)))
            assert len(await client.hear(100)) == 100
            assert served.connections() == 1001
            for one in idle:
                await one.stream.aclose()
            await until(lambda: served.connections() == 1)


async def test_running_out_of_descriptors_pauses_accepting() -> None:
    async with serving(ServerLimits(idle_timeout_s=6)) as served:
        first = await served.connect()
        await first.works()
        waiting = socket.socket()
        waiting.setblocking(False)
        with structlog.testing.capture_logs() as logs:
            # No descriptor is free beyond those that are open already.
            with descriptors(waiting.fileno() + 1):
                assert waiting.connect_ex(served.server.addresses[0]) in (0, 115)
                await until(lambda: logs)
                await first.works()
            assert [line["event"] for line in logs] == ["remoting.accepting_paused"]
            second = Client(trio.SocketStream(trio.socket.from_stdlib_socket(waiting)))
            await second.works()
            await second.stream.aclose()


# --- coming and going ----------------------------------------------------------------------------


async def test_a_closed_connection_tells_whoever_asked() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(
            encode_request(215, 1, {"topic": "A"}), encode_request(310, 2, SEND_FIELDS)
        )
        await client.hear()
        (connection,) = served.room.connections
        assert connection.remote == client.stream.socket.getsockname()
        await client.stream.aclose()
        await until(lambda: served.room.lost)

        assert served.room.lost == ["A"]
        assert connection.closed
        settle(served.room.waiting[0])  # dropped without a word
        connection.on_close(lambda: served.room.lost.append("late"))
        assert served.room.lost == ["A", "late"]


async def test_a_failing_close_callback_stops_nobody() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(215, 1, {"topic": "A"}))
        await client.hear()
        (connection,) = served.room.connections
        connection.on_close(lambda: served.room.lost.remove("nobody"))
        connection.on_close(lambda: served.room.lost.append("B"))
        with structlog.testing.capture_logs() as logs:
            await client.stream.aclose()
            await until(lambda: "B" in served.room.lost)

        assert [line["event"] for line in logs] == [
            "remoting.connection_closed",
            "remoting.close_callback_failed",
        ]


async def test_a_half_closed_connection_still_gets_its_answers() -> None:
    async with serving() as served:
        client = await served.connect()
        view = encode_request(33, 1, {"offset": str(6 << 20)})
        await client.say(view)
        await client.stream.send_eof()

        (answer,) = await client.hear()
        assert len(answer.body) == 6 << 20
        await client.hear_end()
        await until(lambda: served.connections() == 0)


async def test_a_reset_connection_is_gone() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.works()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.stream.aclose()

        await until(lambda: served.connections() == 0)


async def test_an_idle_connection_is_closed() -> None:
    async with serving(ServerLimits(idle_timeout_s=0.1)) as served:
        client = await served.connect()
        with structlog.testing.capture_logs() as logs:
            await client.hear_end()

        assert [line["reason"] for line in logs] == ["idle"]


async def test_the_main_and_the_vip_port_serve_alike() -> None:
    async with serving(listen=(("127.0.0.1", 0), ("127.0.0.1", 0))) as served:
        assert len(set(served.server.addresses)) == 2
        for which in (0, 1):
            await (await served.connect(which)).works()


async def test_a_port_in_use_is_named() -> None:
    async with serving() as served:
        address = served.server.addresses[0]
        with pytest.raises(AddressUnavailable, match=f"port {address[1]} is in use"):
            await Server(routes([]), [address]).run()
        await (await served.connect()).works()


async def test_a_reserved_port_can_be_listened_on() -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        async with serving(listen=(reserved.getsockname(),)) as served:
            await (await served.connect()).works()


async def test_a_bad_host_is_named() -> None:
    with pytest.raises(AddressUnavailable, match=r"cannot listen on 192\.0\.2\.1:0"):
        await Server(routes([]), [("192.0.2.1", 0)]).run()


async def test_a_stopped_server_closes_its_connections() -> None:
    async with serving() as served:
        stream = await trio.open_tcp_stream(*served.server.addresses[0])
        await Client(stream).works()
    await Client(stream).hear_end()
    await stream.aclose()


# --- the server asks -----------------------------------------------------------------------------


async def test_a_client_can_be_asked_and_answers_are_matched() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(215, 1, {"topic": "A"}))
        await client.hear()
        (connection,) = served.room.connections
        replies: list[Frame | None] = []
        connection.request(NotifyConsumersChanged(consumer_group="g"))
        connection.request(ViewMessage(offset=5), b"body", on_reply=replies.append)

        notice, question = await client.hear(2)
        assert (notice.code, notice.fields, notice.opaque) == (40, {"consumerGroup": "g"}, 1)
        assert notice.is_one_way
        assert (question.code, question.body, question.opaque) == (33, b"body", 2)
        assert not question.is_one_way

        # One answer to nothing, one to the notice, which awaits none, and then the right one.
        for opaque in (77, 1, 2):
            await client.say(encode_frame(Frame(code=0, flag=1, opaque=opaque)))
        await client.works()
        assert [reply and reply.opaque for reply in replies] == [2]


async def test_a_question_ends_with_its_connection() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(215, 1, {"topic": "A"}))
        await client.hear()
        (connection,) = served.room.connections
        replies: list[Frame | None] = []
        connection.request(ViewMessage(offset=5), on_reply=replies.append)
        await client.stream.aclose()
        await until(lambda: replies)

        assert replies == [None]
        connection.request(ViewMessage(offset=5), on_reply=replies.append)
        connection.request(NotifyConsumersChanged(consumer_group="g"))
        assert replies == [None, None]


async def test_questions_that_await_an_answer_are_bounded() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(215, 1, {"topic": "A"}))
        await client.hear()
        (connection,) = served.room.connections
        replies: list[Frame | None] = []
        for _ in range(REPLIES_AWAITED_MAX + 1):
            connection.request(ViewMessage(offset=5), on_reply=replies.append)

        assert replies == [None]
        assert len(await client.hear(REPLIES_AWAITED_MAX)) == REPLIES_AWAITED_MAX


async def test_a_forgotten_question_makes_room_and_its_answer_is_ignored() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(215, 1, {"topic": "A"}))
        await client.hear()
        (connection,) = served.room.connections
        replies: list[Frame | None] = []
        for _ in range(REPLIES_AWAITED_MAX):
            number = connection.request(ViewMessage(offset=5), on_reply=replies.append)
        connection.forget(number)
        connection.request(ViewMessage(offset=6), on_reply=replies.append)
        asked = await client.hear(REPLIES_AWAITED_MAX + 1)
        for question in asked[-2:]:
            await client.say(encode_frame(Frame(code=0, flag=1, opaque=question.opaque)))
        await client.works()

        assert [asked[-1].opaque] == [reply and reply.opaque for reply in replies]


async def test_a_client_that_reads_nothing_is_not_asked() -> None:
    async with serving(limits=ServerLimits(out_bytes_max=1000)) as served:
        client = await served.connect()
        await client.say(encode_request(215, 1, {"topic": "A"}))
        await client.hear()
        (connection,) = served.room.connections
        replies: list[Frame | None] = []
        for _ in range(2):  # nothing leaves before this task waits
            connection.request(ViewMessage(offset=5), bytes(1000), on_reply=replies.append)

        assert [None] == replies
        (question,) = await client.hear()
        assert 1000 == len(question.body)


async def test_a_bug_in_taking_an_answer_is_logged() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.say(encode_request(215, 1, {"topic": "A"}))
        await client.hear()
        (connection,) = served.room.connections
        lost = served.room.lost
        connection.request(ViewMessage(offset=5), on_reply=lambda reply: lost.remove("nobody"))
        await client.hear()
        with structlog.testing.capture_logs() as logs:
            await client.say(encode_frame(Frame(code=0, flag=1, opaque=1)))
            await client.works()

        assert [line["event"] for line in logs] == ["remoting.handler_failed"]


async def test_a_binary_peer_is_asked_in_binary() -> None:
    async with serving() as served:
        client = await served.connect()
        request = Frame(code=215, opaque=1, fields={"topic": "A"}, serialization=1)
        await client.say(encode_frame(request))
        (answer,) = await client.hear()
        assert answer.serialization == 1
        served.room.connections[0].request(NotifyConsumersChanged(consumer_group="g"))

        (notice,) = await client.hear()
        assert (notice.serialization, notice.fields) == (1, {"consumerGroup": "g"})
