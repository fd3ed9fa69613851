"""What can go wrong between this machine and the Hub, told so that a reader knows what to do."""

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

AGAIN = "Run the same command again: what arrived is not uploaded twice."
ADVICE = {
    401: "The token is missing or not valid: log in with `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there: take one with write access, of a user who may write to this repository.",
    404: "It doesn't exist, or the token may not see it: check the name and `hf auth whoami`.",
    409: f"Somebody else is changing it. {AGAIN}",
    412: f"It was changed by somebody else meanwhile, and nothing of that was overwritten. {AGAIN}",
    413: "The Hub takes no files as large as these.",
    429: f"Too many requests: wait some minutes. {AGAIN}",
}
"""By HTTP status; the rest are problems of the Hub or of the request."""


class PublishError(OSError):
    """The Hub refused, or could not be reached; the message says what to do about it."""


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn what the Hub's client raises into an error for whoever publishes.

    Args:
        place: What is being published to, such as `org/name`.

    Raises:
        PublishError: In place of the client's errors.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PublishError(f"{place} can't be published to offline: HF_HUB_OFFLINE is set. Unset it.") from error
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
        return f"The Hub has a problem of its own, status {status}{says}. {AGAIN}"
    return f"{ADVICE.get(status, 'The Hub refused the request.')} Status {status}{says}."
