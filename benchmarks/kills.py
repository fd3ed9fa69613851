r"""Kill saves, encoders and trainings at random moments, start them again, and look at what is left.

    python benchmarks/kills.py --saves 324 --encoders 120 --trainings 40

A killed save must leave the old model or the new one, whole, and nothing else after the next load. A killed encoder,
started again, must end with the table of one that was never killed. A killed training, resumed, must end with the
weights of one that was never killed, bit for bit. Everything else is counted as wrong, and the exit status is then 1.

The work is done in forks of this process, which itself computes no gradients.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.utils.logging import disable_progress_bar

from prunnet_hf import PrunNetConfig, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.training.checkpoints import list_checkpoints
from prunnet_hf.training.engine import train
from racing import encode, make_photos

BACKBONE = {"channels": [4, 4, 8, 8], "stem_width": 4}
SHAPE: dict[str, Any] = {"backbone_kwargs": BACKBONE, "embedding_dim": 8}
MOST_STARTS = 20
"""How often killed work is started again before it counts as wrong."""


def main() -> int:
    """Kill, print the counts, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=324)
    parser.add_argument("--encoders", type=int, default=120)
    parser.add_argument("--trainings", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    rng, is_wrong = random.Random(arguments.seed), False
    for name, try_one, count in (
        ("saves", kill_saves, arguments.saves),
        ("encoders", kill_encoders, arguments.encoders),
        ("trainings", kill_trainings, arguments.trainings),
    ):
        with tempfile.TemporaryDirectory() as folder:
            counts = try_one(Path(folder), count, rng)
        print(f"{count} {name}: {dict(counts)}", flush=True)
        is_wrong |= any(kind.startswith("WRONG") for kind in counts)
    return int(is_wrong)


def kill_saves(root: Path, count: int, rng: random.Random) -> Counter[str]:
    """Save one form over another, with a kill at a random moment."""
    torch.manual_seed(0)
    dense = PrunNetModel(PrunNetConfig(backbone="resnet10t", **SHAPE, capacities=[0.2, 0.6]))
    dense.image_processor = PrunNetImageProcessor()
    dense.renew_embedding_space()
    small = dense.prune(0.2)
    saves: list[tuple[PrunNetModel, Callable[[Path], None]]] = [
        (dense, dense.save_pretrained),
        (dense, lambda folder: dense.save_pretrained(folder, bands=[0.2, 0.6])),
        (small, small.save_pretrained),
    ]
    for _, save in saves:
        save(root / "warm")
    seconds = min(duration(lambda save=save: save(root / "timed")) for _, save in saves)
    counts: Counter[str] = Counter()
    for number in range(count):
        (old, save_old), (new, save_new) = rng.sample(saves, 2)
        folder = root / str(number)
        save_old(folder)
        died = killed(lambda save=save_new, to=folder: save(to), rng.uniform(0, 0.8 * seconds))
        counts[_saved(folder, old, new, died)] += 1
        shutil.rmtree(folder)
    return counts


def _saved(folder: Path, old: PrunNetModel, new: PrunNetModel, died: bool) -> str:
    try:
        found = PrunNetModel.from_pretrained(folder)
    except (OSError, ValueError) as error:
        return f"WRONG: {type(error).__name__}"
    if left := list(folder.glob(".*")):
        return f"WRONG: leaves {[path.name for path in left]}"
    if _is_same(found, new):
        return "new" if died else "new, before the kill"
    return "old" if died and _is_same(found, old) else "WRONG: another model"


def _is_same(found: PrunNetModel, expected: PrunNetModel) -> bool:
    """Whether the weights are the same; scores that come from bands have the same order only."""
    states = [
        {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(".scores")}
        for model in (found, expected)
    ]
    names = states[0].keys() == states[1].keys()
    return names and all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def kill_encoders(root: Path, count: int, rng: random.Random) -> Counter[str]:
    """Embed a folder, killed and started again until it is done."""
    make_photos(root / "photos")
    seconds = duration(lambda: encode(root, root / "alone.parquet"))
    expected = read_embeddings(root / "alone.parquet")
    counts: Counter[str] = Counter()
    for number in range(count):
        output = root / f"{number}.parquet"
        # A finished table may be there although the process was killed while it removed its parts.
        starts = _start_until_done(lambda to=output: to.exists() or encode(root, to), seconds, rng)
        found = read_embeddings(output)
        is_same = found.paths == expected.paths and np.array_equal(found.embeddings, expected.embeddings)
        counts[f"same after {starts - 1} kills" if is_same else "WRONG: another table"] += 1
    return counts


def kill_trainings(root: Path, count: int, rng: random.Random) -> Counter[str]:
    """Train, killed and resumed until it is done."""
    _make_classes(root / "photos")
    seconds = duration(lambda: _train(root, root / "alone"))
    expected = load_file(root / "alone/model/model.safetensors")
    counts: Counter[str] = Counter()
    for number in range(count):
        run = root / str(number)
        starts = _start_until_done(lambda to=run: _train(root, to), seconds, rng)
        found = load_file(run / "model/model.safetensors")
        is_same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
        counts[f"same after {starts - 1} kills" if is_same else "WRONG: other weights"] += 1
        shutil.rmtree(run)
    return counts


def _train(root: Path, run: Path) -> None:
    """Start or resume a training of six steps with a checkpoint for each."""
    model = ModelArguments(
        backbone="resnet10t",
        backbone_kwargs=str({**BACKBONE, "drop_rate": 0.1}).replace("'", '"'),
        pretrained_backbone=False,
        embedding_dim=8,
    )
    data = DataArguments(
        dataset="image_folder", data_dir=str(root / "photos"), image_size=32, resize=32, num_workers=0
    )
    options = TrainArguments(
        output_dir=str(run),
        epochs=2,
        batch_size=8,
        capacities=[0.2, 0.5],
        eval_capacities=[],
        calibration_images=16,
        checkpoint_steps=1,
        resume=bool(list_checkpoints(run)),
    )
    train(RunArguments(model, data, options))


def _start_until_done(work: Callable[[], object], seconds: float, rng: random.Random) -> int:
    """Start `work` with a kill at a random moment until it ends before its kill; returns the number of starts."""
    for start in range(1, MOST_STARTS + 1):
        # Later kills come later, so that work on a busy machine ends some day.
        if not killed(work, rng.uniform(0, seconds * (1 + 0.25 * start))):
            return start
    raise RuntimeError(f"The work was not done after {MOST_STARTS} starts.")


def duration(work: Callable[[], object]) -> float:
    """Seconds that `work` takes in a fork."""
    begun = time.perf_counter()
    killed(work, None)
    return time.perf_counter() - begun


def killed(work: Callable[[], object], delay: float | None) -> bool:
    """Do `work` in a fork and kill it after `delay` seconds; returns whether it was killed before it was done.

    Raises:
        RuntimeError: If it ends with an error.
    """
    child = os.fork()
    if child == 0:
        _work_and_leave(work)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError("The work ended with an error, which stands above.")
    return os.WIFSIGNALED(status)


def _work_and_leave(work: Callable[[], object]) -> None:
    status = 1
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            work()
        status = 0
    except Exception as error:  # noqa: BLE001 the parent must learn of any error
        print(f"{type(error).__name__}: {error}", file=sys.__stderr__, flush=True)
    os._exit(status)


def _make_classes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, classes, images in (("train", 4, 6), ("test", 2, 3)):
        for number in range(classes):
            place = folder / split / f"{split}-{number}"
            place.mkdir(parents=True)
            for index in range(images):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(place / f"{index}.png")


if __name__ == "__main__":
    sys.exit(main())
