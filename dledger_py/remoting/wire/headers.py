"""The logical header, whatever bytes carried it.

`Frame` is a msgspec Struct and not an attrs class: the JSON decoder fills it directly, which is
the cheapest way measured (a separate envelope costs another 0.35 µs per message). It is mutable for
the same reason, but nobody changes a frame once the framer handed it out.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct, field

JSON: Final = 0
BINARY: Final = 1

# Java's int; a wider opaque could not be answered in a binary header.
_Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class FrameError(Exception):
    """These bytes are no frame; the connection cannot go on (refused: nothing was done).

    `frames` are the frames that were complete before the bad bytes.
    """

    def __init__(self, reason: str, frames: "list[Frame] | None" = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.frames: list[Frame] = frames if frames is not None else []


class Frame(Struct, gc=False):
    """One request or response. `fields` (extFields on the wire) holds strings only."""

    code: _Int32 = 0
    flag: _Int32 = 0
    opaque: _Int32 = 0
    version: _Int32 = 0
    language: str = "JAVA"
    remark: str | None = None
    fields: dict[str, str] = field(name="extFields", default_factory=dict)
    body: bytes = b""
    serialization: int = JSON
    size: int = 0  # bytes it took on the wire, for quotas

    @property
    def is_response(self) -> bool:
        return self.flag & 1 == 1

    @property
    def is_one_way(self) -> bool:
        return self.flag & 2 == 2
