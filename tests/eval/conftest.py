"""The evaluation commands, as the modules that `python eval/main.py` and its siblings run."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

COMMANDS = Path(__file__).parents[2] / "eval"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"eval_{name}", COMMANDS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def main() -> ModuleType:
    return load("main")


@pytest.fixture(scope="session")
def scaling() -> ModuleType:
    return load("scaling")


@pytest.fixture(scope="session")
def export() -> ModuleType:
    return load("export")
