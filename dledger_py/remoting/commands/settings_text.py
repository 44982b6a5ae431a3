"""Settings as text, `key=value` by line: the body of the get and update configuration requests.

A small part of Java's properties syntax: comments, blanks around the key, `=` or `:` between.
Line continuations and \\u escapes are read by nobody and written by nobody.
"""

from collections.abc import Mapping

from dledger_py.remoting.commands.json_bodies import MalformedBody


def encode_settings(settings: Mapping[str, object]) -> bytes:
    """The text, sorted by key; booleans as Java spells them."""
    lines = (f"{key}={_spelled(value)}\n" for key, value in sorted(settings.items()))
    return "".join(lines).encode()


def decode_settings(body: bytes) -> dict[str, str]:
    """Values by key, later lines win. Raises: MalformedBody."""
    try:
        lines = body.decode().splitlines()
    except UnicodeDecodeError as error:
        raise MalformedBody(f"settings are not UTF-8: {error}") from error
    settings = {}
    for line in map(str.strip, lines):
        if not line or line[0] in "#!":
            continue
        separators = [at for at in (line.find("="), line.find(":")) if at > 0]
        if not separators:
            raise MalformedBody(f"settings line {line[:60]!r}: key=value is expected")
        at = min(separators)
        settings[line[:at].rstrip()] = line[at + 1 :].lstrip()
    return settings


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
