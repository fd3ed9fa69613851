"""What a form of weights on disk must offer, and where its files are looked for.

Each form has a module of its own that ends with its `Form`; `forms.FORMS` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from transformers.utils import cached_file

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
"""Arguments of from_pretrained that say where files are; looking for other files needs the same ones."""


@dataclass(frozen=True)
class Source:
    """Where the files of a checkpoint are looked for.

    Attributes:
        path: Directory or Hub repository.
        where: The arguments among `HUB_ARGUMENTS` that the caller has given.
        variant: The variant of plain weights to read; other forms have none.
    """

    path: Any
    where: Mapping[str, Any]
    variant: str | None = None

    @classmethod
    def of(cls, path: Any, arguments: Mapping[str, Any]) -> Self:
        """The source that the `arguments` of from_pretrained name."""
        where = {name: arguments[name] for name in HUB_ARGUMENTS if name in arguments}
        return cls(path, where, arguments.get("variant"))

    def find(self, name: str) -> str | None:
        """Return where a file is, downloaded if necessary; None if there is none.

        Raises:
            OSError: If the Hub refuses or fails to send it. transformers would report a missing file, or a lack of
                connection.
        """
        arguments = {"subfolder": "", **self.where}
        found: str | None
        try:
            found = cached_file(self.path, name, **arguments)
        except OSError as error:
            not_cached = error.__cause__
            if isinstance(not_cached, ValueError) and not isinstance(not_cached, OSError):  # HFValidationError
                raise FileNotFoundError(
                    f"{str(self.path)!r} is neither a folder nor a repository of the Hub, `org/name`. Check the path."
                ) from error
            reason = not_cached.__cause__ if isinstance(not_cached, FileNotFoundError) else None
            if reason is not None:
                raise OSError(
                    f"{name} of {self.path} is not in the cache, and the Hub did not send it: {reason}\n"
                    "Mend what it names, or try again later."
                ) from error
            found = cached_file(self.path, name, _raise_exceptions_for_missing_entries=False, **arguments)
        return found


@dataclass(frozen=True)
class Weights:
    """Weights that were found, for a model that transformers builds around them.

    Attributes:
        state_dict: The tensors; None if transformers reads the files itself.
        statistics: If the tensors are a subnetwork of a prunable checkpoint: the capacities for which that checkpoint
            stores running statistics. None otherwise.
        kept_units: If they are those of a subnetwork that lacks whole units: how many are left of each group.
    """

    state_dict: dict[str, Tensor] | None
    statistics: tuple[float, ...] | None = None
    kept_units: dict[str, int] | None = None


@dataclass(frozen=True)
class Form:
    """A form in which weights are saved.

    Attributes:
        name: What it is called in error messages.
        files: Patterns of its files' names.
        suits: Whether weights of a model with this configuration can have this form.
        read: Returns the weights in this form at a source, or None if there are none. The second argument is the
            capacity to which the caller will prune, or None: a form in several files needs only some of them then.
        write: Writes a model's tensors into a directory; its last argument are the edges that `bands=` asked for.
            None if transformers writes this form.
        on_request: Whether it is written only for a caller who passes `bands=`.
    """

    name: str
    files: tuple[str, ...]
    suits: Callable[[Any], bool]
    read: Callable[[Source, float | None], Weights | None]
    write: Callable[[Path, Any, Mapping[str, Tensor], Sequence[float] | None], None] | None = None
    on_request: bool = False
