"""A finished run directory, laid out on the local disk as it shall stand on the Hub. Nothing here needs a network.

`branches`: the dense progressive model with the card on `main`, each ready subnetwork on a branch `capacity-0.20`.
`subfolders`: the subnetworks in folders `capacity-0.20/` of `main`. `repos`: in repositories `org/name-capacity-0.20`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import yaml
from safetensors import SafetensorError

from ..configuration_prunnet import PrunNetConfig
from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import check_capacities, format_capacity
from ..runs.record import RunRecord
from ..runs.run_directory import without_local_paths, write_json, write_text
from .card import Layout, build_card, build_subnetwork_card
from .code import add_code, refer_to_code
from .figures import read_run
from .indices import record_indices
from .metadata import EVAL_RESULTS_FILE, eval_results_yaml
from .names import MAIN, METRICS, PICTURES, PROCESSOR, README, subnetwork_name
from .usage import Runner, run_code

LAYOUTS: tuple[str, ...] = get_args(Layout)
BAND_EDGES = (0.2, 0.4, 0.6, 0.8)
"""Between them a download grows. Saying which weights are in which of these five bands takes 2.8 bits a weight."""


@dataclass(frozen=True)
class Publication:
    """What to publish of a run, and as what.

    Attributes:
        repo_id: `org/name` of the repository for the dense model and the card.
        capacities: Of the ready subnetworks, among those that the run evaluated; None means those trained.
        layout: Where ready subnetworks go: `branches`, `subfolders` or `repos`.
        with_code: Whether the code that `trust_remote_code` runs goes along.
        license: Of the weights, as the Hub abbreviates it (`apache-2.0`); None leaves it open.
        eval_task: Task, in the `eval.yaml` of the Hub data set that the run was evaluated on, whose leaderboard shall
            list the dense network; None for none.

    Raises:
        ValueError: If `layout` is none of these.
    """

    repo_id: str
    capacities: Sequence[float] | None = None
    layout: Layout = "branches"
    with_code: bool = False
    license: str | None = None
    eval_task: str | None = None

    def __post_init__(self) -> None:
        """Check the layout."""
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}.")


@dataclass(frozen=True)
class StagedFolder:
    """What one branch of one repository shall hold.

    Attributes:
        path: The local folder.
        repo_id: `org/name` of the model repository.
        branch: `main`, or that of a ready subnetwork.
    """

    path: Path
    repo_id: str
    branch: str = MAIN

    def files(self) -> dict[str, Path]:
        """Local files by their path in the repository, in order."""
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path for path in files}


@dataclass(frozen=True)
class StagedRun:
    """A run ready to be published.

    Attributes:
        directory: Where all of it lies.
        subnetworks: Branches and repositories of the ready subnetworks; none where they are folders of `main`.
        main: The dense model with the card.
    """

    directory: Path
    subnetworks: tuple[StagedFolder, ...]
    main: StagedFolder

    @property
    def folders(self) -> tuple[StagedFolder, ...]:
        """All of it in the order to upload: the card comes when what it speaks of is there."""
        return (*self.subnetworks, self.main)

    def describe(self) -> str:
        """A line for every file: its size in bytes and its place."""
        lines = []
        for folder in self.folders:
            lines.append(f"{folder.repo_id}, branch {folder.branch}:")
            lines += [f"  {file.stat().st_size:>13,}  {name}" for name, file in folder.files().items()]
        size = sum(file.stat().st_size for folder in self.folders for file in folder.files().values())
        return "\n".join([*lines, f"together {size:,} bytes"])


def stage_run(run: Path, publication: Publication, directory: Path, *, runner: Runner = run_code) -> StagedRun:
    """Lay out a run for publishing: the dense model in capacity bands, ready subnetworks, processor, card, metrics.

    Args:
        run: A finished run directory of train_accelerate.py.
        publication: What of it, and as what.
        directory: Where to; an empty folder.
        runner: How to run the snippets of the cards; by default in a process of their own.

    Raises:
        FileNotFoundError: If `run` is no finished run directory.
        ValueError: If a capacity was never evaluated, there is no subnetwork to cut, or the run's files are damaged.
        OSError: If there isn't room enough.
    """
    check_run(run)
    staging = _Staging(run, publication, directory, runner)
    try:
        return staging.stage()
    except (OSError, SafetensorError) as error:  # what Python and safetensors raise on full disks
        raise OSError(
            f"The files to publish could not be written to {directory} ({error}). Nothing was uploaded. They take "
            "about twice the room of the run's model/: make room, or set TMPDIR to a folder where there is."
        ) from error


def check_run(run: Path) -> None:
    """Refuse what is no finished run directory.

    Raises:
        FileNotFoundError: If something is missing.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"The run directory {run} doesn't exist. Name the --output_dir of a finished run.")
    for needed in ("model/config.json", f"model/{PROCESSOR}", "config.yaml", METRICS):
        if not (run / needed).is_file():
            raise FileNotFoundError(
                f"{run} is no finished run directory: {needed} is missing. Let its training end (--resume goes on), "
                "or evaluate it again with train_accelerate.py --eval_only true."
            )


class _Staging:
    """The folders of one run, laid out one after the other."""

    def __init__(self, run: Path, publication: Publication, directory: Path, runner: Runner) -> None:
        self._run = run
        self._publication = publication
        self._directory = directory
        self._runner = runner
        self._record = read_run(run)
        self._model: PrunNetModel = PrunNetModel.from_pretrained(run / "model")
        self._capacities = _choose_capacities(self._model, self._record, publication.capacities)
        # The card's snippet is run in `directory`, where the name of a repository is the path of its folder.
        self._main = StagedFolder(directory / publication.repo_id, publication.repo_id)

    def stage(self) -> StagedRun:
        public_run = self._public_run()
        self._save(self._model, self._main.path)
        folders = {capacity: self._subnetwork_folder(capacity) for capacity in self._capacities}
        for capacity, folder in folders.items():
            self._save(self._model.prune(capacity), folder.path)
        for file in public_run.iterdir():
            if file.name in (METRICS, *PICTURES):
                shutil.copyfile(file, self._main.path / file.name)
        self._write_cards(public_run, folders)
        if self._publication.eval_task is not None:
            entry = eval_results_yaml(
                read_run(public_run), self._publication.eval_task, repo_id=self._publication.repo_id
            )
            write_text(self._main.path / EVAL_RESULTS_FILE, entry)
        inside_main = self._publication.layout == "subfolders"
        subnetworks = () if inside_main else tuple(folders.values())
        if self._publication.with_code:
            for folder in (*subnetworks, self._main):
                add_code(folder.path)
        return StagedRun(self._directory, subnetworks, self._main)

    def _public_run(self) -> Path:
        """What cards are made from, without the folders of this machine."""
        public = self._directory / ".run"
        write_json(public / METRICS, without_local_paths(asdict(RunRecord.read(self._run / METRICS))))
        write_text(public / "config.yaml", yaml.safe_dump(self._record.recipe, sort_keys=False))
        for picture in PICTURES:
            if (self._run / picture).is_file():
                shutil.copyfile(self._run / picture, public / picture)
        record_indices(public, self._model, [row.capacity for row in self._record.capacities])
        return public

    def _save(self, model: PrunNetModel, folder: Path) -> None:
        """A model without the names of its training classes, in bands if it is prunable, with its image processor."""
        model.config.id2label = None
        model.config.num_labels = 2  # transformers' default, which its files leave out
        model.config.backbone_kwargs = without_local_paths(model.config.backbone_kwargs)
        model.save_pretrained(folder, bands=band_edges(model.config) if model.config.prunable else None)
        PrunNetImageProcessor.from_pretrained(self._run / "model").save_pretrained(folder)
        refer_to_code(folder, present=self._publication.with_code)

    def _subnetwork_folder(self, capacity: float) -> StagedFolder:
        name, repo_id = subnetwork_name(capacity), self._publication.repo_id
        if self._publication.layout == "subfolders":
            return StagedFolder(self._main.path / name, repo_id)
        if self._publication.layout == "repos":
            return StagedFolder(self._directory / f"{repo_id}-{name}", f"{repo_id}-{name}")
        return StagedFolder(self._directory / f"{repo_id}@{name}", repo_id, name)

    def _write_cards(self, public_run: Path, folders: dict[float, StagedFolder]) -> None:
        publication = self._publication
        card = build_card(
            public_run,
            model_id=publication.repo_id,
            layout=publication.layout,
            root=self._directory,
            subnetworks={capacity: folder.path for capacity, folder in folders.items()},
            license=publication.license,
            with_code=publication.with_code,
            runner=self._runner,
        )
        write_text(self._main.path / README, card)
        if publication.layout != "repos":
            return
        for capacity, folder in folders.items():
            card = build_subnetwork_card(
                public_run,
                capacity,
                model_id=folder.repo_id,
                dense_id=publication.repo_id,
                root=self._directory,
                license=publication.license,
                with_code=publication.with_code,
                runner=self._runner,
            )
            write_text(folder.path / README, card)


def band_edges(config: PrunNetConfig) -> list[float]:
    """Where bands of a published model end: at `BAND_EDGES`, or, lacking statistics there, the trained capacities."""
    usual = set(BAND_EDGES) <= set(config.stored_subnetworks)
    return list(BAND_EDGES if usual else config.capacities)


def _choose_capacities(model: PrunNetModel, record: RunRecord, capacities: Sequence[float] | None) -> list[float]:
    if not model.config.prunable:
        if capacities:
            raise ValueError(
                f"capacities must be left out, as the run's model is itself a subnetwork of capacity "
                f"{format_capacity(model.config.capacity)}, from which no other can be cut; got {list(capacities)}."
            )
        return []
    evaluated = [row.capacity for row in record.capacities]
    chosen = check_capacities(model.config.capacities if capacities is None else capacities)
    unknown = [capacity for capacity in chosen if capacity not in evaluated]
    if unknown:
        raise ValueError(
            f"capacities must be among those that the run evaluated, {', '.join(map(format_capacity, evaluated))}; "
            f"got {', '.join(map(format_capacity, unknown))} besides. Evaluate the run again with train_accelerate.py "
            "--eval_only true --eval_capacities, so that the card can say how good they are."
        )
    return chosen
