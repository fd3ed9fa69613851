"""What machines read about a run on the Hub: the YAML of its card, and its entry for a leaderboard.

`library_name` is transformers: models load by its `from_pretrained`, so the lines that the Hub shows under "use this
model" are right once `prunnet_hf` is imported, and downloads are counted. Neither works with a name that the Hub
doesn't know. What the run directory doesn't say is left out: only the owner can give a license, and a data set or a
base model is named only if it has an id on the Hub.
"""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from ..data.loading import SOURCES
from ..pruning.masking import format_capacity
from ..runs.record import RECORD, RunRecord

HUB = "https://huggingface.co"
"""Where links in cards lead, even if a run was published through a mirror."""
EVAL_RESULTS_FILE = ".eval_results/prunnet_hf.yaml"
"""Where the Hub looks for entries for leaderboards."""
TAGS = ("prunnet", "image-retrieval", "pruning", "compatible-embeddings", "timm")
TAG_OF_UNITS = "structured-pruning"
"""Also for models whose capacities are of whole units."""
TASK, TASK_NAME = "image-retrieval", "Image retrieval"


def card_data(
    run: RunRecord,
    *,
    name: str,
    repo_id: str | None = None,
    capacity: float | None = None,
    dense_id: str | None = None,
    license: str | None = None,
) -> ModelCardData:
    """The metadata of a card.

    Args:
        run: The run.
        name: Name of the model in `model-index`.
        repo_id: Repository that holds the run's `metrics.json`, to which results then link; None if not published.
        capacity: For the card of a subnetwork, its capacity: only its results are listed.
        dense_id: For the card of a subnetwork, the repository of the dense model.
        license: License of the weights, as the Hub abbreviates it; left out if not given.
    """
    dataset = hub_dataset(run)
    of_units = [TAG_OF_UNITS] if _granularity(run) == "channel" else []
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[*TAGS, *of_units],
        datasets=None if dataset is None else [dataset],
        metrics=run.metric_names,
        model_name=name,
        eval_results=_eval_results(run, repo_id, capacity),
        **_base_model(run, dense_id),
    )


def hub_dataset(run: RunRecord) -> str | None:
    """The id of the data set on the Hub; None if it didn't come from there."""
    dataset: str | None = run.recipe.get("dataset")
    return None if dataset in SOURCES else dataset


def eval_results_yaml(run: RunRecord, task_id: str, *, repo_id: str, capacity: float = 1.0) -> str:
    """The content of `EVAL_RESULTS_FILE`: the self-test by the headline metric, as a leaderboard shows one value.

    Args:
        run: The run.
        task_id: Task of the data set, as its `eval.yaml` names it.
        repo_id: Repository of the model; the entry links to its `metrics.json`.
        capacity: Capacity of the model in the repository.

    Raises:
        ValueError: If the run was not evaluated on a data set of the Hub, or not at this capacity.
    """
    dataset = hub_dataset(run)
    if dataset is None:
        raise ValueError(
            f"task_id={task_id!r} needs a run on a data set of the Hub, which has the leaderboard; this run is on "
            f"{run.dataset!r}. Leave task_id out."
        )
    metric = run.headline
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=task_id,
        value=round(run.value(metric, capacity, capacity), 4),
        source_url=_record_url(repo_id),
        source_name=RECORD,
        notes=f"{metric} in [0, 1], queries and gallery at capacity {format_capacity(capacity)}, split "
        f"{run.split}, protocol {run.protocol}; {run.command}",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def _granularity(run: RunRecord) -> str:
    return "weight" if run.model is None else run.model.granularity


def _base_model(run: RunRecord, dense_id: str | None) -> dict[str, Any]:
    if dense_id is not None:
        # The Hub knows adapter, merge, quantized and finetune. Nothing was trained; these are the same weights in a
        # smaller file.
        return {"base_model": dense_id, "base_model_relation": "quantized"}
    return {"base_model": run.base_model, "base_model_relation": "finetune"} if run.base_model else {}


def _eval_results(run: RunRecord, repo_id: str | None, capacity: float | None) -> list[EvalResult]:
    """Self-tests and cross-tests of one capacity, or of all, by every metric."""
    largest = max(run.evaluated_capacities)
    return [
        _eval_result(run, repo_id, result.metric, result.query_capacity, result.gallery_capacity, result.value)
        for result in run.results
        if result.gallery_capacity in (largest, result.query_capacity)
        and (capacity is None or result.query_capacity == capacity)
    ]


def _eval_result(
    run: RunRecord, repo_id: str | None, metric: str, query: float, gallery: float, value: float
) -> EvalResult:
    source: dict[str, Any] = {}
    of_units = {"granularity": "channel"} if _granularity(run) == "channel" else {}
    if repo_id is not None:  # a source needs an address
        source = {"source_url": _record_url(repo_id), "source_name": run.command}
    return EvalResult(
        task_type=TASK,
        task_name=TASK_NAME,
        dataset_type=run.dataset,
        dataset_name=run.dataset,
        dataset_split=run.split,
        dataset_args={"protocol": run.protocol, "command": run.command},
        metric_type=metric,
        metric_name=f"{metric}, query capacity {format_capacity(query)}, gallery {format_capacity(gallery)}",
        metric_value=round(value, 4),
        metric_args={"query_capacity": query, "gallery_capacity": gallery, **of_units},
        **source,
    )


def _record_url(repo_id: str) -> str:
    return f"{HUB}/{repo_id}/blob/main/{RECORD}"
