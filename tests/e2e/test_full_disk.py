"""Disks that run low and full, in small: real processes on small file systems."""

from pathlib import Path

import pytest

from chaos import full_disk
from chaos.nemesis.disks import CannotMount, small_disks

pytestmark = pytest.mark.e2e


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where file systems can be mounted; the test is skipped, and says so, where none can."""
    try:
        with small_disks(tmp_path / "try", size_bytes=1 << 20):
            return tmp_path
    except CannotMount as error:
        pytest.skip(str(error))


async def test_the_leader_refuses_gives_way_ends_and_comes_back(directory: Path) -> None:
    told: list[str] = []

    verdict = await full_disk.run(directory, full_disk.Plan(cases=("leader",)), say=told.append)

    assert () == verdict.findings
    assert ["low on disk", "lower on disk", "given space", "full", "given space"] == [
        gap.what for gap in verdict.gaps
    ]
    assert any("disk is nearly full" in line for line in told)
    assert any("exit code 70" in line for line in told)


def test_a_small_disk_has_an_end_and_gives_its_space_back(directory: Path) -> None:
    with small_disks(directory / "disk", size_bytes=1 << 20) as disks:
        (disk,) = disks.values()
        empty = disk.free_bytes
        disk.leave(1 << 18)
        some = disk.free_bytes
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (directory / "disk/file").write_bytes(bytes(1))
        disk.relieve()

        assert (1 << 20, 1 << 18) == (empty, some)
        assert disk.free_bytes >= empty - (1 << 13)
