"""A copy of another member's log takes the place of this one's: whole, or not at all."""

import pytest
from attrs import evolve
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.storage import BadBatch, Corrupt, open_snapshots
from dledger_py.storage.formats import End
from dledger_py.storage.incoming import BadSnapshot, begin_incoming, open_incoming
from dledger_py.storage.install_format import (
    Marker,
    Phase,
    decode_marker,
    encode_marker,
)
from dledger_py.storage.lying import LyingFiles, PowerCut
from dledger_py.storage.snapshots import SnapshotPlace, SnapshotSummary
from dledger_py.storage.switching import (
    INSTALL_NAME,
    drop_installation,
    installation_wanted,
    want_installation,
)
from tests.storage.log_scenes import DIRECTORY, ME, Life, all_entries, open_log

BEFORE = (3, b"others")
BODY = b"state of the machine|" * 200


class Source:
    """Another member: its log begins late, and it has a snapshot in the middle of it."""

    def __init__(self) -> None:
        life = Life(LyingFiles())
        life.open()
        for number in range(30):
            life.append(1 + number // 10, 90 + number)
        log = life.opened.log
        life.drop(12)
        self.log = log
        self.start = log.start
        self.entries = all_entries(log)
        self.raw = bytes(log.read_bytes(log.first_position, log.end_position - log.first_position))
        (entry,) = log.read(25, 1)
        (following,) = log.read(26, 1)
        place = SnapshotPlace(
            index=25,
            term=entry.term,
            position=following.position,
            crc=int.from_bytes(following.raw[32:36], "big"),
        )
        self.snapshot = SnapshotSummary(place=place, body_bytes=len(BODY), body_crc=crc32c(BODY))

    def bytes_from(self, position: int, size: int) -> bytes:
        at = position - self.start.position
        return self.raw[at : at + size]


SOURCE = Source()


def behind(seed: int | str = 0) -> LyingFiles:
    """A member that has five entries, two of them nobody else's, and a vote."""
    life = Life(LyingFiles(seed=seed))
    life.open()
    life.save(2, "n2")
    life.append(1, 90, 91, 92)
    life.append(2, 10, 11)
    life.idle()
    snapshots = open_snapshots(life.files, f"{DIRECTORY}/snapshots", ME)
    snapshots.write(SnapshotPlace(index=2, term=1, position=261, crc=7), [b"old"])
    want_installation(life.files, DIRECTORY)
    life.opened.close()
    return life.files


def install(files: LyingFiles, source: Source = SOURCE, piece_bytes: int = 333) -> int:
    """Go on with a copy, or begin one, and finish it; how many bytes of it were copied."""
    copied = 0
    incoming = open_incoming(files, DIRECTORY, ME, 700)
    if incoming is None:
        incoming = begin_incoming(files, DIRECTORY, ME, source.start, BEFORE, 700)
    while incoming.last_index < source.entries[-1].index:
        raw = source.bytes_from(incoming.wanted, piece_bytes)
        copied += len(raw)
        incoming.take(raw)
    while incoming.body_bytes() < len(BODY):
        at = incoming.body_bytes()
        incoming.take_body(at, BODY[at : at + 1000])
    try:
        incoming.finish_body(source.snapshot)
    except BadSnapshot:  # a crash can leave anything of the body
        incoming.close()
        return copied + install(files, source)
    incoming.finish(source.snapshot.place.index)
    return copied


def check_installed(files: LyingFiles) -> None:
    opened = open_log(files)
    state = opened.hard_state
    assert SOURCE.entries == all_entries(opened.log)
    assert SOURCE.start == opened.log.start
    assert (3, None, 30) == (state.term, state.vote, state.commit)
    assert ((3, b"others"),) == opened.configurations
    snapshots = open_snapshots(files, f"{DIRECTORY}/snapshots", ME)
    assert (25,) == snapshots.indices
    assert BODY == snapshots.read(25).body
    assert not installation_wanted(files, DIRECTORY)
    log = opened.log
    log.write([log.seal([evolve(SOURCE.entries[-1], index=31, term=4)])])
    opened.close()


def test_a_member_that_is_behind_becomes_a_copy_and_goes_on() -> None:
    files = behind()
    birth = files.content(f"{DIRECTORY}/birth")
    copied = install(files)

    check_installed(files)
    assert len(SOURCE.raw) == copied
    assert birth == files.content(f"{DIRECTORY}/birth")
    assert 31 == open_log(files).log.last_index


def test_until_the_copy_is_whole_the_old_log_is_there() -> None:
    files = behind()
    incoming = begin_incoming(files, DIRECTORY, ME, SOURCE.start, BEFORE, 700)
    incoming.take(SOURCE.raw[:2000])
    incoming.close()
    opened = open_log(files)

    assert 5 == opened.log.last_index
    assert (2, "n2") == (opened.hard_state.term, opened.hard_state.vote)
    assert installation_wanted(files, DIRECTORY)


def test_a_vote_in_the_term_of_the_copy_or_a_later_one_is_kept() -> None:
    for term in (3, 9):
        files = behind()
        opened = open_log(files)
        opened.hard_state_file.save(term, "n1", 2)
        opened.close()
        install(files)
        state = open_log(files).hard_state

        assert (term, "n1", 30) == (state.term, state.vote, state.commit)


@pytest.mark.parametrize("seed", range(3))
def test_a_power_cut_anywhere_leaves_the_old_log_or_the_copy_and_can_be_gone_on_with(
    seed: int,
) -> None:
    changes, old, new = 0, 0, 0
    while True:
        files = behind(f"{seed}/{changes}")
        files.stop_after(changes)
        try:
            install(files)
        except PowerCut:
            files.crash()
        else:
            break
        finally:
            changes += 1
        opened = open_log(files)
        assert opened.log.last_index in (5, 30)
        wanted = installation_wanted(files, DIRECTORY)
        assert wanted == (opened.log.last_index == 5)
        opened.close()
        if wanted:
            old += 1
            install(files)
        else:
            new += 1
        check_installed(files)

    assert old > 50
    assert new > 5


def test_a_copy_is_gone_on_with_where_it_was() -> None:
    files = behind()
    incoming = begin_incoming(files, DIRECTORY, ME, SOURCE.start, BEFORE, 700)
    incoming.take(SOURCE.raw[:3000])
    incoming.take_body(0, BODY[:1500])
    incoming.close()
    files.kill()
    copied = install(files)

    check_installed(files)
    assert copied <= len(SOURCE.raw) - 3000 + 200


def test_wrong_bytes_are_refused() -> None:
    files = behind()
    incoming = begin_incoming(files, DIRECTORY, ME, SOURCE.start, BEFORE, 700)
    for wrong in (SOURCE.raw[1:500], SOURCE.raw[:100] + b"\1" + SOURCE.raw[101:500]):
        with pytest.raises(BadBatch):
            incoming.take(wrong)
        assert SOURCE.start.position == incoming.wanted
    incoming.take(SOURCE.raw)
    for wrong_snapshot in (
        evolve(SOURCE.snapshot, body_crc=1),
        evolve(SOURCE.snapshot, place=evolve(SOURCE.snapshot.place, crc=1)),
        evolve(SOURCE.snapshot, place=evolve(SOURCE.snapshot.place, index=31)),
        evolve(SOURCE.snapshot, place=evolve(SOURCE.snapshot.place, index=3)),
    ):
        incoming.take_body(0, BODY)
        with pytest.raises(BadSnapshot):
            incoming.finish_body(wrong_snapshot)
        assert 0 == incoming.body_bytes()
    incoming.close()
    install(files)

    check_installed(files)


def test_a_copy_that_rotted_is_begun_anew() -> None:
    files = behind()
    incoming = begin_incoming(files, DIRECTORY, ME, SOURCE.start, BEFORE, 700)
    incoming.take(SOURCE.raw[:3000])
    incoming.close()
    first = min(n for n in files.list(f"{DIRECTORY}/incoming") if n.endswith(".log"))
    files.flip_bit(f"{DIRECTORY}/incoming/{first}", 4200)
    install(files)

    check_installed(files)


def test_a_whole_log_can_be_copied_without_a_snapshot() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 100, 200)
    raw = bytes(life.opened.log.read_bytes(0, life.opened.log.end_position))
    files = behind()
    incoming = begin_incoming(files, DIRECTORY, ME, End(0, 0, 0, 0), (0, b"us"), 700)
    incoming.take(raw)
    incoming.finish(0)

    assert all_entries(life.opened.log) == all_entries(open_log(files).log)
    assert () == open_snapshots(files, f"{DIRECTORY}/snapshots", ME).indices


def test_an_installation_that_is_not_wanted_any_more_is_forgotten() -> None:
    files = behind()
    drop_installation(files, DIRECTORY)
    files.crash()

    assert not installation_wanted(files, DIRECTORY)
    assert 5 == open_log(files).log.last_index


def test_a_damaged_marker_stops_the_member() -> None:
    files = behind()
    files.flip_bit(f"{DIRECTORY}/{INSTALL_NAME}", 30)
    with pytest.raises(Corrupt, match="crc does not match"):
        open_log(files)


@given(
    st.sampled_from(Phase),
    st.lists(st.integers(0, 2**60), min_size=4, max_size=4),
    st.lists(st.integers(0, 2**60), max_size=5),
)
def test_a_marker_survives_the_disk(phase, numbers, starts) -> None:
    index, term, snapshot, configuration = numbers
    marker = Marker(
        phase=phase,
        last_index=index,
        last_term=term,
        snapshot_index=snapshot,
        configuration_index=configuration,
        starts=tuple(starts),
    )

    assert marker == decode_marker(encode_marker(marker), "f")


def test_every_flipped_bit_and_every_cut_of_the_marker_is_seen() -> None:
    content = encode_marker(Marker(phase=Phase.SWITCHING, last_index=9, starts=(1, 2)))
    decode_marker(content, "f")
    for at in range(len(content)):
        damaged = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        for wrong in (damaged, content[:at]):
            with pytest.raises(Corrupt):
                decode_marker(wrong, "f")


def test_the_bytes_are_these_for_ever() -> None:
    marker = Marker(
        phase=Phase.SWITCHING,
        last_index=9,
        last_term=2,
        snapshot_index=5,
        configuration_index=3,
        starts=(255,),
    )
    expected = (
        "444c454447494e53"
        "0001"
        "0002"
        "0000000000000009"
        "0000000000000002"
        "0000000000000005"
        "0000000000000003"
        "00000001"
        "00000000000000ff"
    )
    crc = crc32c(bytes.fromhex(expected)).to_bytes(4, "big").hex()

    assert expected + crc == encode_marker(marker).hex()
