"""How much passed through this member: totals, and rates over the last 10 s, 60 s and 600 s."""

from collections import deque

from attrs import define, field

WINDOWS_S = (10, 60, 600)


@define(eq=False)
class Meter:
    """A counter that remembers one sample a second for ten minutes."""

    total: int = 0
    _samples: deque[tuple[int, int]] = field(factory=lambda: deque(maxlen=WINDOWS_S[-1] + 1))

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
    got: Meter = field(factory=Meter)  # messages handed out
    got_bytes: Meter = field(factory=Meter)
    pulls_found: Meter = field(factory=Meter)
    pulls_missed: Meter = field(factory=Meter)
    forwarded: Meter = field(factory=Meter)
    put_by_topic: dict[str, Meter] = field(factory=dict)
    got_by_group: dict[tuple[str, str], Meter] = field(factory=dict)  # (topic, group)

    def topic(self, name: str) -> Meter:
        meter = self.put_by_topic.get(name)
        if meter is None:
            meter = self.put_by_topic[name] = Meter()
        return meter

    def group(self, topic: str, name: str) -> Meter:
        meter = self.got_by_group.get((topic, name))
        if meter is None:
            meter = self.got_by_group[topic, name] = Meter()
        return meter

    def sample(self, now_s: int) -> None:
        for meter in (
            self.put,
            self.put_bytes,
            self.put_refused,
            self.got,
            self.got_bytes,
            self.pulls_found,
            self.pulls_missed,
            self.forwarded,
            *self.put_by_topic.values(),
            *self.got_by_group.values(),
        ):
            meter.sample(now_s)

    def forget_topic(self, name: str) -> None:
        self.put_by_topic.pop(name, None)
        for key in [key for key in self.got_by_group if key[0] == name]:
            del self.got_by_group[key]
