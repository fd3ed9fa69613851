"""`prunnet train` and `prunnet evaluate`: the same as train_accelerate.py, in one process."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from transformers.utils.logging import disable_progress_bar

from ..commands import run_command
from ..hub.card import write_card
from ..runs.arguments import parse_arguments
from ..training.engine import train
from ..training.processes import Interruption

NAME = "train_accelerate.py"


def main(words: Sequence[str] | None = None, name: str = NAME) -> int:
    """Train as the command line, or `words` instead of it, says; returns 0, or 1 after an error in one line."""
    return run_command(name, lambda: train_and_describe(words, name), words)


def train_and_describe(words: Sequence[str] | None = None, name: str = NAME) -> None:
    """Train, then write the model card."""
    disable_progress_bar()  # transformers shows one for every model saved
    result = train(parse_arguments(words, name))
    if result.is_main_process:
        with Interruption("only the model card is missing, which --eval_only writes."):
            print(write_card(result.directory))


def say_how_to_use_more() -> None:
    """Say how to train on all GPUs, if there are several and this process is alone."""
    if torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
        print(
            f"This trains on one of {torch.cuda.device_count()} GPUs. All of them: accelerate launch --multi_gpu "
            "train_accelerate.py, or accelerate launch --multi_gpu -m prunnet_hf.cli.train, with the same arguments."
        )


if __name__ == "__main__":
    raise SystemExit(main(name="prunnet_hf.cli.train"))
