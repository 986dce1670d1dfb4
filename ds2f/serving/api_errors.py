"""Errors that clients are answered, in the shape of OpenAI's: ``{"error": {"message", "type", "param", "code"}}``."""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from ds2f.data.sound_files import NotAudio
from ds2f.errors import InputError, OutOfMemory
from ds2f.serving.batcher import Busy
from ds2f.serving.upload import TooLong

_RETRY_AFTER = "5"  # seconds, where nothing better is known


class ApiError(Exception):
    """An answer in place of a result."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """An error.

        Args:
          status: of HTTP.
          message: what is wrong and the remedy, for people; nothing about the machine.
          code: the same for programs.
          param: the form field that is wrong.
          headers: of the answer.
        """
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {}) | ({"retry-after": _RETRY_AFTER} if status == 503 else {})

    def content(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.content(), self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """The answer to a client whose recording led to an error; an unknown error tells no details."""
    match error:
        case ApiError():
            return error
        case Busy():
            return ApiError(429, str(error), "queue_full", headers={"retry-after": str(error.retry_after)})
        case TooLong():
            return ApiError(413, str(error), "recording_too_long", param="file")
        case NotAudio():
            return ApiError(415, str(error), "unsupported_format", param="file")
        case OutOfMemory():
            return ApiError(
                503, "the recording does not fit into the memory that is free; try again later", "no_memory"
            )
        case ClientDisconnect():
            return client_left()
        case InputError():
            return ApiError(422, str(error), "invalid_recording", param="file")
    return ApiError(500, "the server failed at this request; its log has the cause", "internal_error")


def client_left() -> ApiError:
    """The end of a request whose client has closed the connection, for log and metrics; nobody reads the answer."""
    return ApiError(499, "the client has left", "client_left")
