"""Prune a network that was trained alone, by the magnitudes of its weights, and evaluate what is left.

    python -m benchmarks.compare.post_hoc RUN --data_dir DIR --output_dir DIR --method joint --capacities 0.1 0.2

RUN is the directory of a run of `--method independent --capacities 1.0`. Nothing is trained; the running statistics of
each capacity are measured on training images. Further flags are those of a training, whose `--method` must be one with
subnetworks, as that says which capacities are evaluated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate.utils import set_seed

from prunnet_hf.commands import run_command
from prunnet_hf.configuration_prunnet import STATISTICS_GRID, PrunNetConfig
from prunnet_hf.image_processing_prunnet import PrunNetImageProcessor
from prunnet_hf.modeling_prunnet import PrunNetForImageClassification
from prunnet_hf.pruning.layers import init_scores
from prunnet_hf.pruning.masking import check_capacities
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.evaluation import evaluate_run, measure_running_statistics
from prunnet_hf.runs.record import TrainingFacts
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.engine import create_accelerator


def main() -> None:
    """Make the network prunable, calibrate it, and write a run directory."""
    if len(sys.argv) < 2:
        raise ValueError("RUN must come first: the directory of a run of --method independent --capacities 1.0.")
    run, words = Path(sys.argv[1]), sys.argv[2:]
    arguments = parse_arguments(["--config", str(run / "config.yaml"), *words])
    accelerator = create_accelerator(arguments)
    set_seed(arguments.train.seed)
    splits = load_run_data(arguments)
    if splits.train is None:
        raise ValueError("--data_dir must have training images, on which running statistics are measured.")
    trained = PrunNetForImageClassification.from_pretrained(run / "model")
    model = prunable_by_magnitude(trained, arguments.train.capacities)
    processor = PrunNetImageProcessor.from_pretrained(run / "model")
    measure_running_statistics(accelerator, model, processor, splits.train, arguments)
    evaluate_run(accelerator, model, processor, splits, arguments, TrainingFacts(seed=arguments.train.seed))


def prunable_by_magnitude(
    trained: PrunNetForImageClassification, capacities: list[float]
) -> PrunNetForImageClassification:
    """A prunable network with the weights of `trained`, whose scores are the magnitudes of these weights.

    Args:
        trained: A network of capacity 1 that has no scores.
        capacities: Those that are to have running statistics, which are still to be measured.
    """
    settings = trained.config.to_dict() | {"prunable": True, "capacities": capacities, "granularity": "weight"}
    settings["kept_units"] = None  # of capacity 1 all are there
    settings["statistics_capacities"] = check_capacities([*capacities, *STATISTICS_GRID])
    model = PrunNetForImageClassification(PrunNetConfig(**settings))
    model.load_state_dict(trained.state_dict(), strict=False)  # it has no scores
    for layer in model.prunable_layers().values():
        init_scores(layer, "magnitude")
    model.renew_embedding_space()
    return model.eval()


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.compare.post_hoc", main))
