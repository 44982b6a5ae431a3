"""What is found in the log, of whatever kind: each message at one place, and only what was sent.

Other judges ask `copies`: the places at which a value stands in a topic. Who reads a place twice
finds the same message, so a place counts once.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from chaos.checkers.history import Found, History, Outcome, Tried

Place = tuple[str, str, int, int]  # topic, broker, queue id, offset


def copies(history: History, topics: Iterable[str]) -> Mapping[str, list[Found]]:
    """By value, each place of these topics at which it was found; none for a value unknown."""
    wanted = set(topics)
    places: dict[Place, Found] = {}
    for found in history.of(Found):
        if found.topic in wanted:
            places.setdefault(_place(found), found)
    by_value: dict[str, list[Found]] = defaultdict(list)
    for found in places.values():
        by_value[found.value].append(found)
    return by_value


def outcomes(history: History, topic: str) -> Mapping[str, list[Outcome]]:
    """By value, how the attempts to send it to the topic ended."""
    by_value: dict[str, list[Outcome]] = defaultdict(list)
    for tried in history.of(Tried):
        if tried.topic == topic:
            by_value[tried.value].append(tried.outcome)
    return by_value


def moved(history: History) -> tuple[str, ...]:
    """What was once read at a place is there when everything is over."""
    last = {_place(found): found.value for found in history.of(Found) if found.at_end}
    earlier = {_place(found): found.value for found in history.of(Found) if not found.at_end}
    return tuple(
        f"{_where(place)} held {value}, and in the end {last.get(place, 'nothing')}"
        for place, value in earlier.items()
        if last.get(place) != value
    )


def gaps(history: History) -> tuple[str, ...]:
    """The offsets of every queue are dense."""
    offsets: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    for found in history.of(Found):
        if found.at_end:
            offsets[found.topic, found.broker, found.queue_id].add(found.offset)
    return tuple(
        f"queue {queue_id} of {topic} {broker} has {len(found)} messages up to offset {max(found)}"
        for (topic, broker, queue_id), found in sorted(offsets.items())
        if len(found) != max(found) + 1
    )


def uninvited(history: History) -> tuple[str, ...]:
    """Nothing is found that nobody sent, or of which every attempt was refused."""
    tried: dict[str, list[Outcome]] = defaultdict(list)
    for each in history.of(Tried):
        tried[each.value].append(each.outcome)
    found = {event.value: event for event in history.of(Found)}
    return tuple(
        f"{value} is in {event.topic} and was {'refused' if tried[value] else 'never sent'}"
        for value, event in found.items()
        if all(outcome is Outcome.REFUSED for outcome in tried[value])
    )


def _place(found: Found) -> Place:
    return found.topic, found.broker, found.queue_id, found.offset


def _where(place: Place) -> str:
    topic, broker, queue_id, offset = place
    return f"queue {queue_id} of {topic} {broker} offset {offset}"


CHECKERS = (moved, gaps, uninvited)
"""Of every topic."""
