"""The files of a pruning loop: what was started, which rounds are done, and where to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetForImageClassification
from ..runs.arguments import RunArguments
from ..runs.description import recipe_of
from ..runs.manifest import MANIFEST, find_damage, write_manifest
from ..runs.ownership import discard_stages, earlier_work, refuse_what_is_not_ours
from ..runs.run_directory import write_json, write_text
from ..runs.yaml_text import load_yaml
from ..storage.json_text import load_json
from ..training.checkpoints import check_same_data, list_checkpoints, warn_of_changes
from .sap_arguments import SapArguments, differences
from .trajectory import Round, read_round

DATA = "data.json"
"""The training images that a run began with."""


def check_can_begin(run: Path, arguments: RunArguments, sap: SapArguments) -> None:
    """Make sure that a run can start, or with `resume` go on. `record` then writes its arguments.

    Raises:
        NotADirectoryError: If `run` is a file.
        FileExistsError: If there is a run already, and `resume` and `overwrite_output_dir` are off, or something that
            isn't a run.
        FileNotFoundError: If there is no run to resume.
        ValueError: If the run to resume isn't a pruning loop, is damaged, was started with other arguments (except
            those `WITHOUT_EFFECT`), or has more rounds done than are asked for.
    """
    if run.is_file():
        raise NotADirectoryError(f"output_dir must be a directory; {run} is a file.")
    recipe = run / "config.yaml"
    if not arguments.train.resume:
        refuse_what_is_not_ours(run)
        found = ["config.yaml"] * recipe.exists() + earlier_work(run)
        if found and not arguments.train.overwrite_output_dir:
            raise FileExistsError(
                f"output_dir={str(run)!r} holds an earlier run ({', '.join(found)}). Go on with --resume, choose "
                "another output_dir, or replace the run with --overwrite_output_dir."
            )
        return
    if not recipe.is_file():
        raise FileNotFoundError(f"--resume found no run in {run}: start without --resume.")
    changes = differences(_read_recipe(recipe, sap), _all_arguments(arguments, sap))
    if changes:
        raise ValueError(
            f"--resume found a run in {run} that was started with other arguments: {', '.join(changes)}. Choose "
            "another output_dir, or give the old values."
        )
    done = len(finished_rounds(run)) - 1  # round 0 prunes nothing
    if sap.num_prunings < done:
        raise ValueError(
            f"rounds must be at least {done} to --resume {run}, because so many prunings are done; got "
            f"{sap.num_prunings}."
        )


def _read_recipe(recipe: Path, sap: SapArguments) -> dict[str, Any]:
    try:
        before = load_yaml(recipe.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{recipe} is damaged ({error}). Choose another output_dir.") from error
    if not isinstance(before, dict) or not asdict(sap).keys() <= before.keys():
        raise ValueError(
            f"--resume needs a pruning loop; {recipe.parent} holds another run, or its {recipe.name} is damaged. "
            "Choose another output_dir."
        )
    return before


def _all_arguments(arguments: RunArguments, sap: SapArguments) -> dict[str, Any]:
    return {**recipe_of(arguments), **asdict(sap)}


def check_images_are_the_same(run: Path, now: Mapping[str, Any]) -> None:
    """Make sure that a resumed run goes on with the images it began with.

    Args:
        run: The run directory.
        now: What `identify` says of the training images.

    Raises:
        ValueError: If they differ, or the record of them is damaged.
    """
    file, config = run / DATA, initial_directory(run) / "config.json"
    if file.is_file():
        check_same_data(_read_object(file), now)
    elif config.is_file():  # a run of an earlier version
        names = _read_object(config).get("id2label") or {}
        check_same_data({"class_names": [names[label] for label in sorted(names, key=int)] or None}, now)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = load_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). Choose another output_dir.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it must hold an object; got {content!r:.80}. Choose another output_dir.")
    return content


def record(run: Path, arguments: RunArguments, sap: SapArguments, images: Mapping[str, Any]) -> None:
    """Write the arguments as `config.yaml`, and what `identify` says of the images.

    Arguments that have changed since the run was started give a warning.
    """
    write_json(run / DATA, images)
    recipe = run / "config.yaml"
    now = _all_arguments(arguments, sap)
    if recipe.is_file():
        warn_of_changes(load_yaml(recipe.read_text(encoding="utf-8")), now)
    write_text(recipe, yaml.safe_dump(now, sort_keys=False))


def initial_directory(run: Path) -> Path:
    """The folder of the network before the first training."""
    return run / "initial"


def round_directory(run: Path, number: int) -> Path:
    """The folder of a round."""
    return run / "rounds" / f"{number:02d}"


def arguments_of_round(arguments: RunArguments, number: int) -> RunArguments:
    """The arguments for the training of a round, which goes on from its newest checkpoint if there is one."""
    directory = round_directory(Path(arguments.train.output_dir), number)
    resume = bool(list_checkpoints(directory))
    train = replace(arguments.train, output_dir=str(directory), resume=resume, overwrite_output_dir=False)
    return replace(arguments, train=train)


def finished_rounds(run: Path) -> list[Round]:
    """The records of all finished rounds, from the first to the last.

    Raises:
        ValueError: If a record is damaged, or is missing although a later round has one.
    """
    found = sorted(int(file.parent.name) for file in (run / "rounds").glob("[0-9]*/round.json"))
    for number, place in enumerate(found):
        if number != place:
            raise ValueError(
                f"{round_directory(run, number)} isn't finished, but {round_directory(run, place)} is. Remove both "
                "and all later rounds; --resume does them again."
            )
    return [_read_finished(round_directory(run, number) / "round.json") for number in found]


def _read_finished(file: Path) -> Round:
    try:
        return read_round(load_json(file.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}). Remove {file.parent} and all later rounds; "
            "--resume does them again."
        ) from error


def load_weights(run: Path, number: int) -> dict[str, Tensor]:
    """All tensors of the network that a round trained, by name; pruned weights are zero."""
    model = load_whole(round_directory(run, number) / "model")
    tensors: dict[str, Tensor] = model.state_dict()
    return tensors


def load_whole(folder: Path) -> PrunNetForImageClassification:
    """Load a network that this loop saved.

    Raises:
        ValueError: If its files aren't as they were saved: later rounds would prune other weights. Earlier versions
            saved no manifest: their networks are believed.
    """
    problem = find_damage(folder) if (folder / MANIFEST).exists() else None
    if problem:
        raise ValueError(
            f"The network {folder} is damaged: it {problem}. Remove its round and all later rounds, which --resume "
            "does again; if it is the initial network, start in another output_dir."
        )
    model: PrunNetForImageClassification = PrunNetForImageClassification.from_pretrained(folder)
    return model


def save_round(directory: Path, model: PrunNetForImageClassification, processor: PrunNetImageProcessor) -> None:
    """Save the network of a round, packed if it is pruned, and its image processor."""
    model.save_pretrained(directory / "model")
    processor.save_pretrained(directory / "model")
    write_manifest(directory / "model")


def finish_round(run: Path, entry: Round) -> None:
    """Write the record that marks a round as finished, and remove what was only needed to resume it."""
    write_json(round_directory(run, entry.number) / "round.json", asdict(entry))
    tidy_round(run, entry.number)


def tidy_round(run: Path, number: int) -> None:
    """Remove what a finished round doesn't need any more."""
    discard_stages(round_directory(run, number))


def take_over(model: PrunNetForImageClassification, trained: dict[str, Tensor]) -> None:
    """Load the weights that a round trained into a network, which then goes on from them.

    Raises:
        ValueError: If the weights belong to another network.
    """
    result = model.load_state_dict(trained, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith(".scores")]  # a round saves none
    if missing or result.unexpected_keys:
        raise ValueError(
            f"The network of a round must have the tensors of the initial network; missing: {missing}, unexpected: "
            f"{result.unexpected_keys}. Choose another output_dir."
        )


@torch.no_grad()
def as_plain(model: PrunNetForImageClassification) -> PrunNetForImageClassification:
    """The network without scores, with the capacity that the zeros among its prunable weights leave."""
    plain = model.prune(1.0)
    weights = packable_tensors(plain).values()
    plain.config.capacity = sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)
    if plain.config.capacity < 1.0:
        plain.config.allocation = "adaptive"  # the share differs from layer to layer
    return plain


def packable_tensors(model: PrunNetForImageClassification) -> dict[str, Tensor]:
    """The prunable weights of a network without scores, by name, on the CPU."""
    return {name: model.get_parameter(name).detach().cpu() for name in model.packable_weights()}
