"""`dledger log backup`, `restore`, `rescue`: what they say, and their exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from dledger_py.raft.membership import Configuration, encode
from dledger_py.storage import RealFiles, Recovered, recover
from dledger_py.storage.formats import HEADER_BLOCK_BYTES
from tests.cli.test_log_commands import WHOSE, Entry, flip, opened

ALL = ("n0", "n1", "n2")


@pytest.fixture
def member(tmp_path: Path) -> Path:
    """n1 of three, stopped: entries 1 to 6, of which 5 are known to be committed."""
    return made(tmp_path / "n1", last=6, commit=5)


def made(directory: Path, *, last: int, commit: int) -> Path:
    running = opened(directory)
    for index in range(1, last + 1):
        payload = encode(Configuration(voters=ALL)) if index == 2 else b"x" * 300
        entry = Entry(index, 1 if index < 4 else 2, 2 if index == 2 else 1, payload)
        running.log.write([running.log.seal([entry])])
    running.hard_state_file.save(3, "n0", commit)
    running.close()
    return directory


def test_a_backup_tells_what_it_holds_and_verify_agrees(
    dledger: Any, member: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    ended = dledger("log", "backup", f"{member}/", f"{to}/")

    assert (0, 3) == (ended.code, ended.out.count("\n"))
    assert ended.out.startswith("copied 00000000000000000000.log, 0.0 MiB\n")
    summary = "entries 1 to 5 of n1, term 2; 2 files, 0.0 MiB"
    assert f"complete: {summary}" == ended.out.splitlines()[-1]
    assert ended.err == ("dledger: 1 entries behind it are not known to be committed: left out\n")

    looked = dledger("log", "verify", str(to))
    assert (0, "") == (looked.code, looked.err)
    first, second, last = looked.out.splitlines()
    assert first.startswith("a backup of cluster 'shop', group 'broker-a', member 'n1', taken 20")
    assert "members: n0, n1, n2; term 3; committed up to 5" == second
    assert f"sound: {summary}" == last


def test_the_whole_log_is_for_the_last_folder_of_a_lost_group(
    dledger: Any, member: Path, tmp_path: Path
) -> None:
    ended = dledger("log", "backup", str(member), str(tmp_path / "to"), "--whole-log", "--json")
    told = json.loads(ended.out)

    assert (0, "") == (ended.code, ended.err)
    assert (1, 6, 5, 0, True) == tuple(
        told[name] for name in ("firstIndex", "lastIndex", "committed", "leftOut", "sound")
    )
    assert list(ALL) == told["members"]


def test_a_running_member_is_backed_up_and_not_disturbed(
    dledger: Any, member: Path, tmp_path: Path
) -> None:
    running = opened(member)
    ended = dledger("log", "backup", str(member), str(tmp_path / "to"), "--patience", "0")
    running.close()

    assert 0 == ended.code
    assert "complete: entries 1 to 5 of n1" in ended.out


def test_a_damaged_backup_is_code_1_and_is_not_restored(
    dledger: Any, member: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    dledger("log", "backup", str(member), str(to))
    damaged = to / "00000000000000000000.log"
    flip(damaged, HEADER_BLOCK_BYTES + 60)
    looked = dledger("log", "verify", str(to))

    assert 1 == looked.code
    line = f"{damaged}: its content is not what was written"
    assert f"DAMAGED: {line}" == looked.out.splitlines()[-1]
    told = json.loads(dledger("log", "verify", "--json", str(to)).out)
    assert (False, [line]) == (told["sound"], told["damage"])

    new = tmp_path / "new"
    ended = dledger("log", "restore", str(to), str(new), "--member", "n0", "--members", "n0")
    assert (1, f"dledger: {line}\n") == (ended.code, ended.err)
    assert not new.exists()


def test_what_is_refused_says_why(dledger: Any, member: Path, tmp_path: Path) -> None:
    used, to = tmp_path / "used", tmp_path / "to"
    used.mkdir()
    (used / "something").touch()
    dledger("log", "backup", str(member), str(to))
    restored = ("--member", "n0", "--members", "n0,n1")
    running = opened(member)
    cases = [
        (("backup", str(member), str(used)), 1, f"{used}: it is not empty (something)"),
        (("backup", str(used), str(tmp_path / "x")), 3, f"{used}: no log in it (no hard-state)"),
        (("backup", str(member), str(tmp_path / "x"), "--whole-log"), 1, "stop it for a copy"),
        (("restore", str(to), str(used), *restored), 1, f"{used}: it is not empty (something)"),
        (("restore", str(used), str(tmp_path / "x"), *restored), 1, f"{used}: no backup in it"),
        (("restore", str(tmp_path / "y"), str(tmp_path / "x"), *restored), 3, "no such directory"),
        (
            ("restore", str(to), str(tmp_path / "x"), "--member", "n3", "--members", "n0,n1"),
            2,
            "'n3' is not among the members n0, n1",
        ),
        (("rescue", str(member)), 1, f"{member}: a running member has it open; stop it first"),
        (("rescue", str(used)), 3, f"{used}: no log in it"),
        (("rescue", "a", "b", "--accept-data-loss"), 2, "give the one DIR whose log reaches"),
    ]
    for arguments, code, reason in cases:
        ended = dledger("log", *arguments)
        assert (code, True, 1) == (ended.code, reason in ended.err, ended.err.count("\n")), ended
    running.close()


def test_restored_folders_open_with_the_log_of_the_backup(
    dledger: Any, member: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    dledger("log", "backup", str(member), str(to))
    ended = dledger(
        *("log", "restore", str(to), str(tmp_path / "a0")),
        *("--member", "a0", "--members", "a0, a1", "--cluster", "new", "--group", "g"),
    )

    assert (0, "") == (ended.code, ended.err)
    *_progress, done, other = ended.out.splitlines()
    assert done == (
        f"restored: {tmp_path / 'a0'} is cluster 'new', group 'g', member 'a0' of a0, a1;"
        " 6 entries, term 4"
    )
    assert "a1 is made from the same backup, with the same --members" in other
    second = dledger(
        *("log", "restore", str(to), str(tmp_path / "a1"), "--json"),
        *("--member", "a1", "--members", "a1,a0", "--cluster", "new", "--group", "g"),
    )
    assert (6, 4, ["a0", "a1"]) == tuple(
        json.loads(second.out)[name] for name in ("lastIndex", "lastTerm", "members")
    )
    assert 0 == dledger("log", "verify", str(tmp_path / "a1")).code
    logs = [sorted((tmp_path / name).glob("*.log")) for name in ("a0", "a1")]
    for mine, others in zip(*logs, strict=True):
        assert mine.read_bytes()[HEADER_BLOCK_BYTES:] == others.read_bytes()[HEADER_BLOCK_BYTES:]


def test_a_rescue_shows_who_reaches_furthest_and_changes_nothing(
    dledger: Any, member: Path, tmp_path: Path
) -> None:
    shorter = made(tmp_path / "n2", last=5, commit=5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ended = dledger("log", "rescue", str(shorter), str(member))

    assert (0, "") == (ended.code, ended.err)
    header, first, second, warning, *_more, command = ended.out.splitlines()
    assert header.split() == (
        ["#Directory", "#Member", "#Last", "term", "#Last", "index", "#Committed", "#Members"]
    )
    assert [str(member), "n1", "2", "6", "5", "n0,n1,n2"] == first.split()
    assert [str(shorter), "n1", "2", "5", "5", "n0,n1,n2"] == second.split()
    assert "WARNING: n1 would go on alone, with entries up to 6." == warning
    assert "only n0, n2 had" in ended.out
    assert command.endswith(f"log rescue --accept-data-loss {member}")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_rescue_is_done_when_the_loss_is_accepted(dledger: Any, member: Path) -> None:
    ended = dledger("log", "rescue", str(member), "--accept-data-loss")

    assert (0, "") == (ended.code, ended.err)
    assert "WARNING: n1 would go on alone" in ended.out
    assert "rescued: n1 is the only member, from term 4 on" in ended.out
    found = reopened(member)
    assert (7, 4, 7) == (found.log.last_index, found.hard_state.term, found.hard_state.commit)
    found.close()
    told = json.loads(dledger("log", "rescue", "--json", str(member)).out)
    assert (False, ["n1"]) == (told["rescued"], told["reach"][0]["members"])


def reopened(directory: Path) -> Recovered:
    return recover(RealFiles(), str(directory), WHOSE, 700)
