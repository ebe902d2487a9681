"""Engine: token ids in, Completions out. One thread turns the circle schedule, run, commit."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as ReadOnly
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from wideseek.engine.config import EngineConfig
from wideseek.engine.errors import EngineAsleep, EngineClosed
from wideseek.engine.model_runner import ModelRunner, kv_pages_that_fit, placement
from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import PrefixTree
from wideseek.engine.scheduler import Scheduler
from wideseek.engine.sequence import OnToken, Sequence, checked_ids
from wideseek.engine.stats import EngineStats, StepClock
from wideseek.engine.stop_text import Decode, StopText
from wideseek.engine.weight_swap import WeightSwap
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import Qwen3
from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model


class Engine:
    """Continues token ids with one model; `generate` implements wideseek.generation.Generate.

    All of it may be called from any thread. The loop's thread alone touches scheduler and model,
    `_condition` guards what it shares with callers: what they submitted, cancelled and await.
    """

    def __init__(
        self, model: Qwen3, config: EngineConfig | None = None, decode: Decode | None = None
    ) -> None:
        """Serve a model in memory, in its own dtype and on its own device.

        decode turns token ids into text and is needed for stop strings only. ValueError when
        config asks for more context than the model has, or for no page at all.
        """
        config = config or EngineConfig()
        longest = model.config.max_positions
        if config.max_model_len is not None and config.max_model_len > longest:
            raise ValueError(f"max_model_len {config.max_model_len} exceeds the model's {longest}")
        context = config.max_model_len or longest
        num_pages = kv_pages_that_fit(model, config, context)
        self.model = model
        self.max_model_len = min(context, num_pages * config.page_size)
        """Longest sequence in tokens, prompt and reply; no longer than the KV pool."""
        pool = PagePool(num_pages)
        self._scheduler = Scheduler(
            pool,
            PrefixTree(pool) if config.enable_prefix_cache else None,
            page_size=config.page_size,
            max_num_seqs=config.max_num_seqs,
            max_batch_tokens=config.max_batch_tokens,
            max_draft_tokens=config.max_draft_tokens,
        )
        self._runner, self._weights = self._parts(model, config, num_pages)
        self._page_size = config.page_size
        self._decode = decode
        self._weight_version = 0
        self._prompt_tokens = 0
        self._condition = threading.Condition()
        self._submitted: list[Sequence] = []
        self._cancelled: list[Sequence] = []
        self._awaited: dict[Sequence, Future[Completion]] = {}
        self._intrusion = threading.Lock()  # held by the one caller that is between two steps
        self._intruders = 0
        self._stepping = False
        self._paused = False
        self._asleep = False
        self._closed = False
        self._clock = StepClock()
        self._stats = self._snapshot()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, path: str | Path, config: EngineConfig | None = None) -> Self:
        """Serve a Hugging Face folder; ValueError names what is wrong with it. See `tensor_parallel` for large ones."""
        config = config or EngineConfig()
        device, dtype = placement(config)
        model = load_model(path, dtype, device)
        return cls(model, config, Renderer.load(path).decode)

    async def generate(
        self,
        token_ids: ReadOnly[int],
        sampling: Sampling,
        cancel: asyncio.Event | None = None,
        on_token: OnToken | None = None,
        session: str = "",
    ) -> Completion:
        """Continue token_ids; see wideseek.generation.Generate.

        session says whose turn this is, as a path from the question down: "q7/lead/3" is a subagent
        of "q7/lead". Its KV is then kept for its next turn, a parent's while a call below it is
        under way, and what all questions may have of the engine is shared out fairly.

        on_token(id, plain log-probability) hears of each token as it is sampled, on the engine's
        thread, which it must neither hold up nor raise in.
        ValueError for a prompt that is empty, too long or outside the vocabulary; RuntimeError when
        a step failed or the engine is closed. Cancelling the awaiting task ends the sequence too.
        """
        sequence = self._sequence(token_ids, sampling, session)
        sequence.on_token = on_token
        return await self._completion(sequence, cancel)

    async def score(
        self, token_ids: ReadOnly[int], first: int = 1, cancel: asyncio.Event | None = None
    ) -> Completion:
        """Log-probabilities of the tokens from index `first` on, each given those before it.

        They come as the Completion that would have been sampled, logprobs and plain_logprobs both
        from the plain softmax; cancelled, with those computed so far. KV of the tokens before is
        shared with every other call. ValueError and RuntimeError as in `generate`.
        """
        ids = checked_ids(token_ids, self.model.config.vocab_size)
        if not 1 <= first < len(ids):
            raise ValueError(f"first must be from 1 to {len(ids) - 1}, the last token, not {first}")
        if len(ids) > self.max_model_len:
            raise ValueError(f"{len(ids)} tokens do not fit a context of {self.max_model_len}")
        return await self._completion(Sequence.scored(ids, first, self._page_size), cancel)

    def generate_batch(self, prompts: Iterable[tuple[ReadOnly[int], Sampling]]) -> list[Completion]:
        """Continue all prompts together and wait for them; results in their order.

        Errors as in `generate`; if one prompt is refused, none is started.
        """
        sequences = [self._sequence(*prompt) for prompt in prompts]
        futures = self._submit(sequences)
        try:
            return [future.result() for future in futures]
        finally:
            self._cancel(sequences)

    def update_weights(
        self, tensors: Iterable[tuple[str, Tensor]], *, keep_kv: bool = False
    ) -> None:
        """Make these all the parameters, between two steps, as the next version.

        Sequences under way go on under the new weights. Their KV and all that is cached is dropped
        and computed again; keep_kv goes on reading it although older weights made it.
        ValueError, and nothing changed, for a missing, unknown or misshapen tensor.
        """
        staged = self._weights.stage(tensors)
        with self._between_steps():
            self._take_over(staged, keep_kv=keep_kv)

    def pause(self) -> None:
        """Take no step after the running one until `resume`; calls wait, and may be cancelled."""
        with self._between_steps(), self._condition:
            self._paused = True

    def resume(self) -> None:
        """Go on after `pause`, where every sequence stands."""
        with self._condition:
            self._paused = False
            self._condition.notify_all()

    def sleep(self, *, drop_weights: bool = False) -> None:
        """Free the KV, and the weights if they are dropped, after the running step.

        Sequences under way stay and are computed again after `wake`; new calls are refused with
        EngineAsleep. Dropped weights come back by `update_weights` or `wake`.
        """
        with self._between_steps():
            self._scheduler.forget()
            self._runner.free_kv()
            if drop_weights:
                self._weights.drop()
            with self._condition:
                self._asleep = True
                self._stats = self._snapshot()

    def wake(self, tensors: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Take back the KV's memory and go on; tensors are new weights, as in `update_weights`.

        ValueError, and still asleep, if the weights were dropped and there are no tensors.
        """
        staged = None if tensors is None else self._weights.stage(tensors)
        with self._between_steps():
            if staged is not None:
                self._take_over(staged, keep_kv=False)
            if self._weights.dropped:
                raise ValueError("tensors is None, but the weights were dropped")
            if self._asleep:
                self._runner.restore_kv()
            with self._condition:
                self._asleep = False

    def abort(self) -> None:
        """End every call under way with what it has so far, as if its caller had cancelled it."""
        with self._condition:
            self._cancelled += self._awaited
            self._condition.notify_all()

    def stats(self) -> EngineStats:
        """Counts, and durations as spreads; cheap enough to ask for many times a second."""
        with self._condition:
            stats = self._stats
        return replace(stats, times=self._clock.times())

    def close(self) -> None:
        """Stop after the running step; calls still waiting fail."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()
        self._fail(EngineClosed("the engine is closed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _parts(
        self, model: Qwen3, config: EngineConfig, num_pages: int
    ) -> tuple[ModelRunner, WeightSwap]:
        """Who computes and who takes new weights; of several ranks, on behalf of all."""
        return ModelRunner(model, config, num_pages), WeightSwap(model)

    def _sequence(
        self, token_ids: ReadOnly[int], sampling: Sampling, session: str = ""
    ) -> Sequence:
        """Check a prompt and make it a Sequence."""
        if session and not all(session.split("/")):
            raise ValueError(f"session must be names with / between them, not {session!r}")
        ids = checked_ids(token_ids, self.model.config.vocab_size)
        if len(ids) >= self.max_model_len:
            raise ValueError(
                f"a prompt of {len(ids)} tokens leaves no room in a context of {self.max_model_len}"
            )
        if sampling.stop and self._decode is None:
            raise ValueError(f"stop strings {sampling.stop} need an engine with a decoder")
        return Sequence(
            ids,
            sampling,
            max_model_len=self.max_model_len,
            page_size=self._page_size,
            stop_text=StopText(sampling.stop, self._decode)
            if sampling.stop and self._decode
            else None,
            session=session,
        )

    async def _completion(self, sequence: Sequence, cancel: asyncio.Event | None) -> Completion:
        """Wait for one sequence; it ends when `cancel` is set or the awaiting task is cancelled."""
        (future,) = self._submit([sequence])
        reply = asyncio.wrap_future(future)
        watch = None
        try:
            if cancel is not None:
                watch = asyncio.ensure_future(cancel.wait())
                ends: set[asyncio.Future[Any]] = {reply, watch}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                self._cancel([sequence])
            return await reply
        finally:
            self._cancel([sequence])
            if watch is not None:
                watch.cancel()

    def _submit(self, sequences: list[Sequence]) -> list[Future[Completion]]:
        futures: list[Future[Completion]] = []
        with self._condition:
            if self._closed:
                raise EngineClosed("the engine is closed")
            if self._asleep:
                raise EngineAsleep("the engine is asleep")
            for sequence in sequences:
                sequence.timed_at = perf_counter()
                future: Future[Completion] = Future()
                future.set_running_or_notify_cancel()  # only the engine ends it
                self._awaited[sequence] = future
                futures.append(future)
            self._submitted += sequences
            self._condition.notify_all()
        return futures

    def _cancel(self, sequences: list[Sequence]) -> None:
        """End what of these is still under way, after the running step."""
        with self._condition:
            under_way = [sequence for sequence in sequences if sequence in self._awaited]
            if under_way:
                self._cancelled += under_way
                self._condition.notify_all()

    @contextmanager
    def _between_steps(self) -> Iterator[None]:
        """Alone with scheduler, model and weights for as long as the body runs."""
        with self._intrusion:
            with self._condition:
                self._intruders += 1
                self._condition.wait_for(lambda: not self._stepping)
            try:
                yield
            finally:
                with self._condition:
                    self._intruders -= 1
                    self._condition.notify_all()

    def _take_over(self, staged: dict[str, Tensor], *, keep_kv: bool) -> None:
        self._weights.swap(staged)
        self._weight_version += 1
        self._scheduler.new_weights(self._weight_version, keep_kv=keep_kv)
        with self._condition:
            self._stats = self._snapshot()

    def _loop(self) -> None:
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread; Triton launches where it points
        while self._begin_turn():
            try:
                if not (self._paused or self._asleep):
                    self._step()
            except Exception as error:  # whatever it is belongs to the callers, not to this thread
                failure = RuntimeError(f"a step of the engine failed: {error!r}")
                failure.__cause__ = error
                self._start_over()
                self._fail(failure)

    def _start_over(self) -> None:
        """Drop what a failed step left behind; if that fails too, nothing can be trusted any more and the engine closes."""
        try:
            self._scheduler.drop_all()
            self._scheduler.forget()
            self._runner.clear()
        except Exception:
            with self._condition:
                self._closed = True
                self._stepping = False
                self._condition.notify_all()

    def _begin_turn(self) -> bool:
        """Wait until there is something to do and take in what callers left; False when closed."""
        with self._condition:
            self._stepping = False
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: self._closed or (not self._intruders and self._has_work)
            )
            if self._closed:
                return False
            for sequence in self._submitted:
                self._scheduler.submit(sequence)
                self._prompt_tokens += sequence.num_tokens
            cancelled = [s for s in dict.fromkeys(self._cancelled) if s in self._awaited]
            self._submitted, self._cancelled = [], []
            for sequence in cancelled:
                self._scheduler.cancel(sequence)
            self._stepping = True
        self._finish(cancelled)
        return True

    @property
    def _has_work(self) -> bool:
        if self._paused or self._asleep:
            return bool(self._cancelled)
        queued = self._scheduler.running or self._scheduler.waiting
        return bool(self._submitted or self._cancelled or queued)

    def _step(self) -> None:
        begun = perf_counter()
        step = self._scheduler.schedule()
        if step is None:
            return
        planned = perf_counter()
        sampled = self._runner.run(step)
        ran = perf_counter()
        finished = self._scheduler.commit(step, sampled)
        self._scheduler.observe(step, ran - planned)
        prepare, sample = self._runner.prepare_seconds, self._runner.sample_seconds
        self._clock.add("schedule", planned - begun)
        self._clock.add("prepare", prepare)
        self._clock.add("model", ran - planned - prepare - sample)
        self._clock.add("sample", sample)
        self._clock.add("commit", perf_counter() - ran)
        self._clock.add_tokens(step)
        self._finish(finished)

    def _finish(self, sequences: list[Sequence]) -> None:
        """Answer the callers of sequences that have ended; stats are up to date before they are."""
        with self._condition:
            self._stats = self._snapshot()
            futures = [self._awaited.pop(sequence) for sequence in sequences]
        for sequence, future in zip(sequences, futures, strict=True):
            future.set_result(sequence.completion(self._weight_version))

    def _fail(self, error: RuntimeError) -> None:
        """Raise the error in every call that waits."""
        with self._condition:
            futures = list(self._awaited.values())
            self._awaited.clear()
            self._submitted.clear()
            self._stats = self._snapshot()
        for future in futures:
            future.set_exception(error)

    def _snapshot(self) -> EngineStats:
        return EngineStats.of(self._scheduler, self._prompt_tokens, self._weight_version)
