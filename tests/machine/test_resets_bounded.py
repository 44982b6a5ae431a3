"""However many groups nobody consumes with are reset, so many resets are kept and no more."""

import pytest

from broker.machine import resets
from broker.machine.codec import encode_command
from broker.machine.commands import DeleteTopic, EnsureGroups, EnsureTopics, ResetOffsets
from broker.machine.groups import GroupConfig
from broker.machine.machine import Machine
from broker.machine.replies import Declined, Done, Reason
from broker.machine.topics import TopicConfig
from tests.machine.machine_commands import Entry


@pytest.fixture
def machine(monkeypatch) -> Machine:
    monkeypatch.setattr(resets, "RESETS_MAX", 2)
    machine = Machine()
    topics = tuple(TopicConfig(name=name) for name in ("orders", "bills"))
    groups = tuple(GroupConfig(name=name) for name in ("shop", "audit"))
    for command in (
        EnsureTopics(stamped_ms=1, topics=topics),
        EnsureGroups(stamped_ms=1, groups=groups),
    ):
        machine.apply(Entry(0, encode_command(command)))
    return machine


def reset(machine: Machine, group: str, topic: str, *queue_ids: int) -> object:
    queues = tuple((queue_id, 5) for queue_id in queue_ids)
    command = ResetOffsets(stamped_ms=2, group=group, topic=topic, queues=queues)
    return machine.apply(Entry(0, encode_command(command))).reply


def test_what_does_not_fit_is_declined_whole(machine) -> None:
    assert Done(changed=True) == reset(machine, "shop", "orders", 0)
    declined = reset(machine, "audit", "orders", 0, 1)

    assert isinstance(declined, Declined)
    assert Reason.TABLE_FULL is declined.reason
    assert ["shop"] == [row[0] for row in machine.resets.state()]
    assert () == machine.offsets.topics_of("audit")


def test_a_queue_that_is_reset_again_takes_no_room(machine) -> None:
    reset(machine, "shop", "orders", 0, 1)

    assert Done(changed=True) == reset(machine, "shop", "orders", 1, 0, 1)


def test_what_goes_makes_room(machine) -> None:
    reset(machine, "shop", "orders", 0, 1)
    machine.apply(Entry(0, encode_command(DeleteTopic(stamped_ms=3, name="orders"))))

    assert Done(changed=True) == reset(machine, "audit", "bills", 0, 1)
