"""The name of one queue: topic, broker group and number.  Pure, and imported by every other room.

A queue is named by its broker *group*, never by an address: addresses change with every election,
the group does not.
"""

from attrs import frozen


@frozen(order=True, cache_hash=True)
class Queue:
    """One queue of a topic; ordered by topic, broker, number, as all members of a group must."""

    topic: str
    broker: str
    queue_id: int

    def __str__(self) -> str:
        return f"{self.topic}@{self.broker}#{self.queue_id}"
