"""The snippet of a card: Python that a reader can paste, which was run when the card was made, and what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub.dataclasses import type_validator

from ..runs.run_directory import write_json
from ..storage.json_text import load_json

PACKAGE_PARENT = Path(__file__).parents[2]
TIME_LIMIT = 600
"""Seconds that a snippet may take. It embeds three images, so this only guards against hanging."""
_RECORD = "usage.json"
_QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
_BEGINNING = """\
from PIL import Image
from prunnet_hf import search  # importing prunnet_hf registers the model with transformers
from transformers import AutoModel

"""
_END = """\
images = [Image.radial_gradient("L"), Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90)]
gallery = {gallery}.encode(images)  # PIL images, arrays or paths; yours would be photos
queries = {queries}.encode(images)
print(gallery.shape, queries.shape)
print(search(queries, gallery, k=1).tolist())  # for each query its nearest gallery image, by cosine
"""


@dataclass(frozen=True)
class Usage:
    """A snippet and its output.

    Attributes:
        code: Python, ending with a newline.
        output: What it printed; None if it was not run.
    """

    code: str
    output: str | None = None


def dense_code(model_id: str, capacity: float) -> str:
    """A snippet in which a subnetwork searches the gallery of the prunable network it is cut from.

    Args:
        model_id: Hub repository or path of the prunable model.
        capacity: Capacity of the subnetwork, in (0, 1].
    """
    loading = (
        f'server = AutoModel.from_pretrained("{model_id}")  # the dense network, which embeds the gallery\n'
        f"phone = server.prune(capacity={capacity})  # a subnetwork for queries; no data, no training\n\n"
    )
    return _BEGINNING + loading + _END.format(gallery="server", queries="phone")


def subnetwork_code(model_id: str, dense_id: str) -> str:
    """A snippet in which a subnetwork that is published by itself searches the dense network's gallery."""
    loading = (
        f'server = AutoModel.from_pretrained("{dense_id}")  # the dense network, which embeds the gallery\n'
        f'phone = AutoModel.from_pretrained("{model_id}")  # this subnetwork, for queries\n\n'
    )
    return _BEGINNING + loading + _END.format(gallery="server", queries="phone")


def single_code(model_id: str) -> str:
    """A snippet in which one network embeds queries and gallery."""
    loading = f'model = AutoModel.from_pretrained("{model_id}")\n\n'
    return _BEGINNING + loading + _END.format(gallery="model", queries="model")


def run_code(code: str, root: Path) -> Usage:
    """Run a snippet in a Python process of its own. It is offline, so that the ids of models can only be paths.

    Args:
        code: The snippet.
        root: The folder to run it in, where the ids of models are paths.

    Raises:
        RuntimeError: If it fails; the message shows its output.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]
    try:
        result = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, **_QUIET, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(_failure(code, root, f"it took more than {TIME_LIMIT} seconds")) from error
    if result.returncode != 0:
        raise RuntimeError(_failure(code, root, f"exit status {result.returncode}:\n{result.stdout}{result.stderr}"))
    return Usage(code, result.stdout)


def record_usage(run: Path, usage: Usage) -> None:
    """Keep a snippet and its output in a run directory, so that its card can be rendered again without the model."""
    write_json(run / _RECORD, asdict(usage))


def recorded_usage(run: Path, code: str) -> Usage:
    """The snippet, with the output that was recorded in a run directory if it is the output of this same snippet.

    Raises:
        ValueError: If the record is damaged.
    """
    file = run / _RECORD
    if not file.is_file():
        return Usage(code)
    try:
        record = Usage(**load_json(file.read_text(encoding="utf-8")))
        type_validator("code", record.code, str)
        type_validator("output", record.output, str | None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}). Remove it: the snippet is then run again.") from error
    return record if record.code == code else Usage(code)


def _failure(code: str, root: Path, why: str) -> str:
    return f"The card's snippet failed in {root} ({why}). It was:\n{code}\nNo card was written."
