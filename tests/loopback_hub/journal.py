"""What the Hub of `tests/hub_server.py` remembers about each request, and which requests are to fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Asked:
    """One request as the server saw it.

    Attributes:
        method: `GET`, `POST`, ...
        path: Path of the address, without the query. At the storage, too, it ends with repository and file.
        status: Status of the answer; 0 if the connection was cut before there was one.
        received: Length of the request's body in bytes.
        sent: Length of the answer's body in bytes.
        range: What the `Range` header asked for.
    """

    method: str
    path: str
    status: int = 0
    received: int = 0
    sent: int = 0
    range: str | None = None


@dataclass
class Failure:
    """What `fail_next` asked for."""

    method: str
    path_part: str
    status: int
    times: int
    after_bytes: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
