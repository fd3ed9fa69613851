"""The compatibility card: a model card rendered from a run directory alone.

Every figure on it stands in the run's `metrics.json` or follows from it; nothing is typed in by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import yaml
from huggingface_hub import EvalResult
from huggingface_hub import ModelCard
from huggingface_hub import ModelCardData

from ..masking import format_capacity
from ..retrieval.compatibility import SHOWN_METRICS
from ..retrieval.compatibility import CompatibilityResult
from ..retrieval.compatibility import markdown_matrix
from ..retrieval.compatibility import markdown_tests
from ..training.description import OF_THIS_MACHINE
from ..training.run_directory import write_text

DISJOINT_PROTOCOLS = ("leave_one_out", "in_shop", "veri776")
"""Those of data sets whose test classes are no training classes; landmarks may be in both parts."""
TEMPLATE = Path(__file__).parent / "templates" / "card.md.jinja"
BEGIN, END = "<!-- prunnet_hf: card begins -->", "<!-- prunnet_hf: card ends -->"
"""What stands outside these two lines, between the YAML and the file's end, was written by hand."""
Layout = Literal["branches", "subfolders", "repos"]
"""Where ready subnetworks are published: as revisions, subfolders, or repositories of their own."""


def write_card(run: Path) -> str:
    """Render the card of a run into its `README.md`.

    Args:
        run: A finished run directory.

    Returns:
        Three lines that sum up the run.

    Raises:
        FileNotFoundError: If the run has no `metrics.json` or `config.yaml`.
    """
    metrics, recipe = _read(run / "metrics.json", json.loads), _read(run / "config.yaml", yaml.safe_load)
    card = render_card(metrics, recipe, name=run.resolve().name)
    write_text(run / "README.md", f"{card}\n")
    return summarise(run, metrics)


def build_card(
    run: Path,
    *,
    model_id: str = "model",
    layout: Layout | None = None,
    root: Path | None = None,
    subnetworks: Mapping[float, Path] | None = None,
    license: str | None = None,
) -> str:
    """Render the card of a run: YAML, then the text between `BEGIN` and `END`; runs the usage snippet that it shows.

    Args:
        run: A finished run directory.
        model_id: What the snippet loads: `"model"`, or the id of the repository the card is for, `"org/name"`.
        layout: How ready subnetworks are published; None for those in the run directory.
        root: The folder in which `model_id` is a path to the model, so that the snippet can be run: the run directory
            if not given, or for `"org/name"` a folder with `org/name/` in it, staged as it will be published.
        subnetworks: The folders of the ready subnetworks by capacity, of which the files' sizes are told; the run's
            own if not given.
        license: Of the weights, as the Hub abbreviates it (`"apache-2.0"`); left out if not given.

    Raises:
        FileNotFoundError: If the run has no `metrics.json` or `config.yaml`.
        RuntimeError: If the snippet fails; the message shows its output.
    """
    metrics, recipe = _read(run / "metrics.json", json.loads), _read(run / "config.yaml", yaml.safe_load)
    return f"{render_card(metrics, recipe, name=model_id)}\n"


def build_subnetwork_card(
    run: Path,
    capacity: float,
    *,
    model_id: str,
    dense_id: str,
    root: Path,
    license: str | None = None,
) -> str:
    """Render the card of one subnetwork that is published by itself; runs the usage snippet that it shows.

    Args:
        run: A finished run directory, which evaluated this capacity.
        capacity: The subnetwork's.
        model_id: The repository the card is for, such as `"org/name-capacity-0.20"`.
        dense_id: The repository of the dense model it was cut from.
        root: A folder in which both ids are paths to the models, staged as they will be published.
        license: As in `build_card`.

    Raises:
        FileNotFoundError: As in `build_card`.
        RuntimeError: As in `build_card`.
        ValueError: If the run never evaluated this capacity.
    """
    raise NotImplementedError


def render_card(metrics: dict[str, Any], recipe: dict[str, Any], *, name: str) -> ModelCard:
    """Fill in the template.

    Args:
        metrics: What `metrics.json` holds.
        recipe: What `config.yaml` holds.
        name: Title of the card.
    """
    results = [CompatibilityResult(**entry) for entry in metrics["results"]]
    names = list(dict.fromkeys(result.metric for result in results))
    table = _Results(results)
    card: ModelCard = ModelCard.from_template(
        card_data=_card_data(metrics, results, name),
        template_path=str(TEMPLATE),
        name=name,
        metrics=metrics,
        recipe={key: value for key, value in recipe.items() if key not in OF_THIS_MACHINE},
        headline=names[0],
        matrices={metric: markdown_matrix(results, metric) for metric in names[:SHOWN_METRICS]},
        tests=markdown_tests(results) if len(names) > SHOWN_METRICS else None,
        rows=[{**row, **table.tests(names[0], row["capacity"])} for row in metrics["capacities"]],
        is_prunable=len(metrics["capacities"]) > 1,
        disjoint_protocols=DISJOINT_PROTOCOLS,
        format_capacity=format_capacity,
    )
    return card


def summarise(run: Path, metrics: dict[str, Any]) -> str:
    """Three lines for a terminal: the dense network, the smallest trained subnetwork, and where everything is."""
    table = _Results([CompatibilityResult(**entry) for entry in metrics["results"]])
    headline = metrics["results"][0]["metric"]
    largest = metrics["capacities"][-1]
    chance = metrics.get("chance", {}).get(headline)
    against = "" if chance is None else f" (chance {100 * chance:.1f})"
    value = 100 * table.self_test(headline, largest["capacity"])
    lines = [f"capacity {format_capacity(largest['capacity'])}: {headline} {value:.1f}{against}"]
    saved = [row for row in metrics["capacities"] if row["file_bytes"] and row["capacity"] < largest["capacity"]]
    if saved:
        capacity = saved[0]["capacity"]
        lines.append(
            f"capacity {format_capacity(capacity)}: {headline} "
            f"{100 * table.self_test(headline, capacity):.1f} by itself, "
            f"{100 * table.cross_test(headline, capacity):.1f} searching the dense network's gallery; "
            f"file {saved[0]['file_bytes'] / 1e6:.2f} MB"
        )
    lines.append(f"model, subnetworks, metrics.json, compatibility.png and the card: {run}")
    return "\n".join(lines)


class _Results:
    """Looks up values of the compatibility matrix."""

    def __init__(self, results: Sequence[CompatibilityResult]) -> None:
        self._values = {(r.metric, r.query_capacity, r.gallery_capacity): r.value for r in results}
        self._largest = max(result.gallery_capacity for result in results)

    def self_test(self, metric: str, capacity: float) -> float:
        return self._values[metric, capacity, capacity]

    def cross_test(self, metric: str, capacity: float) -> float:
        return self._values[metric, capacity, self._largest]

    def tests(self, metric: str, capacity: float) -> dict[str, float]:
        dense = self.self_test(metric, self._largest)
        own = self.self_test(metric, capacity)
        return {"self_test": own, "cross_test": self.cross_test(metric, capacity), "to_dense": own - dense}


def _card_data(metrics: dict[str, Any], results: Sequence[CompatibilityResult], name: str) -> ModelCardData:
    largest = max(result.gallery_capacity for result in results)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["prunnet", "image-retrieval", "pruning", "compatible-embeddings"],
        metrics=list(dict.fromkeys(result.metric for result in results)),
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-retrieval",
                dataset_type=metrics["dataset"],
                dataset_name=metrics["dataset"],
                dataset_split=metrics["split"],
                metric_type=result.metric,
                metric_name=f"{result.metric}, query capacity {format_capacity(result.query_capacity)}, gallery "
                f"{format_capacity(result.gallery_capacity)}",
                metric_value=round(result.value, 4),
            )
            for result in results
            if result.gallery_capacity in (largest, result.query_capacity)
        ],
    )


def _read(path: Path, parse: Any) -> Any:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a card is made from a finished run directory of train_accelerate.py."
        )
    return parse(path.read_text(encoding="utf-8"))
