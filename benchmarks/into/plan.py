"""What is run, in what order: the most telling runs come first.

Commands are words of the package's own command line, in which `{data}`, `{work}`, `{usual}`, `{validation}`,
`{shifted}` and `{part}` stand for folders (see `running.Place`), so that a row says the same on every machine.

All networks of a data set are those of its recipe. The teacher is twice as wide, with longer embeddings, and there is
one for all seeds: a gallery that exists doesn't change. What a network is trained alone for, it learns for as many
epochs as both phases of the whole network have together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

Command = tuple[str, ...]
MOVED = "{shifted}"

CAPACITIES = (1.0, 0.4, 0.2, 0.1)
ASKING = 0.2
TEACHER, SHIFT, UPGRADE, VALIDATION = "teacher", "shift", "upgrade", "validation"
"""What is measured: a foreign teacher's gallery, shifted queries, an upgrade, and settings on validation classes."""
SEEDS = (0, 1, 2)
VALIDATED = "omniglot"
"""The data set whose training classes lend those for validation."""
WITHOUT_LABELS, WITH_LABELS = ("regression",), ("regression", "classifier")
TRIED = (
    ("regression",),
    ("csd",),
    ("regression", "csd:0.3"),
    ("regression", "csd"),
    ("classifier",),
    ("regression", "classifier:0.1"),
    ("regression", "classifier:0.3"),
    ("regression", "classifier"),
)
COMMON = ("--overwrite_output_dir", "--num_workers", "0", "--checkpoint_every", "0", "--keep_checkpoints", "1")
WIDE = ("--backbone_kwargs", '{"channels": [48, 96, 192, 384]}', "--embedding_dim", "384")
ALONE = ("--method", "independent", "--learning_rate", "0.15")

OWN, INTO, MAPPED, QUERIES = "own", "into", "mapped", "queries"
"""What becomes of a run: its self-test, its record's test against the known gallery, what queries find once they are
mapped, and what clean and shifted queries find in the gallery of the network that theirs was cut from."""


@dataclass(frozen=True)
class Settings:
    """What differs between data sets.

    Attributes:
        into: Flags of all runs into a space, whose images may only be cropped and mirrored.
        tuning: Flags for the images of a subnetwork that is trained further, as its parent saw them.
        teacher_epochs: Of the teacher.
        alone_epochs: Of a network alone.
        tuning_epochs: Of a subnetwork that is trained further.
    """

    into: Command
    tuning: Command
    teacher_epochs: int
    alone_epochs: int
    tuning_epochs: int


SETS = {
    "omniglot": Settings(
        ("--augmentation", "crop", "--resize", "44"),
        ("--image_size", "40", "--resize", "40", "--augmentation", "crop"),
        teacher_epochs=20,
        alone_epochs=30,
        tuning_epochs=5,
    ),
    "grocery": Settings(
        (),
        ("--image_size", "48", "--resize", "56", "--augmentation", "crop_flip"),
        teacher_epochs=8,
        alone_epochs=12,
        tuning_epochs=3,
    ),
}


@dataclass(frozen=True)
class Step:
    """One row, and what makes it.

    Attributes:
        name: Of its row and of its folder in the work directory.
        measure: Which table it is for.
        label: What the table calls it.
        kind: How its figures come about.
        commands: What is run; all output lies in `{work}/NAME`.
        seed: Of its trainings.
        needs: Steps whose folders must be there.
        capacity: The only one that it serves; None if it serves all.
    """

    name: str
    measure: str
    label: str
    kind: str
    commands: tuple[Command, ...]
    seed: int = 0
    needs: tuple[str, ...] = ()
    capacity: float | None = None


QUICK = ("--epochs", "1", "--warmup_epochs", "0")
"""What makes a training quick, to see that everything runs."""


def quick(step: Step) -> Step:
    """The same step with quick trainings."""
    commands = tuple((*words, *QUICK) if words[0] == "train" else words for words in step.commands)
    return replace(step, commands=commands)


def steps_of(name: str, seeds: Sequence[int], *, has_usual: Sequence[int] = ()) -> list[Step]:
    """All steps of a data set.

    Args:
        name: Of the data set.
        seeds: Which seeds.
        has_usual: Of which seeds the usual run is there already.
    """
    found: list[Step] = [_teacher(name, TEACHER, "{data}")]
    for seed in seeds:
        found += [*_towards_teacher(name, seed), *_after_shift(name, seed), *_upgrade(name, seed)]
    if name == VALIDATED:
        found += _trials(name, seeds)
    found += [_longer(name, seed) for seed in seeds]
    usual = {seed: _usual(name, seed) for seed in seeds if seed not in has_usual}
    ordered: list[Step] = []
    for step in found:
        if step.kind in (MAPPED, QUERIES) and step.seed in usual:  # right before the first that needs it
            ordered.append(usual.pop(step.seed))
        ordered.append(step)
    known = {step.name for step in ordered}
    return [replace(step, needs=tuple(need for need in step.needs if need in known)) for step in ordered]


def _training(name: str, output: str, seed: int, *flags: str, data: str = "{data}") -> Command:
    places = ("--data_dir", data, "--output_dir", f"{{work}}/{output}")
    return ("train", "--config", name, *COMMON, "--seed", str(seed), *flags, *places)


def _usual(name: str, seed: int) -> Step:
    output = f"usual-seed{seed}"
    return Step(output, TEACHER, "usual training, in its own space", OWN, (_training(name, output, seed),), seed)


def _teacher(name: str, measure: str, data: str) -> Step:
    output = "teacher" if measure == TEACHER else "teacher-of-trials"
    epochs = ("--epochs", str(SETS[name].teacher_epochs))
    command = _training(name, output, 0, *ALONE, "--capacities", "1.0", *WIDE, *epochs, data=data)
    return Step(output, measure, "the teacher itself", OWN, (command,), capacity=1.0)


def _towards_teacher(name: str, seed: int) -> Iterator[Step]:
    settings = SETS[name]
    into = ("--teacher", "{work}/teacher", *settings.into)

    def alone(capacity: float) -> Step:
        output = f"alone-{capacity:g}-seed{seed}"
        epochs = ("--epochs", str(settings.alone_epochs), "--capacities", f"{capacity:g}")
        command = _training(name, output, seed, *ALONE, *epochs, *into, "--into_loss", *WITHOUT_LABELS)
        label = "one network for each capacity, alone, without labels"
        return Step(output, TEACHER, label, INTO, (command,), seed, ("teacher",), capacity)

    yield _whole(name, f"into-seed{seed}", "one for all, without labels", seed, WITHOUT_LABELS)
    yield _mapped(f"map-seed{seed}", TEACHER, seed, "teacher")
    yield alone(ASKING)
    yield _whole(name, f"into-labels-seed{seed}", "one for all, with labels", seed, WITH_LABELS)
    yield from (alone(capacity) for capacity in (0.1, 0.4, 1.0))


def _whole(name: str, output: str, label: str, seed: int, losses: Sequence[str], *flags: str) -> Step:
    into = ("--teacher", "{work}/teacher", *SETS[name].into)
    command = _training(name, output, seed, *into, "--into_loss", *losses, *flags)
    return Step(output, TEACHER, label, INTO, (command,), seed, ("teacher",))


def _longer(name: str, seed: int) -> Step:
    """For about as long as the networks alone take together."""
    epochs = ("--epochs", str(SETS[name].alone_epochs))
    label = "one for all, with labels, twice as many epochs"
    return _whole(name, f"into-labels-longer-seed{seed}", label, seed, WITH_LABELS, *epochs)


def _mapped(output: str, measure: str, seed: int, old: str) -> Step:
    """The usual run's queries, through an orthogonal map that training images were fitted by."""
    images = ("--dataset", "image_folder", "--data_dir", "{data}", "--split", "train")
    old_table, new_table, result = (f"{{work}}/{output}/{file}" for file in ("old.parquet", "new.parquet", MAP))
    commands = (
        ("embed", "--model", f"{{work}}/{old}", *images, "--output", old_table),
        ("embed", "--model", f"{{usual}}-seed{seed}", *images, "--output", new_table),
        ("align", old_table, new_table, "--output", result),
    )
    label = "usual training, and an orthogonal map"
    return Step(output, measure, label, MAPPED, commands, seed, (old, f"usual-seed{seed}"))


MAP = "map.safetensors"
NETWORK, EVERY, TARGETS = "network", "all.parquet", "targets.parquet"
"""In the folder of a phone: the subnetwork, its parent's embeddings of all images, and the targets of fine-tuning."""


def _after_shift(name: str, seed: int) -> Iterator[Step]:
    phone, settings = f"phone-seed{seed}", SETS[name]
    parent = f"{{usual}}-seed{seed}"
    cut = ("prune", parent, "--capacity", f"{ASKING:g}", "--output", f"{{work}}/{phone}/{NETWORK}")
    embed = ("embed", "--model", parent, "--data_dir", "{data}", "--output", f"{{work}}/{phone}/{EVERY}")
    yield Step(phone, SHIFT, "as it was cut", QUERIES, (cut, embed), seed, (f"usual-seed{seed}",), ASKING)
    words = ("train", "--model_name_or_path", f"{{work}}/{phone}/{NETWORK}", "--dataset", "image_folder")
    words += (*settings.tuning, "--epochs", str(settings.tuning_epochs), "--learning_rate", "0.01", *COMMON)
    into = ("--into", f"{{work}}/{phone}/{TARGETS}", "--into_loss")
    for output, label, flags in (
        (f"tuned-seed{seed}", "trained further into its space, without labels", (*into, *WITHOUT_LABELS)),
        (f"tuned-labels-seed{seed}", "trained further into its space, with labels", (*into, *WITH_LABELS)),
        (f"tuned-plainly-seed{seed}", "trained further plainly, with labels", ()),
    ):
        places = ("--seed", str(seed), "--data_dir", MOVED, "--output_dir", f"{{work}}/{output}")
        yield Step(output, SHIFT, label, QUERIES, ((*words, *flags, *places),), seed, (phone,), ASKING)


def _upgrade(name: str, seed: int) -> Iterator[Step]:
    old, new = f"old-seed{seed}", f"new-seed{seed}"
    command = _training(name, old, seed, data="{part}")
    yield Step(old, UPGRADE, "the old network, of 30 % of the classes", OWN, (command,), seed)
    flags = ("--model_name_or_path", f"{{work}}/{old}", "--into", f"{{work}}/{old}", "--into_loss", *WITH_LABELS)
    command = _training(name, new, seed, *flags, *SETS[name].into)
    yield Step(new, UPGRADE, "trained further on all classes, into its space", INTO, (command,), seed, (old,))
    yield _mapped(f"upgrade-map-seed{seed}", UPGRADE, seed, old)


def _trials(name: str, seeds: Sequence[int]) -> Iterator[Step]:
    """Each choice of losses, learnt by one network of capacity 0.2, in the time of one phase."""
    teacher = _teacher(name, VALIDATION, "{validation}")
    yield teacher
    for seed, losses in product(seeds, TRIED):
        output = f"trial-{'-'.join(losses)}-seed{seed}".replace(":", "-")
        flags = (*ALONE, "--capacities", f"{ASKING:g}", "--teacher", f"{{work}}/{teacher.name}", *SETS[name].into)
        command = _training(name, output, seed, *flags, "--into_loss", *losses, data="{validation}")
        label = " + ".join(losses)
        yield Step(output, VALIDATION, label, INTO, (command,), seed, (teacher.name,), ASKING)
