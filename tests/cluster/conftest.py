from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _stand_in_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find `standin_server`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
