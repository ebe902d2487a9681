"""The tokenizer every scripted server speaks with."""

import pytest

from tests.serve.tiny import write_tokenizer
from wideseek.model.renderer import Renderer


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder)
    return Renderer.load(folder)
