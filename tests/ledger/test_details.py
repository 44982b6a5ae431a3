"""The bytes by which the log remembers a member."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.ledger.details import TEXT_BYTES_MAX, Details, decode, encode

TEXTS = st.text(st.characters(codec="utf-8"), max_size=TEXT_BYTES_MAX // 4)


@given(
    st.builds(
        Details,
        address=TEXTS,
        birth=st.integers(0, 2**64 - 1),
        contact=TEXTS,
        stays_learner=st.booleans(),
    )
)
def test_details_survive_their_bytes(details):
    data = encode(details)

    assert details == decode(data)
    for wrong in (*(data[:length] for length in range(len(data))), data + b"\0"):
        with pytest.raises(ValueError):
            decode(wrong)


def test_details_have_the_bytes_they_always_had():
    """They are on disks."""
    details = Details(address="h:1", birth=258, contact="c", stays_learner=True)

    assert b"\x01\x01\0\0\0\0\0\0\x01\x02\0\x03h:1\0\x01c" == encode(details)
    with pytest.raises(ValueError, match="version 2"):
        decode(b"\x02" + encode(details)[1:])
    with pytest.raises(ValueError, match="flags 2"):
        decode(b"\x01\x02" + encode(details)[2:])


def test_an_endless_address_is_refused():
    with pytest.raises(ValueError, match="301 bytes: 300 are possible"):
        encode(Details(address="a" * 301))
