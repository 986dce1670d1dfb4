"""The routes of the server and its OpenAPI document."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from ds2f.serving import openai_forms
from ds2f.serving.api_errors import ApiError, as_api_error
from ds2f.serving.openai_forms import Asked
from ds2f.serving.page_routes import add_page
from ds2f.serving.service import Service
from ds2f.serving.vosk_route import add_stream

_FIELDS = 20  # of a form
_FIELD_BYTES = 100_000
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REASONS = {
    400: "a field is missing or wrong",
    401: "no key of this server",
    408: "the body did not come in time",
    413: "too many bytes, or too long a recording",
    415: "no multipart form, or no recording of a known format",
    422: "a broken recording",
    429: "the queue is full; Retry-After says when to try again",
    431: "too many headers",
    503: "the server is shutting down, or all connections are taken; Retry-After says when to try again",
    504: "no transcript within the limit of time",
}


def make_app(service: Service, *, access_log: bool = True) -> FastAPI:
    """The application, without the guard.

    Args:
      service: answers the requests.
      access_log: whether each streaming session is a line of standard output.
    """
    app = FastAPI(title="ds2f", description="Speech to text.", docs_url=None, redoc_url=None)
    for kind in (Exception, ApiError, HTTPException):
        app.add_exception_handler(kind, _answer)
    _add_openai(app, service)
    _add_transcribe(app, service)
    _add_state(app, service)
    add_page(app)
    add_stream(app, service, access_log=access_log)
    return app


def _add_openai(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/audio/transcriptions",
        summary="Transcribe a recording, as OpenAI's API",
        openapi_extra=_multipart(openai_forms.SCHEMA),
        response_class=JSONResponse,
        responses=_responses(
            {"application/json": {"schema": {"type": "object", "required": ["text"]}}}
            | {
                kind: {"schema": {"type": "string"}}
                for kind in ("text/plain", "application/x-subrip", "text/vtt", "text/event-stream")
            }
        ),
    )
    async def transcriptions(request: Request) -> Response:
        service.batcher.require_room()
        asked = await _asked(request)
        transcript = await service.transcribe(asked, request.receive)
        body, media_type = openai_forms.answer(asked, transcript)
        return Response(body, media_type=media_type) if isinstance(body, str) else JSONResponse(body)

    @app.get("/v1/models", summary="The model, as OpenAI's API lists it")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name}", summary="The model", responses=_errors(404))
    async def model(name: str) -> dict[str, Any]:
        if name != service.model:
            raise ApiError(
                404, f"there is no such model; this server has {service.model}", "model_not_found", param="model"
            )
        return _model(service)


def _add_transcribe(app: FastAPI, service: Service) -> None:
    schema = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}

    @app.post(
        "/transcribe",
        summary="Transcribe a recording, as deepspeech.pytorch's server",
        openapi_extra=_multipart(schema),
        responses=_responses({"application/json": {"schema": {"type": "object"}}}),
    )
    async def transcribe(request: Request) -> Response:
        try:
            service.batcher.require_room()
            transcript = await service.transcribe(await _asked(request), request.receive)
        except Exception as error:
            found = as_api_error(error)
            if found.status == 500:
                raise
            content = {"status": "error", "message": str(found), **found.content()}
            return JSONResponse(content, found.status, found.headers)
        return JSONResponse({"status": "OK", "transcription": [[transcript.text]]})


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the process is alive", response_class=PlainTextResponse)
    async def health() -> Response:
        return PlainTextResponse("ok\n")

    @app.get(
        "/ready",
        summary="Whether the model has computed within the last seconds and the queue has room",
        response_class=PlainTextResponse,
        responses={503: {"description": "not ready; the text says why", "content": {"text/plain": {}}}},
    )
    async def ready() -> Response:
        problem = await service.is_ready()
        return PlainTextResponse(f"{problem or 'ready'}\n", 503 if problem else 200)

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _asked(request: Request) -> Asked:
    """The form of a request.

    Raises:
      ApiError: it is no form, or a field is wrong. What was received of it is dropped.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(415, "send a multipart form with a field named file", "unsupported_media_type")
    try:
        form = await request.form(max_files=1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    except (MultiPartException, HTTPException) as error:
        detail = getattr(error, "detail", "") or getattr(error, "message", "")
        raise ApiError(400, f"a multipart form that cannot be read: {detail}", "invalid_form") from error
    try:
        return openai_forms.parse(form)
    except ApiError:
        await form.close()
        raise


async def _answer(request: Request, error: Exception) -> Response:
    """The answer to a request that led to an error."""
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        detail = str(error.detail)
        if error.status_code in (404, 405):
            detail = f"{detail}: this server has no {request.method} at this path; GET /docs lists its interfaces"
        return ApiError(error.status_code, detail, code, headers=error.headers).response()
    return as_api_error(error).response()


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model,
        "object": "model",
        "created": service.started,
        "owned_by": "ds2f",
        "streaming": service.streaming,
        "search": service.searches,
    }


def _multipart(schema: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _responses(content: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the transcript", "content": content}, **_errors(*_REASONS)}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": _REASONS.get(status, "not found"), "content": content} for status in statuses}
