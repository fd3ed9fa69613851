r"""Train, prune by the PQ Index, and train again: sparsity-informed adaptive pruning (SAP).

    accelerate launch -m prunnet_hf.compression.sap --config recipes/grocery.yaml --learning_rate 0.1 \
        --data_dir DIR --output_dir out/sap --rounds 8 --schedule sap --scope global --after rewind

    # for comparison: a fixed share of what is left in each round, or everything at once
    python -m prunnet_hf.compression.sap ... --schedule lottery_ticket --prune_share 0.2
    python -m prunnet_hf.compression.sap ... --schedule one_shot --kept_shares 0.5 0.2 0.1

It takes the arguments of `train_accelerate.py` except `method` and `capacities`: each round trains a single network by
the same recipe and from the same seed. Pruning removes the smallest magnitudes among the weights of the backbone's
Conv2d and Linear layers; pruned weights stay exactly zero. Each round saves its network as a subnetwork, which
`from_pretrained` loads. What a round prunes depends only on the weights that an earlier round saved, so a run can be
stopped at any moment and resumed.

    out/sap/initial/             the network before the first training
    out/sap/rounds/00/model/     the network trained with all weights; 01, 02, ...: pruned and trained again
    out/sap/rounds/00/round.json what was measured; written last, so it marks a finished round
    out/sap/trajectory.json      all rounds so far; trajectory.png

Source: arXiv 2302.05601.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from torch import Tensor
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from ..commands import model_directory, run_command
from ..configuration_prunnet import PrunNetConfig
from ..data.identity import identify
from ..data.splits import LABEL, RetrievalSplits
from ..data.streams import ImageDataset
from ..modeling_prunnet import PrunNetForImageClassification
from ..runs.arguments import RunArguments
from ..runs.description import describe_run
from ..runs.evaluation import self_test
from ..runs.manifest import write_manifest
from ..runs.ownership import discard_run
from ..runs.run_data import load_run_data, set_apart
from ..runs.run_directory import write_json
from ..training.checkpoints import check_output_dir_is_shared, claim_together
from ..training.engine import create_accelerator
from ..training.kept_weights import prunable_weights
from ..training.networks import create_model, create_processor
from ..training.processes import NOTHING_LOST, Interruption
from ..training.trainer import Trainer
from .plots import plot_trajectories
from .round_files import (
    arguments_of_round,
    as_plain,
    check_can_begin,
    check_images_are_the_same,
    finish_round,
    finished_rounds,
    initial_directory,
    load_weights,
    load_whole,
    packable_tensors,
    record,
    round_directory,
    save_round,
    take_over,
    tidy_round,
)
from .sap_arguments import SapArguments, check_prunes_weights, parse_sap_arguments
from .schedules import check_no_layer_is_zero, masks_of_round
from .scopes import Masks
from .trajectory import Round, Trajectory, measure_round

NAME = "prunnet_hf.compression.sap"


def main() -> int:
    """Run the loop as the command line says and return 0; or print in one line why it failed and return 1."""
    return run_command(NAME, run_loop)


def run_loop() -> None:
    """Run the loop with the arguments of the command line, and print its rounds."""
    disable_progress_bar()  # of transformers, for every model saved and loaded
    arguments = parse_sap_arguments(name=NAME)
    with Interruption(NOTHING_LOST) as interruption:
        loop = PruningLoop(*arguments)
        interruption.advice = "what is done is saved; continue with the same command and --resume."
        trajectory = loop.run()
    if loop.accelerator.is_main_process:
        print(f"\n{trajectory.as_markdown()}\n\n{loop.directory}: trajectory.json, trajectory.png, rounds")
    loop.accelerator.end_training()


class PruningLoop:
    """Trainings on the same images, with a pruning before each except the first.

    All processes create the loop and run it.

    Args:
        arguments: Arguments of each training; see `parse_sap_arguments`.
        sap: How to prune.

    Raises:
        ValueError, OSError: If an argument, the data or the output directory can't be used; the message says why and
            what to do.
    """

    def __init__(self, arguments: RunArguments, sap: SapArguments) -> None:
        self.arguments, self.sap = arguments, sap
        self.directory = Path(arguments.train.output_dir)
        self.accelerator = create_accelerator(arguments)
        with claim_together(self.accelerator, self.directory):
            self._prepare(arguments, sap)

    def _prepare(self, arguments: RunArguments, sap: SapArguments) -> None:
        # Checked first and in all processes: if one fails alone, the others wait for it forever.
        check_output_dir_is_shared(self.accelerator, self.directory)
        check_can_begin(self.directory, arguments, sap)
        source = arguments.model.model_name_or_path
        if source is not None:
            check_prunes_weights(PrunNetConfig.from_pretrained(model_directory(source)).granularity)
        self.accelerator.wait_for_everyone()
        is_main_process = self.accelerator.is_main_process
        self.splits: RetrievalSplits = load_run_data(arguments, is_main_process=is_main_process)
        self.images: tuple[ImageDataset, RetrievalSplits] = set_apart(
            self.splits, arguments, is_main_process=is_main_process
        )
        self.identity = identify(self.images[0])
        if arguments.train.resume:
            check_images_are_the_same(self.directory, self.identity)
        if arguments.train.overwrite_output_dir and is_main_process:
            discard_run(self.directory)
        self.accelerator.wait_for_everyone()
        self._save_initial()

    def run(self) -> Trajectory:
        """Do all rounds that aren't done yet. Stops early if the schedule prunes nothing more."""
        with claim_together(self.accelerator, self.directory):
            return self._run()

    def _run(self) -> Trajectory:
        rounds = finished_rounds(self.directory)
        if self.accelerator.is_main_process:
            for entry in rounds:
                tidy_round(self.directory, entry.number)
        trajectory = self._conclude(rounds)
        while len(rounds) <= self.sap.num_prunings and not self._is_exhausted(rounds):
            self._do_round(len(rounds))
            self.accelerator.wait_for_everyone()
            rounds = finished_rounds(self.directory)
            trajectory = self._conclude(rounds)
        return trajectory

    def _is_exhausted(self, rounds: list[Round]) -> bool:
        if not rounds or rounds[-1].prunes_next > 0 or self.sap.schedule == "one_shot":
            return False
        self._tell(f"The schedule prunes nothing more after round {rounds[-1].number}: the loop ends here.")
        return True

    def _save_initial(self) -> None:
        """Record the arguments, and save the initial network unless a resumed run has it already."""
        directory = initial_directory(self.directory)
        is_there = (directory / "config.json").is_file()  # the file that is written last
        self.accelerator.wait_for_everyone()
        model = None if is_there else self._create_model()
        if self.accelerator.is_main_process:
            record(self.directory, self.arguments, self.sap, self.identity)
            if model is not None:
                model.save_pretrained(directory)
                write_manifest(directory)
        self.accelerator.wait_for_everyone()

    def _create_model(self) -> PrunNetForImageClassification:
        set_seed(self.arguments.train.seed)
        model = create_model(self.arguments, self.images[0].features[LABEL].names)
        model.image_processor = create_processor(self.arguments.data)
        model.keep_statistics([])  # only those of the dense network stay
        return model

    def _do_round(self, number: int) -> None:
        # Each round has its own accelerator, with a new model, optimizer, loss scale and trackers.
        arguments = arguments_of_round(self.arguments, number)
        accelerator = create_accelerator(arguments)
        set_seed(arguments.train.seed)
        model, kept = self._start(number)
        trainer = Trainer(
            arguments, accelerator, self.splits, images=self.images, model=model, kept=kept, title=f"round {number}"
        )
        trained = trainer.run()
        plain = as_plain(trained.model)
        if number == 0:
            check_no_layer_is_zero(packable_tensors(plain))
        if accelerator.is_main_process:
            save_round(round_directory(self.directory, number), plain, trainer.processor)
        networks = {number: plain.prunnet.to(accelerator.device)}
        metrics = self_test(accelerator, networks, trainer.processor, self.splits, arguments)[number]
        accelerator.log({f"test/{name}/self": value for name, value in metrics.items()}, step=trained.step)
        # In all processes, because it may fail: if one fails alone, the others wait for it forever.
        entry = self._measure(number, plain, metrics, trained.seconds)
        if accelerator.is_main_process:
            finish_round(self.directory, entry)
            headline = next(iter(metrics))
            self._tell(
                f"round {number}: capacity {entry.capacity:.4f}, PQ Index {entry.index:.3f}, "
                f"{headline} {metrics[headline]:.1%}, {entry.training_seconds:.0f} s; "
                f"prunes {entry.prunes_next:,} next"
            )
        _release(accelerator)

    def _start(self, number: int) -> tuple[PrunNetForImageClassification, Masks]:
        """The network that a round trains, and the masks of the weights that it keeps."""
        model = load_whole(initial_directory(self.directory))
        weights = prunable_weights(model)
        if number == 0:
            return model, {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        trained = load_weights(self.directory, self.sap.pruned_round(number))
        masks = masks_of_round({name: trained[name] for name in weights}, self.sap, number)
        if self.sap.after == "continue":
            take_over(model, trained)
        # All use the first process's masks: another kind of device could rank close magnitudes differently.
        device = self.accelerator.device
        return model, broadcast({name: mask.to(device) for name, mask in masks.items()})

    def _measure(
        self, number: int, plain: PrunNetForImageClassification, metrics: dict[str, float], seconds: float
    ) -> Round:
        weights = packable_tensors(plain)
        return measure_round(
            number,
            weights,
            self.sap.p,
            self.sap.q,
            prunes_next=self._prunes_next(number, weights),
            metrics=metrics,
            training_seconds=seconds,
        )

    def _prunes_next(self, number: int, weights: dict[str, Tensor]) -> int:
        if self.sap.schedule == "one_shot":
            if number == self.sap.num_prunings:
                return 0
            first = load_weights(self.directory, 0)
            weights = {name: first[name] for name in weights}
        masks = masks_of_round(weights, self.sap, number + 1)
        return sum(int(weight.count_nonzero()) - int(masks[name].sum()) for name, weight in weights.items())

    def _conclude(self, rounds: list[Round]) -> Trajectory:
        """Write the trajectory of the finished rounds, if there are any."""
        run = describe_run(self.accelerator, self.arguments, self.splits)
        trajectory = Trajectory({**asdict(run), "pruning": asdict(self.sap)}, rounds)
        if rounds and self.accelerator.is_main_process:
            write_json(self.directory / "trajectory.json", trajectory.as_dict())
            title = f"{run.dataset}, {trajectory.name}"
            plot_trajectories([trajectory], self.directory / "trajectory.png", title=title)
        return trajectory

    def _tell(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(line, file=sys.stdout)


def _release(accelerator: Accelerator) -> None:
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.free_memory()


if __name__ == "__main__":
    sys.exit(main())
