"""A follower's driver, fed with frames by hand: what it keeps of what it is sent."""

from __future__ import annotations

import trio

from dledger_py.actors import fail_stop_in
from dledger_py.ledger.peer_frames import encode_head
from dledger_py.raft.vocabulary import Append, Entry
from dledger_py.storage import batch
from dledger_py.storage.formats import EMPTY


class Leader:
    """Seals entries as a leader's log would, and frames any run of them."""

    def __init__(self):
        self.entries = []
        self.batches = []
        self.round = 0

    def log(self, count, *, term):
        for _ in range(count):
            end = self.batches[-1].end if self.batches else EMPTY
            index = end.index + 1
            entry = Entry(index=index, term=term, kind=1, payload=b"%d of %d" % (index, term))
            self.entries.append(entry)
            self.batches.append(batch.seal(end, [entry]))

    def cut(self, first):
        del self.entries[first - 1 :], self.batches[first - 1 :]

    def append(self, first, last, *, term, commit=0):
        """(header, body) of one Append of the entries first..last."""
        self.round += 1
        raw = b"".join(each.data for each in self.batches[first - 1 : last])
        message = Append(
            term=term,
            prev_index=first - 1,
            prev_term=self.entries[first - 2].term if first > 1 else 0,
            entries=tuple(self.entries[first - 1 : last]),
            commit=commit,
            round=self.round,
        )
        head = encode_head(message, len(raw))
        return head[8:], raw

    def data(self):
        return b"".join(each.data for each in self.batches)


async def written(follower, position):
    log = follower.ledger.log
    with trio.fail_after(20):
        while log.durable_position != position:
            await trio.lowlevel.checkpoint()
    return bytes(log.read_bytes(0, position))


async def test_of_overlapping_appends_only_what_is_new_is_kept(open_group):
    async with open_group(3) as group:
        await group.start("n0")
        follower = group.members["n0"]
        driver = follower.ledger.parts.driver
        leader = Leader()
        leader.log(5, term=1)
        driver.receive("n1", [leader.append(1, 3, term=1), leader.append(2, 5, term=1, commit=4)])
        driver.receive("n1", [leader.append(1, 2, term=1)])
        log = await written(follower, len(leader.data()))
        await group.wait_applied(4, "n0")

        assert leader.data() == log
        assert [b"1 of 1", b"2 of 1", b"3 of 1", b"4 of 1"] == follower.machine.commands


async def test_what_a_newer_leader_contradicts_is_cut(open_group):
    async with open_group(3) as group:
        await group.start("n0")
        follower = group.members["n0"]
        driver = follower.ledger.parts.driver
        leader = Leader()
        leader.log(6, term=1)
        driver.receive("n1", [leader.append(1, 6, term=1, commit=2)])
        leader.cut(4)
        leader.log(1, term=2)
        driver.receive("n2", [leader.append(3, 4, term=2, commit=4)])
        log = await written(follower, len(leader.data()))
        await group.wait_applied(4, "n0")

        assert leader.data() == log
        assert 4 == follower.ledger.log.last_index
        assert [b"1 of 1", b"2 of 1", b"3 of 1", b"4 of 2"] == follower.machine.commands
        assert None is follower.ledger.parts.tail.get(5)


async def test_entries_that_do_not_continue_this_log_stop_the_member(open_group):
    """Terms and indices match but the bytes before differ: the logs have diverged already."""
    async with open_group(3) as group:
        await group.start("n0")
        follower = group.members["n0"]
        driver = follower.ledger.parts.driver
        ours, theirs = Leader(), Leader()
        ours.log(1, term=1)
        theirs.entries.append(Entry(index=1, term=1, kind=1, payload=b"something else"))
        theirs.batches.append(batch.seal(EMPTY, theirs.entries))
        theirs.log(1, term=1)
        driver.receive("n1", [ours.append(1, 1, term=1)])
        driver.receive("n1", [theirs.append(2, 2, term=1)])
        with trio.fail_after(20):
            await follower.ended.wait()

        assert "belongs" in str(fail_stop_in(follower.error))
