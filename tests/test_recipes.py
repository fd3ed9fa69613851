"""Every recipe of a benchmark, run end to end on a miniature of it: small images, few of them, and one epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from prunnet_hf.hub.card import write_card
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.yaml_text import load_yaml
from prunnet_hf.training.engine import train
from tests.accelerate_state import reset_accelerate
from tests.miniatures.gldv2 import make_gldv2
from tests.miniatures.in_shop import make_in_shop
from tests.miniatures.revisited import make_revisited
from tests.miniatures.veri776 import make_veri776
from tests.processes import run_processes

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = [
    *("--image_size", "32", "--resize", "36", "--epochs", "1", "--batch_size", "8", "--num_workers", "0"),
    *("--embedding_dim", "8", "--pretrained_backbone", "false", "--calibration_images", "8"),
]
FEWER_LAYERS: dict[str, dict[str, object]] = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "resnext50": {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]},
    "mobilenetv2": {},
    "vit_small": {"depth": 1, "embed_dim": 12, "num_heads": 2},
    "swin_tiny": {"depths": [1, 1, 1, 1], "embed_dim": 12, "num_heads": [1, 1, 2, 2]},
    "convnext_tiny": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
}
"""timm's arguments for a small network of the kind that a recipe names."""
TINY = ["--backbone", "resnet10t", "--backbone_kwargs", '{"channels": [8, 8, 16, 16], "stem_width": 4}']
HEADLINES = {
    "gldv2": ["mAP@100"],
    "in_shop": ["recall@1", "recall@2", "recall@4", "recall@8"],
    "veri776": ["mAP", "CMC@1", "CMC@5", "CMC@10", "mINP"],
    "roxford5k": ["medium mAP", "hard mAP", "easy mAP", "medium mP@1"],
}


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("miniatures")
    make: dict[str, Callable[[Path], Any]] = {
        "gldv2": lambda folder: make_gldv2(folder, layout="extracted"),
        "gldv2 tars": lambda folder: make_gldv2(folder, layout="tars"),
        "in_shop": make_in_shop,
        "veri776": make_veri776,
        "roxford5k": lambda folder: make_revisited(folder, "roxford5k"),
    }
    for name, function in make.items():
        (root / name).mkdir()
        function(root / name)
    return {name: root / name for name in make}


def run(*flags: object) -> None:
    """The training script's work, in this process."""
    result = train(parse_arguments([*map(str, flags)]))
    if result.is_main_process:
        write_card(result.directory, execute=False)  # it would start a process for each recipe


def found_in(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "metrics.json").read_text())


def results_of(directory: Path) -> dict[tuple[float, float, str], float]:
    return {
        (r["query_capacity"], r["gallery_capacity"], r["metric"]): r["value"] for r in found_in(directory)["results"]
    }


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*_*.yaml")))
def test_recipe_trains_and_evaluates(recipe: str, miniatures: dict[str, Path], tmp_path: Path) -> None:
    dataset = "in_shop" if recipe.startswith("in_shop") else recipe.partition("_")[0]
    directory = tmp_path / "run"
    fewer = json.dumps(FEWER_LAYERS[recipe.removeprefix(dataset).removeprefix("_")])
    common = ["--config", RECIPES / f"{recipe}.yaml", "--data_dir", miniatures[dataset], *SMALL]
    run(*common, "--backbone_kwargs", fewer, "--output_dir", directory, "--capacities", "0.5")
    found = found_in(directory)
    assert (found["dataset"], found["protocol"]) == (dataset, dataset)
    grid = (0.05, 0.1, 0.5, 1.0)
    results = results_of(directory)
    metrics = list(dict.fromkeys(metric for _, _, metric in results))
    assert metrics[: len(HEADLINES[dataset])] == HEADLINES[dataset]
    assert results.keys() == {(query, gallery, metric) for query in grid for gallery in grid for metric in metrics}
    assert all(0 <= value <= 1 for value in results.values())
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert HEADLINES[dataset][0] in card
    is_streamed = load_yaml((directory / "config.yaml").read_text(encoding="utf-8"))["streaming"]
    assert (directory / "examples.png").is_file() == ("](examples.png)" in card) == (not is_streamed)


SHARED = {
    "gldv2 from tars": ("gldv2_resnet18", "gldv2 tars", ["--streaming", "true"]),
    "gldv2": ("gldv2_resnet18", "gldv2", []),
    "in_shop in boxes": ("in_shop_resnet18", "in_shop", ["--bounding_boxes", "true"]),
    "veri776 streamed": ("veri776_resnet18", "veri776", ["--streaming", "true"]),
}


def shared_flags(case: str, miniatures: dict[str, Path]) -> list[object]:
    recipe, data, flags = SHARED[case]
    common = ["--config", RECIPES / f"{recipe}.yaml", "--data_dir", miniatures[data], *SMALL, *TINY, *flags]
    return [*common, "--batch_size", "4", "--capacities", "0.5", "--eval_capacities", "0.3"]


def run_one_after_another(runs: list[list[object]]) -> None:
    for flags in runs:
        run(*flags)
        reset_accelerate()


@pytest.fixture(scope="module")
def shared_runs(miniatures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two processes for each case."""
    folder = tmp_path_factory.mktemp("shared")
    runs = [[*shared_flags(case, miniatures), "--output_dir", folder / case] for case in SHARED]
    run_processes(2, run_one_after_another, runs, folder=folder)
    return folder


@pytest.mark.parametrize("case", SHARED)
def test_processes_share_training_and_evaluation(
    case: str, shared_runs: Path, miniatures: dict[str, Path], tmp_path: Path
) -> None:
    together, alone = shared_runs / case, tmp_path / "alone"
    assert found_in(together)["num_processes"] == 2
    run(
        *shared_flags(case, miniatures),
        *("--eval_only", "true", "--model_name_or_path", together / "model", "--output_dir", alone),
    )
    shared, expected = results_of(together), results_of(alone)
    assert shared.keys() == expected.keys()
    # Embeddings of other batches differ in their last bits, which can swap neighbours, but not lose an image.
    assert shared == pytest.approx(expected, abs=1e-6)
    assert (found_in(together)["num_queries"], found_in(together)["num_gallery"]) == (
        found_in(alone)["num_queries"],
        found_in(alone)["num_gallery"],
    )


def test_model_trained_on_landmarks_is_evaluated_on_oxford(
    miniatures: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, evaluated = tmp_path / "trained", tmp_path / "evaluated"
    recipe = RECIPES / "gldv2_resnet18.yaml"
    run("--config", recipe, "--data_dir", miniatures["gldv2"], *SMALL, *TINY, "--output_dir", trained)
    reset_accelerate()
    capsys.readouterr()
    run(
        *("--dataset", "roxford5k", "--data_dir", miniatures["roxford5k"], "--eval_only", "true"),
        *("--model_name_or_path", trained / "model", "--output_dir", evaluated),
    )
    printed = capsys.readouterr().out
    assert "medium mAP (%)  gallery capacity" in printed
    header = next(line for line in printed.splitlines() if line.startswith("(%)"))
    assert header.split()[:5] == ["(%)", "capacity", "medium", "mAP", "hard"]
    assert sum(line.startswith("cross-test") for line in printed.splitlines()) == 8
    metrics = dict.fromkeys(metric for _, _, metric in results_of(evaluated))
    assert list(metrics)[:4] == HEADLINES["roxford5k"]
    assert len(metrics) == 12


def test_evaluation_set_can_not_be_trained_on(miniatures: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--dataset roxford5k .*--eval_only"):
        run("--dataset", "roxford5k", "--data_dir", miniatures["roxford5k"], "--output_dir", tmp_path)


@pytest.mark.parametrize("flag", ["class_share", "num_classes"])
def test_fewer_landmarks_can_be_trained_on(flag: str, miniatures: dict[str, Path], tmp_path: Path) -> None:
    value = {"class_share": "0.5", "num_classes": "4"}[flag]
    flags = ["--dataset", "gldv2", "--data_dir", miniatures["gldv2"], *SMALL, *TINY]
    run(*flags, f"--{flag}", value, "--output_dir", tmp_path, "--capacities", "0.5", "--eval_capacities", "0.3")
    assert found_in(tmp_path)["num_train_classes"] == 4


@pytest.mark.parametrize("file", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_knows_its_settings(file: Path) -> None:
    settings = load_config_from_file(str(file))  # refuses keys it doesn't know
    assert settings.distributed_type == DistributedType.MULTI_GPU
    assert settings.num_machines == 2
    assert settings.num_processes % settings.num_machines == 0
    assert settings.machine_rank < settings.num_machines
    assert settings.main_process_ip
    assert settings.mixed_precision == "bf16"
