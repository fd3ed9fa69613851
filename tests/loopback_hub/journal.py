"""What the Hub of `tests/hub_server.py` remembers of each request, and which requests it is told to fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Asked:
    """One request as the server saw it.

    Attributes:
        method: `GET`, `POST`, ...
        path: Of the address, without the query; a large file's ends in its repository and name at the storage too.
        status: Of the answer; 0 where the connection was cut before one.
        received: Bytes of the request's body.
        sent: Bytes of the answer's body.
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
