"""The files of a pruning loop's run: what was begun, which rounds are done, and how one goes on."""

from __future__ import annotations

import json
import shutil
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
from ..runs.run_directory import write_json, write_text
from ..training.checkpoints import list_checkpoints, warn_of_changes
from .sap_arguments import SapArguments, differences
from .trajectory import Round, read_round


def check_can_begin(run: Path, arguments: RunArguments, sap: SapArguments) -> None:
    """Make sure that a run can start, or with `resume` go on; `record` then says that it has begun.

    Raises:
        NotADirectoryError: If `run` is a file.
        FileExistsError: If there is a run already, and it isn't to be resumed.
        FileNotFoundError: If there is none to resume.
        ValueError: If the one to resume is no pruning loop or damaged, was begun with other arguments (but for those
            `WITHOUT_EFFECT`), or has more rounds done than are asked for.
    """
    if run.is_file():
        raise NotADirectoryError(f"output_dir must be a directory; {run} is a file.")
    recipe = run / "config.yaml"
    if not arguments.train.resume:
        found = [path.name for path in (recipe, run / "initial", run / "rounds", run / "model") if path.exists()]
        if found:
            raise FileExistsError(
                f"output_dir={str(run)!r} holds an earlier run ({', '.join(found)}). Go on with --resume, or choose "
                "another output_dir."
            )
        return
    if not recipe.is_file():
        raise FileNotFoundError(f"--resume found no run in {run}: start without --resume.")
    changes = differences(_read_recipe(recipe, sap), _all_arguments(arguments, sap))
    if changes:
        raise ValueError(
            f"--resume found a run in {run} that was begun with other arguments: {', '.join(changes)}. Start in "
            "another output_dir, or give the old values."
        )
    done = len(finished_rounds(run)) - 1  # of prunings; a training comes before them
    if sap.num_prunings < done:
        raise ValueError(
            f"rounds must be at least {done}, as so many prunings are done in {run}, to go on with --resume; got "
            f"{sap.num_prunings}."
        )


def _read_recipe(recipe: Path, sap: SapArguments) -> dict[str, Any]:
    try:
        before = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{recipe} is damaged ({error}): start in another output_dir.") from error
    if not isinstance(before, dict) or not asdict(sap).keys() <= before.keys():
        raise ValueError(
            f"--resume found a run in {recipe.parent} that is no pruning loop, or whose {recipe.name} is damaged: "
            "choose another output_dir."
        )
    return before


def _all_arguments(arguments: RunArguments, sap: SapArguments) -> dict[str, Any]:
    return {**recipe_of(arguments), **asdict(sap)}


def record(run: Path, arguments: RunArguments, sap: SapArguments) -> None:
    """Write the arguments as `config.yaml`, and say which are others than the run was begun with."""
    recipe = run / "config.yaml"
    now = _all_arguments(arguments, sap)
    if recipe.is_file():
        warn_of_changes(yaml.safe_load(recipe.read_text(encoding="utf-8")), now)
    write_text(recipe, yaml.safe_dump(now, sort_keys=False))


def initial_directory(run: Path) -> Path:
    """Where the network is as it was before the first training."""
    return run / "initial"


def round_directory(run: Path, number: int) -> Path:
    """Where a round is."""
    return run / "rounds" / f"{number:02d}"


def arguments_of_round(arguments: RunArguments, number: int) -> RunArguments:
    """The arguments of a round's training, which goes on from its newest checkpoint if there is one."""
    directory = round_directory(Path(arguments.train.output_dir), number)
    resume = bool(list_checkpoints(directory))
    return replace(arguments, train=replace(arguments.train, output_dir=str(directory), resume=resume))


def finished_rounds(run: Path) -> list[Round]:
    """What is recorded of the rounds that are finished, from the first to the last.

    Raises:
        ValueError: If a record is damaged, or there is none of a round before others.
    """
    found = sorted(int(file.parent.name) for file in (run / "rounds").glob("[0-9]*/round.json"))
    for number, place in enumerate(found):
        if number != place:
            raise ValueError(
                f"{round_directory(run, number)} isn't finished, but {round_directory(run, place)} is: remove it and "
                "those after it, and --resume does them again."
            )
    return [_read_finished(round_directory(run, number) / "round.json") for number in found]


def _read_finished(file: Path) -> Round:
    try:
        return read_round(json.loads(file.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}). Remove {file.parent} and all later rounds, and "
            "--resume does them again."
        ) from error


def load_weights(run: Path, number: int) -> dict[str, Tensor]:
    """All tensors of the network that a round trained, by name; pruned weights are zero."""
    model = PrunNetForImageClassification.from_pretrained(round_directory(run, number) / "model")
    tensors: dict[str, Tensor] = model.state_dict()
    return tensors


def save_model(directory: Path, model: PrunNetForImageClassification, processor: PrunNetImageProcessor) -> None:
    """Save a round's network, packed if it is pruned, with the processing of its images."""
    model.save_pretrained(directory / "model")
    processor.save_pretrained(directory / "model")


def finish_round(run: Path, entry: Round) -> None:
    """Record a round, which is finished with that, and remove what was needed to go on with it."""
    write_json(round_directory(run, entry.number) / "round.json", asdict(entry))
    tidy_round(run, entry.number)


def tidy_round(run: Path, number: int) -> None:
    """Remove what a finished round has no more use for."""
    for name in ("checkpoints", "best"):
        shutil.rmtree(round_directory(run, number) / name, ignore_errors=True)


def take_over(model: PrunNetForImageClassification, trained: dict[str, Tensor]) -> None:
    """Put the weights that a round trained into a network that is to train on.

    Raises:
        ValueError: If they are those of another network.
    """
    result = model.load_state_dict(trained, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith(".scores")]  # which a round's network has not
    if missing or result.unexpected_keys:
        raise ValueError(
            f"A round's network must have the tensors of the one it was trained from; missing: {missing}, unexpected: "
            f"{result.unexpected_keys}. Start in another output_dir."
        )


@torch.no_grad()
def as_plain(model: PrunNetForImageClassification) -> PrunNetForImageClassification:
    """A network without scores, of the capacity that the zeros among its prunable weights leave."""
    plain = model.prune(1.0)
    weights = packable_tensors(plain).values()
    plain.config.capacity = sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)
    if plain.config.capacity < 1.0:
        plain.config.allocation = "adaptive"  # layers keep other shares than the network's
    return plain


def packable_tensors(model: PrunNetForImageClassification) -> dict[str, Tensor]:
    """The weights that pruning sets to zero in part, by name, on the CPU."""
    return {name: model.get_parameter(name).detach().cpu() for name in model.packable_weights()}
