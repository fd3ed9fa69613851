"""The card: rendered from a run directory alone, valid Markdown and metadata, every figure from `metrics.json`."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from prunnet_hf.hub.card import render_card
from prunnet_hf.hub.card import summarise
from prunnet_hf.hub.card import write_card

CAPACITIES = (0.2, 0.5, 1.0)
RECIPE = {
    "backbone": "resnet10t",
    "backbone_kwargs": '{"stem_width": 4}',
    "data_dir": "/home/someone/photos",
    "output_dir": "/home/someone/out",
    "capacities": [0.2, 0.5],
    "epochs": 2,
}


def value(metric: str, query: float, gallery: float) -> float:
    """Distinct for every cell, and told apart when rounded to a tenth of a percent."""
    return round(0.3 + 0.1 * query + 0.01 * gallery + (0.2 if metric == "recall@1" else 0.0), 4)


def metrics(method: str = "prunnet", capacities: tuple[float, ...] = CAPACITIES) -> dict[str, Any]:
    results = [
        {"query_capacity": q, "gallery_capacity": g, "metric": m, "value": value(m, q, g)}
        for q, g in product(capacities, capacities)
        for m in ("mAP", "recall@1")
    ]
    rows = [
        {
            "capacity": c,
            "kept_weights": int(12345 * c),
            "prunable_weights": 12345,
            "file_bytes": int(4_560_000 * c) if c != 0.5 else None,
            "latency_ms": 7.0 + c,
        }
        for c in capacities
    ]
    return {
        "format": 1,
        "dataset": "photos",
        "split": "test",
        "protocol": "leave_one_out",
        "num_queries": 41,
        "num_gallery": 43,
        "command": "train_accelerate.py --config recipe.yaml",
        "commit": "0123456789ab",
        "versions": {"python": "3.11.7", "torch": "2.9.0"},
        "device": "CPU (x86_64, 1 threads)",
        "method": method,
        "seed": 3,
        "num_train_classes": 17,
        "num_train_images": 613,
        "training_seconds": 90.0,
        "results": results,
        "capacities": rows,
        "interpolation": [{"capacity": 0.3, "stored": 0.345, "interpolated": 0.3447}] if len(capacities) > 1 else [],
        "chance": {"mAP": 0.026},
    }


def write_run(run: Path, content: dict[str, Any]) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text(json.dumps(content))
    (run / "config.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return run


def body(content: dict[str, Any]) -> str:
    return ModelCard(str(render_card(content, RECIPE, name="example"))).text


def table(text: str, first: str) -> list[list[str]]:
    """Cells of the Markdown table whose header starts with a cell `first`, without its ruling."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first}"))
    assert lines[start - 1] == "", "a table needs a blank line before it"
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            assert line == "", "a table needs a blank line after it"
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    ruling = rows.pop(1)
    assert all(re.fullmatch(r"-+:?", cell) for cell in ruling)
    assert {len(row) for row in rows} == {len(ruling)}
    return rows


def test_capacities_are_those_of_the_metrics() -> None:
    assert table(body(metrics()), "capacity |") == [
        [
            *("capacity", "kept weights", "file", "mAP self-test (%)", "cross-test (%)", "self-test to dense"),
            "latency, 1 image",
        ],
        # 0.3 + 0.02 + 0.002, and with the dense gallery 0.01; the dense network has 0.41
        ["0.20", "2,469", "0.91 MB", "32.2", "33.0", "-8.8", "7.2 ms"],
        ["0.50", "6,172", "not saved", "35.5", "36.0", "-5.5", "7.5 ms"],
        ["1.00", "12,345", "4.56 MB", "41.0", "41.0", "+0.0", "8.0 ms"],
    ]


def test_matrix_of_every_metric() -> None:
    text = body(metrics())
    for metric in ("mAP", "recall@1"):
        section = text[text.index(f"\n{metric} (%), rows query capacity") :]
        rows = table(section, "query")
        assert rows[0][1:] == ["0.20", "0.50", "1.00"]
        for row, query in zip(rows[1:], CAPACITIES, strict=True):
            assert row[1:] == [f"{100 * value(metric, query, gallery):.1f}" for gallery in CAPACITIES]


def test_of_many_metrics_only_the_tests_are_told() -> None:
    found = metrics()
    names = ("medium mAP", "hard mAP", "easy mAP", "medium mP@1")
    found["results"] = [
        {**result, "metric": name} for result in found["results"] for name in names if result["metric"] == "mAP"
    ]
    text = body({**found, "protocol": "revisited", "chance": None})
    assert [f"\n{name} (%), rows" in text for name in names] == [True, True, True, False]
    rows = table(text.split("All metrics:")[1], "(%)")
    assert rows[0] == ["(%)", "capacity", *names]
    assert rows[1] == ["self-test", "0.20", *["32.2"] * 4]
    assert rows[4] == ["cross-test", "0.20", *["33.0"] * 4]
    assert "All metrics:" not in body(metrics())


@pytest.mark.parametrize(("protocol", "is_said"), [("in_shop", True), ("veri776", True), ("gldv2", False)])
def test_unseen_classes_are_claimed_only_where_test_classes_are_no_training_classes(
    protocol: str, is_said: bool
) -> None:
    assert ("classes never seen in training" in body({**metrics(), "protocol": protocol})) == is_said


def test_cost_of_interpolation() -> None:
    section = body(metrics()).split("## Running statistics")[1]
    assert table(section, "capacity |")[1] == ["0.30", "34.5", "34.5", "+0.0"]


def test_every_number_of_the_text_is_one_of_the_metrics() -> None:
    """Change every figure, and none of the old ones is left."""
    old, new = metrics(), metrics()
    for name in ("num_queries", "num_gallery", "num_train_classes", "num_train_images", "seed"):
        new[name] += 1000
    new["training_seconds"], new["chance"] = 600.0, {"mAP": 0.5}
    texts = [body(content) for content in (old, new)]
    for gone, come in (
        *(("41 query", "1041 query"), ("43 gallery", "1043 gallery"), ("613 images", "1613 images")),
        *(("of 17 classes", "of 1017 classes"), ("1.5 minutes", "10.0 minutes"), ("seed 3.", "seed 1003.")),
        ("mAP 2.6 %", "mAP 50.0 %"),
    ):
        assert gone in texts[0]
        assert come in texts[1]
        assert f" {gone}" not in texts[1]


def test_metadata_survive_a_round_trip() -> None:
    card = ModelCard(str(render_card(metrics(), RECIPE, name="example")))
    data = card.data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.model_name == "example"
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    # Self-tests and cross-tests: three of each metric, of which the dense network's own is both.
    assert len(found) == 2 * (3 + 2)
    assert found["mAP, query capacity 0.20, gallery 1.00"] == value("mAP", 0.2, 1.0)
    assert found["recall@1, query capacity 0.50, gallery 0.50"] == value("recall@1", 0.5, 0.5)
    assert {result.dataset_name for result in data.eval_results} == {"photos"}


def test_markdown_is_well_formed() -> None:
    text = body(metrics())
    lines = text.splitlines()
    assert "{{" not in text
    assert "{%" not in text
    assert "\n\n\n" not in text.strip()
    fences = [line for line in lines if line.startswith("```")]
    assert fences == ["```python", "```", "```yaml", "```"]
    for index, line in enumerate(lines):
        if line.startswith("#") and not line.startswith("# registers"):
            assert index == 0 or lines[index - 1] == "", line
            assert lines[index + 1] == "", line


def test_recipe_is_yaml_and_leaves_out_folders_of_the_machine() -> None:
    text = body(metrics())
    assert "/home/someone" not in text
    block = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block) == {k: v for k, v in RECIPE.items() if k not in ("data_dir", "output_dir")}


def test_snippet_is_python_and_prunes_to_a_trained_capacity() -> None:
    block = body(metrics()).split("```python\n")[1].split("```")[0]
    compile(block, "card", "exec")
    assert "model.prune(capacity=0.2)" in block


@pytest.mark.parametrize(("method", "says"), [("prunnet", "integrated where they conflict"), ("joint", "plain sum")])
def test_card_says_how_it_was_trained(method: str, says: str) -> None:
    assert says in body(metrics(method))


def test_independent_run_claims_no_compatibility() -> None:
    text = body(metrics("independent", (0.2,)))
    assert "compatible with no other network" in text
    assert "Subnetworks" not in text
    assert "prune(" not in text
    assert table(text, "capacity |") == [
        ["capacity", "kept weights", "file", "mAP (%)", "latency, 1 image"],
        ["0.20", "2,469", "0.91 MB", "32.2", "7.2 ms"],
    ]


def test_model_trained_elsewhere_shows_no_training_it_knows_nothing_of() -> None:
    unknown = dict.fromkeys(("method", "seed", "num_train_classes", "num_train_images", "training_seconds"))
    recipe = {**RECIPE, "model_name_or_path": "org/name"}
    text = ModelCard(str(render_card({**metrics(), **unknown}, recipe, name="example"))).text
    assert "trained elsewhere, as `org/name`" in text
    assert "None" not in text
    assert "```yaml" not in text


def test_write_card_replaces_the_readme_and_sums_up(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    (run / "README.md").write_text("old")
    lines = write_card(run).splitlines()
    text = (run / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    assert text.endswith("\n")
    assert "# run" in text
    assert sorted(path.name for path in run.iterdir()) == ["README.md", "config.yaml", "metrics.json"]
    assert lines == [
        "capacity 1.00: mAP 41.0 (chance 2.6)",
        "capacity 0.20: mAP 32.2 by itself, 33.0 searching the dense network's gallery; file 0.91 MB",
        f"model, subnetworks, metrics.json, compatibility.png and the card: {run}",
    ]


def test_summary_of_a_lone_network_has_no_subnetwork(tmp_path: Path) -> None:
    assert len(summarise(tmp_path, metrics("independent", (1.0,))).splitlines()) == 2


@pytest.mark.parametrize("missing", ["metrics.json", "config.yaml"])
def test_unfinished_run(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path, metrics())
    (run / missing).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"{re.escape(missing)} is missing: a card is made from a finished run"
    ):
        write_card(run)
    assert not (run / "README.md").exists()
