"""A made-up run directory without a model, in which no two figures are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from prunnet_hf.runs.record import RunRecord
from prunnet_hf.runs.run_directory import without_local_paths

CAPACITIES = (0.2, 0.5, 1.0)
RECIPE = {
    "backbone": "resnet10t",
    "backbone_kwargs": '{"stem_width": 4}',
    "dataset": "image_folder",
    "data_dir": "/home/someone/photos",
    "output_dir": "/home/someone/out",
    "capacities": [0.2, 0.5],
    "epochs": 2,
}


def value(metric: str, query: float, gallery: float) -> float:
    """Another value for every cell, even if rounded to a tenth of a percent."""
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
            "kept_units": None,
            "units": None,
            "file_bytes": int(4_560_000 * c) if c != 0.5 else None,
            "parameters": 23456,
            "dense_parameters": None,
            "multiply_adds": int(98_700_000 * c),
            "executed_multiply_adds": 98_700_000,
            "latency_ms": 7.0 + c,
            "latency_runtime": "ONNX Runtime 1.2.3",
            "trained": c != 0.5,
        }
        for c in capacities
    ]
    return {
        "format": 1,
        "dataset": "photos",
        "split": "test",
        "protocol": "leave_one_out",
        "num_queries": 43,
        "num_gallery": 43,
        "num_shared_classes": 0,
        "command": "train_accelerate.py --config recipe.yaml",
        "commit": "0123456789ab",
        "versions": {"python": "3.11.7", "torch": "2.9.0"},
        "device": "Some GPU",
        "latency_device": "CPU (Some CPU, 1 thread)",
        "method": method,
        "seed": 3,
        "num_train_classes": 17,
        "num_train_images": 613,
        "training_seconds": 90.0,
        "training_device": "Some GPU",
        "base_model": None,
        "model": {
            "backbone": "resnet10t",
            "backbone_kwargs": {"stem_width": 4},
            "image_size": 37,
            "embedding_dim": 19,
            "embedding_space": "3f9a3f9a3f9a3f9a",
            "capacities": [c for c in capacities if c not in (0.5, 1.0)],
            "prunable": len(capacities) > 1,
            "granularity": "weight",
            "parameters": 23456,
        },
        "results": results,
        "capacities": rows,
        "chance": {"mAP": 0.026},
    }


def metrics_of_units() -> dict[str, Any]:
    """As `metrics`, of a run whose capacities are of whole units; of 60 of them 0.2 keeps 13."""
    content = metrics()
    content["model"]["granularity"] = "channel"
    for row, kept in zip(content["capacities"], (13, 30, 60), strict=True):
        work = 1_645_000 * kept
        row |= {"kept_units": kept, "units": 60, "parameters": 391 * kept, "dense_parameters": 23460}
        row |= {"multiply_adds": work, "executed_multiply_adds": work, "latency_ms": 2.0 + kept / 10}
    return content


def write_run(run: Path, content: dict[str, Any]) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text(json.dumps(content))
    (run / "config.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return run


def finished(content: dict[str, Any], recipe: dict[str, Any] = RECIPE) -> RunRecord:
    return replace(RunRecord.from_json(content, "metrics.json"), recipe=without_local_paths(recipe))
