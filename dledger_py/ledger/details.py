"""PURE. What the group's log remembers of each member, besides that it is one.

    offset  size  field                          integers are big-endian and unsigned
    0       1     version (1)
    1       1     flags: 1 = stays a learner
    2       8     birth of its data folder, 0 if it has not been heard of yet
    10      2     length of the peer address, then the address, host:port in UTF-8
    …       2     length of the contact, then the contact in UTF-8

These are the `details` of a configuration (`dledger_py.raft.membership`), whose entry they are in.

Elsewhere: who writes them down, and what follows from them (members).
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import Final

from attrs import frozen

VERSION: Final = 1
TEXT_BYTES_MAX: Final = 300
"""Of an address, and of a contact: a host name has 253 characters at most."""

_FLAG_LEARNER: Final = 1
_HEAD: Final = Struct(">BBQ")
_LENGTH: Final = Struct(">H")


@frozen(kw_only=True)
class Details:
    """One member, as it described itself; a new one, as it was announced."""

    address: str
    """Where it listens for its peers."""
    birth: int = 0
    """Of its data folder (`dledger_py.storage.birth`); 0: none is known."""
    contact: str = ""
    """What its user wants the others to know of it: a broker, where clients reach it."""
    stays_learner: bool = False
    """Whether it is to get entries, and never a vote."""


def encode(details: Details) -> bytes:
    """**Raises** ValueError if a text is longer than `TEXT_BYTES_MAX`."""
    head = _HEAD.pack(VERSION, details.stays_learner * _FLAG_LEARNER, details.birth)
    return head + _encode_text(details.address) + _encode_text(details.contact)


def decode(data: bytes) -> Details:
    """**Raises** ValueError if these are not the bytes of details that this version knows."""
    try:
        version, flags, birth = _HEAD.unpack_from(data)
        if version != VERSION or flags & ~_FLAG_LEARNER:
            raise ValueError(f"details of version {version}, flags {flags}: only {VERSION} known")
        address, at = _decode_text(data, _HEAD.size)
        contact, at = _decode_text(data, at)
    except struct_error:
        raise ValueError(f"details cut short at {len(data)} bytes") from None
    if at != len(data):
        raise ValueError(f"details end at byte {at} of {len(data)}")
    return Details(
        address=address,
        birth=birth,
        contact=contact,
        stays_learner=bool(flags & _FLAG_LEARNER),
    )


def _encode_text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > TEXT_BYTES_MAX:
        raise ValueError(f"{text!r:.40}… has {len(raw)} bytes: {TEXT_BYTES_MAX} are possible")
    return _LENGTH.pack(len(raw)) + raw


def _decode_text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    return data[at : at + length].decode(), at + length
