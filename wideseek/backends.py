"""From flags to what a question needs: models that talk, a corpus to search.

Whatever cannot be had is a ValueError of one line, raised before anything is asked.
"""

import argparse
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol, get_args

from wideseek.agents.endpoint import Endpoint
from wideseek.agents.toolbox import MAX_SEARCH_COUNT
from wideseek.engine.config import EngineConfig
from wideseek.generation import Dialogue, Message, ModelFailure, ToolSchema
from wideseek.model.dialogue import TokenDialogue
from wideseek.model.renderer import Renderer
from wideseek.tools.corpus import Corpus

if TYPE_CHECKING:
    from wideseek.engine.engine import Engine

MINI = Path(__file__).parent / "model" / "mini"

Dtype = Literal["auto", "float32", "bfloat16"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Model(Protocol):
    """A model an agent can talk to. `open` is an OpenDialogue; max_model_len None: unknown."""

    @property
    def name(self) -> str: ...

    @property
    def max_model_len(self) -> int | None: ...

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str = ""
    ) -> Dialogue: ...

    async def close(self) -> None: ...


class LocalModel:
    """A model folder on an Engine of this process."""

    def __init__(self, name: str, renderer: Renderer, engine: "Engine") -> None:
        self.name = name
        self.renderer = renderer
        self.engine = engine

    @classmethod
    def load(cls, folder: Path, config: EngineConfig, name: str) -> "LocalModel":
        """Read tokenizer and weights; ValueError names what the folder lacks."""
        renderer = Renderer.load(folder)
        from wideseek.engine.engine import Engine  # imports torch, which takes seconds

        return cls(name, renderer, Engine.load(folder, config))

    @classmethod
    def load_over_ranks(cls, folder: Path, config: EngineConfig, name: str) -> "LocalModel | None":
        """The same on the first of torchrun's ranks; the others compute along and get None when it is closed."""
        renderer = Renderer.load(folder)
        from wideseek.engine.tensor_parallel import load_over_ranks  # imports torch

        engine = load_over_ranks(folder, config)
        return None if engine is None else cls(name, renderer, engine)

    @property
    def max_model_len(self) -> int:
        return self.engine.max_model_len

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str = ""
    ) -> TokenDialogue:
        """Start a Dialogue of at most max_model_len tokens."""
        return TokenDialogue(
            self.renderer,
            partial(self.engine.generate, session=session),
            messages,
            tools,
            max_model_len=self.max_model_len,
        )

    async def close(self) -> None:
        self.engine.close()


@dataclass(frozen=True, kw_only=True)
class Backends:
    """The models that lead and work, and the pages they search. Close it once.

    bundled: both models are the one that comes with WideSeek.
    """

    lead: Model
    sub: Model
    corpus: Corpus
    bundled: bool

    @property
    def max_model_len(self) -> int | None:
        """The longest context both models can hold, where one is known."""
        known = [m.max_model_len for m in (self.lead, self.sub) if m.max_model_len is not None]
        return min(known, default=None)

    async def close(self) -> None:
        await self.lead.close()
        if self.sub is not self.lead:
            await self.sub.close()


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a model is: a name on a server, or else a folder or hub id here; None: a default."""

    model: str | None
    base_url: str | None


def model_places(options: argparse.Namespace) -> tuple[ModelPlace, ModelPlace]:
    """The places of the lead's and the subagents' model; the same twice unless flags say other."""
    lead = ModelPlace(options.model, options.base_url)
    if options.sub_model is None and options.sub_base_url is None:
        return lead, lead
    base_url = options.sub_base_url
    if base_url is None and not Path(options.sub_model).is_dir():
        base_url = options.base_url
    return lead, ModelPlace(options.sub_model, base_url)


async def open_backends(options: argparse.Namespace) -> Backends:
    """Everything that the flags of `add_backend_flags` name, loaded and reachable."""
    corpus = Corpus.load(options.corpus)
    lead_place, sub_place = model_places(options)
    lead = sub = await open_model(lead_place.model, lead_place.base_url, options.dtype)
    if sub_place != lead_place:
        try:
            sub = await open_model(sub_place.model, sub_place.base_url, options.dtype)
        except ValueError:
            await lead.close()
            raise
    bundled = lead_place == sub_place == ModelPlace(None, None)
    return Backends(lead=lead, sub=sub, corpus=corpus, bundled=bundled)


async def open_model(model: str | None, base_url: str | None, dtype: Dtype = "auto") -> Model:
    """The model of that name on a server, or else a folder or hub id, loaded here."""
    if base_url is not None:
        return await open_endpoint(base_url, model)
    config = EngineConfig(dtype=dtype)
    return LocalModel.load(find_model_folder(model), config, name_of(model))


async def open_endpoint(base_url: str, model: str | None) -> Endpoint:
    """A server that answers; without a model name, the first it lists."""
    endpoint = Endpoint(base_url, model or "", key=os.environ.get("OPENAI_API_KEY"))
    listed = await endpoint.list_models()
    if isinstance(listed, ModelFailure):
        await endpoint.close()
        raise ValueError(f"base-url {base_url}: {listed.detail}")
    if model is None:
        if not listed:
            raise ValueError(f"base-url {base_url} lists no models: name one with --model")
        endpoint.name = listed[0]
    return endpoint


def find_model_folder(model: str | None) -> Path:
    """The folder of a model: the bundled one for None, a path, or a hub id in the local cache."""
    if model is None:
        if not MINI.is_dir():
            raise ValueError(f"the bundled model is missing at {MINI}: name one with --model")
        return MINI
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise ValueError(f"no model folder at {model}")
    cache = _hub_cache()
    home = cache / f"models--{model.replace('/', '--')}"
    revision = home / "refs" / "main"
    if revision.is_file():
        snapshot = home / "snapshots" / revision.read_text(encoding="utf-8").strip()
        if snapshot.is_dir():
            return snapshot
    raise ValueError(
        f"{model} is neither a folder nor in the Hugging Face cache at {cache}; "
        f"get it with: hf download {model}"
    )


def name_of(model: str | None) -> str:
    """What a local model is called: a hub id as it is, a folder by its last part."""
    if model is None:
        return "wideseek-mini"
    return model if _HUB_ID.fullmatch(model) else Path(model).resolve().name


def _hub_cache() -> Path:
    """Where Hugging Face tools keep models, by their own environment variables."""
    if path := os.environ.get("HF_HUB_CACHE"):
        return Path(path).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{cache}/huggingface")).expanduser() / "hub"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors take one line; it still exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def add_backend_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `open_backends` reads."""
    add = parser.add_argument
    add("--model", help="model folder, hub id in the local cache, or name on --base-url")
    add("--base-url", metavar="URL", help="OpenAI-compatible server; its key: OPENAI_API_KEY")
    add("--sub-model", metavar="MODEL", help="another model for the subagents")
    add("--sub-base-url", metavar="URL", help="another server for the subagents")
    add("--corpus", metavar="FILE", help="pages to search (default: the bundled atlas)")
    add("--dtype", choices=get_args(Dtype), default="auto", help="number format of local weights")


def add_found_flag(parser: argparse.ArgumentParser) -> None:
    """--found: how many titles found for a question the lead begins with; None where it is not given."""
    parser.add_argument(
        "--found",
        type=_found_count,
        metavar="N",
        help=f"begin with titles of N pages found for the question, at most {MAX_SEARCH_COUNT} "
        "(default: 5 for the bundled model, else 0)",
    )


def _found_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > MAX_SEARCH_COUNT:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to {MAX_SEARCH_COUNT}, not {text!r}"
        )
    return int(text)


def positive_int(text: str) -> int:
    """A flag's whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """A flag's number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value
