"""Checkpoints to resume from. They are written under another name, then renamed: each is whole or absent."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from ..data.identity import differences_of_data
from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetForImageClassification
from ..runs.manifest import MANIFEST, find_damage, sync_directory, write_manifest
from ..runs.ownership import (
    STEP,
    claim_run,
    earlier_work,
    phase_work,
    refuse_foreign_phase,
    refuse_what_is_not_ours,
)
from ..storage.weights_digest import set_space
from .state_files import Stateful, read_state, what_is_wrong, write_state

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
REPLACED = ".replaced"
"""Ends the name of a checkpoint while another of the same step replaces it."""


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint.

    Attributes:
        epoch: Number of finished epochs.
        step: Number of optimiser steps so far.
        best_score: Score of the best model so far; negative if there is none.
        best_step: The step after which it was saved.
        position: Position in the data of the current epoch (see `batches`); None between two epochs.
        seconds: Seconds of training so far.
        epoch_seconds: Seconds spent on the steps of epochs.
        waiting_seconds: The part of these that the main process waited for batches.
        skipped: Number of steps left out because their loss or gradient wasn't finite.
        recipe: The arguments of the run.
        num_processes: Number of processes; None in checkpoints of versions that didn't record it.
        steps_per_epoch: Number of steps in an epoch; None in checkpoints of versions that didn't record it.
        evaluated: The epoch that `eval_every` evaluated last; None in checkpoints of versions that didn't record it.
        data: The training images (see `data.identity`); None in checkpoints of versions that didn't record them.
        teacher: See `Teacher.identity`; None without a teacher, and in checkpoints of versions that didn't record it.
        targets: Where the targets of a run into a space that exists come from, and their digest; None without.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = -1.0
    best_step: int = -1
    position: Any = None
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    waiting_seconds: float = 0.0
    skipped: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)
    num_processes: int | None = None
    steps_per_epoch: int | None = None
    data: dict[str, Any] | None = None
    evaluated: int | None = None
    teacher: dict[str, str] | None = None
    targets: dict[str, str] | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return dict(self.__dict__)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what a checkpoint stored.

        Raises:
            ValueError: If it has other entries, or is of a training on other images than `data`, towards another
                teacher than `teacher`, or with other `targets`.
        """
        data, teacher, targets = self.data, self.teacher, self.targets
        if data is not None:
            check_same_data(state.get("data") or {}, data)
        if teacher is not None:
            _check_same_teacher(state.get("teacher") or teacher, teacher)
        elif state.get("teacher"):
            raise ValueError(
                f"--resume found a run that was trained towards the teacher {state['teacher']['source']}, and this "
                "one has none. Give the arguments that the run began with, such as its --method, --teacher and "
                "--dense_epochs, or start without --resume in another --output_dir."
            )
        _check_same_targets(state.get("targets"), targets)
        self.__dict__.update(vars(Progress(**_known(state))))
        self.data, self.teacher, self.targets = data or self.data, teacher or self.teacher, targets


def check_same_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that a run goes on with the images it began with.

    Raises:
        ValueError: If they differ: the classifier's rows would stand for other classes, or steps see other images.
    """
    differences = differences_of_data(before, now)
    if differences:
        raise ValueError(
            f"--resume found a run that was trained on other images: {'; '.join(differences)}. Put the training "
            "images back as they were, or start without --resume in another --output_dir."
        )


def _check_same_teacher(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    if before["digest"] != now["digest"]:
        raise ValueError(
            f"--resume found a run that was trained towards another teacher: the weights of {now['source']} aren't "
            f"those that {before['source']} had. Put the teacher back as it was, or start without --resume in another "
            "--output_dir."
        )


def _check_same_targets(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> None:
    if (before or {}).get("digest") == (now or {}).get("digest"):
        return
    was, is_now = (f"the vectors of {each['source']}" if each else "labels" for each in (before, now))
    changed = "which have changed since" if was == is_now else f"and would go on with {is_now}"
    raise ValueError(
        f"--resume found a run that has learnt {was}, {changed}: the rest would lead to another space. Give --into "
        "and --teacher as before, with that gallery or model as it was, or start without --resume in another "
        "--output_dir."
    )


def _known(state: Mapping[str, Any]) -> Mapping[str, Any]:
    names = {entry.name for entry in fields(Progress)}
    counts = [state.get(name) for name in ("epoch", "step", "skipped")]
    if not state.keys() <= names or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError(
            f"The progress of a checkpoint must hold {', '.join(sorted(names))}, and numbers of epochs and steps; got "
            f"{dict(state)!r:.200}. Remove the checkpoint."
        )
    return state


def check_output_dir(
    run: Path, *, resume: bool, overwrite: bool = False, eval_only: bool = False, has_dense_phase: bool = False
) -> None:
    """Make sure, before any work, that a run can start, continue or be evaluated in its directory.

    Args:
        run: The run directory.
        resume: Whether to continue from its newest checkpoint.
        overwrite: Whether an earlier run may be replaced.
        eval_only: Whether a model is only evaluated.
        has_dense_phase: Whether the run trains the dense network alone first, in a folder of its own.

    Raises:
        NotADirectoryError: If `run` is a file.
        FileNotFoundError: If there is no checkpoint to resume from.
        FileExistsError: If the directory is neither empty nor a run, if there is a README.md that no run wrote or
            another run in the place of the first phase, or if an earlier run would have to be replaced and may not be.
    """
    refuse_what_is_not_ours(run)
    if has_dense_phase and not eval_only:
        refuse_foreign_phase(run)
    checkpoints = list_checkpoints(run)
    if resume and not checkpoints and not (has_dense_phase and phase_work(run)):
        raise FileNotFoundError(
            f"--resume found no checkpoint under {run / 'checkpoints'}. Train with --checkpoint_every or "
            "--checkpoint_steps, or start without --resume."
        )
    work = earlier_work(run)
    if not work or resume or overwrite or (eval_only and "model" in work):
        return
    begun = [] if "model" in work else phase_work(run)
    if checkpoints or begun:
        stage = checkpoints[-1].name if checkpoints else ", ".join(begun)
        raise FileExistsError(
            f"output_dir={str(run)!r} holds checkpoints of an earlier run, the newest {stage}. "
            "Continue from it with --resume, choose another output_dir, or replace the run with "
            "--overwrite_output_dir."
        )
    raise FileExistsError(
        f"output_dir={str(run)!r} holds an earlier run ({', '.join(work)}). Choose another output_dir, or replace the "
        "run with --overwrite_output_dir."
    )


@contextmanager
def claim_together(accelerator: Accelerator, run: Path) -> Iterator[None]:
    """As `claim_run`, by the main process for all. All of them must call this.

    Raises:
        OSError: If another run has the directory; in all processes, so that none waits for the others.
    """
    with ExitStack() as stack:
        problem: OSError | None = None
        if accelerator.is_main_process:
            try:
                stack.enter_context(claim_run(run))
            except OSError as error:
                problem = error
        if accelerator.num_processes > 1:
            problem = broadcast_object_list([problem])[0]
        if problem is not None:
            raise problem
        yield


def check_output_dir_is_shared(accelerator: Accelerator, run: Path) -> None:
    """Make sure that all processes see the same directory `run`. All of them must call this.

    Raises:
        ValueError: If a process on another machine sees another directory, where its part of every checkpoint would
            be lost.
    """
    if accelerator.num_processes == 1 or run.is_file():  # `check_output_dir` refuses a file
        return
    run.mkdir(parents=True, exist_ok=True)
    mark = run / (broadcast_object_list([f".seen-by-all-{uuid.uuid4().hex}"])[0])
    if accelerator.is_main_process:
        mark.touch()
    accelerator.wait_for_everyone()
    blind = [index for index, is_seen in enumerate(gather_object([mark.exists()])) if not is_seen]
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        mark.unlink()
    if blind:
        raise ValueError(
            f"output_dir={str(run)!r} must be on a file system that all machines share: processes {blind} don't see "
            "what the main process writes there."
        )


def save_checkpoint(
    accelerator: Accelerator, run: Path, step: int, *, keep: int, states: Mapping[str, Stateful] | None = None
) -> Path:
    """Save the state of everything that `accelerator` prepared as `checkpoints/step-N`. All processes must call this.

    Args:
        accelerator: Holds model, optimiser and random states.
        run: The run directory.
        step: Number of optimiser steps so far.
        keep: How many checkpoints to keep. Older ones are removed once the new one is in place.
        states: What else belongs to the training, by the name of its JSON file.

    Raises:
        OSError: If it can't be written, for example because the disk is full. Earlier checkpoints stay.
    """
    final = run / "checkpoints" / f"step-{step}"
    partial = final.with_name(final.name + PARTIAL)
    if accelerator.is_main_process:
        for leftover in final.parent.glob(f"*{PARTIAL}"):
            if STEP.fullmatch(leftover.name):
                shutil.rmtree(leftover)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_state(partial, states or {})
            write_manifest(partial)  # last: it says that all other files are there
    except (OSError, RuntimeError, SafetensorError) as error:  # Python, torch and safetensors, if the disk is full
        raise OSError(
            f"The checkpoint {final} could not be written ({error}). Earlier ones are whole: make room on the "
            "disk, and continue with --resume."
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _put_in_place(partial, final)
        for old in list_checkpoints(run)[:-keep]:
            _remove(old)
    accelerator.wait_for_everyone()
    return final


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename. An older checkpoint of the same step, possible at an epoch's end, counts until the new one does."""
    replaced = final.with_name(final.name + REPLACED)
    if replaced.exists():
        _remove(replaced)
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    sync_directory(final.parent)
    if replaced.exists():
        _remove(replaced)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that no run resumes from half of one."""
    doomed = checkpoint.with_name(checkpoint.name + PARTIAL)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def load_checkpoint(accelerator: Accelerator, run: Path, states: Mapping[str, Stateful] | None = None) -> None:
    """Restore the newest checkpoint of a run; `check_output_dir` has made sure that there is one.

    All processes must call this. Code is never run, whatever the checkpoint's files name.

    Raises:
        ValueError: If it is damaged, or holds more than plain data. The message names the newest one that is whole.
    """
    *earlier, newest = list_checkpoints(run)
    problem = what_is_wrong(newest) if accelerator.is_main_process else None
    problem = broadcast_object_list([problem])[0]
    if problem:
        whole = next((path for path in reversed(earlier) if what_is_wrong(path) is None), None)
        offer = f"--resume then continues from {whole.name}" if whole else "no other is whole, so leave out --resume"
        raise ValueError(f"The checkpoint {newest} is damaged: it {problem}. Remove it; {offer}.")
    read_state(accelerator, newest, states or {})


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found: dict[int, Path] = {}
    for path in sorted((run / "checkpoints").glob("step-*")):  # step-6 before step-6.replaced
        if STEP.fullmatch(path.name) and path.suffix != PARTIAL:
            found.setdefault(int(path.name.removeprefix("step-").removesuffix(REPLACED)), path)
    return [found[step] for step in sorted(found)]


def changed_arguments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The arguments that two recipes both have and that differ, as `name old -> new`."""
    return [f"{name} {before[name]!r} -> {now[name]!r}" for name in now if before.get(name, now[name]) != now[name]]


def warn_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log which arguments of a resumed run have changed."""
    changes = changed_arguments(before, now)
    if changes:
        logger.warning("The run continues with changed arguments: %s.", ", ".join(changes))


def warn_of_other_processes(before: int | None, now: int, *, is_stream: bool) -> None:
    """Log what is no longer bit-exact if a run continues with another number of processes."""
    if before in (None, now):
        return
    seen = (
        "Streams are divided differently, so steps take other images."
        if is_stream
        else "If processes x --batch_size and --gradient_accumulation_steps are as before, steps see the same images: "
        "only the order of sums, the images of each batch norm, and random layers differ. If not, steps take more or "
        "fewer images."
    )
    logger.warning(
        "The run continues with %d processes and had %d before: its weights will not be, bit for bit, those of an "
        "uninterrupted run. %s The learning rate continues from the same place.",
        now,
        before,
        seen,
    )


def best_directory(run: Path, step: int) -> Path:
    """The directory of the model that was the best after `step`."""
    return run / "best" / f"step-{step}"


def keep_best(
    run: Path,
    step: int,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    embedding_space: str | None = None,
) -> None:
    """Save `model`, whole or not at all, as the best after `step`. Earlier ones stay, as checkpoints may name them.

    Args:
        run: The run directory.
        step: The number of steps so far.
        model: The network in training.
        processor: Of its images.
        embedding_space: The id of the space into which it is trained; by default it gets one of its own.
    """
    settle_trained(model, embedding_space)
    save_whole(best_directory(run, step), model, processor)
    model.config.embedding_space = None  # that of a network in training is none yet


def settle_trained(model: PrunNetForImageClassification, embedding_space: str | None) -> None:
    """Give a network whose training ends the id of its space: that into which it was trained, or one of its own."""
    if embedding_space is None:
        model.renew_embedding_space()
    else:
        set_space(model, embedding_space)


def save_whole(final: Path, model: PrunNetForImageClassification, processor: PrunNetImageProcessor) -> None:
    """Save a model as `final`, whole or not at all, in the place of an earlier one."""
    partial = final.with_name(final.name + PARTIAL)
    for leftover in (partial, final):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    write_manifest(partial)
    partial.rename(final)
    sync_directory(final.parent)


def check_best(run: Path, step: int) -> None:
    """Make sure that the best model so far, which a resumed run may end with, is as it was saved.

    Raises:
        ValueError: If it is missing or damaged. Earlier versions saved no manifest with it: they are believed.
    """
    best = best_directory(run, step)
    is_old = (best / "config.json").is_file() and not (best / MANIFEST).exists()
    problem = None if is_old else find_damage(best)
    if problem:
        raise ValueError(
            f"The best model so far, {best}, is damaged: it {problem}. Remove {run / 'checkpoints'} and start without "
            "--resume, or remove checkpoints until the newest was saved before that step."
        )


def forget_others(run: Path, step: int) -> None:
    """Remove all other best models, once the newest checkpoint names the one after `step`."""
    for path in (run / "best").glob("step-*"):
        if STEP.fullmatch(path.name) and path != best_directory(run, step):
            shutil.rmtree(path)
