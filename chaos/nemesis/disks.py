"""Small disks of their own for members, and something that fills them.

A disk is a tmpfs mounted where a member keeps its data: a real file system with a real end, which
needs the right to mount. Where that is missing nothing is pretended: `CannotMount` says what to do.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

BALLAST: Final = "ballast"
BLOCK_BYTES: Final = 4096  # a page: what the file system gives out

HINT: Final = (
    "be root, or have a user namespace of your own:"
    " unshare --user --map-root-user --mount make chaos SCENARIO=full-disk"
)


class CannotMount(Exception):
    """Refused: this process cannot mount a file system, or not take one away again."""


@frozen
class SmallDisk:
    """The disk mounted at `directory`."""

    directory: Path

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.directory).free

    def leave(self, free_bytes: int) -> None:
        """Take up space, until at most so much is left."""
        with (self.directory / BALLAST).open("ab") as ballast:
            wanted = self.free_bytes - free_bytes
            if wanted > 0:
                with suppress(OSError):  # others take space, too; the rest is done below
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), wanted)

    def fill(self) -> None:
        """Take up all there is."""
        self.leave(0)
        with (self.directory / BALLAST).open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(BLOCK_BYTES))

    def relieve(self) -> None:
        """Give the space back."""
        (self.directory / BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disks(*directories: Path, size_bytes: int) -> Iterator[dict[Path, SmallDisk]]:
    """A disk at each of these directories, gone with the block. Raises: CannotMount."""
    with ExitStack() as mounted:
        yield {each: mounted.enter_context(_mounted(each, size_bytes)) for each in directories}


@contextmanager
def _mounted(directory: Path, size_bytes: int) -> Iterator[SmallDisk]:
    directory.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=700"
    _run("mount", "-t", "tmpfs", "-o", options, "dledger-chaos", str(directory))
    try:
        yield SmallDisk(directory)
    finally:
        _run("umount", str(directory))


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotMount(f"there is no {words[0]} command: {HINT}") from error
    if done.returncode != 0:
        raise CannotMount(f"{' '.join(words)}: {done.stderr.strip()}; {HINT}")
