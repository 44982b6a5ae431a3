"""The name server's configuration entries: namespace → key → value.

Pure, with the text of the file that keeps them. Brokers and tools use ORDER_TOPIC_CONFIG (key:
topic, value: `broker-a:4;broker-b:4`); other namespaces are free.

Source: RocketMQ `namesrv/kvconfig/KVConfigManager.java`; the file is the same as its
`kvConfig.json`.
"""

import json

from attrs import define, field

ORDER_TOPIC_CONFIG = "ORDER_TOPIC_CONFIG"

ENTRIES_MAX = 10_000
"""Entries of all namespaces; one per ordered topic is what they are for."""

ENTRY_MAX_BYTES = 64 * 1024
"""Namespace, key and value together: a header value that is larger is a mistake."""


class EntryRefused(Exception):
    """Refused: the table is full or the entry too large; nothing changed."""


@define
class KvTable:
    _namespaces: dict[str, dict[str, str]] = field(factory=dict)

    def put(self, namespace: str, key: str, value: str) -> None:
        if len(namespace) + len(key) + len(value) > ENTRY_MAX_BYTES:
            raise EntryRefused(f"an entry has at most {ENTRY_MAX_BYTES} bytes")
        known = key in self._namespaces.get(namespace, ())
        if not known and self.size >= ENTRIES_MAX:
            raise EntryRefused(f"there are {ENTRIES_MAX} entries already")
        self._namespaces.setdefault(namespace, {})[key] = value

    def get(self, namespace: str, key: str) -> str | None:
        return self._namespaces.get(namespace, {}).get(key)

    def delete(self, namespace: str, key: str) -> None:
        entries = self._namespaces.get(namespace, {})
        entries.pop(key, None)
        if not entries:
            self._namespaces.pop(namespace, None)

    def namespace(self, namespace: str) -> dict[str, str] | None:
        """All entries of a namespace, or None if it has none."""
        entries = self._namespaces.get(namespace)
        return None if entries is None else dict(entries)

    def copy(self) -> "KvTable":
        return KvTable({name: dict(entries) for name, entries in self._namespaces.items()})

    @property
    def size(self) -> int:
        return sum(len(entries) for entries in self._namespaces.values())

    def to_text(self) -> str:
        return json.dumps({"configTable": self._namespaces}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "KvTable":
        """Raises: ValueError if this is no such file."""
        document = json.loads(text)
        table = document.get("configTable") if isinstance(document, dict) else None
        if not isinstance(table, dict):
            raise ValueError("no member configTable")
        kv = cls()
        for namespace, entries in table.items():
            if not isinstance(entries, dict):
                raise ValueError(f"namespace {namespace!r} is not an object")
            for key, value in entries.items():
                kv.put(namespace, key, str(value))
        return kv
