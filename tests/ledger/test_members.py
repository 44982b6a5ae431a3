"""What one member knows of the others, and whether its own folder may vote."""

import pytest
from attrs import evolve

from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.details import Details, encode
from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.members import Members
from dledger_py.ledger.peer_frames import Hello
from dledger_py.raft.membership import Configuration
from dledger_py.raft.membership import encode as encode_configuration
from dledger_py.storage import Birth

PEERS = {"n0": "h0:1", "n1": "h1:1", "n2": "h2:1"}
CONFIG = LedgerConfig(node="n0", peers=PEERS, data_dir="nowhere")
OWN = Details(address="h0:1", birth=100, contact="c0")


def configuration(learners=(), old=(), **births):
    """Of voters n0, n1, n2, of whose folders these births are written down."""
    return Configuration(
        voters=tuple(PEERS),
        learners=learners,
        voters_old=old,
        details=tuple(
            (name, encode(Details(address=f"{name}.new:2", birth=birth)))
            for name, birth in births.items()
        ),
    )


def members(*, older=False, **births):
    return Members(CONFIG, OWN, Birth(100, older), configuration(**births), index=5)


def hello(**fields):
    common = {"cluster": "dledger", "group": "broker-a", "sender": "n1", "receiver": "n0"}
    return Hello(**{**common, "incarnation": 1, "birth": 101, "address": "h1:1", **fields})


def test_founders_of_whom_nothing_is_written_down_vote():
    assert members().has_vote


def test_a_folder_that_is_not_written_down_where_others_are_has_no_vote():
    assert not members(n1=101).has_vote
    assert not members(n0=99, n1=101).has_vote
    assert members(n0=100, n1=101).has_vote
    assert members(older=True, n1=101).has_vote


def test_a_member_that_is_only_announced_takes_nobodys_vote():
    assert members(learners=("n3",), n3=0).has_vote
    assert not members(learners=("n3",), n3=103).has_vote


def test_a_folder_without_a_log_hears_of_the_others_log():
    one = members()
    one.greet(hello(settled=True))
    assert not one.has_vote

    one.greet(hello(settled=True, receiver_birth=100))
    assert one.has_vote


def test_a_vote_that_was_given_stays_given():
    one = members()
    one.use(configuration(n0=100, n1=101), 6)
    one.use(configuration(n1=101), 7)

    assert one.has_vote


@pytest.mark.parametrize(
    "fields,reason",
    [
        ({"cluster": "x"}, "'n1' is of cluster 'x', not of 'dledger'"),
        ({"group": "x"}, "'n1' is of group 'x', not of 'broker-a'"),
        ({"receiver": "n2"}, "'n1' looks for 'n2', this is 'n0'"),
        ({"sender": "n0"}, "another process says that it is 'n0', too"),
        ({"receiver_birth": 7}, "'n1' knows an older data folder of 'n0'"),
    ],
)
def test_who_must_not_be_heard_is_told_apart(fields, reason):
    one = members(n0=100, n1=101)

    assert one.unwelcome(hello()) is None
    assert one.unwelcome(hello(receiver_birth=100)) is None
    assert reason in (one.unwelcome(hello(**fields)) or "")


def told_by_n1(index, configuration, **fields):
    """A hello of n1, which knows this to be committed."""
    common = {"receiver_birth": 100, "configuration_index": index}
    return hello(**{**common, "configuration": encode_configuration(configuration), **fields})


def test_a_member_with_another_folder_than_the_log_says_is_unknown():
    one = members(n0=100, n1=101)

    assert one.unknown_folder(hello()) is None
    assert one.unknown_folder(hello(sender="n2", birth=9)) is None
    assert "'n1' has another data folder" in (one.unknown_folder(hello(birth=7)) or "")


def test_of_a_new_folder_one_is_told_by_who_is_known():
    one = members(n0=100, n1=101, n2=102)
    new = hello(sender="n2", birth=202)
    assert one.unknown_folder(new) is not None
    assert 102 == one.hello_to("n2", 1, (0, b"")).receiver_birth

    one.greet(told_by_n1(6, configuration(n0=100, n1=101, n2=202)))
    assert one.unknown_folder(new) is None
    assert one.unknown_folder(hello(sender="n2", birth=102)) is not None
    assert 202 == one.hello_to("n2", 1, (0, b"")).receiver_birth
    assert 102 == one.birth_of("n2"), "that is what the log says"

    one.greet(told_by_n1(5, configuration(n0=100, n1=101, n2=102)))
    assert one.unknown_folder(new) is None, "what is older is no news"

    one.use(configuration(n0=100, n1=101, n2=302), 6)
    assert one.unknown_folder(new) is not None, "the log itself is as new"


def test_who_is_said_to_have_no_folder_yet_may_have_any():
    one = members(n0=100, n1=101, n2=102)
    one.greet(told_by_n1(6, configuration(n0=100, n1=101, n2=0)))

    assert one.unknown_folder(hello(sender="n2", birth=202)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"configuration_index": 5},
        {"receiver_birth": 0},
        {"birth": 0},
        {"sender": "n7", "birth": 107},
    ],
    ids=["not later", "to somebody else, perhaps", "without a folder", "a stranger"],
)
def test_not_everybody_is_believed(fields):
    one = members(n0=100, n1=101, n2=102)
    one.greet(told_by_n1(6, configuration(n0=100, n1=101, n2=202), **fields))

    assert one.unknown_folder(hello(sender="n2", birth=202)) is not None


def test_what_cannot_be_read_is_refused():
    one = members(n0=100, n1=101)
    with pytest.raises(FrameError, match="'n1' tells of the group what cannot be read"):
        one.greet(evolve(told_by_n1(6, configuration()), configuration=b"rubbish"))


def test_a_hello_tells_what_is_committed_but_not_how_the_group_began():
    told = members().hello_to("n1", 1, (6, b"configuration"))
    assert (6, b"configuration") == (told.configuration_index, told.configuration)

    told = members().hello_to("n1", 1, (0, b"configuration"))
    assert (0, b"") == (told.configuration_index, told.configuration)


def test_an_emptied_folder_learns_that_the_others_know_another():
    reason = members(n1=101).unwelcome(hello(receiver_birth=7))

    assert reason == "'n1' knows another data folder of 'n0'"


def test_a_stranger_may_speak():
    assert members(n1=101).unwelcome(hello(sender="n7", birth=7)) is None


def test_what_is_not_written_down_as_it_is_said_is_to_be_written():
    one = members()
    assert (("n0", OWN),) == one.undescribed()

    one.greet(hello(contact="c1"))
    one.greet(hello(sender="n7"))
    told = Details(address="h1:1", birth=101, contact="c1")
    assert (("n0", OWN), ("n1", told)) == one.undescribed()
    assert not one.all_heard

    one.greet(hello(sender="n2", address="h2:1", birth=102))
    assert one.all_heard
    described = (("n0", encode(OWN)), ("n1", encode(told)))
    one.use(Configuration(voters=tuple(PEERS), details=described), 6)
    assert ["n2"] == [name for name, _ in one.undescribed()]


def test_a_learner_stays_one_whatever_it_says_of_itself():
    stays = Details(address="h3:1", stays_learner=True)
    one = members()
    described = (("n3", encode(stays)),)
    one.use(Configuration(voters=tuple(PEERS), learners=("n3",), details=described), 6)
    one.greet(hello(sender="n3", address="h3:2", birth=103))
    told = dict(one.undescribed())

    assert Details(address="h3:2", birth=103, stays_learner=True) == told["n3"]


def test_where_a_member_is_comes_from_the_settings_first_and_then_from_the_log():
    one = members(n1=101)

    assert {"n1": ("h1:1", "n1.new:2"), "n2": ("h2:1",)} == one.others()


def test_roles_are_shown_while_the_voters_change():
    one = members()
    one.use(
        Configuration(voters=("n1", "n2", "n3"), voters_old=("n0", "n1", "n2"), learners=("n4",)), 6
    )

    assert {"n0": "leaving", "n1": "voter", "n2": "voter", "n3": "joining", "n4": "learner"} == {
        each.name: each.role for each in one.views()
    }


KNOWN = configuration(n0=100, n1=101, n2=102)
REMOVED = Configuration(
    voters=("n0", "n2"), details=tuple(each for each in KNOWN.details if each[0] != "n1")
)
ANNOUNCED = evolve(
    REMOVED,
    learners=("n1",),
    details=(*REMOVED.details, ("n1", encode(Details(address="h1:1")))),
)


@pytest.mark.parametrize("steps", [(REMOVED, ANNOUNCED), (ANNOUNCED,)])
def test_what_a_name_said_before_it_was_announced_is_forgotten(steps):
    one = members()
    one.greet(hello(birth=101))
    one.use(KNOWN, 6)
    announced = [one.use(each, 7) for each in steps][-1]
    forgotten = one.undescribed()
    again = one.use(ANNOUNCED, 8)
    one.greet(hello(birth=7))

    assert ("n1",) == announced
    assert () == again
    assert "n1" not in dict(forgotten)
    assert 7 == dict(one.undescribed())["n1"].birth
