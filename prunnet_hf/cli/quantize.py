"""`prunnet quantize`: a gallery whose index is many times smaller, and learns what the subnetworks ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..data.loading import load_splits
from ..retrieval.foreign_encoders import FOREIGN_NAMES
from ..retrieval.gallery_files import INDEX, About, refuse_existing
from ..retrieval.gallery_quantizing import quantize_gallery
from ..training.gallery_learning import Learning, learn_gallery
from ..training.joint_quantization import Settings
from ..training.learned_gallery import Learned, refuse_learned, refuse_work
from .claims import claimed
from .networks import load_encoder


def quantize(
    gallery: Annotated[Path, typer.Argument(help="Folder of a gallery, saved with its embeddings.")],
    num_bytes: Annotated[int, typer.Option("--bytes", help="Bytes an image; they must divide the dimensions.")],
    output: Annotated[Path, typer.Option(help="Folder of the new gallery.")],
    without_embeddings: Annotated[
        bool, typer.Option("--without_embeddings", help="Store only the index, from which none can be made again.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides which images the index is trained on, and what is drawn.")] = 0,
    learn: Annotated[
        str | None,
        typer.Option(
            help=f"Learn the centroids: the run or dense model, or {FOREIGN_NAMES}, that embedded the gallery."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data_dir", help="With --learn: the images, in train/CLASS and test/CLASS.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="With --learn: their data set; image_folder by default.")] = None,
    capacity: Annotated[
        list[float] | None,
        typer.Option(help="With --learn: of a network that asks; may be given several times. All trained by default."),
    ] = None,
    query_side: Annotated[
        Literal["projector", "backbone"] | None,
        typer.Option("--query_side", help="With --learn: also train this part of each network, for this index alone."),
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="With --learn: learn from the classes.")] = False,
    steps: Annotated[int | None, typer.Option(help="With --learn: number of steps.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="With --learn: images of a step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning_rate", help="With --learn: of the centroids.")
    ] = None,
    query_learning_rate: Annotated[
        float | None, typer.Option("--query_learning_rate", help="With --query_side: of the networks.")
    ] = None,
    checkpoint_steps: Annotated[
        int | None, typer.Option("--checkpoint_steps", help="With --learn: save a checkpoint after so many steps.")
    ] = None,
    report_to: Annotated[
        list[str] | None, typer.Option("--report_to", help="With --learn: a tracker of accelerate, as tensorboard.")
    ] = None,
) -> None:
    """Make a gallery's index many times smaller."""
    settings: dict[str, Any] = {
        **{"steps": steps, "batch_size": batch_size},
        **{"learning_rate": learning_rate, "query_learning_rate": query_learning_rate},
    }
    options: dict[str, Any] = {"capacities": capacity, "checkpoint_steps": checkpoint_steps, "report_to": report_to}
    options |= {"query_side": query_side, "labels": labels or None}
    given = {name: value for name, value in {**settings, **options}.items() if value is not None}
    if learn is None:
        _refuse({"data_dir": data_dir, "dataset": dataset, **given})
        refuse_existing(output)
        refuse_work(output)
    if seed < 0:
        raise ValueError(f"--seed must be at least 0; got {seed}.")
    if query_learning_rate is not None and query_side is None:
        raise ValueError(
            f"--query_learning_rate {query_learning_rate} is of query networks, none of which learns: give "
            "--query_side too, or leave it out."
        )
    refuse_learned(output)
    with claimed(output):
        if learn is None:
            about = quantize_gallery(gallery, output, num_bytes, seed=seed, with_embeddings=not without_embeddings)
            _say(output, about)
            return
        own = {name: given.pop(name) for name in settings if name in given}
        learning = replace(Learning(settings=Settings(**own, seed=seed)), **given)
        splits = load_splits(dataset or "image_folder", None if data_dir is None else str(data_dir))
        learned = learn_gallery(
            gallery,
            output,
            num_bytes,
            load_encoder(learn),
            splits.train,
            learning,
            seed=seed,
            with_embeddings=not without_embeddings,
        )
    _say(output, learned.about)
    _say_learned(learned)


def _refuse(given: dict[str, Any]) -> None:
    """Refuse what says how to learn, where nothing learns."""
    flags = [f"--{'capacity' if name == 'capacities' else name}" for name, value in given.items() if value is not None]
    if flags:
        raise ValueError(f"--learn must say which network teaches, a run or a model, for {', '.join(flags)}.")


def _say(output: Path, about: About) -> None:
    size, exact = (output / INDEX).stat().st_size, 4 * about.num_images * about.embedding_dim
    typer.echo(f"{output}: {about.num_images:,} images, {about.factory}, space {about.embedding_space}")
    typer.echo(f"The index has {size / 1e6:.2f} MB; the embeddings in float32 have {exact / 1e6:.2f} MB.")


def _say_learned(learned: Learned) -> None:
    progress = learned.progress
    typer.echo(
        f"Learned in {progress.step} steps of {1000 * progress.seconds / progress.step:.0f} ms, "
        f"{progress.search_seconds / progress.seconds:.0%} of it for searches. The loss was "
        f"{progress.first_loss:.4f} in the first, {progress.last_loss:.4f} in the last; each is of one capacity, so "
        "they differ by chance too."
    )
    for folder in learned.networks.values():
        typer.echo(f"{folder}: queries for this index alone")
