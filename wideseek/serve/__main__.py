"""`python -m wideseek.serve`: one model, and research with it, over HTTP.

Under `torchrun --nproc-per-node N` the model is split over N ranks, and the first of them serves.
Exit codes: 0 ended; 2 usage or configuration; 128 + signal when interrupted.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from wideseek.backends import (
    Backends,
    Dtype,
    LocalModel,
    OneLineParser,
    find_model_folder,
    name_of,
    positive_int,
)
from wideseek.engine.config import EngineConfig
from wideseek.runs.log import make_runs_dir
from wideseek.serve.loopback import is_loopback
from wideseek.tools.corpus import Corpus

USAGE = 2
CALLS_PER_SEQUENCE = 4
"""Calls that may wait or run for each sequence the engine runs at once."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; the exit code."""
    options = parse(arguments)
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        return refuse(f"{missing[0]} is not installed; get it with: pip install 'wideseek[serve]'")
    if int(os.environ.get("RANK", "0")) > 0:
        return compute_along(options)
    try:
        return asyncio.run(serve(options))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line; exits with 2 and one line for what cannot be."""
    parser = OneLineParser(prog="serve", description="Serve a model and research with it.")
    add = parser.add_argument
    add("--model", help="model folder or hub id in the local cache (default: the bundled one)")
    add("--served-model-name", metavar="NAME", help="what clients call it (default: its own name)")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="(default: 8000)")
    add("--api-key", metavar="KEY", help="better set WIDESEEK_API_KEY: others can read arguments")
    add("--max-model-len", type=positive_int, metavar="N", help="longest context in tokens")
    add("--dtype", choices=get_args(Dtype), default="auto", help="number format of the weights")
    add(
        "--kv-cache-dtype",
        choices=("auto", "fp8"),
        default="auto",
        help="fp8: keys and values in one byte each, less exactly",
    )
    add(
        "--exact",
        choices=("true", "false"),
        help="true: the same bits whoever asks beside it (default: true on a CPU, false on a GPU)",
    )
    add("--max-num-seqs", type=positive_int, default=128, metavar="N", help="(default: 128)")
    add("--corpus", metavar="FILE", help="pages to search (default: the bundled atlas)")
    add("--max-agents", type=positive_int, metavar="N", help="most subagents a call (default: 10)")
    add("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="(default: runs)")
    add("--seed", type=int, help="of completions that bring none (default: a fresh one each)")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port must be from 0 to 65535, not {options.port}")
    return options


async def serve(options: argparse.Namespace) -> int:
    """Listen, load, then answer calls until interrupted."""
    key = options.api_key or os.environ.get("WIDESEEK_API_KEY") or None
    if key is None and not is_loopback(options.host):
        return refuse(f"--host {options.host} is open to others: set WIDESEEK_API_KEY first")
    try:
        make_runs_dir(options.runs_dir)
    except ValueError as error:
        return refuse(str(error))
    try:
        listening = listen(options.host, options.port)
    except OSError as error:
        reason = error.strerror or error
        return refuse(f"cannot listen on {options.host}:{options.port}: {reason}")
    with listening:
        try:
            corpus = Corpus.load(options.corpus)
            model = load_model(options)
        except ValueError as error:
            return refuse(str(error))
        assert model is not None, "only other ranks end without a model"
        await answer_calls(options, key, listening, model, corpus)
    return 0


async def answer_calls(
    options: argparse.Namespace,
    key: str | None,
    listening: socket.socket,
    model: LocalModel,
    corpus: Corpus,
) -> None:
    """Answer calls on the socket until a signal comes; then end runs and close the model."""
    import uvicorn  # with the modules below: an extra, and not needed to refuse wrong options

    from wideseek.serve.app import create_app
    from wideseek.serve.chat import ServedModel
    from wideseek.serve.runs import Runs

    backends = Backends(lead=model, sub=model, corpus=corpus, bundled=options.model is None)
    config = {name: value for name, value in vars(options).items() if name != "api_key"}
    served = ServedModel(
        name=model.name,
        renderer=model.renderer,
        generate=model.engine.generate,
        max_model_len=model.max_model_len,
        created=int(time.time()),
        numbers=lambda: model.engine.stats().numbers(),
    )
    app = create_app(
        served,
        Runs(backends, options.runs_dir, width=options.max_agents, config=config),
        key=key,
        max_calls=CALLS_PER_SEQUENCE * options.max_num_seqs,
        seed=options.seed,
    )
    host, port = listening.getsockname()[:2]
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    guarded = "with a key" if key else "for this machine"
    print(f"serving {model.name} on {place} {guarded}; runs in {options.runs_dir}", flush=True)
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
    await uvicorn.Server(settings).serve(sockets=[listening])


def compute_along(options: argparse.Namespace) -> int:
    """Hold this rank's part of the model until the first rank closes it, which alone hears signals and speaks."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        load_model(options)
    except ValueError:
        return USAGE
    return 0


def load_model(options: argparse.Namespace) -> LocalModel | None:
    """The model of the options, under the name clients will use; ValueError as its loaders.

    None on a rank that is not the first, once the model has been closed.
    """
    folder = find_model_folder(options.model)
    name = options.served_model_name or name_of(options.model)
    config = EngineConfig(
        dtype=options.dtype,
        kv_dtype=options.kv_cache_dtype,
        exact={"true": True, "false": False}.get(options.exact),
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
    )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return LocalModel.load_over_ranks(folder, config, name)
    return LocalModel.load(folder, config, name)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError where the port is taken or the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def refuse(message: str) -> int:
    """Say in one line what cannot be done."""
    print(f"serve: {' '.join(message.split())}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
