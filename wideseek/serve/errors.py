"""Every error as OpenAI clients read it: {"error": {message, type, param, code}}."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 429: "rate_limit_error", 503: "overloaded_error"}


class ApiError(HTTPException):
    """A refusal that names the field at fault (`param`) and a stable reason (`code`)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        super().__init__(status, message, headers)
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body, status_code=self.status_code, headers=self.headers)


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of `app` the one shape; a body that does not validate is a 400."""

    @app.exception_handler(RequestValidationError)
    async def on_invalid_body(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return ApiError(400, "the body is not JSON", code="invalid_json").response()
        path = [str(part) for part in first["loc"][1:]]
        code = "invalid_value"
        if first["type"] == "unsupported_parameter":
            path.append(first["ctx"]["name"])
            code = first["type"]
        field = ".".join(path) or None
        message = f"{field or 'body'}: {first['msg']}"
        return ApiError(400, message, param=field, code=code).response()

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, str(error.detail), code=code).response()

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> JSONResponse:
        return ApiError(
            500, "the server failed; its log says why", code="internal_error"
        ).response()
