"""Handing writes on: what is sent again, what never is, and how long anything waits."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
from attrs import define, field

from broker.errors import DiskLow, NoLeader, TooBusy
from broker.serving import leadership as module
from broker.serving.leadership import BORN_HOST, FORWARDED_BY, Leadership
from dledger_py.actors import Child, Supervisor
from dledger_py.cluster.ports import PortReservations
from dledger_py.ledger.machine import RoleView
from dledger_py.remoting.rooms import Caller
from dledger_py.remoting.wire.frame import Frame, Framer, encode_request, encode_response
from tests.broker.rooms_kit import Connection
from tests.client.fake_servers import FakeServer, running

FORWARD = 10
PATIENCE_S = 5


@define(eq=False)
class Gate:
    """A member under test; its role is what the test says."""

    members: dict[str, str]
    wait_ms: int = 1_000
    view: RoleView = RoleView(role="follower", term=1, leader="n1", ready=False)
    alone: bool = False
    redispatched: list[Frame] = field(factory=list)
    flushes: int = 0
    client: Connection = field(factory=lambda: Connection(1))
    leadership: Leadership = field(init=False)
    _opaque: int = 0

    def __attrs_post_init__(self) -> None:
        self.leadership = Leadership(
            node="n0",
            address_of=self.members.get,
            wait_ms=self.wait_ms,
            view=lambda: self.view,
            alone=lambda: self.alone,
            redispatch=lambda connection, frame: self.redispatched.append(frame),
            flush=lambda: None,
        )

    def become(self, role: str, leader: str | None, *, ready: bool = False) -> None:
        self.view = RoleView(role=role, term=self.view.term + 1, leader=leader, ready=ready)
        self.leadership.role_changed()

    def relay(self, body: bytes = b"x", *, one_way: bool = False, **fields: str) -> None:
        self._opaque += 1
        data = encode_request(FORWARD, self._opaque, {"a": "1"} | fields, body, one_way=one_way)
        self.leadership.relay(Caller(self.client, Framer().feed(data)[0]))

    async def wait_idle(self) -> None:
        with trio.fail_after(PATIENCE_S):
            while self.leadership.statistics().in_hand:
                await trio.lowlevel.checkpoint()

    async def answer(self, **how) -> Frame:
        self.relay(**how)
        await self.wait_idle()
        return self.client.answers[-1]


@asynccontextmanager
async def gate(*leaders: FakeServer, addresses: tuple[str, ...] = (), **how) -> AsyncIterator[Gate]:
    """The servers are the members n1, n2, …"""
    found = [server.address for server in leaders] or list(addresses)
    members = {f"n{number}": address for number, address in enumerate(found, start=1)}
    made = Gate({"n0": "127.0.0.1:1"} | members, **how)
    supervisor = Supervisor("test", (Child("leadership", lambda: made.leadership),))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: supervisor.serve(task_status=task_status))
        with trio.fail_after(PATIENCE_S):
            yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def server() -> AsyncIterator[FakeServer]:
    made = FakeServer()
    async with running(made):
        yield made


def answering(*codes: int) -> Callable[..., bytes]:
    """One code after the other, the last for ever."""
    left = list(codes)

    def answer(peer, frame: Frame) -> bytes | None:
        code = left.pop(0) if len(left) > 1 else left[0]
        return encode_response(frame, code, {"queueOffset": "7"}, b"body", f"said {code}")

    return answer


async def test_the_leaders_answer_is_handed_back_whole() -> None:
    async with server() as leader:
        leader.handlers[FORWARD] = answering(0)
        async with gate(leader) as made:
            answer = await made.answer(body=b"message")
        (request,) = leader.requests

    assert (0, b"body", "said 0") == (answer.code, answer.body, answer.remark)
    assert {"queueOffset": "7"} == answer.fields
    assert (b"message", "1", 0) == (request.body, request.fields["a"], request.flag)
    assert ("n0", "10.0.0.9:54321") == (request.fields[FORWARDED_BY], request.fields[BORN_HOST])


@pytest.mark.parametrize("code", [1, 2, 13, 16, 17, 29])
async def test_other_refusals_of_the_leader_are_final(code) -> None:
    async with server() as leader:
        leader.handlers[FORWARD] = answering(code, 0)
        async with gate(leader) as made:
            answer = await made.answer()

    assert code == answer.code
    assert 1 == len(leader.requests)


async def test_a_leader_that_certainly_did_nothing_is_asked_again() -> None:
    async with server() as leader:
        leader.handlers[FORWARD] = answering(14, 14, 0)
        async with gate(leader) as made:
            answer = await made.answer()

    assert 0 == answer.code
    assert 3 == len(leader.requests)


async def test_a_refusal_that_another_leader_would_not_lift_is_final() -> None:
    def full(peer, frame: Frame) -> bytes:
        fields = dict(DiskLow.fields)
        return encode_response(frame, 14, fields, remark="the broker's disk is nearly full")

    async with server() as leader:
        leader.handlers[FORWARD] = full
        async with gate(leader, wait_ms=60_000) as made:
            answer = await made.answer()

    assert (14, "the broker's disk is nearly full") == (answer.code, answer.remark)
    assert 1 == len(leader.requests)


async def test_its_last_words_are_handed_back_when_time_is_up() -> None:
    async with server() as leader:
        leader.handlers[FORWARD] = answering(14)
        async with gate(leader, wait_ms=120) as made:
            answer = await made.answer()
            refused = made.leadership.statistics().refused

    assert (14, "said 14", 1) == (answer.code, answer.remark, refused)


async def test_a_request_whose_outcome_is_unknown_is_never_sent_again() -> None:
    async with server() as leader, server() as next_leader:
        next_leader.handlers[FORWARD] = answering(0)
        async with gate(leader, next_leader) as made:
            leader.handlers[FORWARD] = lambda peer, frame: None
            made.relay()
            await leader.wait_for(lambda: leader.requests)
            await leader.drop_all()
            made.become("follower", "n2")
            await made.wait_idle()
            answer = made.client.answers[-1]

    assert 1 == answer.code
    assert "may have been" in answer.remark
    assert [] == next_leader.requests


async def test_silence_of_the_leader_is_an_unknown_outcome(monkeypatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.1)
    async with server() as leader:
        leader.handlers[FORWARD] = lambda peer, frame: None
        async with gate(leader) as made:
            answer = await made.answer()
            await leader.wait_for(lambda: leader.ends == [anyio.BrokenResourceError])

    assert (1, 1) == (answer.code, len(leader.requests))


async def test_a_deposed_leader_that_falls_silent_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 10 * PATIENCE_S)
    async with server() as leader, server() as next_leader:
        leader.handlers[FORWARD] = lambda peer, frame: None
        next_leader.handlers[FORWARD] = answering(0)
        async with gate(leader, next_leader) as made:
            made.relay()
            await leader.wait_for(lambda: leader.requests)
            made.become("follower", "n2")
            await made.wait_idle()
            answer = made.client.answers[-1]
            # What did not arrive must not: the client tries again, and does more after that.
            await leader.wait_for(lambda: leader.ends == [anyio.BrokenResourceError])

    assert 1 == answer.code
    assert [] == next_leader.requests


async def test_the_last_word_of_a_deposed_leader_is_handed_back(monkeypatch) -> None:
    monkeypatch.setattr(module, "LAST_WORD_S", PATIENCE_S)
    async with server() as leader, server() as next_leader:
        leader.handlers[FORWARD] = lambda peer, frame: None
        async with gate(leader, next_leader) as made:
            made.relay()
            await leader.wait_for(lambda: leader.requests)
            made.become("follower", "n2")
            (request,) = leader.requests
            await leader.peers[0].send(encode_response(request, 0, remark="it was committed"))
            await made.wait_idle()
            answer = made.client.answers[-1]

    assert (0, "it was committed") == (answer.code, answer.remark)


async def test_a_leader_that_was_only_lost_sight_of_keeps_its_time(monkeypatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 4 * module.LAST_WORD_S)
    async with server() as leader:
        leader.handlers[FORWARD] = lambda peer, frame: None
        async with gate(leader) as made:
            made.relay()
            await leader.wait_for(lambda: leader.requests)
            made.become("follower", None)
            made.become("follower", "n1")
            start = trio.current_time()
            await made.wait_idle()
            waited = trio.current_time() - start

    assert waited > 2 * module.LAST_WORD_S


async def test_dialling_a_deposed_leader_ends_soon_and_the_next_one_is_asked(monkeypatch) -> None:
    open_connection = module.open_connection

    @asynccontextmanager
    async def black_hole(host, port, **how):
        if port == 9:
            await trio.sleep_forever()
        async with open_connection(host, port, **how) as connection:
            yield connection

    monkeypatch.setattr(module, "open_connection", black_hole)
    async with server() as next_leader:
        next_leader.handlers[FORWARD] = answering(0)
        async with gate(addresses=("127.0.0.1:9", next_leader.address)) as made:
            made.relay()
            await trio.testing.wait_all_tasks_blocked()
            made.become("follower", "n2")
            await made.wait_idle()
            answer = made.client.answers[-1]

    assert 0 == answer.code


async def test_a_member_that_becomes_the_leader_answers_by_itself() -> None:
    async with gate() as made:
        made.become("candidate", None)
        made.relay(b"waited")
        made.become("leader", "n0")
        await trio.testing.wait_all_tasks_blocked()
        early = len(made.redispatched)
        made.become("leader", "n0", ready=True)
        await made.wait_idle()

    assert 0 == early
    assert [b"waited"] == [frame.body for frame in made.redispatched]
    assert [] == made.client.answers


async def test_without_a_leader_requests_wait_and_are_then_refused() -> None:
    async with gate(wait_ms=60) as made:
        made.become("follower", None)
        start = trio.current_time()
        answer = await made.answer()
        waited = trio.current_time() - start

    assert 14 == answer.code
    assert waited >= 0.06


async def test_a_member_that_hears_nobody_waits_for_no_leader() -> None:
    async with gate(wait_ms=60_000, alone=True) as made:
        made.become("follower", None)
        answer = await made.answer()

    assert 14 == answer.code


async def test_a_leader_that_cannot_be_reached_is_tried_until_time_is_up() -> None:
    ports = PortReservations()
    nobody = f"127.0.0.1:{ports.take_any()}"
    async with server() as next_leader:
        next_leader.handlers[FORWARD] = answering(0)
        async with gate(addresses=(nobody, next_leader.address)) as made:
            made.relay()
            await trio.testing.wait_all_tasks_blocked()
            made.become("follower", "n2")
            await made.wait_idle()
            answer = made.client.answers[-1]
    ports.close()

    assert 0 == answer.code


async def test_dialling_a_leader_that_swallows_everything_ends_with_the_wait(monkeypatch) -> None:
    @asynccontextmanager
    async def black_hole(host, port, **how):
        await trio.sleep_forever()
        yield

    monkeypatch.setattr(module, "open_connection", black_hole)
    monkeypatch.setattr(module, "DIAL_S", 0.05)
    async with gate(addresses=("127.0.0.1:9",), wait_ms=100) as made:
        for _ in range(20):
            made.relay()
        start = trio.current_time()
        await made.wait_idle()
        waited = trio.current_time() - start

    assert [14] * 20 == [answer.code for answer in made.client.answers]
    assert waited < 1


async def test_a_client_that_left_is_not_forwarded_for() -> None:
    async with server() as leader:
        leader.handlers[FORWARD] = answering(0)
        async with gate(leader) as made:
            made.become("follower", None)
            made.relay()
            await trio.testing.wait_all_tasks_blocked()
            made.client.close()
            made.become("follower", "n1")
            await made.wait_idle()

    assert [] == leader.requests


async def test_one_way_requests_are_carried_and_not_answered() -> None:
    async with server() as leader:
        leader.handlers[FORWARD] = answering(0)
        async with gate(leader) as made:
            made.relay(one_way=True)
            await made.wait_idle()

    assert 1 == len(leader.requests)
    assert ([], 1) == (made.client.answers, made.client.settled)


async def test_what_was_forwarded_once_is_not_forwarded_again() -> None:
    async with gate() as made:
        with pytest.raises(NoLeader):
            made.relay(**{FORWARDED_BY: "n2"})


@pytest.mark.parametrize("name, bound", [("IN_HAND_MAX", 3), ("IN_HAND_BYTES_MAX", 3_500)])
async def test_what_waits_is_bounded(monkeypatch, name, bound) -> None:
    monkeypatch.setattr(module, name, bound)
    async with gate(wait_ms=60) as made:
        made.become("follower", None)
        for _ in range(3):
            made.relay(bytes(1_000))
        with pytest.raises(TooBusy):
            made.relay(bytes(1_000))
        await made.wait_idle()
        made.relay(bytes(1_000))
        await made.wait_idle()

    assert 4 == len(made.client.answers)


async def test_one_connection_serves_all_and_a_broken_one_is_replaced() -> None:
    async with server() as leader:
        leader.handlers[FORWARD] = answering(0)
        async with gate(leader) as made:
            for _ in range(10):
                made.relay()
            await made.wait_idle()
            dialled = len(leader.peers)
            await leader.drop_all()
            while not made.leadership._connections["n1"].closed:
                await trio.lowlevel.checkpoint()
            answer = await made.answer()

    assert (1, 0) == (dialled, answer.code)
