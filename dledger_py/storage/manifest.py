"""What a backup says of itself: the file `manifest.json`. Pure.

JSON, since a person may want to read it years later:

    {"manifest": {"version": 1, "identity": …, "taken": …, "files": […], …}, "sha256": …}

The second is that of the first, encoded without white space and with sorted keys; `files` has the
SHA-256 of every other file. So a backup can also be checked with `sha256sum`.

Elsewhere: what the files are (`backup`), what is made of them (`restore`).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec
from attrs import field, frozen

from dledger_py.storage.formats import End, Identity

MANIFEST_NAME: Final = "manifest.json"
UNFINISHED_NAME: Final = "manifest.unfinished"
VERSION: Final = 1
MANIFEST_MAX_BYTES: Final = 64 << 20  # a million files of 64 MiB


class BadBackup(Exception):
    """This is no backup, or not all of one, or not what it was. Kind: refused."""


@frozen(kw_only=True)
class BackupFile:
    """One file, by its path in the backup."""

    name: str
    size_bytes: int
    sha256: str


@frozen(kw_only=True)
class Manifest:
    """A backup. `identity` tells whose folder it was taken from."""

    version: int = field(default=VERSION)
    identity: Identity
    taken: str
    """When, in UTC, ISO 8601."""
    term: int
    """The highest term that the member had heard of."""
    start: End
    """What the first entry continues."""
    end: End
    """The last entry."""
    committed: int
    """Entries up to this index are known to be committed: all, unless the whole log was wanted."""
    snapshot: int
    """The index of the snapshot that is there; 0 if there is none."""
    members: tuple[str, ...]
    """Who belonged to the group at the end; nobody if the log does not say."""
    files: tuple[BackupFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@frozen(kw_only=True)
class _Document:
    manifest: Manifest
    sha256: str


@frozen(kw_only=True)
class _Versioned:
    version: int


@frozen(kw_only=True)
class _AnyDocument:
    manifest: _Versioned


def encode_manifest(manifest: Manifest) -> bytes:
    """The file's content."""
    document = _Document(manifest=manifest, sha256=_digest(manifest))
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def decode_manifest(content: bytes, file: str) -> Manifest:
    """Raises BadBackup."""
    try:
        version = msgspec.json.decode(content, type=_AnyDocument).manifest.version
        if version != VERSION:
            raise BadBackup(f"{file}: a backup of version {version}, only {VERSION} is known")
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBackup(f"{file}: this is no manifest of a backup: {error}") from error
    if document.sha256 != _digest(document.manifest):
        raise BadBackup(f"{file}: it was changed since the backup was taken")
    return document.manifest


def _digest(manifest: Manifest) -> str:
    return sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()
