"""`dledger log …` over folders that a log store has written; the verdicts are tests/storage's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from dledger_py.storage import Identity, RealFiles, Recovered, recover
from dledger_py.storage.formats import HEADER_BLOCK_BYTES, segment_name

WHOSE = Identity(cluster="shop", group="broker-a", member="n1")


@frozen
class Entry:
    index: int
    term: int
    kind: int
    payload: bytes


def opened(directory: Path) -> Recovered:
    return recover(RealFiles(), str(directory), WHOSE, 700)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Entries 1 to 6 in two segments, all attested."""
    member = opened(tmp_path)
    member.hard_state_file.save(2, "n0", 0)
    payloads = [b"", b"first\x1b[31m\n", b"x" * 700, b"\xff\x00", b"fifth", b"y" * 100]
    for at, payload in enumerate(payloads):
        entry = Entry(at + 1, 1 if at < 4 else 2, min(at, 1), payload)
        member.log.write([member.log.seal([entry])])
    member.close()
    return tmp_path


def segments(data: Path) -> list[Path]:
    return sorted(data.glob("*.log"))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_sound_folder_is_code_0(dledger: Any, data: Path) -> None:
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    ended = dledger("log", "verify", f"{data}/")

    assert (0, "") == (ended.code, ended.err)
    assert ended.out.splitlines()[0] == "cluster 'shop', group 'broker-a', member 'n1'"
    assert ended.out.splitlines()[1] == "term 2, vote n0, committed at least 0"
    assert ended.out.splitlines()[-1] == "sound: 6 entries"
    rows = [line.split() for line in ended.out.splitlines()[3:5]]
    assert [["1", "3", "1", "3"], ["4", "6", "1-2", "3"]] == [row[2:6] for row in rows]
    assert before == {path.name: path.read_bytes() for path in data.iterdir()}


def test_damage_is_code_1_with_the_place_the_meaning_and_what_to_do(
    dledger: Any, data: Path
) -> None:
    path = segments(data)[0]
    flip(path, HEADER_BLOCK_BYTES + 40 + 40 + 3)
    ended = dledger("log", "verify", str(data))

    assert ended.code == 1
    *_, damaged, meaning, advice = ended.out.splitlines()
    at = HEADER_BLOCK_BYTES + 40
    assert damaged == f"DAMAGED: {path}, byte {at}, entry 2: crc of entry 2 does not match"
    assert "corruption, not a crash" in meaning
    assert "Keep a copy of this directory" in advice


def test_a_torn_tail_is_told_and_is_code_0(dledger: Any, data: Path) -> None:
    path = segments(data)[-1]
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\xd1\xed half an entry")
    ended = dledger("log", "verify", str(data))

    assert ended.code == 0
    assert f"torn tail: {path}, byte {size}, entry 7: ends inside an entry header" in ended.out
    assert "the next start cuts them off" in ended.out
    assert ended.out.splitlines()[-1] == "sound after the torn tail is cut: 6 entries"


def test_verify_for_programs(dledger: Any, data: Path) -> None:
    flip(segments(data)[1], HEADER_BLOCK_BYTES)
    ended = dledger("log", "verify", "--json", str(data))
    document = json.loads(ended.out)

    assert (1, False) == (ended.code, document["sound"])
    assert {"cluster": "shop", "group": "broker-a", "member": "n1"} == document["identity"]
    assert {"term": 2, "vote": "n0", "commit": 0} == document["hardState"]
    first = document["firstDamage"]
    assert ("damage", str(segments(data)[1]), 4096, 4) == (
        first["severity"],
        first["file"],
        first["byte"],
        first["index"],
    )
    assert [(1, 3), (4, 3)] == [
        (segment["firstIndex"], segment["lastIndex"]) for segment in document["segments"]
    ]


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_no_folder_or_no_log_in_it_is_code_3(dledger: Any, tmp_path: Path, command: str) -> None:
    for name, reason in [("none", "no such directory"), ("", "no log in it")]:
        ended = dledger("log", command, f"{tmp_path / name}")

        assert ended.code == 3
        assert ended.err.startswith(f"dledger: {tmp_path / name}: {reason}")
        assert ended.err.count("\n") == 1
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_a_running_member_is_left_alone(dledger: Any, data: Path, command: str) -> None:
    member = opened(data)
    ended = dledger("log", command, str(data))
    member.close()

    assert ended.code == 1
    assert ended.err == (
        f"dledger: {data}: a running member has it open; stop it first (nothing was read)\n"
    )


def test_a_dump_shows_entries_and_nothing_a_terminal_obeys(dledger: Any, data: Path) -> None:
    ended = dledger("log", "dump", str(data), "--preview", "12")
    lines = ended.out.splitlines()

    assert (0, "", 7) == (ended.code, ended.err, len(lines))
    assert ["1", "1", "no-op", "0", "0"] == lines[1].split()[:5]
    assert ["2", "1", "command", "40", "11"] == lines[2].split()[:5]
    assert lines[2].endswith("66697273 741b5b33 316d0a  first.[31m.")
    assert lines[3].endswith("78787878 78787878 78787878…  xxxxxxxxxxxx…")
    assert "\x1b" not in ended.out


def test_a_dump_can_be_narrowed(dledger: Any, data: Path) -> None:
    def indexes(*options: str) -> list[int]:
        ended = dledger("log", "dump", str(data), "--json", *options)
        assert ended.code == 0
        assert ("more from --from" in ended.err) == ("--limit" in options)
        return [json.loads(line)["index"] for line in ended.out.splitlines()]

    assert [3, 4, 5, 6] == indexes("--from", "3")
    assert [2, 3, 4] == indexes("--from", "2", "--to", "4")
    assert [1, 2] == indexes("--limit", "2")
    assert [] == indexes("--from", "7")
    line = json.loads(dledger("log", "dump", str(data), "--json", "--from", "4").out.split("\n")[0])
    assert (1, "command", 2, "ff00", "..") == (
        line["term"],
        line["kind"],
        line["sizeBytes"],
        line["payloadHex"],
        line["payloadText"],
    )
    assert f"{segments(data)[1].stem}" == segment_name(line["position"])[:-4]


def test_a_dump_ends_at_damage_with_code_1_and_does_not_look_behind_to(
    dledger: Any, data: Path
) -> None:
    flip(segments(data)[1], HEADER_BLOCK_BYTES)
    ended = dledger("log", "dump", str(data))

    assert (1, 4) == (ended.code, len(ended.out.splitlines()))
    assert ended.err.endswith(f"what that means: dledger log verify {data}\n")
    assert 0 == dledger("log", "dump", str(data), "--to", "3").code


def test_a_reader_that_has_seen_enough_is_no_failure(data: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "dledger_py.cli", "log", "dump", str(data)],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)

    assert (0, b"") == (ended.returncode, ended.stderr)
