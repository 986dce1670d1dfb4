"""The page at ``/`` and its files. They are read once, at the start: no path of a client is ever opened."""

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request, Response

_FOLDER = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PATHS = {"index.html": "/", "docs.html": "/docs"}  # other files: /page/NAME
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; media-src blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "permissions-policy": "camera=(), geolocation=(), microphone=(self)",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a browser asks whether its copy is the newest
}


def add_page(app: FastAPI) -> None:
    """Adds the routes of the page, of the page of the OpenAPI document, and of their files."""
    for file in sorted(_FOLDER.iterdir()):
        if file.suffix in _TYPES:
            path = _PATHS.get(file.name, f"/page/{file.name}")
            _add_file(app, path, file.read_bytes(), f"{_TYPES[file.suffix]}; charset=utf-8")


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    headers = _HEADERS | {"etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}

    @app.get(path, include_in_schema=False)
    async def page_file(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)
