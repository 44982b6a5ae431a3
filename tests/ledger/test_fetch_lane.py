"""Fetching from a running member, over a real socket."""

from __future__ import annotations

import pytest
import trio

from dledger_py.ledger import fetch_server
from dledger_py.ledger.fetch_client import FetchFailed, open_fetch
from dledger_py.ledger.fetch_frames import PIECE_MAX_BYTES, decode_last_word
from dledger_py.ledger.fetch_server import Pace
from dledger_py.ledger.peer_frames import LANE_FETCH, Hello, encode_hello
from dledger_py.raft.membership import decode
from dledger_py.runtime.host import RealHost
from tests.ledger.test_snapshotter import Diary, commit_all, texts

HOST = RealHost()


def hello_to(member, **other):
    sender = sender_of(member)
    names = {"cluster": "dledger", "group": "broker-a", "sender": sender, "receiver": member.name}
    birth = birth_of(member, sender)
    return Hello(lane=LANE_FETCH, incarnation=1, **{**names, "birth": birth, **other})


def birth_of(member, sender):
    return member.ledger.members._heard[sender].birth


def sender_of(member):
    return next(name for name in ("n0", "n1") if name != member.name)


def fetch_from(member, **other):
    return open_fetch(hello_to(member, **other), [member.ledger.peer_address], HOST)


async def test_the_committed_log_is_handed_out_byte_by_byte_wherever_one_begins(open_group):
    async with open_group(3) as group:
        await group.start()
        await group.wait_heard()
        leader = await group.wait_leader()
        await commit_all(leader, [b"%d" % number * 100_000 for number in range(6)])
        await group.wait_applied(6)
        follower = group.follower()
        async with fetch_from(follower) as fetch:
            told = await fetch.describe()
            got = bytearray()
            while len(got) < told.commit_position:
                got += await fetch.read_log(len(got))
            odd = await fetch.read_log(12345)
        wanted = bytes(leader.ledger.log.read_bytes(0, told.commit_position))

        assert follower.ledger.committed_position >= told.commit_position > 6 * 100_000
        assert wanted == got
        assert wanted[12345 : 12345 + PIECE_MAX_BYTES] == odd
        assert (0, 0, 0, 0) == (
            told.start_index,
            told.start_position,
            told.start_crc,
            told.start_term,
        )
        assert ("n0", "n1", "n2") == decode(told.configuration).voters
        assert 0 == told.snapshot_index


async def test_what_is_not_committed_is_never_handed_out(open_group):
    async with open_group(3) as group:
        await group.start()
        await group.wait_heard()
        leader = await group.wait_leader()
        await commit_all(leader, [b"kept"])
        await group.wait_applied(1)
        for name in group.names:
            if name != leader.name:
                await group.stop(name)
        committed = leader.ledger.committed_position
        leader.ledger.propose(b"alone", lambda _: None)
        while leader.ledger.log.durable_position == committed:
            await trio.lowlevel.checkpoint()
        async with fetch_from(leader) as fetch:
            told = await fetch.describe()
            with pytest.raises(FetchFailed, match="committed up to"):
                await fetch.read_log(committed)
            last = await fetch.read_log(committed - 1)

        assert committed == told.commit_position < leader.ledger.log.end_position
        assert 1 == len(last)


async def test_the_newest_snapshot_is_handed_out_in_pieces(open_group):
    async with open_group(2, machine=Diary) as group:
        await group.start()
        await group.wait_heard()
        await commit_all(await group.wait_leader(), texts(10))
        await group.wait_applied(10)
        await group.stop("n0")
        await group.start("n0")
        await group.wait_heard()
        async with fetch_from(group.members["n0"]) as fetch:
            told = await fetch.describe()
            whole = await fetch.read_snapshot(told.snapshot_index, 0)
            rest = await fetch.read_snapshot(told.snapshot_index, 7)
            with pytest.raises(FetchFailed, match="byte"):
                await fetch.read_snapshot(told.snapshot_index, told.snapshot_bytes)
            with pytest.raises(FetchFailed, match="no snapshot at index"):
                await fetch.read_snapshot(told.snapshot_index + 1, 0)

    assert told.snapshot_bytes == len(whole)
    assert whole[7:] == rest
    assert b"command 9" in whole


@pytest.mark.parametrize(
    "other",
    [{"cluster": "c"}, {"group": "g"}, {"sender": "n7"}, {"receiver": "n7"}, {"lane": "express"}],
)
async def test_strangers_get_nothing_but_the_reason(open_group, other):
    async with open_group(2) as group:
        await group.start()
        await group.wait_heard()
        leader = await group.wait_leader()
        hello = Hello(**{**hello_values(leader), **other})
        async with open_fetch(hello, [leader.ledger.peer_address], HOST) as fetch:
            with pytest.raises(FetchFailed, match=next(iter(other.values()))):
                await fetch.describe()


def hello_values(member):
    return {
        "cluster": "dledger",
        "group": "broker-a",
        "lane": LANE_FETCH,
        "sender": sender_of(member),
        "receiver": member.name,
        "incarnation": 1,
        "birth": birth_of(member, sender_of(member)),
    }


async def test_only_so_many_fetch_at_a_time(open_group):
    async with open_group(2) as group:
        await group.start()
        await group.wait_heard()
        leader = await group.wait_leader()
        async with fetch_from(leader) as first, fetch_from(leader) as second:
            await first.describe()
            await second.describe()
            async with fetch_from(leader) as third:
                with pytest.raises(FetchFailed, match="2 members are fetching already"):
                    await third.describe()
            await first.describe()
            assert 2 == fetch_server.FETCHERS_MAX


async def test_rubbish_on_the_lane_costs_its_connection_only(open_group):
    async with open_group(2) as group:
        await group.start()
        await group.wait_heard()
        leader = await group.wait_leader()
        async with await trio.open_tcp_stream(*leader.ledger.peer_address) as stream:
            rubbish = b"\0\0\0\x06\0\0\0\x02\x81\x63"
            await stream.send_all(encode_hello(hello_to(leader)) + rubbish)
            last_word = b"".join([received async for received in stream])

            assert "a header that is not CBOR: 8163" == decode_last_word(last_word)
        await commit_all(leader, [b"still here"])


async def test_all_who_fetch_share_one_rate(autojump_clock):
    pace = Pace(1000)
    ends = []

    async def fetch(count):
        for _ in range(count):
            await pace.wait(500)
            ends.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, 3)
        nursery.start_soon(fetch, 3)

    assert [0.0, 0.5, 1.0, 1.5, 2.0, 2.5] == pytest.approx([end - began for end in ends])


async def test_a_member_that_asks_nothing_is_let_go(open_group, monkeypatch):
    monkeypatch.setattr(fetch_server, "IDLE_S", 0.01)
    async with open_group(2) as group:
        await group.start()
        await group.wait_heard()
        leader = await group.wait_leader()
        async with await trio.open_tcp_stream(*leader.ledger.peer_address) as stream:
            await stream.send_all(encode_hello(hello_to(leader)))

            assert b"" == await stream.receive_some()
