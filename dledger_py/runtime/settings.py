"""Settings: a tree of frozen attrs classes, filled from four sources.

    defaults  <  TOML file  <  environment  <  --set on the command line

    @frozen(kw_only=True)
    class LedgerSettings:
        tick_ms: int = setting(20, doc="length of one tick, in ms")

The same setting is `tick_ms = 20` under `[ledger]`, `DLEDGER_LEDGER__TICK_MS=20`, and
`--set ledger.tick_ms=20`. Laws:

- A key nobody declared, or a value of another type, is an error that names where it came from.
  Types are not bent: `1` is no boolean and `"20"` in a file is no number.
- The environment and the command line have only text: for a setting that is text it is taken as it
  is, a list may be separated by commas, everything else is read as a TOML value.
- Rules between fields belong into `__attrs_post_init__` of their class; the `ValueError` it raises
  is reported with the sources of the settings that it names, or of all that took part.
- Components receive their part of the tree, never the whole.
"""

from __future__ import annotations

import difflib
import enum
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from attrs import define, field, frozen

T = TypeVar("T")
Key = tuple[str, ...]

PREFIX = "DLEDGER_"
NOT_SETTINGS = frozenset({"DLEDGER_READY_FD"})
"""Variables with our prefix that mean something else (see `process`)."""

EXIT_SETTINGS = 78
"""Exit code for settings that make no sense; EX_CONFIG of sysexits.h."""

DEFAULT = "default"


class SettingsError(ValueError):
    """Refused: the settings are wrong, and nothing was started. The message names the source."""

    exit_code = EXIT_SETTINGS


def setting(default: T, *, doc: str, reloadable: bool = False) -> T:
    """One setting of an attrs class. `doc` says what it is and in which unit.

    A `reloadable` one may change while the process runs (`reload`).
    """
    # attrs' own stubs say the same lie: what is assigned in the class body is the field's value.
    return field(default=default, metadata={"doc": doc, "reloadable": reloadable})


@frozen(kw_only=True)
class Loaded(Generic[T]):
    """Settings, and for each key that is not a default where it came from."""

    config: T
    origins: Mapping[Key, str]


def load(
    cls: type[T],
    toml_path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> T:
    """Merge the sources into a `cls`. `overrides` are the `key=value` of `--set`.

    Raises `SettingsError`. Blocks to read the file.
    """
    return load_with_origins(cls, toml_path, environ, overrides).config


def load_with_origins(
    cls: type[T],
    toml_path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> Loaded[T]:
    """Like `load`, and remember which source each value came from."""
    merge = _Merge(cls)
    if toml_path is not None:
        merge.take_table(_read_toml(toml_path), source=str(toml_path))
    for name, text in sorted((environ or {}).items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            key = tuple(name.removeprefix(PREFIX).lower().split("__"))
            merge.take_text(key, text, source=f"environment {name}")
    for override in overrides:
        merge.take_override(override)
    return Loaded(config=merge.build(), origins=merge.origins)


def reload(config: T, overrides: Sequence[str]) -> T:
    """A new value of `config` with `key=value` overrides, which may touch only reloadable settings.

    Raises `SettingsError`; then nothing has changed.
    """
    merge = _Merge(type(config))
    for override in overrides:
        key = merge.take_override(override)
        if not merge.fields[key].metadata.get("reloadable", False):
            raise SettingsError(f"{'.'.join(key)}: it can be changed only by a restart")
    return merge.build(config)


def print_config(loaded: Loaded[Any]) -> str:
    """The merged settings as TOML that `load` reads back, each with its doc and its origin."""
    return "\n".join(_print_class(loaded.config, (), loaded.origins)).strip() + "\n"


@define
class _Merge(Generic[T]):
    """The values the sources gave, checked one by one; later sources replace earlier ones."""

    cls: type[T]
    fields: dict[Key, attrs.Attribute[Any]] = field(init=False)
    values: dict[Key, Any] = field(factory=dict, init=False)
    origins: dict[Key, str] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.fields = dict(_leaves(self.cls))

    def take_table(self, table: Mapping[str, Any], source: str, above: Key = ()) -> None:
        for name, value in table.items():
            key = (*above, name)
            if key in self.fields:
                self._put(key, value, source)
            elif isinstance(value, dict) and self._is_section(key):
                self.take_table(value, source, key)
            else:
                raise self._unknown(key, source)

    def take_text(self, key: Key, text: str, source: str) -> Key:
        """Returns the key of the setting; `key` may name one entry of a table setting."""
        if key in self.fields:
            self._put(key, _value_of_text(text, _type(self.fields[key]), source), source)
            return key
        above, entry = key[:-1], key[-1]
        if above in self.fields and get_origin(_type(self.fields[above])) is dict:
            entry_type = get_args(_type(self.fields[above]))[1]
            table = dict(self.values.get(above, {}))
            table[entry] = _value_of_text(text, entry_type, source)
            self._put(above, table, source)
            return above
        raise self._unknown(key, source)

    def take_override(self, override: str) -> Key:
        name, equals, text = override.partition("=")
        source = f"--set {name}"
        if not equals:
            raise SettingsError(f"{source}: expected key=value")
        return self.take_text(tuple(name.strip().split(".")), text, source)

    def build(self, base: T | None = None) -> T:
        built: T = self._build(self.cls, (), base)
        return built

    def _build(self, cls: type[Any], above: Key, base: Any) -> Any:
        """A `cls` of what the sources gave, with the rest from `base` or the defaults."""
        arguments: dict[str, Any] = {}
        for attribute in attrs.fields(cls):
            key = (*above, attribute.name)
            before = getattr(base, attribute.name, None)
            if _is_settings(_type(attribute)):
                arguments[attribute.name] = self._build(_type(attribute), key, before)
            elif key in self.values:
                arguments[attribute.name] = self.values[key]
            elif base is not None:
                arguments[attribute.name] = before
        try:
            return cls(**arguments)
        except SettingsError:
            raise
        except (ValueError, TypeError) as error:
            inside = {k: o for k, o in self.origins.items() if k[: len(above)] == above}
            named = {o for k, o in inside.items() if re.search(rf"\b{k[-1]}\b", str(error))}
            took_part = named or set(inside.values())
            section = f"[{'.'.join(above)}] " if above else ""
            sources = ", ".join(sorted(took_part)) or DEFAULT
            raise SettingsError(f"{section}{error} (from {sources})") from error

    def _put(self, key: Key, value: Any, source: str) -> None:
        wanted = _type(self.fields[key])
        try:
            self.values[key] = _CONVERTER.structure(value, wanted)
        except Exception as error:  # cattrs and its hooks raise many kinds
            reasons = ", ".join(_reasons(error)) if _is_tables(wanted) and _tables(value) else ""
            raise SettingsError(
                f"{source}: {'.'.join(key)} = {value!r}: expected {_describe(wanted)}"
                + (f" ({reasons})" if reasons else "")
            ) from error
        self.origins[key] = source

    def _is_section(self, key: Key) -> bool:
        return any(known[: len(key)] == key for known in self.fields)

    def _unknown(self, key: Key, source: str) -> SettingsError:
        name = ".".join(key)
        known = [".".join(known) for known in self.fields]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return SettingsError(f"{source}: there is no setting {name}{hint}")


def _leaves(cls: type[Any], above: Key = ()) -> Iterator[tuple[Key, attrs.Attribute[Any]]]:
    attrs.resolve_types(cls)
    for attribute in attrs.fields(cls):
        key = (*above, attribute.name)
        if _is_settings(_type(attribute)):
            yield from _leaves(_type(attribute), key)
        else:
            yield key, attribute


def _type(attribute: attrs.Attribute[Any]) -> Any:
    return attribute.type


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and attrs.has(kind)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: no valid TOML: {error}") from error


def _value_of_text(text: str, kind: Any, source: str) -> Any:
    """What `text` from the environment or the command line means for a setting of type `kind`."""
    if kind in (str, Path) or get_origin(kind) is Literal:
        return text
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return text
    if get_origin(kind) is tuple and not text.lstrip().startswith("["):
        item = get_args(kind)[0]
        parts = (part.strip() for part in text.split(","))
        return [_value_of_text(part, item, source) for part in parts if part]
    try:
        (value,) = tomllib.loads(f"value = {text}").values()
    except ValueError as error:  # no TOML, or more than one line of it
        if get_origin(kind) in (Union, UnionType) and str in get_args(kind):
            return text
        raise SettingsError(f"{source} = {text!r}: expected {_describe(kind)}") from error
    return value


def _is_tables(kind: Any) -> bool:
    return get_origin(kind) is tuple and _is_settings(get_args(kind)[0])


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _reasons(error: Exception) -> list[str]:
    """What cattrs found wrong in a list of tables, each with its place."""
    return [str(reason) for reason in cattrs.transform_error(error, path="")]


def _describe(kind: Any) -> str:
    names = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Path: "a path",
    }
    if kind in names:
        return names[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(repr(choice.value) for choice in kind)
    if _is_tables(kind):
        known = ", ".join(attribute.name for attribute in attrs.fields(get_args(kind)[0]))
        return f"tables with {known}"
    if get_origin(kind) is tuple:
        return f"a list, each {_describe(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"a table, each entry {_describe(get_args(kind)[1])}"
    return str(kind)


def _exactly(*accepted: type) -> Any:
    def structure(value: Any, wanted: Any) -> Any:
        if type(value) not in accepted:  # not isinstance: True is an int
            raise TypeError(type(value).__name__)
        return wanted(value)

    return structure


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(str, _exactly(str))
    converter.register_structure_hook(int, _exactly(int))
    converter.register_structure_hook(bool, _exactly(bool))
    converter.register_structure_hook(float, _exactly(float, int))
    converter.register_structure_hook(Path, _exactly(str))
    return converter


_CONVERTER = _converter()


def _print_class(config: Any, above: Key, origins: Mapping[Key, str]) -> Iterator[str]:
    nested: list[tuple[str, Any]] = []
    for attribute in attrs.fields(type(config)):
        value = getattr(config, attribute.name)
        if attrs.has(type(value)):
            nested.append((attribute.name, value))
            continue
        doc, key = attribute.metadata.get("doc", ""), (*above, attribute.name)
        if attribute.metadata.get("reloadable", False):
            doc += " (reloadable)"
        origin = origins.get(key, DEFAULT)
        yield f"# {doc}"
        if value is None:
            yield f"# {attribute.name} =  # {origin}"
        else:
            yield f"{attribute.name} = {_to_toml(value)}  # {origin}"
    for name, value in nested:
        key = (*above, name)
        yield ""
        yield f"[{'.'.join(key)}]"
        yield from _print_class(value, key, origins)


def _to_toml(value: Any) -> str:
    match value:
        case enum.Enum():
            return _to_toml(value.value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple() | list():
            return f"[{', '.join(_to_toml(item) for item in value)}]"
        case _ if attrs.has(type(value)):
            return _to_toml(attrs.asdict(value, recurse=False))
        case dict():
            entries = (f"{_to_toml(key)} = {_to_toml(item)}" for key, item in value.items())
            return f"{{{', '.join(entries)}}}"
        case _:
            raise TypeError(f"a setting of type {type(value).__name__} has no TOML form")
