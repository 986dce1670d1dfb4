"""The server: HTTP and WebSocket interfaces to a recognizer, with dynamic batching and limits."""

from ds2f.extras import import_extra

_PACKAGES = ("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client")


def require_packages() -> None:
    """Imports the packages of the extra ``serve``.

    Raises:
      InputError: one of them is missing or broken.
    """
    for name in _PACKAGES:
        import_extra(name, need=f"the server needs {name}", remedy="pip install 'ds2f[serve]'")
