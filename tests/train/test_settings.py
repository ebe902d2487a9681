"""Settings: strict about keys and types."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from wideseek_train.config import load_settings, read_preset


@dataclass(frozen=True, kw_only=True)
class Sample:
    steps: int = 3
    rate: float = 0.5
    name: str = ""
    fast: bool = False


def test_words_override_presets_override_defaults() -> None:
    assert load_settings(Sample, ["rate=1e-3"], {"steps": 7, "rate": 2.0}) == Sample(
        steps=7, rate=1e-3
    )
    assert load_settings(Sample, ["fast=true", "name=a=b"]) == Sample(fast=True, name="a=b")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("speed=1", "speed"),
        ("steps", "key=value"),
        ("steps=two", "steps"),
        ("fast=1", "fast"),
        ("rate=", "rate"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(word: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_settings(Sample, [word])


def test_a_preset_is_a_name_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text("steps = 5")
    (tmp_path / "torn.toml").write_text("steps = ")
    assert read_preset(tmp_path, "small") == {"steps": 5}
    assert read_preset(Path("nowhere"), str(tmp_path / "small.toml")) == {"steps": 5}
    with pytest.raises(ValueError, match="unknown preset 'large'; known: small, torn"):
        read_preset(tmp_path, "large")
    with pytest.raises(ValueError, match=r"torn\.toml: "):
        read_preset(tmp_path, "torn")
