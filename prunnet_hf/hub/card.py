"""The compatibility card: a model card that is rendered from a run directory alone.

Every figure on it is in the run's `metrics.json` or `compressibility.json`, follows from them, or is the size of a
file; nothing is typed in by hand. Its snippet was run when the card was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..compression.report import Compressibility
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import format_capacity
from ..pruning.pq_index import normal_index
from ..retrieval.compatibility import SHOWN_METRICS, markdown_matrix, markdown_tests
from ..retrieval.markdown import as_block, as_code, as_text, hub_link, one_line
from ..runs.methods import INTO_LOSSES, METHODS
from ..runs.ownership import claim_run
from ..runs.record import RunRecord
from ..runs.run_directory import CARD_BEGINS as BEGIN
from ..runs.run_directory import CARD_ENDS as END
from ..runs.run_directory import EXAMPLES, write_text
from ..storage.forms import weights_bytes
from .figures import CapacityRow, band_downloads, capacity_rows, read_run
from .indices import index_rows, record_indices, recorded_indices
from .metadata import card_data
from .onnx_files import OnnxFiles
from .readme import merge_readme, split_front_matter
from .usage import Usage, dense_code, record_usage, recorded_usage, run_code, single_code, subnetwork_code

Layout = Literal["branches", "subfolders", "repos"]
"""Where ready subnetworks are published: as revisions, in subfolders, or in repositories of their own."""
LOCAL = "model"
"""What the card of an unpublished run calls the model: its path in the run directory."""
FIRST_METRICS = 2
"""How many metrics the first paragraph of a card names: by one alone a subnetwork may look better than it is."""
TEMPLATES = Path(__file__).parent / "templates"


def write_card(run: Path, *, execute: bool = True) -> str:
    """Render the card of a run into its `README.md`, and record what its snippet printed in `usage.json`.

    If the weights are there, their PQ Index is measured and recorded too (`compressibility.json` and `.png`). What
    people wrote around an earlier card stays.

    Args:
        run: A finished run directory.
        execute: Whether to run the snippet. If not, the card shows the output that was recorded, or says that the
            snippet was not run.

    Returns:
        A few lines that sum up the run, for a terminal.

    Raises:
        FileNotFoundError: If the run has no `metrics.json` or `config.yaml`.
        ValueError: If one of them, or `compressibility.json` if it has to be read, is damaged or lacks something; or
            if a weight of the model isn't finite.
        RuntimeError: If the snippet fails; the message shows its output.
        BlockingIOError: If another process is writing in the run directory.
    """
    with claim_run(run):
        found = read_run(run)
        code = _code(found, LOCAL)
        if execute:
            record_usage(run, run_code(code, run))
        if weights_bytes(run / LOCAL):
            record_indices(run, PrunNetModel.from_pretrained(run / LOCAL), found.evaluated_capacities)
        usage, name = recorded_usage(run, code), run.resolve().name
        has_examples = (run / EXAMPLES).is_file()
        card = render_card(found, usage=usage, name=name, indices=recorded_indices(run), has_examples=has_examples)
        write_text(run / "README.md", _with_text_around(card, run / "README.md"))
    return summarise(run, found)


def _with_text_around(card: str, readme: Path) -> str:
    """The card, with what people wrote before and after the one in `readme`."""
    if not readme.is_file():
        return card
    existing = readme.read_text(encoding="utf-8")
    body = split_front_matter(existing)[1]
    before, begins, rest = body.partition(BEGIN)
    after = rest.partition(END)[2]
    return merge_readme(card, existing) if begins and (before.strip() or after.strip()) else card


def build_card(
    run: Path,
    *,
    model_id: str = LOCAL,
    layout: Layout | None = None,
    root: Path | None = None,
    subnetworks: Mapping[float, Path] | None = None,
    license: str | None = None,
    with_code: bool = False,
    onnx: OnnxFiles | None = None,
) -> str:
    """Render the card of a run: YAML, then the text between `BEGIN` and `END`. The snippet that it shows is run.

    Args:
        run: A finished run directory. Its `examples.png`, if it is there, comes first.
        model_id: What the snippet loads: `"model"`, or the id of the repository the card is for, `"org/name"`.
        layout: How ready subnetworks are published; None if they are only in the run directory.
        root: The folder to run the snippet in, where `model_id` is the path of the model. By default the run
            directory; for `"org/name"` a folder that holds `org/name/` as it will be published.
        subnetworks: The folders of the ready subnetworks by capacity, whose sizes the card shows; by default those of
            the run.
        license: License of the weights, as the Hub abbreviates it (`"apache-2.0"`); left out if not given.
        with_code: Whether the code for `trust_remote_code` lies beside the model.
        onnx: The ONNX files beside the weights; None if there are none.

    Raises:
        FileNotFoundError: If the run has no `metrics.json` or `config.yaml`.
        ValueError: If one of them is damaged or lacks something.
        RuntimeError: If the snippet fails; the message shows its output.
    """
    found, root = read_run(run), run if root is None else root
    return render_card(
        found,
        usage=run_code(_code(found, model_id), root),
        name=run.resolve().name if model_id == LOCAL else model_id.rpartition("/")[2],
        indices=recorded_indices(run),
        has_examples=(run / EXAMPLES).is_file(),
        model_id=model_id,
        layout=layout,
        files=None if subnetworks is None else {c: weights_bytes(folder) for c, folder in subnetworks.items()},
        downloads=band_downloads(root / model_id, found.evaluated_capacities),
        license=license,
        with_code=with_code,
        onnx=onnx,
    )


def build_subnetwork_card(
    run: Path,
    capacity: float,
    *,
    model_id: str,
    dense_id: str,
    root: Path,
    license: str | None = None,
    with_code: bool = False,
    onnx: OnnxFiles | None = None,
) -> str:
    """Render the card of one subnetwork that is published by itself. The snippet that it shows is run.

    Args:
        run: A finished run directory, which evaluated this capacity.
        capacity: Capacity of the subnetwork.
        model_id: The repository the card is for, such as `"org/name-capacity-0.20"`.
        dense_id: The repository of the dense model it was cut from.
        root: A folder in which both ids are paths of the models as they will be published.
        license: As in `build_card`.
        with_code: As in `build_card`.
        onnx: As in `build_card`.

    Raises:
        FileNotFoundError: As in `build_card`.
        RuntimeError: As in `build_card`.
        ValueError: If the run never evaluated this capacity, or as in `build_card`.
    """
    found = read_run(run)
    found.value(found.headline, capacity, capacity)
    usage = run_code(subnetwork_code(model_id, dense_id), root)
    name = model_id.rpartition("/")[2]
    data = card_data(found, name=name, repo_id=dense_id, capacity=capacity, dense_id=dense_id, license=license)
    rows = capacity_rows(found, {capacity: weights_bytes(root / model_id)})
    largest = rows[-1].capacity
    return _fill(
        "subnetwork.md.jinja",
        data,
        found,
        usage,
        name=name,
        with_code=with_code,
        onnx=onnx,
        dense_id=dense_id,
        row=next(row for row in rows if row.capacity == capacity),
        dense=rows[-1],
        self_tests={metric: found.value(metric, capacity, capacity) for metric in found.metric_names},
        all_cross_tests={metric: found.value(metric, capacity, largest) for metric in found.metric_names},
        **_first_tests(found, capacity, largest),
    )


def render_card(
    run: RunRecord,
    *,
    usage: Usage,
    name: str,
    indices: Compressibility | None = None,
    has_examples: bool = False,
    model_id: str = LOCAL,
    layout: Layout | None = None,
    files: Mapping[float, int] | None = None,
    downloads: Mapping[float, int] | None = None,
    license: str | None = None,
    with_code: bool = False,
    onnx: OnnxFiles | None = None,
) -> str:
    """Fill in the template of a run's card.

    Args:
        run: The record of the run.
        usage: The snippet, and what it printed.
        name: Title of the card.
        indices: The PQ Index of the run's weights; None leaves that section out.
        has_examples: Whether `examples.png` lies beside the card, which then shows it.
        model_id: As in `build_card`.
        layout: As in `build_card`.
        files: As in `capacity_rows`.
        downloads: As in `capacity_rows`.
        license: As in `build_card`.
        with_code: As in `build_card`.
        onnx: As in `build_card`.
    """
    names = run.metric_names
    rows = capacity_rows(run, files, downloads)
    repo_id = None if model_id == LOCAL else model_id
    phone = _phone(run, rows)
    # In the run directory, the file of the largest capacity holds the whole model.
    ready = [row for row in rows if row.file_bytes and (layout is not None or row.capacity < rows[-1].capacity)]
    return _fill(
        "card.md.jinja",
        card_data(run, name=name, repo_id=repo_id, license=license),
        run,
        usage,
        name=name,
        with_code=with_code,
        onnx=onnx,
        has_examples=has_examples,
        model_id=model_id,
        layout=layout,
        rows=rows,
        dense=rows[-1],
        phone=phone,
        ready=next((row for row in ready if row.capacity == phone.capacity), next(iter(ready), None)),
        is_prunable=len(rows) > 1,
        matrices={metric: markdown_matrix(run.results, metric) for metric in names[:SHOWN_METRICS]},
        tests=markdown_tests(run.results) if len(names) > SHOWN_METRICS else None,
        indices=indices,
        index_rows=index_rows(indices) if indices else [],
        normal_index=normal_index(indices.p, indices.q) if indices else None,
        **_first_tests(run, phone.capacity, rows[-1].capacity),
    )


def summarise(directory: Path, run: RunRecord) -> str:
    """Lines for a terminal: the dense network, the smallest saved subnetwork, and where everything is."""
    headline, chance, rows = run.headline, run.chance_of_headline, capacity_rows(run)
    largest = rows[-1]
    against = "" if chance is None else f" (chance {100 * chance:.1f})"
    lines = [f"capacity {format_capacity(largest.capacity)}: {headline} {100 * largest.self_test:.1f}{against}"]
    saved = [row for row in rows if row.file_bytes and row.capacity < largest.capacity]
    if saved:
        smallest = saved[0]
        lines.append(
            f"capacity {format_capacity(smallest.capacity)}: {headline} {100 * smallest.self_test:.1f} by itself, "
            f"{100 * smallest.cross_test:.1f} searching the dense network's gallery; "
            f"file {(smallest.file_bytes or 0) / 1e6:.2f} MB"
        )
    lines.append(f"model, subnetworks, metrics.json, compatibility.png and the card: {directory}")
    if (directory / EXAMPLES).is_file():
        lines.append(f"a picture of what they find: {directory / EXAMPLES}")
    return "\n".join(lines)


def _phone(run: RunRecord, rows: list[CapacityRow]) -> CapacityRow:
    """The subnetwork that the card takes as its example: the smallest that was trained, else the smallest of all."""
    requested = run.recipe.get("capacities") or []
    for row in rows:
        if row.trained or (row.trained is None and row.capacity in requested):
            return replace(row, trained=True)
    return rows[0]


def _first_tests(run: RunRecord, capacity: float, largest: float) -> dict[str, dict[str, float]]:
    names = run.metric_names[:FIRST_METRICS]
    return {
        "cross_tests": {metric: run.value(metric, capacity, largest) for metric in names},
        "dense_tests": {metric: run.value(metric, largest, largest) for metric in names},
    }


def _code(run: RunRecord, model_id: str) -> str:
    rows = capacity_rows(run)
    return dense_code(model_id, _phone(run, rows).capacity) if len(rows) > 1 else single_code(model_id)


def _fill(template: str, data: ModelCardData, run: RunRecord, usage: Usage, **values: Any) -> str:
    """Fill in a template; huggingface_hub's card class then checks text and metadata."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["capacity"] = format_capacity
    environment.filters["count"] = _format_count
    environment.filters |= {
        "text": as_text,
        "code": as_code,
        "block": as_block,
        "line": one_line,
        "hub_link": hub_link,
    }
    text = environment.get_template(template).render(
        begin=BEGIN,
        end=END,
        run=run,
        method=METHODS.get(run.method or ""),
        into_losses=_into_losses(run),
        usage=usage,
        has_units=run.model is not None and run.model.granularity == "channel",
        **values,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


def _into_losses(run: RunRecord) -> dict[str, str]:
    """What the losses of a run into a space that exists are; empty of one that made its own."""
    chosen = [] if run.into is None else run.into.losses
    names = [name.partition(":")[0] for name in chosen]
    described = [INTO_LOSSES[name].description if name in INTO_LOSSES else "not known here" for name in names]
    return dict(zip(chosen, described, strict=True))


def _format_count(count: int) -> str:
    """A large number, rounded to three digits or more.

    Example:
        >>> _format_count(1_813_692_416), _format_count(60_291_969)
        ('1.81 G', '60.3 M')
    """
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.1f} M"
