"""A small Hugging Face Hub on this machine, for tests: it speaks what the real client and transformers ask for.

    with HubServer() as hub:
        HfApi(hub.endpoint, hub.token).create_repo("org/name")

Like the Hub it hands out large files from a second address, the storage, which checks signatures and takes no token.
It is as strict as the Hub: the answer to a request that makes no sense is 400. It doesn't offer Xet transfer.
What it answers, and what it keeps, is in `tests/loopback_hub/`.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.loopback_hub import collections, routes, uploads
from tests.loopback_hub.journal import Asked, Failure
from tests.loopback_hub.requests import Reply, Request, as_json
from tests.loopback_hub.storage import answer_storage
from tests.loopback_hub.store import Account, Collection, HubError, Repo, Store

CHUNK = 2**14
ROUTES = [*routes.ROUTES, *uploads.ROUTES, *collections.ROUTES]


class _Server(ThreadingHTTPServer):
    """A server that neither looks up the machine's name nor waits for connections that clients keep open."""

    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]


class HubServer:
    """The Hub and its storage, running between `with` and the end of its block.

    Attributes:
        endpoint: The Hub's address, for `HF_ENDPOINT`.
        storage_endpoint: The address of the large files.
        token: Token of `tester`, a member of the organisation `org`.
        read_token: Token of the same account, only for reading.
        foreign_token: Token of `stranger`, who isn't a member of `org`.
        requests: All requests, in order.
    """

    def __init__(self) -> None:
        self.token, self.read_token, self.foreign_token = (f"hf_{secrets.token_hex(17)}" for _ in range(3))
        self.store = Store(
            {
                self.token: Account("tester", ("org",)),
                self.read_token: Account("tester", ("org",), may_write=False),
                self.foreign_token: Account("stranger"),
            }
        )
        self.requests: list[Asked] = []
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self._failures: list[Failure] = []
        self._servers = [_Server(("127.0.0.1", 0), _handler(self, kind)) for kind in (_Hub, _Storage)]
        self.endpoint, self.storage_endpoint = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    @property
    def repos(self) -> dict[str, Repo]:
        """A model is `repos["org/name"]`, a data set `repos["datasets/org/name"]`."""
        return self.store.repos

    @property
    def collections(self) -> dict[str, Collection]:
        """The collections by slug."""
        return self.store.collections

    def fail_next(
        self,
        method: str,
        path_part: str,
        status: int = 500,
        times: int = 1,
        after_bytes: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let requests fail that would have been answered.

        Args:
            method: `GET`, ... or `*` for any.
            path_part: Text that the path contains.
            status: Status of the answer; nothing changes on the Hub. 429 says to come back at once.
            times: How many requests fail.
            after_bytes: Cut the connection instead: an upload to the storage after this many bytes. Any other request
                is done, and its answer is cut after this many bytes.
            headers: Headers of the answer, such as `X-Error-Code`.
        """
        self._failures.append(Failure(method, path_part, status, times, after_bytes, headers or {}))

    def stop_failing(self) -> None:
        """Answer everything again."""
        self._failures.clear()

    def take_failure(self, method: str, path: str) -> Failure | None:
        """The failure to send instead of the answer, if there is one for this request."""
        for failure in self._failures:
            if failure.times > 0 and failure.method in ("*", method) and failure.path_part in path:
                failure.times -= 1
                return failure
        return None

    def asked(self, method: str, path_part: str = "") -> list[Asked]:
        """The requests with that method whose path contains `path_part`."""
        return [one for one in self.requests if one.method == method and path_part in one.path]

    def downloaded(self, path_part: str = "") -> int:
        """Bytes that were handed out of files whose path contains `path_part`."""
        files = [one for one in self.asked("GET", path_part) if re.search("/resolve/|^/download/", one.path)]
        return sum(one.sent for one in files if one.status in (200, 206))

    def uploaded(self) -> int:
        """Bytes that arrived at the storage."""
        return sum(one.received for one in self.asked("PUT", "/upload/"))

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        with self.lock:
            for connection in self.connections:  # the client would keep it open for its next request
                with contextlib.suppress(OSError):  # the client has closed it
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection; a subclass for each of the two addresses says what it answers."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    def handle(self) -> None:
        with self.hub.lock:
            self.hub.connections.add(self.connection)
        try:
            super().handle()
        finally:
            with self.hub.lock:
                self.hub.connections.discard(self.connection)

    def serve(self) -> None:
        path = urlsplit(self.path).path
        asked = Asked(self.command, path, range=self.headers.get("Range"))
        with self.hub.lock:
            self.hub.requests.append(asked)
            failure = self.hub.take_failure(self.command, path)
        cut = failure.after_bytes if failure else None
        body = self._read_body(cut if self.command == "PUT" else None)
        asked.received = len(body)
        if cut is not None and self.command == "PUT":
            return self._hang_up()
        if failure is not None and cut is None:
            reply = _error(HubError(failure.status, "The test asked for this error."), failure.headers)
        else:
            reply = self._reply(path, body)
        asked.status = reply.status
        return self._send(reply, asked, cut)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 - http.server looks for these names

    def _reply(self, path: str, body: bytes) -> Reply:
        is_form = self.headers.get("Content-Type") == "application/x-www-form-urlencoded"
        query = parse_qs(urlsplit(self.path).query) | (parse_qs(body.decode()) if is_form else {})
        endpoints = (self.hub.endpoint, self.hub.storage_endpoint)
        try:
            with self.hub.lock:
                account = self._account()
                return self.answer(
                    Request(self.hub.store, *endpoints, self.command, path, query, self.headers, body, account)
                )
        except HubError as error:
            return _error(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # a body of another shape
            return _error(HubError(400, f"the request makes no sense: {error!r}"))

    def _account(self) -> Account | None:
        said = self.headers.get("Authorization")
        if said is None:
            return None
        account = self.hub.store.accounts.get(said.removeprefix("Bearer "))
        if account is None or not said.startswith("Bearer "):
            raise HubError(401, "Invalid credentials in Authorization header")
        return account

    def _read_body(self, at_most: int | None) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(length if at_most is None else min(length, at_most))

    def _send(self, reply: Reply, asked: Asked, cut: int | None) -> None:
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        body = b"" if self.command == "HEAD" else reply.body[:cut]
        for start in range(0, len(body), CHUNK):
            chunk = body[start : start + CHUNK]
            asked.sent += len(chunk)  # before the client can know of them
            self.wfile.write(chunk)
        if cut is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: `HubServer.requests` has all requests."""


class _Hub(_Handler):
    def answer(self, request: Request) -> Reply:
        method = "GET" if request.method == "HEAD" else request.method
        for allowed, pattern, handler in ROUTES:
            if method == allowed and (found := pattern.fullmatch(request.path)):
                return handler(request, *found.groups())
        raise HubError(404, f"this Hub doesn't know {request.method} {request.path}")


class _Storage(_Handler):
    def answer(self, request: Request) -> Reply:
        return answer_storage(request)


def _error(error: HubError, headers: Mapping[str, str] | None = None) -> Reply:
    about = {"X-Error-Message": error.message.replace("\n", " ")}
    if error.code is not None:
        about["X-Error-Code"] = error.code
    if error.status == 429:
        about |= {"Retry-After": "0", "RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=1;w=1'}
    extra = dict(error.extra)
    if "commit" in extra:  # the client remembers that the file is missing in this commit
        about["X-Repo-Commit"] = str(extra.pop("commit"))
    reply = as_json({"error": error.message, **extra}, error.status)
    return Reply(reply.status, reply.body, {**reply.headers, **about, **(headers or {})})


def _handler(hub: HubServer, kind: type[_Handler]) -> type[_Handler]:
    return type(kind.__name__, (kind,), {"hub": hub})
