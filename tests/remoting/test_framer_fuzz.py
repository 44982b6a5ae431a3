"""A short, deterministic run of the fuzz target; long ones are started by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def target() -> ModuleType:
    """The target is a program beside the tests, not a module of a package."""
    path = Path(__file__).with_name("fuzz_framer.py")
    spec = importlib.util.spec_from_file_location("fuzz_framer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutated_frames_break_nothing(target: ModuleType) -> None:
    target.run(rounds=1500, seed=20260101)


@pytest.mark.parametrize("data", [b"", b"\x00", bytes(8), bytes(100), b"\xff" * 100])
def test_degenerate_input_breaks_nothing(target: ModuleType, data: bytes) -> None:
    target.check(data)
