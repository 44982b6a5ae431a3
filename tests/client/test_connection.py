"""One connection: matching, coalescing, deadlines, and each way it can end."""

import anyio
import anyio.lowlevel
import pytest

from dledger_py.client import connection as connection_module
from dledger_py.client.connection import (
    Connection,
    ConnectionStatistics,
    open_connection,
    parse_address,
)
from dledger_py.client.errors import (
    CallTimedOut,
    ClientClosed,
    ConnectionLost,
    GarbageReceived,
    Indefinite,
    Refused,
    ResponseError,
    Unreachable,
)
from dledger_py.remoting.wire.frame import Frame, encode_request, encode_response
from tests.client.fake_servers import FakeServer, Peer, on_both_loops, running

ECHO, SILENT, REFUSE, HANG_UP, GARBAGE = 901, 902, 903, 904, 905


def echo(peer: Peer, frame: Frame) -> bytes:
    return encode_response(frame, 0, frame.fields, frame.body)


def make_server() -> FakeServer:
    server = FakeServer()
    server.handlers[ECHO] = echo
    server.handlers[SILENT] = lambda peer, frame: None
    server.handlers[REFUSE] = lambda peer, frame: encode_response(frame, 29, remark="no such queue")
    server.handlers[GARBAGE] = lambda peer, frame: b"HTTP/1.1 400 Bad Request\r\n\r\n"
    return server


async def ask(connection: Connection, code: int, body: bytes = b"", timeout_s: float = 5) -> Frame:
    return await connection.call_frame(Frame(code=code, body=body), timeout_s=timeout_s)


@on_both_loops
async def test_answers_find_their_callers_whatever_the_order() -> None:
    server = make_server()
    held: list[Frame] = []

    def reverse(peer: Peer, frame: Frame) -> bytes | None:
        held.append(frame)
        return b"".join(echo(peer, each) for each in reversed(held)) if len(held) == 10 else None

    server.handlers[ECHO] = reverse
    bodies: dict[int, bytes] = {}

    async def one(number: int) -> None:
        bodies[number] = (await ask(connection, ECHO, b"%d" % number)).body

    async with (
        running(server),
        open_connection("127.0.0.1", server.port) as connection,
        anyio.create_task_group() as tasks,
    ):
        for number in range(10):
            tasks.start_soon(one, number)

    assert bodies == {number: b"%d" % number for number in range(10)}


@on_both_loops
async def test_requests_of_one_turn_leave_in_one_send() -> None:
    server = make_server()
    async with running(server), open_connection("127.0.0.1", server.port) as connection:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask, connection, ECHO)

        assert connection.statistics() == ConnectionStatistics(
            pending=0, out_bytes=0, sends=1, requests=50
        )


@on_both_loops
async def test_callers_wait_while_too_much_waits_to_be_sent() -> None:
    """Forty requests of 100 kB through a window of 1 MB."""
    server = make_server()
    connection_module.OUT_BYTES_MAX, before = 1_000_000, connection_module.OUT_BYTES_MAX
    most = 0

    async def one() -> None:
        nonlocal most
        await ask(connection, ECHO, b"x" * 100_000)
        most = max(most, connection.statistics().out_bytes)

    try:
        async with running(server), open_connection("127.0.0.1", server.port) as connection:
            for _ in range(2):
                async with anyio.create_task_group() as tasks:
                    for _ in range(40):
                        tasks.start_soon(one)
                    await anyio.lowlevel.checkpoint()
                    most = max(most, connection.statistics().out_bytes)
    finally:
        connection_module.OUT_BYTES_MAX = before

    assert len(server.requests) == 80
    assert most < 1_200_000


@on_both_loops
async def test_a_late_answer_is_indefinite_and_the_connection_goes_on() -> None:
    server = make_server()
    async with running(server), open_connection("127.0.0.1", server.port) as connection:
        with pytest.raises(CallTimedOut, match="did not answer in time"):
            await ask(connection, SILENT, timeout_s=0.01)

        assert (await ask(connection, ECHO, b"still here")).body == b"still here"
        assert connection.statistics().pending == 0


@on_both_loops
async def test_a_server_that_says_nothing_any_more_is_given_up() -> None:
    """A call that may wait for long, such as a held pull, hears of it from one that may not."""
    server = make_server()
    connection_module.SILENT_S, before = 0.05, connection_module.SILENT_S
    try:
        async with running(server):
            async with (
                open_connection("127.0.0.1", server.port) as connection,
                anyio.create_task_group() as tasks,
            ):

                async def wait_long() -> None:
                    with pytest.raises(ConnectionLost, match="silent"):
                        await ask(connection, SILENT, timeout_s=60)

                tasks.start_soon(wait_long)
                with pytest.raises(CallTimedOut):
                    await ask(connection, SILENT, timeout_s=0.1)
                await connection.wait_closed()
            await server.wait_for(lambda: server.ends == [anyio.BrokenResourceError])
    finally:
        connection_module.SILENT_S = before


@on_both_loops
async def test_what_was_given_up_is_taken_back_and_a_goodbye_is_none() -> None:
    """Only a reset makes the system drop what did not arrive."""
    server = make_server()
    async with running(server):
        async with open_connection("127.0.0.1", server.port) as connection:
            await ask(connection, ECHO)
        await server.wait_for(lambda: len(server.ends) == 1)
        async with (
            open_connection("127.0.0.1", server.port) as connection,
            anyio.create_task_group() as tasks,
        ):

            async def wait_long() -> None:
                with pytest.raises(ConnectionLost, match="enough"):
                    await ask(connection, SILENT, timeout_s=60)

            tasks.start_soon(wait_long)
            await server.wait_for(lambda: bool(server.requests_of(SILENT)))
            connection.abort(lambda: ConnectionLost("enough"))
            connection.abort(lambda: ConnectionLost("once more"))
        await server.wait_for(lambda: len(server.ends) == 2)
    assert [anyio.EndOfStream, anyio.BrokenResourceError] == server.ends


@on_both_loops
async def test_a_server_that_answers_others_is_not_given_up() -> None:
    server = make_server()
    connection_module.SILENT_S, before = 0.05, connection_module.SILENT_S
    try:
        async with (
            running(server),
            open_connection("127.0.0.1", server.port) as connection,
            anyio.create_task_group() as tasks,
        ):

            async def chat() -> None:
                while True:
                    await ask(connection, ECHO)

            tasks.start_soon(chat)
            with pytest.raises(CallTimedOut):
                await ask(connection, SILENT, timeout_s=0.1)
            tasks.cancel_scope.cancel()

            assert not connection.closed
    finally:
        connection_module.SILENT_S = before


@on_both_loops
async def test_a_cancelled_call_leaves_the_connection_usable() -> None:
    server = make_server()
    late: list[bytes] = []
    server.handlers[SILENT] = lambda peer, frame: late.append(encode_response(frame, 0))
    async with running(server), open_connection("127.0.0.1", server.port) as connection:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, connection, SILENT)
            await server.wait_for(lambda: bool(late))
            tasks.cancel_scope.cancel()
        assert connection.statistics().pending == 0
        await server.peers[0].send(late[0])

        assert (await ask(connection, ECHO, b"next")).body == b"next"
        assert connection.statistics().pending == 0


@on_both_loops
async def test_the_end_of_a_connection_fails_its_calls_indefinitely() -> None:
    server = make_server()
    errors: list[BaseException] = []

    async def call() -> None:
        with pytest.raises(ConnectionLost, match="closed the connection") as caught:
            await ask(connection, SILENT)
        errors.append(caught.value)

    async with running(server), open_connection("127.0.0.1", server.port) as connection:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(call)
            await server.wait_for(lambda: len(server.requests) == 2)
            await server.drop_all()
        await connection.wait_closed()

        with pytest.raises(ConnectionLost):
            await ask(connection, ECHO)
    assert errors[0] is not errors[1]
    assert all(isinstance(error, Indefinite) for error in errors)


@on_both_loops
async def test_garbage_closes_the_connection_and_says_so() -> None:
    server = make_server()
    async with running(server), open_connection("127.0.0.1", server.port) as connection:
        with pytest.raises(GarbageReceived, match=r"127.0.0.1:\d+ sent bytes that are no frame"):
            await ask(connection, GARBAGE)
        await server.wait_for(lambda: not server.peers)

        assert connection.closed


@on_both_loops
async def test_an_address_nobody_listens_on_is_unreachable() -> None:
    server = make_server()
    async with running(server):
        port = server.port
    with pytest.raises(Unreachable, match="is it running") as caught:
        async with open_connection("127.0.0.1", port):
            pytest.fail("connected")
    assert isinstance(caught.value, Refused)
    assert caught.value.retryable


@on_both_loops
async def test_the_bodys_exception_is_not_wrapped() -> None:
    server = make_server()
    async with running(server):
        with pytest.raises(ZeroDivisionError):
            async with open_connection("127.0.0.1", server.port):
                raise ZeroDivisionError


@on_both_loops
async def test_after_the_block_a_call_is_refused() -> None:
    server = make_server()
    async with running(server):
        async with open_connection("127.0.0.1", server.port) as connection:
            pass
        with pytest.raises(ClientClosed):
            await ask(connection, ECHO)


@on_both_loops
async def test_one_way_requests_leave_before_the_connection_closes() -> None:
    server = make_server()
    async with running(server):
        async with open_connection("127.0.0.1", server.port) as connection:
            await connection.tell_encoded(encode_request(ECHO, 1, one_way=True))
        await server.wait_for(lambda: len(server.requests) == 1)

    assert server.requests[0].is_one_way


@on_both_loops
async def test_the_servers_requests_reach_the_callback_and_can_be_answered() -> None:
    server = make_server()
    asked: list[Frame] = []

    def on_request(connection: Connection, frame: Frame) -> None:
        asked.append(frame)
        connection.answer_nowait(frame, 0, {"it": "works"})

    async with (
        running(server),
        open_connection("127.0.0.1", server.port, on_request=on_request) as connection,
    ):
        await ask(connection, ECHO)
        await server.notify(40, {"consumerGroup": "billing"})
        await server.peers[0].send(encode_request(307, 5, {"consumerGroup": "billing"}))
        await server.wait_for(lambda: len(server.requests) == 2)

    answer = server.requests[1]
    assert (answer.opaque, answer.code, answer.fields) == (5, 0, {"it": "works"})
    assert [frame.code for frame in asked] == [40, 307]


@on_both_loops
async def test_without_a_callback_the_servers_requests_are_not_supported() -> None:
    server = make_server()
    async with running(server), open_connection("127.0.0.1", server.port) as connection:
        await ask(connection, ECHO)
        await server.peers[0].send(encode_request(307, 9, {}))
        await server.wait_for(lambda: len(server.requests) == 2)

    assert (server.requests[1].opaque, server.requests[1].code) == (9, 3)


@pytest.mark.parametrize(
    "remark, text",
    [("no such queue", ": no such queue"), (" RocketMQ's", ": RocketMQ's"), (None, "")],
)
def test_a_refusal_carries_code_and_remark(remark: str | None, text: str) -> None:
    answer = ResponseError(29, remark)

    assert str(answer) == f"answered with code 29{text}"
    assert answer.remark == remark


@pytest.mark.parametrize(
    "text, expected",
    [("10.0.0.1:9876", ("10.0.0.1", 9876)), (" mq:1 ", ("mq", 1)), ("[::1]:9876", ("::1", 9876))],
)
def test_addresses_are_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "mq", ":9876", "mq:", "mq:x", "mq:0", "mq:65536"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port is expected"):
        parse_address(text)
