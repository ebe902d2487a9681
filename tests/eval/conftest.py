"""The evaluation command, as the module that `python eval/main.py` runs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

MAIN = Path(__file__).parents[2] / "eval" / "main.py"


@pytest.fixture(scope="session")
def main() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eval_main", MAIN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
