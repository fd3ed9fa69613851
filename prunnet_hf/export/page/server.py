"""A page served to the browsers of this machine."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .site import read_manifest

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8000
_LARGEST_PORT = 65_535


class _Handler(SimpleHTTPRequestHandler):
    """Files with the types that browsers ask for, newly read each time, without a log."""

    extensions_map = {  # noqa: RUF012 - http.server declares it so
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webp": "image/webp",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self) -> None:
        """A page that is built again isn't taken from a cache."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the page itself says what it can't fetch."""


class _Server(ThreadingHTTPServer):
    """Silent when a browser breaks off, as it does whenever a page is closed or loaded again."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what failed here, not what the browser did."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serving(folder: Path, port: int = DEFAULT_PORT) -> ThreadingHTTPServer:
    """A server of a page, to be started by `serve_forever`.

    Args:
        folder: Of a page.
        port: Of this machine's loopback address; 0 takes any that is free.

    Raises:
        FileNotFoundError: If the folder has no page.
        OSError: If the port is in use.
        ValueError: If it can't be a port.
    """
    read_manifest(folder)
    if not 0 <= port <= _LARGEST_PORT:
        raise ValueError(f"--port must be from 0 (any free one) to {_LARGEST_PORT}; got {port}.")
    try:
        return _Server((LOOPBACK, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise OSError(
            f"--port {port} can't be used ({error.strerror}). Choose another, or 0 for any free one."
        ) from error


def address(server: ThreadingHTTPServer) -> str:
    """Where the page of a server is."""
    return f"http://{LOOPBACK}:{server.server_port}/"
