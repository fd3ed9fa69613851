"""The record of a run: what its `metrics.json` holds, under names that type checkers and templates can see.

The file is one flat JSON object. Its entries are the fields of `RunRecord`, in their order; entries of other names are
ignored on reading. A field with a default may be missing: then the version that wrote the file did not record it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from huggingface_hub.dataclasses import type_validator

from ..pruning.masking import format_capacity
from ..retrieval.compatibility import CompatibilityResult
from ..storage.json_text import load_json
from .run_directory import write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECORD = "metrics.json"
UNEVALUATED = "training.json"
"""What is known of a training while its model is evaluated for the first time; then `RECORD` has it."""
"""Name of the file in a run directory."""
RECORD_FORMAT = 1
EVALUATE_AGAIN = "evaluate the run again with train_accelerate.py --eval_only true"
_REMEDY = f"Move the file away and {EVALUATE_AGAIN}."
Part = TypeVar("Part", bound="DataclassInstance")


def _check_range(name: str, value: float | None, upper: float = math.inf) -> None:
    """Refuse a figure outside of [0, upper]."""
    if value is not None and not 0 <= value <= upper:
        raise ValueError(f"{name} must lie in [0, {upper}], got {value!r}")


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """What a reader needs to repeat the evaluation.

    Attributes:
        format: Version of the file's layout.
        dataset: Name of the data set; for an image folder, the folder's name.
        split: The part of the data set that was evaluated.
        protocol: Name of the rule by which retrieval was judged.
        num_queries: Number of query images.
        num_gallery: Number of gallery images.
        num_shared_classes: How many classes the training and the test images share; None if unknown.
        command: The command line, without folders of the machine.
        recipe: The arguments by name, without folders of the machine; empty if not recorded.
        commit: Commit of this package; None outside a checkout.
        versions: Versions of Python and of the packages that matter.
        device: The machine that embedded the images; None if not recorded.
        latency_device: The CPU that latency was measured on, and its threads; None if not recorded.
        num_processes: Number of processes; None if not recorded.
        mixed_precision: `"no"`, `"fp16"` or `"bf16"`; None if not recorded.
    """

    format: int = RECORD_FORMAT
    dataset: str
    split: str
    protocol: str
    num_queries: int
    num_gallery: int
    num_shared_classes: int | None = None
    command: str
    recipe: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    versions: dict[str, str]
    device: str | None = None
    latency_device: str | None = None
    num_processes: int | None = None
    mixed_precision: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What only the training itself knows. None means unknown: the model was trained elsewhere, or by an old version.

    Attributes:
        method: How gradients were merged: one of the choices of `--method`.
        seed: Seed of the training.
        num_train_classes: Number of training classes.
        num_train_images: Number of training images.
        training_seconds: Duration of the training.
        waiting_for_data: Share of the training time spent waiting for images, in [0, 1].
        skipped_steps: Number of steps that were skipped because their gradients were not finite.
        base_model: The Hub repository whose weights training started from; None also for random weights.
        base_subnetwork: The `capacity` and the `embedding_space` of the subnetwork that training started from; None
            if it was none.
        training_device: The machine that trained.
        training_command: The command line that trained, without folders of the machine; `command` if not recorded.
    """

    method: str | None = None
    seed: int | None = None
    num_train_classes: int | None = None
    num_train_images: int | None = None
    training_seconds: float | None = None
    waiting_for_data: float | None = None
    skipped_steps: int | None = None
    base_model: str | None = None
    base_subnetwork: dict[str, Any] | None = None
    training_device: str | None = None
    training_command: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The embedding network of a run.

    Attributes:
        backbone: Its name in timm.
        backbone_kwargs: Further arguments that timm was given for it; None if there are none.
        image_size: Side of the images in pixels.
        embedding_dim: Length of an embedding.
        embedding_space: Id of the space its embeddings lie in; None if it has none.
        capacities: Those that training optimised, ascending, without 1.0.
        prunable: Whether it has scores to be pruned by.
        granularity: What they choose: `"weight"`, single weights, or `"channel"`, whole units.
        parameters: Number of parameters that embedding needs, which excludes scores and classifier.
    """

    backbone: str
    backbone_kwargs: dict[str, Any] | None = None
    image_size: int
    embedding_dim: int
    embedding_space: str | None = None
    capacities: list[float]
    prunable: bool
    granularity: str = "weight"
    parameters: int


@dataclass(frozen=True, kw_only=True)
class CapacityRecord:
    """What a network of one capacity costs.

    Attributes:
        capacity: In (0, 1].
        kept_weights: Prunable weights that it keeps; of granularity `"channel"` those that lie in units.
        prunable_weights: All prunable weights.
        kept_units: Units that it keeps, which rounding can make more or fewer than its capacity's share; None with
            single weights.
        units: All units; None with single weights.
        file_bytes: Size of its saved weights; None if they were not saved.
        parameters: All parameters that it has, those that are zero too; None if they were not counted.
        dense_parameters: Those of the dense network; None if they were not counted, and with single weights.
        multiply_adds: Multiply-adds to embed one image, on paper; None if they were not counted.
        executed_multiply_adds: Those that dense kernels do, zeros included; None if they were not counted.
        latency_ms: Milliseconds to embed one image.
        latency_runtime: What ran it, and its version. If not recorded, it was eager torch, by the wall clock.
        trained: Whether training optimised this capacity; None if not recorded.
    """

    capacity: float
    kept_weights: int
    prunable_weights: int
    kept_units: int | None = None
    units: int | None = None
    file_bytes: int | None = None
    parameters: int | None = None
    dense_parameters: int | None = None
    multiply_adds: int | None = None
    executed_multiply_adds: int | None = None
    latency_ms: float
    latency_runtime: str | None = None
    trained: bool | None = None

    def __post_init__(self) -> None:
        """Refuse impossible costs."""
        _check_range("capacity", self.capacity, 1.0)
        _check_range("kept_weights", self.kept_weights, self.prunable_weights)
        _check_range("kept_units", self.kept_units, math.inf if self.units is None else self.units)
        if self.dense_parameters is not None:
            _check_range("parameters", self.parameters, self.dense_parameters)
        for name in ("units", "file_bytes", "parameters", "multiply_adds", "executed_multiply_adds", "latency_ms"):
            _check_range(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class IntoRecord:
    """The space that exists into which a run has trained, and how well its own gallery is searched.

    Attributes:
        embedding_space: Its id.
        teacher: The model that made the targets; None if they are a gallery's own vectors.
        gallery: The gallery that was given; None without one.
        losses: What `--into_loss` named.
        values: By query capacity (`"0.20"`), every metric of queries by that network in the gallery of the space;
            empty if the space's vectors of the test images weren't known.
        itself: The same of queries by the space's own model; None if they weren't known.
        kept: Of a network that was in that space before: whether it has stayed, see `runs/criterion.py`. None for
            another, to which the criterion doesn't apply: it has the id of that space.
        before: By capacity that must hold, the headline metric of queries by that network before training.
        standard_errors: Those of `before`, over queries.
    """

    embedding_space: str
    teacher: str | None = None
    gallery: str | None = None
    losses: list[str]
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    itself: dict[str, float] | None = None
    kept: bool | None = None
    before: dict[str, float] = field(default_factory=dict)
    standard_errors: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """The capacities whose queries find less than before in the old gallery, by more than one standard error."""
        now = {name: next(iter(metrics.values())) for name, metrics in self.values.items()}
        return [name for name, old in self.before.items() if now[name] < old - self.standard_errors[name]]

    def __post_init__(self) -> None:
        """Refuse impossible figures."""
        for capacity, metrics in {**self.values, "itself": self.itself or {}, "before": self.before}.items():
            for metric, value in metrics.items():
                _check_range(f"{metric} at {capacity}", value, 1.0)


@dataclass(frozen=True, kw_only=True)
class RunRecord(TrainingFacts, RunDescription):
    """A finished run.

    Attributes:
        model: The embedding network; None if not recorded.
        results: The compatibility matrix: every pair of capacities by every metric, the headline metric first.
        capacities: The cost of each evaluated capacity, ascending.
        chance: The score of a random order by metric; None if it was not computed.
        into: The space that exists into which it has trained; None if it made one of its own.
    """

    model: ModelRecord | None = None
    results: tuple[CompatibilityResult, ...]
    capacities: tuple[CapacityRecord, ...]
    chance: dict[str, float] | None = None
    into: IntoRecord | None = None

    def __post_init__(self) -> None:
        """Refuse impossible figures, and a matrix that states a cell twice."""
        for name in ("training_seconds", "num_queries", "num_gallery", "num_shared_classes", "skipped_steps"):
            _check_range(name, getattr(self, name))
        _check_range("waiting_for_data", self.waiting_for_data, 1.0)
        for metric, value in (self.chance or {}).items():
            _check_range(f"chance of {metric}", value, 1.0)
        cells = Counter((result.metric, result.query_capacity, result.gallery_capacity) for result in self.results)
        costs = Counter(row.capacity for row in self.capacities)
        twice = [str(entry) for entry, count in (*cells.items(), *costs.items()) if count > 1]
        if twice:
            raise ValueError(f"results or capacities state {', '.join(twice)} more than once")

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics, the headline first."""
        return list(dict.fromkeys(result.metric for result in self.results))

    @property
    def headline(self) -> str:
        """Name of the metric to compare runs by."""
        return self.metric_names[0]

    @property
    def chance_of_headline(self) -> float | None:
        """What a random order scores by the headline metric, in [0, 1]; None if it was not computed."""
        return None if self.chance is None else self.chance.get(self.headline)

    @property
    def latency_machine(self) -> str | None:
        """The machine that latency was measured on; before it was recorded by itself, that was the evaluation's."""
        return self.latency_device or self.device

    @property
    def evaluated_capacities(self) -> list[float]:
        """The capacities in the matrix, ascending."""
        return sorted({result.query_capacity for result in self.results})

    def value(self, metric: str, query: float, gallery: float) -> float:
        """One cell of the matrix, in [0, 1].

        Raises:
            ValueError: If this pair was never evaluated.
        """
        for result in self.results:
            if (result.metric, result.query_capacity, result.gallery_capacity) == (metric, query, gallery):
                return result.value
        known = ", ".join(map(format_capacity, self.evaluated_capacities))
        raise ValueError(
            f"capacity must be one that the run evaluated ({known}); it has no {metric} of queries at "
            f"{format_capacity(query)} in a gallery at {format_capacity(gallery)}. Add it to --eval_capacities and "
            f"{EVALUATE_AGAIN}."
        )

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read what `write` wrote, in this version or an earlier one.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, lacks a field without a default, or is of another format.
        """
        return cls.from_json(_read_object(path), str(path))

    @classmethod
    def from_json(cls, content: Mapping[str, Any], place: str) -> RunRecord:
        """Turn a JSON object into a record.

        Args:
            content: The object; entries of other names are ignored.
            place: What errors call it: the path of its file.

        Raises:
            ValueError: If a field without a default is missing or empty, or a value has the wrong type.
        """
        nested = {
            "model": ModelRecord,
            "results": CompatibilityResult,
            "capacities": CapacityRecord,
            "into": IntoRecord,
        }
        parts = {name: _build_parts(kind, content.get(name), f"{place}: {name}") for name, kind in nested.items()}
        return _build(cls, {**content, **parts}, place)


def recorded_training(run: Path, dataset: str) -> TrainingFacts:
    """What the record of a run says about its training; everything is unknown if there is no record.

    Args:
        run: A run directory that is evaluated again.
        dataset: Name of the data set it is evaluated on.

    Raises:
        ValueError: If the record is damaged, or the run was evaluated on another data set, whose results would be
            lost.
    """
    file = next((run / name for name in (RECORD, UNEVALUATED) if (run / name).is_file()), None)
    if file is None:
        return TrainingFacts()
    content = _read_object(file)
    if content.get("dataset") != dataset:
        raise ValueError(
            f"{file} holds results on dataset {content.get('dataset')!r}, which --eval_only on {dataset!r} would "
            f"replace. Choose another --output_dir, with --model_name_or_path {run / 'model'}."
        )
    if content.get("training_command") is None and "--eval_only" not in content.get("command", ""):
        content["training_command"] = content.get("command")  # of an earlier version, when nothing else had run
    return _build(TrainingFacts, content, str(file))


def recorded_into(run: Path, test: RunDescription) -> IntoRecord | None:
    """What the record of a run says of the space that exists into which it was trained.

    Args:
        run: A run directory that is evaluated again.
        test: The evaluation.

    Returns:
        None if it says nothing, or was of another test.

    Raises:
        ValueError: If the record is damaged.
    """
    file = run / RECORD
    content = _read_object(file) if file.is_file() else {}
    same = ("dataset", "split", "protocol", "num_queries", "num_gallery")
    if content.get("into") is None or any(content.get(name) != getattr(test, name) for name in same):
        return None
    return _build(IntoRecord, content["into"], f"{file}: into")


def was_judged(run: Path) -> bool:
    """Whether the record of a run has a comparison with the network as it was before, see `runs/criterion.py`."""
    file = run / RECORD
    into = _read_object(file).get("into") if file.is_file() else None
    return isinstance(into, dict) and into.get("kept") is not None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = load_json(path.read_text(encoding="utf-8"), finite=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: train_accelerate.py writes it when a run is finished.") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(content).__name__}. {_REMEDY}")
    if content.get("format", RECORD_FORMAT) != RECORD_FORMAT:
        raise ValueError(
            f"{path}: format must be {RECORD_FORMAT}; got {content['format']!r}. Install the version of prunnet_hf "
            f"that wrote the file, or move it away and {EVALUATE_AGAIN}."
        )
    return content


def _build_parts(kind: type[Any], content: Any, place: str) -> Any:
    """`content` with the JSON objects in it turned into dataclasses; anything else is left for `_build` to refuse."""
    if isinstance(content, list):
        return tuple(_build(kind, entry, f"{place}[{number}]") for number, entry in enumerate(content))
    return content if content is None else _build(kind, content, place)


def _build(kind: type[Part], content: Any, place: str) -> Part:
    """A dataclass from a JSON object, its types checked.

    Args:
        kind: The dataclass.
        content: The object.
        place: The file, and where the object is in it; for errors.

    Raises:
        ValueError: If a field is missing, empty although it has no default, or of the wrong type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{place} must be a JSON object; got {content!r}. {_REMEDY}")
    hints = get_type_hints(kind)
    values = {part.name: content[part.name] for part in fields(kind) if part.name in content}
    required = [part.name for part in fields(kind) if part.default is part.default_factory is MISSING]
    missing = [name for name in required if values.get(name) in (None, "", ())]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}: {EVALUATE_AGAIN}.")
    try:
        for name, value in values.items():
            if type(value) is int and float in (hints[name], *get_args(hints[name])):
                values[name] = float(value)
            type_validator(name, values[name], hints[name])
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is damaged ({error}). {_REMEDY}") from error
