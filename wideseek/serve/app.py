"""The routes of the server."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from wideseek.serve.bodies import ChatBody, ResearchBody
from wideseek.serve.chat import Chat, ServedModel
from wideseek.serve.errors import ApiError, install_error_handlers
from wideseek.serve.guard import Guard
from wideseek.serve.metrics import CONTENT_TYPE, exposition
from wideseek.serve.runs import Runs


def create_app(
    model: ServedModel,
    runs: Runs,
    *,
    key: str | None,
    max_calls: int,
    seed: int | None = None,
) -> FastAPI:
    """The HTTP application; `Guard` says what key and max_calls mean. It stops `runs` at its end.

    seed: where the seeds of completions that bring none are drawn from; None draws fresh ones.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await runs.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, key=key, max_calls=max_calls)
    install_error_handlers(app)
    seeds = random.Random(seed)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        numbers = {**model.numbers(), "runs": runs.num_live}
        return Response(exposition(numbers), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        entry = {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "wideseek",
            "max_model_len": model.max_model_len,
        }
        return JSONResponse({"object": "list", "data": [entry]})

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        chat = await Chat.prepare(model, body, seed=seeds.getrandbits(63))
        if body.stream:
            return StreamingResponse(chat.stream(), media_type="text/event-stream")
        async with cancelled_by_disconnect(request) as cancel:
            return JSONResponse(await chat.answer(cancel))

    @app.post("/v1/research")
    async def research(body: ResearchBody) -> JSONResponse:
        answered = await asyncio.shield(runs.start(body))  # a client that leaves ends no run
        if answered.question_too_long:
            message = "the question is longer than the context of the model"
            raise ApiError(400, message, param="question", code="context_length_exceeded")
        return JSONResponse({"run_id": answered.run_id} | answered.answer.to_json())

    return app


@asynccontextmanager
async def cancelled_by_disconnect(request: Request) -> AsyncIterator[asyncio.Event]:
    """An event that is set when the client goes away. The body must have been read."""
    cancel = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancel.set()

    watching = asyncio.ensure_future(watch())
    try:
        yield cancel
    finally:
        watching.cancel()
