"""Choosing messages by tag, without reading them.

Laws: the index holds the 32-bit hash of a tag, sign-extended, so two tags can pass for one another;
consumers compare the tag itself again. A message without a tag has code 0 and matches only *all*.
Elsewhere: the hash (`dledger_py.remoting.wire.message`), expressions over properties.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from broker.formats import UNIT, UNIT_TAGS_CODE


def matching(units: bytes, codes: AbstractSet[int] | None) -> Sequence[int]:
    """Which of the units (0 is the first) carry one of the codes; None stands for all of them."""
    if codes is None:
        return range(len(units) // UNIT.size)
    return [
        number for number, (code,) in enumerate(UNIT_TAGS_CODE.iter_unpack(units)) if code in codes
    ]
