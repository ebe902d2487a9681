"""What a checkpoint's config.json says about its network, read strictly."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen2ForCausalLM")


@dataclass(frozen=True, kw_only=True, slots=True)
class Yarn:
    """Rotary frequencies stretched to `factor` times the trained context.

    Frequencies turning more than beta_fast times in the trained context stay, those turning less
    than beta_slow times are divided by factor, those between are blended.
    Source: Peng et al. 2023, arXiv 2309.00071, section 3.2.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = (
        None  # scale of cos and sin; None: the paper's 0.1 ln(factor) + 1
    )
    truncate: bool = True  # round the bounds of the blend outwards to whole dimensions

    def __post_init__(self) -> None:
        if self.factor < 1.0:
            raise ValueError(f"YaRN factor must be at least 1, not {self.factor}")
        if self.original_max_position_embeddings < 1:
            raise ValueError(
                "YaRN original_max_position_embeddings must be at least 1, "
                f"not {self.original_max_position_embeddings}"
            )

    @property
    def cos_sin_scale(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of a dense Qwen3 or Qwen2.5 network. Sizes count elements, heads count heads."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    yarn: Yarn | None = None
    tied_head: bool = True
    dtype: str = "float32"  # what the checkpoint is stored in

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture {self.architecture!r} is not one of {', '.join(ARCHITECTURES)}"
            )
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, not {self.head_dim}")

    @property
    def qk_norm(self) -> bool:
        """Qwen3 normalises every query and key head; Qwen2.5 has biases on q, k and v instead."""
        return self.architecture == "Qwen3ForCausalLM"

    @property
    def max_positions(self) -> int:
        """Longest context the rotary frequencies are made for, in tokens."""
        if self.yarn is None:
            return self.max_position_embeddings
        stretched = int(self.yarn.factor * self.yarn.original_max_position_embeddings)
        return max(self.max_position_embeddings, stretched)

    def to_dict(self) -> dict[str, Any]:
        """The same config as a config.json that any Hugging Face transformers loads."""
        scaling = None
        if self.yarn is not None:
            scaling = {"rope_type": "yarn"} | asdict(self.yarn)
            scaling["attention_factor"] = self.yarn.cos_sin_scale
        return {
            "architectures": [self.architecture],
            "model_type": "qwen3" if self.qk_norm else "qwen2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "tie_word_embeddings": self.tied_head,
            "torch_dtype": self.dtype,
        }


def load_config(folder: str | Path) -> ModelConfig:
    """Read `folder`/config.json. ValueError names what is missing, malformed or not supported."""
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no model at {folder}: {path} does not exist") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds a {type(raw).__name__}, not an object")
    try:
        return parse_config(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_config(raw: dict[str, Any]) -> ModelConfig:
    """Check a config.json object field by field; ValueError names field and value."""
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ValueError(f"architectures must name one architecture, not {architectures!r}")
    architecture = str(architectures[0])
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    _refuse_variants(raw)
    hidden_size, num_heads = _integer(raw, "hidden_size"), _integer(raw, "num_attention_heads")
    if raw.get("head_dim") is not None:
        head_dim = _integer(raw, "head_dim")
    elif num_heads > 0 and hidden_size % num_heads == 0:
        head_dim = hidden_size // num_heads
    else:
        raise ValueError(
            f"num_attention_heads {num_heads} does not divide hidden_size {hidden_size}"
        )
    max_position_embeddings = _integer(raw, "max_position_embeddings")
    rope_theta, yarn = _parse_rope(raw, max_position_embeddings)
    return ModelConfig(
        architecture=architecture,
        vocab_size=_integer(raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_integer(raw, "intermediate_size"),
        num_layers=_integer(raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=_integer(raw, "num_key_value_heads"),
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        rms_norm_eps=_number(raw, "rms_norm_eps"),
        rope_theta=rope_theta,
        yarn=yarn,
        tied_head=bool(raw.get("tie_word_embeddings", False)),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
    )


def _refuse_variants(raw: dict[str, Any]) -> None:
    """ValueError for what changes the computation and is not implemented."""
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act {raw['hidden_act']!r} is not supported, only 'silu'")
    if raw.get("use_sliding_window"):
        raise ValueError("use_sliding_window true is not supported")
    layer_types = set(raw.get("layer_types") or ()) - {"full_attention"}
    if layer_types:
        raise ValueError(f"layer_types {sorted(layer_types)} are not supported")
    if raw.get("attention_bias"):
        raise ValueError("attention_bias true is not supported")
    if raw.get("quantization_config"):
        raise ValueError("quantization_config is not supported")


def _parse_rope(raw: dict[str, Any], max_position_embeddings: int) -> tuple[float, Yarn | None]:
    """Theta and scaling, from `rope_parameters` or the older `rope_theta` and `rope_scaling`."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters must be an object, not {rope!r}")
    theta = _number({"rope_theta": rope.get("rope_theta", raw.get("rope_theta"))}, "rope_theta")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise ValueError(f"rope_type {kind!r} is not supported, only 'default' and 'yarn'")
    for name in ("partial_rotary_factor", "mscale", "mscale_all_dim"):
        if rope.get(name) not in (None, 1, 1.0):
            raise ValueError(f"rope {name} {rope[name]!r} is not supported")
    if kind == "default":
        return theta, None
    original = rope.get("original_max_position_embeddings")
    attention_factor = rope.get("attention_factor")
    return theta, Yarn(
        factor=_number(rope, "factor"),
        original_max_position_embeddings=(
            max_position_embeddings
            if original is None
            else _integer(rope, "original_max_position_embeddings")
        ),
        beta_fast=float(rope.get("beta_fast") or 32.0),
        beta_slow=float(rope.get("beta_slow") or 1.0),
        attention_factor=None if attention_factor is None else float(attention_factor),
        truncate=bool(rope.get("truncate", True)),
    )


def _integer(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, not {value!r}")
    return value


def _number(raw: dict[str, Any], name: str) -> float:
    value = raw.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return float(value)
