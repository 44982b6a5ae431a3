"""Fuzz target: any bytes, cut anywhere, are frames or a FrameError; decoding goes no other way.

    python tests/remoting/fuzz_framer.py [corpus folders…]     with atheris, if it is installed
    python tests/remoting/fuzz_framer.py --rounds 100000 --seed 7     without

`check` is what the test suite runs a short while with a fixed seed. The laws: whole and cut input
give the same frames and the same verdict; a frame can be written and read back; every declared
request is read or refused as Malformed, bodies likewise.
"""

import importlib
import random
import struct
import sys
from contextlib import suppress

from dledger_py.remoting.commands.heartbeats import decode_heartbeat
from dledger_py.remoting.commands.registrations import decode_registration
from dledger_py.remoting.protocol_table import import_vocabulary
from dledger_py.remoting.wire.frame import Frame, FrameError, Framer, encode_frame
from dledger_py.remoting.wire.message import decode_records, split_batch_body
from dledger_py.remoting.wire.properties import decode as decode_properties
from dledger_py.remoting.wire.schema import Malformed, decode_request, spelling, spellings

import_vocabulary()


def fed(data: bytes, step: int) -> tuple[list[Frame], bool]:
    """The frames in `data`, arriving `step` bytes at a time, and whether it ended badly."""
    framer = Framer()
    frames: list[Frame] = []
    for at in range(0, len(data), step):
        try:
            frames += framer.feed(data[at : at + step])
        except FrameError as error:
            return frames + error.frames, True
    return frames, False


def check(data: bytes) -> None:
    """Raises anything but AssertionError only for a bug."""
    frames, failed = fed(data, len(data) or 1)
    step = data[0] % 16 + 1 if data else 1
    assert fed(data, step) == (frames, failed)
    for frame in frames:
        assert frame.size <= len(data)
        assert all(isinstance(value, str) for value in frame.fields.values())
        understand(frame)
        if -32768 <= frame.version < 32768:
            again, _ = fed(encode_frame(frame), 1 << 20)
            assert again[0].body == frame.body
            assert again[0].opaque == frame.opaque


def understand(frame: Frame) -> None:
    """Read what the frame claims to be."""
    if spelling(frame.code):
        with suppress(Malformed):
            decode_request(frame.code, frame.fields)
    for read in (decode_heartbeat, decode_registration, decode_records, split_batch_body):
        with suppress(Malformed):
            read(frame.body)
    for value in frame.fields.values():
        decode_properties(value)


def mutated(dice: random.Random) -> bytes:
    """A plausible stream of frames with a few bytes wrong, or none."""
    frames = [
        Frame(
            code=dice.choice([known.code for known in spellings()]),
            opaque=dice.randrange(100),
            fields={
                dice.choice("abcdefghijklmn"): dice.choice(["", "1", "T", "true", "-1", "9" * 30])
                for _ in range(dice.randrange(6))
            },
            body=dice.choice([b"", b'{"clientID":"c"}', dice.randbytes(dice.randrange(120))]),
            serialization=dice.randrange(2),
        )
        for _ in range(dice.randrange(4))
    ]
    data = bytearray(b"".join(map(encode_frame, frames)))
    for _ in range(dice.randrange(4)):
        if data:
            data[dice.randrange(len(data))] = dice.randrange(256)
    if dice.random() < 0.2:
        data += struct.pack(">II", dice.randrange(64), dice.randrange(64)) + dice.randbytes(40)
    return bytes(data)


def run(rounds: int, seed: int) -> None:
    """The deterministic form."""
    dice = random.Random(seed)
    for _ in range(rounds):
        data = mutated(dice)
        try:
            check(data)
        except BaseException:
            print(f"seed {seed}: {data.hex()}", file=sys.stderr)
            raise


def main(arguments: list[str]) -> None:
    if "--rounds" in arguments:
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        run(int(options["--rounds"]), int(options.get("--seed", "1")))
        return
    atheris = importlib.import_module("atheris")
    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
