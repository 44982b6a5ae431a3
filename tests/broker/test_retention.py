"""The oldest messages go, on all members alike, and everything else goes on."""

import pytest
import trio
from attrs import define, evolve, field

from broker.config import LedgerSettings
from broker.machine.codec import decode_command
from broker.machine.commands import TrimLog
from broker.serving import retention
from broker.serving.retention import Retention, Wish, choose, first_message, held_back
from dledger_py.actors import FailStop
from dledger_py.ledger import snapshotter
from dledger_py.ledger.errors import NotLeader
from dledger_py.ledger.reopening import Reopen
from dledger_py.remoting.commands.offsets import GetMinOffset
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.storage import Corrupt
from dledger_py.storage.formats import End, segment_start
from tests.broker.broker_kit import brokers, dial, pull, send
from tests.broker.test_broker_group import bodies

HOUR_MS = 3_600_000
BOUNDARIES = tuple(End(index, 1, 100 * index, 0) for index in (10, 20, 30))
STAMPS = {10: 1 * HOUR_MS, 20: 2 * HOUR_MS, 30: 3 * HOUR_MS}


@pytest.mark.parametrize(
    "wish,index",
    [
        (Wish(age_ms=0, bytes=0), None),
        (Wish(age_ms=2 * HOUR_MS, bytes=0), 20),
        (Wish(age_ms=4 * HOUR_MS, bytes=0), None),
        (Wish(age_ms=0, bytes=500), 30),
        (Wish(age_ms=0, bytes=501), 20),
        (Wish(age_ms=0, bytes=10_000), None),
        (Wish(age_ms=3 * HOUR_MS, bytes=1000), 20),
    ],
)
def test_what_may_go_is_what_is_too_old_or_too_much(wish, index):
    chosen = choose(BOUNDARIES, 3500, STAMPS, wish, 4 * HOUR_MS)

    assert index == (chosen and chosen.index)


def test_what_was_not_looked_up_is_not_too_old():
    chosen = choose(BOUNDARIES, 3500, {10: 0}, Wish(age_ms=1, bytes=0), 4 * HOUR_MS)

    assert chosen == BOUNDARIES[0]


@pytest.mark.parametrize("needed,index", [(35, 20), (20, 20), (19, 10), (9, None)])
def test_a_member_that_is_behind_holds_the_log_back(needed, index):
    kept = held_back(BOUNDARIES, BOUNDARIES[1], needed)

    assert index == (kept and kept.index)


@define(eq=False)
class FakeLog:
    boundaries: tuple[End, ...] = BOUNDARIES
    start: End = End(0, 0, 0, 0)
    end_position: int = 3500

    def read(self, first_index, max_bytes):
        raise LookupError


@define(eq=False)
class Around:
    """What a `Retention` asks of the others."""

    proposed: list[TrimLog] = field(factory=list)
    behind: tuple[str, int] = ("n1", 99)
    refuse: bool = False
    log: FakeLog = field(factory=FakeLog)
    held: int | None = None
    queues: tuple[tuple[str, int], ...] = (("a", 0), ("a", 1), ("b", 0))

    def make(self, wish):
        return Retention(
            wish=wish,
            log=lambda: self.log,
            leads=lambda: True,
            behind=lambda: self.behind,
            queues=lambda: self.queues,
            min_offset=lambda topic, queue_id: 3,
            held=lambda: self.held,
            first_at=lambda topic, queue_id, position: position // 1000 if topic == "a" else 3,
            commit=self._commit,
            run_in_thread=trio.to_thread.run_sync,
            now_ms=lambda: 1,
        )

    async def _commit(self, payload):
        if self.refuse:
            raise NotLeader("n1")
        self.proposed.append(decode_command(payload))


async def test_the_command_names_the_queues_that_begin_later():
    around = Around(log=FakeLog(boundaries=(End(10, 1, 7000, 0),), end_position=9000))
    await around.make(Wish(age_ms=0, bytes=1000)).look()

    assert around.proposed == [
        TrimLog(stamped_ms=1, index=10, position=7000, queues=(("a", 0, 7), ("a", 1, 7)))
    ]


async def test_many_queues_take_several_commands_and_the_entries_go_with_the_last(monkeypatch):
    monkeypatch.setattr(retention, "QUEUES_MAX", 2)
    around = Around(
        log=FakeLog(boundaries=(End(10, 1, 7000, 0),), end_position=9000),
        queues=tuple(("a", number) for number in range(5)),
    )
    await around.make(Wish(age_ms=0, bytes=1000)).look()

    assert [(0, 2), (0, 2), (10, 1)] == [(each.index, len(each.queues)) for each in around.proposed]


async def test_a_member_behind_is_waited_for_and_then_passed_over(monkeypatch, capsys):
    around = Around(behind=("n2", 12))
    await around.make(Wish(age_ms=0, bytes=100)).look()
    assert [10] == [each.index for each in around.proposed]
    assert "retention.waits_for_a_member" in capsys.readouterr().out

    monkeypatch.setattr(retention, "HELD_BYTES_MAX", 2999)
    await around.make(Wish(age_ms=0, bytes=100)).look()
    assert [10, 30] == [each.index for each in around.proposed]
    assert "retention.passed_a_member" in capsys.readouterr().out


@pytest.mark.parametrize("held, trimmed", [(999, []), (1000, [10]), (2500, [20]), (3500, [30])])
async def test_what_waits_for_its_time_is_kept(held, trimmed, capsys):
    around = Around(held=held)
    await around.make(Wish(age_ms=0, bytes=100)).look()

    assert trimmed == [each.index for each in around.proposed]
    assert (trimmed != [30]) == ("retention.waits_for_messages" in capsys.readouterr().out)


async def test_a_leader_that_is_none_any_more_lets_it_be(capsys):
    await Around(refuse=True).make(Wish(age_ms=0, bytes=100)).look()

    assert "retention.put_off" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error,kind",
    [(Corrupt("a file", 5, "it rotted"), Reopen), (OSError(5, "the disk is gone"), FailStop)],
)
async def test_a_log_that_cannot_be_read_stops_the_member_as_for_any_reader(error, kind):
    class Broken(FakeLog):
        def read(self, first_index, max_bytes):
            raise error

    around = Around(log=Broken())
    with pytest.raises(FailStop, match="the log cannot be read") as looking:
        await around.make(Wish(age_ms=1, bytes=0)).look()
    with pytest.raises(FailStop, match="the log cannot be read") as asking:
        first_message(around.log, 1)

    assert [kind, kind] == [looking.type, asking.type]


def test_a_log_without_entries_has_no_first_message():
    assert first_message(FakeLog(), 1) is None


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(retention, "LOOK_S", 0.01)
    monkeypatch.setattr(snapshotter, "LOOK_S", 0.01)


def first_position(folder):
    return min(
        start for path in folder.iterdir() if (start := segment_start(path.name)) is not None
    )


def short_enough(log, wanted_bytes):
    """Whether retention has come to rest: nothing that is left is too much."""
    return log.end_position - log.boundaries[0].position < wanted_bytes


async def test_a_group_lets_the_oldest_messages_go_and_serves_the_rest(tmp_path, often):
    async with brokers(tmp_path, 3, retention_bytes=40_000, retention_hours=0) as group:
        small = evolve(group.config("n0").ledger, segment_size_bytes=10_000)
        assert isinstance(small, LedgerSettings)
        await group.start(ledger=small)
        leader = await group.wait_leader()
        async with dial(leader) as client:
            for number in range(200):
                await send(client, "orders", b"%0500d" % number)
            members = list(group.members.values())
            while not all(short_enough(m.broker.ledger.log, 40_000) for m in members):
                await trio.lowlevel.checkpoint()
            await group.wait_applied_alike()
            first = (await client.call(GetMinOffset(topic="orders", queue_id=0))).header.offset
            too_old = await pull(client, "orders", 0)
            oldest = await pull(client, "orders", first)
        assert 100 < first < 200
        assert (ResponseCode.PULL_OFFSET_MOVED, first) == (
            too_old.code,
            too_old.header.next_begin_offset,
        )
        assert b"%0500d" % first == bodies(oldest)[0]
        for member in members:
            assert first == member.broker.queues.min_offset("orders", 0)
            assert first == member.broker.machine.queues.min_offset("orders", 0)
            assert 60_000 < first_position(tmp_path / member.node)
        for name in group.names:
            await group.stop(name)
        await group.start(ledger=small)
        again = await group.wait_leader()
        async with dial(again) as client:
            await send(client, "orders", b"after")
            offset = (await client.call(GetMinOffset(topic="orders", queue_id=0))).header.offset
            kept = await pull(client, "orders", offset)

    assert first <= offset
    assert b"%0500d" % offset == bodies(kept)[0]
