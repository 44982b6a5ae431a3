"""Four sources, one result; what is wrong is named with its source."""

from __future__ import annotations

import enum
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import Factory, frozen
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.runtime.settings import (
    Loaded,
    SettingsError,
    load,
    load_with_origins,
    print_config,
    reload,
    setting,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@frozen(kw_only=True)
class Ledger:
    heartbeat_ms: int = setting(100, doc="pause between heartbeats, in ms")
    election_timeout_ms: int = setting(1000, doc="silence before a campaign, in ms")

    def __attrs_post_init__(self) -> None:
        if self.election_timeout_ms < 3 * self.heartbeat_ms:
            raise ValueError("the heartbeat must fit three times into the election timeout")


@frozen(kw_only=True)
class Shed:
    colour: Colour = setting(Colour.RED, doc="of one shed")
    doors: dict[str, int] = setting(Factory(dict), doc="name -> width")


@frozen(kw_only=True)
class Config:
    name: str = setting("broker-a", doc="name of the group", reloadable=True)
    vip: bool = setting(True, doc="listen on port - 2 too")
    ratio: float = setting(0.5, doc="a share")
    data_dir: Path = setting(Path("data"), doc="folder")
    namesrv: tuple[str, ...] = setting(("127.0.0.1:9876",), doc="name servers")
    members: dict[str, str] = setting(Factory(dict), doc="node -> address")
    flush: Literal["sync", "async"] = setting("sync", doc="when to answer")
    colour: Colour = setting(Colour.RED, doc="of the shed")
    limit: int | None = setting(None, doc="a limit, or none")
    sheds: tuple[Shed, ...] = setting((), doc="all of them")
    ledger: Ledger = Factory(Ledger)


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "broker.toml"
        path.write_text(text)
        return path

    return write


def test_without_sources_everything_is_default() -> None:
    assert Config() == load(Config)


def test_later_sources_win(toml: Any) -> None:
    path = toml(
        'name = "file"\nvip = false\n[ledger]\nheartbeat_ms = 10\nelection_timeout_ms = 500'
    )
    environ = {"DLEDGER_NAME": "environment", "DLEDGER_LEDGER__HEARTBEAT_MS": "20", "HOME": "/"}

    config = load(Config, path, environ, ["ledger.heartbeat_ms=30"])

    expected = Config(
        name="environment", vip=False, ledger=Ledger(heartbeat_ms=30, election_timeout_ms=500)
    )
    assert expected == config


@pytest.mark.parametrize(
    "override, attribute, expected",
    [
        ("name=12", "name", "12"),
        ("name=a=b", "name", "a=b"),
        ("vip=false", "vip", False),
        ("ratio=1", "ratio", 1.0),
        ("data_dir=/x y", "data_dir", Path("/x y")),
        ("namesrv=a:1, b:2", "namesrv", ("a:1", "b:2")),
        ('namesrv=["a:1"]', "namesrv", ("a:1",)),
        ("namesrv=", "namesrv", ()),
        ('members={n0 = "a:1"}', "members", {"n0": "a:1"}),
        ("members.n0=a:1", "members", {"n0": "a:1"}),
        ("flush=async", "flush", "async"),
        ("colour=blue", "colour", Colour.BLUE),
        ("limit=7", "limit", 7),
    ],
)
def test_text_means_what_its_setting_is(override: str, attribute: str, expected: Any) -> None:
    value = getattr(load(Config, overrides=[override]), attribute)

    assert (type(expected), expected) == (type(value), value)


def test_entries_of_a_table_add_up(toml: Any) -> None:
    path = toml('[members]\nn0 = "a:1"\nn1 = "b:1"')

    config = load(Config, path, {"DLEDGER_MEMBERS__N1": "b:2"}, ["members.n2=c:1"])

    assert {"n0": "a:1", "n1": "b:2", "n2": "c:1"} == config.members


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("nmae = 1", "there is no setting nmae; did you mean name?"),
        ("[ledger]\ntick = 1", "there is no setting ledger.tick"),
        ("[name]\nx = 1", "name = {'x': 1}: expected text"),
        ("ledger = 1", "there is no setting ledger"),
        ("name = 1", "name = 1: expected text"),
        ("vip = 1", "vip = 1: expected true or false"),
        ("limit = true", "limit = True: expected int | None"),
        ('[ledger]\nheartbeat_ms = "20"', "ledger.heartbeat_ms = '20': expected a whole number"),
        ("[ledger]\nheartbeat_ms = 1.5", "ledger.heartbeat_ms = 1.5: expected a whole number"),
        ("namesrv = [1]", "namesrv = [1]: expected a list, each text"),
        ("members = {n0 = 1}", "members = {'n0': 1}: expected a table, each entry text"),
        ("flush = 'never'", "flush = 'never': expected one of 'sync', 'async'"),
        ("colour = 'green'", "colour = 'green': expected one of 'red', 'blue'"),
        ("name = ", "no valid TOML"),
    ],
)
def test_a_mistake_in_the_file_names_the_file(toml: Any, text: str, complaint: str) -> None:
    path = toml(text)
    with pytest.raises(SettingsError) as caught:
        load(Config, path)

    assert str(caught.value).startswith(f"{path}: {complaint}")


@pytest.mark.parametrize(
    "environ, overrides, complaint",
    [
        ({"DLEDGER_NMAE": "x"}, [], "environment DLEDGER_NMAE: there is no setting nmae"),
        ({"DLEDGER_VIP": "yes"}, [], "environment DLEDGER_VIP = 'yes': expected true or false"),
        ({"DLEDGER_VIP": "1"}, [], "environment DLEDGER_VIP: vip = 1: expected true or false"),
        ({}, ["ledger.tick=1"], "--set ledger.tick: there is no setting"),
        ({}, ["vip"], "--set vip: expected key=value"),
        ({}, ["limit=1\nname='x'"], "--set limit = \"1\\nname='x'\": expected int | None"),
        ({}, ["ledger.heartbeat_ms.x=1"], "--set ledger.heartbeat_ms.x: there is no setting"),
    ],
)
def test_a_mistake_elsewhere_names_its_source(
    environ: dict[str, str], overrides: list[str], complaint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Config, None, environ, overrides)

    assert str(caught.value).startswith(complaint)


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: No such file"):
        load(Config, tmp_path / "none.toml")


def test_a_broken_rule_names_who_took_part() -> None:
    with pytest.raises(SettingsError) as caught:
        load(Config, None, {"DLEDGER_LEDGER__HEARTBEAT_MS": "400"}, ["name=x"])

    expected = (
        "[ledger] the heartbeat must fit three times into the election timeout "
        "(from environment DLEDGER_LEDGER__HEARTBEAT_MS)"
    )
    assert expected == str(caught.value)


def test_a_broken_rule_that_names_a_setting_is_blamed_on_its_source() -> None:
    @frozen(kw_only=True)
    class Listening:
        name: str = setting("", doc="not looked at")
        listen: str = setting("", doc="where")
        listen_again: str = setting("", doc="where else")

        def __attrs_post_init__(self) -> None:
            if self.listen:
                raise ValueError(f"listen = {self.listen!r}: host:port is expected")

    with pytest.raises(SettingsError) as caught:
        load(Listening, None, {"DLEDGER_NAME": "n"}, ["listen_again=y", "listen=x"])

    assert "listen = 'x': host:port is expected (from --set listen)" == str(caught.value)


def test_the_readiness_variable_is_no_setting() -> None:
    assert Config() == load(Config, environ={"DLEDGER_READY_FD": "3"})


def test_only_reloadable_settings_may_change() -> None:
    config = load(Config, overrides=["ratio=0.1"])

    assert Config(name="new", ratio=0.1) == reload(config, ["name=new"])
    with pytest.raises(SettingsError, match="vip: it can be changed only by a restart"):
        reload(config, ["name=new", "vip=false"])


def test_a_list_of_tables_comes_from_a_file_or_a_line(toml: Any) -> None:
    expected = (Shed(doors={"front": 2}), Shed(colour=Colour.BLUE))
    path = toml('[[sheds]]\ndoors = { front = 2 }\n[[sheds]]\ncolour = "blue"')
    line = 'sheds=[{doors = {front = 2}}, {colour = "blue"}]'

    assert expected == load(Config, path).sheds == load(Config, overrides=[line]).sheds


@pytest.mark.parametrize(
    "line, complaint",
    [
        (
            "sheds=[{color = 1}]",
            r"tables with colour, doors \(extra fields found \(color\) @ \[0\]",
        ),
        ("sheds=[{}, {doors = {a = 'b'}}]", r"@ \[1\].doors\['a'\]"),
        ("sheds=3", "expected tables with colour, doors$"),
    ],
)
def test_what_is_wrong_in_a_list_of_tables_is_named_with_its_place(line, complaint) -> None:
    with pytest.raises(SettingsError, match=complaint):
        load(Config, overrides=[line])


def test_the_printed_settings_say_what_and_whence(toml: Any) -> None:
    path = toml("[ledger]\nheartbeat_ms = 10")

    printed = print_config(load_with_origins(Config, path, {"DLEDGER_VIP": "false"}, ["limit=3"]))

    assert '# name of the group (reloadable)\nname = "broker-a"  # default\n' in printed
    assert "vip = false  # environment DLEDGER_VIP\n" in printed
    assert "limit = 3  # --set limit\n" in printed
    assert f"[ledger]\n# pause between heartbeats, in ms\nheartbeat_ms = 10  # {path}\n" in printed
    assert "# limit =  # default" in print_config(load_with_origins(Config))


@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    members=st.dictionaries(st.text("ab.\"'=", max_size=4), st.text("x:1 #\n", max_size=4)),
    ratio=st.floats(allow_nan=False),
)
def test_what_is_printed_is_read_back(name: str, members: dict[str, str], ratio: float) -> None:
    sheds = (Shed(colour=Colour.BLUE, doors={name: 3}), Shed())
    config = Config(
        name=name, members=members, ratio=ratio, colour=Colour.BLUE, limit=4, sheds=sheds
    )
    printed = print_config(Loaded(config=config, origins={}))

    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8", newline="") as file:
        file.write(printed)
        file.flush()
        assert config == load(Config, Path(file.name))
