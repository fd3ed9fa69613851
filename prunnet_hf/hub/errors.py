"""Errors of the Hub's client, turned into messages that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

AGAIN = "Run the same command again: files that arrived are not uploaded twice."
ADVICE = {
    401: "The token is missing or invalid: log in with `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there: use one with write access, of a user who may write to this repository.",
    404: "It doesn't exist, or the token may not see it: check the name, and the user with `hf auth whoami`.",
    409: f"Somebody else is changing it. {AGAIN}",
    412: f"Somebody else has just changed it, and nothing was overwritten. {AGAIN}",
    413: "These files are too large for the Hub.",
    429: f"Too many requests: wait some minutes. {AGAIN}",
}
"""What to do, by HTTP status; other statuses are problems of the Hub or of the request."""


class PublishError(OSError):
    """The Hub refused, or could not be reached; the message says what to do."""


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn an error of the Hub's client into one that says what to do.

    Args:
        place: Where to publish, such as `org/name`.

    Raises:
        PublishError: Instead of the client's error.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PublishError(f"Publishing to {place} needs the network, but HF_HUB_OFFLINE is set. Unset it.") from error
    except LocalTokenNotFoundError as error:
        raise PublishError(
            f"Publishing to {place} needs a token: log in with `hf auth login`, or set HF_TOKEN to a token with write "
            "access."
        ) from error
    except (HTTPError, ConnectionError, LocalEntryNotFoundError, RuntimeError) as error:
        raise PublishError(f"Publishing to {place} failed. {_advice(error)}") from error


def _advice(error: BaseException) -> str:
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, HfHubHTTPError):
            return _of_status(found)
        if isinstance(found, HTTPError | ConnectionError):
            return f"The connection failed ({type(found).__name__}: {found}). {AGAIN}"
        found = found.__cause__ or found.__context__
    return f"The client says: {error} {AGAIN}"


def _of_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    says = f" ({error.server_message})" if error.server_message else ""
    if status >= 500:
        return f"The Hub itself has a problem, status {status}{says}. {AGAIN}"
    return f"{ADVICE.get(status, 'The Hub refused the request.')} Status {status}{says}."
