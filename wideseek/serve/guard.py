"""The door of the server: an id for every call, then its source, its key, its size, its turn."""

import hmac
import re
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wideseek.serve.errors import ApiError
from wideseek.serve.loopback import is_loopback

MAX_BODY_BYTES = 4 * 1024 * 1024
OPEN_PATHS = frozenset({"/health"})

_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Guard:
    """ASGI middleware around every route.

    With a key, every path but OPEN_PATHS needs `Authorization: Bearer KEY`. Without one, only calls
    to this machine by its own name are served, and only from pages of this machine: a web page
    elsewhere that had its name resolve to 127.0.0.1 is turned away. At most `max_calls` are
    answered at a time; one more is asked to come back.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str | None,
        max_calls: int,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app = app
        self._key = key
        self._max_calls = max_calls
        self._num_calls = 0
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        call_id = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = call_id
            await send(message)

        try:
            self._check(scope["path"], headers)
        except ApiError as refusal:
            await refusal.response()(scope, receive, send_with_id)
            return
        self._num_calls += 1
        try:
            await self._app(scope, self._bounded(receive), send_with_id)
        finally:
            self._num_calls -= 1

    def _check(self, path: str, headers: Headers) -> None:
        if self._key is None:
            sources = [f"//{host}" for host in headers.getlist("host")] + headers.getlist("origin")
            if not all(is_loopback(_host_name(source)) for source in sources):
                raise ApiError(400, "without a key only this machine is served", code="bad_host")
        elif path not in OPEN_PATHS:
            given = headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self._key}".encode()):
                raise ApiError(401, "a valid API key is needed", code="invalid_api_key")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._max_body_bytes:
            raise self._too_large()
        if self._num_calls >= self._max_calls and path not in OPEN_PATHS:
            raise ApiError(503, "too many calls at a time", code="overloaded", retry_after=1)

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that stops a body growing past the limit, whatever its headers said."""
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is larger than {self._max_body_bytes} bytes", code="body_too_large"
        )


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
