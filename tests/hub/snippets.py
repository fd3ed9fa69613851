"""Runs the snippets of cards in this process: starting Python for each card takes most of the time of a test."""

from __future__ import annotations

import io
from contextlib import chdir, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from huggingface_hub import constants

from prunnet_hf.hub.usage import Usage


def run_here(code: str, root: Path) -> Usage:
    """Do what `run_code` does, offline too, but in this process."""
    output = io.StringIO()
    with chdir(root), redirect_stdout(output), patch.object(constants, "HF_HUB_OFFLINE", True):
        exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
    return Usage(code, output.getvalue())
