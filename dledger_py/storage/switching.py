"""Putting a copy of another member's log in the place of this one's, whatever crashes do.

The copy is made in the folder `incoming`, beside the log, which stays as it is until the copy is
whole. Then, in this order:

1. the `install` file says that it is switching, and which files the copy has; durable;
2. each file of the copy is moved into place, over an old one of that name if there is one, and its
   snapshot and its configuration likewise; durable;
3. whatever else there is of the old log and of older snapshots is removed;
4. term and vote stay; the term rises to that of the copy's last entry, in which this member then
   has not voted; the commit hint is the copy's end, all of which is committed; durable;
5. the `install` file is removed; durable.

A crash before 1 is durable: the old log, and a copy to go on with. After it: every step can be done
again, and `finish_switch`, which opening begins with, does them all.

Elsewhere: whether the copy may replace the log (the ledger), making it (`incoming`).
"""

from __future__ import annotations

from typing import Final

from dledger_py.storage.files import FileSystem, replace_file
from dledger_py.storage.formats import Corrupt, segment_name, segment_start
from dledger_py.storage.hard_state import HARD_STATE_NAME, HardStateFile, read_hard_state
from dledger_py.storage.install_format import Marker, Phase, decode_marker, encode_marker
from dledger_py.storage.snapshot_format import snapshot_index, snapshot_name
from dledger_py.storage.start_configuration import configuration_index, configuration_name
from dledger_py.storage.summaries import summary_start

INSTALL_NAME: Final = "install"
INCOMING_NAME: Final = "incoming"
SNAPSHOTS_NAME: Final = "snapshots"


def want_installation(files: FileSystem, directory: str) -> None:
    """The next opening has to copy a log. Durability: on disk on return. Raises OSError."""
    replace_file(files, directory, INSTALL_NAME, encode_marker(Marker(phase=Phase.WANTED)))


def installation_wanted(files: FileSystem, directory: str) -> bool:
    """Raises Corrupt, OSError."""
    return read_marker(files, directory) is not None


def drop_installation(files: FileSystem, directory: str) -> None:
    """It is not wanted any more. Durability: on disk on return."""
    files.remove(f"{directory}/{INSTALL_NAME}")
    files.fsync_directory(directory)


def read_marker(files: FileSystem, directory: str) -> Marker | None:
    """Raises Corrupt."""
    path = f"{directory}/{INSTALL_NAME}"
    content = _read(files, path)
    return None if content is None else decode_marker(content, path)


def begin_switch(files: FileSystem, directory: str, marker: Marker) -> None:
    """From now on the copy is the log. Everything in `incoming` is durable."""
    assert marker.phase is Phase.SWITCHING
    replace_file(files, directory, INSTALL_NAME, encode_marker(marker))


def finish_switch(files: FileSystem, directory: str) -> None:
    """Do what a begun switch has not done yet. The folder is locked. Raises Corrupt, OSError."""
    marker = read_marker(files, directory)
    if marker is None or marker.phase is not Phase.SWITCHING:
        return
    names = [segment_name(start) for start in marker.starts]
    names.append(configuration_name(marker.configuration_index))
    _move(files, f"{directory}/{INCOMING_NAME}", directory, names)
    files.make_directory(f"{directory}/{SNAPSHOTS_NAME}")
    snapshots = [snapshot_name(marker.snapshot_index)] if marker.snapshot_index else []
    _move(
        files,
        f"{directory}/{INCOMING_NAME}/{SNAPSHOTS_NAME}",
        f"{directory}/{SNAPSHOTS_NAME}",
        snapshots,
    )
    _remove_others(files, directory, names)
    _remove_others(files, f"{directory}/{SNAPSHOTS_NAME}", snapshots)
    _raise_term(files, directory, marker)
    drop_installation(files, directory)


def _move(files: FileSystem, folder: str, to: str, names: list[str]) -> None:
    """Those that were not moved yet. Durable on return."""
    if not names:
        return
    here = set(files.list(folder))
    for name in names:
        if name in here:
            files.rename(f"{folder}/{name}", f"{to}/{name}")
    files.fsync_directory(to)
    files.fsync_directory(folder)


def _remove_others(files: FileSystem, folder: str, kept: list[str]) -> None:
    """What belongs to the log that was replaced. Durable on return."""
    numbered = (segment_start, summary_start, snapshot_index, configuration_index)
    for name in files.list(folder):
        if name not in kept and any(number(name) is not None for number in numbered):
            files.remove(f"{folder}/{name}")
    files.fsync_directory(folder)


def _raise_term(files: FileSystem, directory: str, marker: Marker) -> None:
    record = read_hard_state(files, directory)
    state = record.state
    term, vote = state.term, state.vote
    if term < marker.last_term:
        term, vote = marker.last_term, None
    file = files.open(f"{directory}/{HARD_STATE_NAME}", write=True)
    try:
        HardStateFile(file, record).save(term, vote, max(state.commit, marker.last_index))
    finally:
        file.close()


def _read(files: FileSystem, path: str) -> bytes | None:
    try:
        file = files.open(path)
    except FileNotFoundError:
        return None
    try:
        return file.pread(file.size(), 0)
    except OSError as error:
        raise Corrupt(path, 0, f"the disk cannot read it: {error}") from error
    finally:
        file.close()
