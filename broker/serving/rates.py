"""How much passed through this member: totals, and rates over the last 10 s, 60 s and 600 s.

The meters of single topics and groups remember ten seconds only, and are dropped when nothing
passed in that time: what they cost goes by what is busy, not by what exists or was ever named.
What passed in the last minute, hour and day is noted from them (`histories`).
"""

from collections import deque
from typing import TypeVar

from attrs import define, field

from broker.serving.histories import NOTED_EVERY_S, Histories, Passed

KeyT = TypeVar("KeyT")

WINDOWS_S = (10, 60, 600)


@define(eq=False)
class Meter:
    """A counter that remembers one sample a second for its longest window."""

    total: int = 0
    window_s: int = WINDOWS_S[-1]
    noted: int = 0
    """How much of the total is in a history."""
    _samples: deque[tuple[int, int]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._samples = deque(maxlen=self.window_s + 1)

    @property
    def idle(self) -> bool:
        """Whether nothing was counted in the whole window."""
        samples = self._samples
        return len(samples) == samples.maxlen and samples[0][1] == self.total

    def sample(self, now_s: int) -> None:
        """Note the total; called about once a second."""
        self._samples.append((now_s, self.total))

    def per_second(self, window_s: int) -> float:
        """The mean rate over the last `window_s` seconds of samples; 0.0 before two samples."""
        if len(self._samples) < 2:
            return 0.0
        end_s, end = self._samples[-1]
        start_s, start = self._samples[0]
        for at_s, total in reversed(self._samples):
            start_s, start = at_s, total
            if end_s - at_s >= window_s:
                break
        return (end - start) / (end_s - start_s) if end_s > start_s else 0.0

    def text(self) -> str:
        """The three rates as RocketMQ's tools print them: `12.3 11.9 10.0`."""
        return " ".join(f"{self.per_second(window):.1f}" for window in WINDOWS_S)


@define(eq=False)
class Rates:
    """The meters of one member."""

    put: Meter = field(factory=Meter)  # messages stored for a client of this member
    put_bytes: Meter = field(factory=Meter)
    put_refused: Meter = field(factory=Meter)
    put_duplicates: Meter = field(factory=Meter)  # sent again, answered and not stored
    got: Meter = field(factory=Meter)  # messages handed out
    got_bytes: Meter = field(factory=Meter)
    pulls_found: Meter = field(factory=Meter)
    pulls_missed: Meter = field(factory=Meter)
    transactions_committed: Meter = field(factory=Meter)  # by this member, while it led
    transactions_rolled_back: Meter = field(factory=Meter)
    transactions_expired: Meter = field(factory=Meter)
    transaction_checks: Meter = field(factory=Meter)
    put_by_topic: dict[str, Meter] = field(factory=dict)
    got_by_group: dict[tuple[str, str], Meter] = field(factory=dict)  # (topic, group)
    passed_by_topic: Histories[str] = field(factory=Histories)
    passed_by_group: Histories[tuple[str, str]] = field(factory=Histories)
    _passed: Histories[str] = field(factory=Histories)
    _now_s: int = 0

    def topic(self, name: str) -> Meter:
        """Messages stored in a topic."""
        meter = self.put_by_topic.get(name)
        if meter is None:
            meter = self.put_by_topic[name] = Meter(window_s=WINDOWS_S[0])
        return meter

    def group(self, topic: str, name: str) -> Meter:
        """Messages of a topic handed out to a group."""
        meter = self.got_by_group.get((topic, name))
        if meter is None:
            meter = self.got_by_group[topic, name] = Meter(window_s=WINDOWS_S[0])
        return meter

    def sample(self, now_s: int) -> None:
        """Note all totals; called about once a second."""
        for meter in (
            self.put,
            self.put_bytes,
            self.put_refused,
            self.put_duplicates,
            self.got,
            self.got_bytes,
            self.pulls_found,
            self.pulls_missed,
            self.transactions_committed,
            self.transactions_rolled_back,
            self.transactions_expired,
            self.transaction_checks,
        ):
            meter.sample(now_s)
        if now_s // NOTED_EVERY_S != self._now_s // NOTED_EVERY_S:
            for name, meter in (("put", self.put), ("got", self.got)):
                _note(self._passed, name, meter, now_s)
            _note_all(self.passed_by_topic, self.put_by_topic, now_s)
            _note_all(self.passed_by_group, self.got_by_group, now_s)
        self._now_s = now_s
        _sample(self.put_by_topic, now_s)
        _sample(self.got_by_group, now_s)

    def put_passed(self) -> Passed:
        """Messages stored for clients of this member, in the last minute, hour and day."""
        return self._passed.passed("put", self._now_s) or Passed()

    def got_passed(self) -> Passed:
        """Messages handed out."""
        return self._passed.passed("got", self._now_s) or Passed()

    def topic_passed(self, name: str) -> Passed | None:
        """Messages stored in a topic; None if there were none for a day."""
        return self.passed_by_topic.passed(name, self._now_s)

    def group_passed(self, topic: str, name: str) -> Passed | None:
        """Messages of a topic handed out to a group; None if there were none for a day."""
        return self.passed_by_group.passed((topic, name), self._now_s)

    def forget_topic(self, name: str) -> None:
        """The topic was deleted."""
        self.put_by_topic.pop(name, None)
        for key in [key for key in self.got_by_group if key[0] == name]:
            del self.got_by_group[key]
        self.passed_by_topic.forget(name)
        for key in [key for key in self.passed_by_group if key[0] == name]:
            self.passed_by_group.forget(key)


def _sample(meters: dict[KeyT, Meter], now_s: int) -> None:
    for key, meter in tuple(meters.items()):
        meter.sample(now_s)
        if meter.idle:  # for a slot of the histories, so all of it is noted
            del meters[key]


def _note_all(histories: Histories[KeyT], meters: dict[KeyT, Meter], now_s: int) -> None:
    for key, meter in meters.items():
        _note(histories, key, meter, now_s)
    histories.sweep(now_s)


def _note(histories: Histories[KeyT], key: KeyT, meter: Meter, now_s: int) -> None:
    if meter.total != meter.noted:
        histories.add(key, meter.total - meter.noted, now_s)
        meter.noted = meter.total
