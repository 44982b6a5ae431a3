"""A table of named settings, and which state of it somebody has seen.

Laws: a name is a key; a setting that is put again unchanged changes nothing, not even the data
version, because registrations compare that. Elsewhere: what is in the tables (`topics`, `groups`).
"""

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from attrs import define, field, frozen


@frozen(kw_only=True)
class DataVersion:
    """Which state of a table somebody has seen. `stateVersion` is left to the registrar."""

    counter: int = 0
    timestamp_ms: int = 0

    def next(self, stamped_ms: int) -> "DataVersion":
        """The version after one more change."""
        return DataVersion(counter=self.counter + 1, timestamp_ms=stamped_ms)


class Named(Protocol):
    """What a table keeps; compared by all of its settings."""

    @property
    def name(self) -> str: ...


ConfigT = TypeVar("ConfigT", bound=Named)


@define
class ConfigTable(Generic[ConfigT]):
    """The table. Anyone may read it between two awaits; `put` and `drop` are the machine's."""

    data_version: DataVersion = DataVersion()
    _configs: dict[str, ConfigT] = field(factory=dict)

    def get(self, name: str) -> ConfigT | None:
        """The settings of this name, or None if there is no such name."""
        return self._configs.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._configs

    def __len__(self) -> int:
        return len(self._configs)

    def __iter__(self) -> Iterator[ConfigT]:
        return iter(self._configs.values())

    def names(self) -> tuple[str, ...]:
        """All of them, the predefined ones too."""
        return tuple(self._configs)

    def put(self, configs: Iterable[ConfigT], stamped_ms: int) -> tuple[str, ...]:
        """Create or replace; the names that really changed. One data version for all of them."""
        changed = tuple(c for c in configs if self._configs.get(c.name) != c)
        if changed:
            self._configs.update((config.name, config) for config in changed)
            self.data_version = self.data_version.next(stamped_ms)
        return tuple(config.name for config in changed)

    def drop(self, name: str, stamped_ms: int) -> bool:
        """Forget a name; False if there was none."""
        if self._configs.pop(name, None) is None:
            return False
        self.data_version = self.data_version.next(stamped_ms)
        return True
