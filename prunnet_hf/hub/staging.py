"""Laying out a finished run on the local disk as it will be on the Hub. Nothing here needs a network.

The card and the dense model, in capacity bands, go to the branch `main` of `org/name`. Ready subnetworks go to
branches `capacity-0.20` (layout `branches`), to folders `capacity-0.20/` of `main` (`subfolders`), or to repositories
`org/name-capacity-0.20` (`repos`).
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
from ..export.device_folder import ExportedFile, check_precisions, find_calibration_images
from ..export.distances import Precision
from ..export.onnx import require_onnx
from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import check_capacities, format_capacity
from ..runs.record import EVALUATE_AGAIN, RECORD, RunRecord
from ..runs.run_directory import EXAMPLES, without_local_paths, write_json, write_text
from .card import Layout, build_card, build_subnetwork_card
from .code import add_code, refer_to_code
from .figures import read_run
from .indices import record_indices
from .metadata import EVAL_RESULTS_FILE, eval_results_yaml
from .names import MAIN, PICTURES, PROCESSOR, README, subnetwork_name
from .onnx_files import add_onnx, load_test, measured

LAYOUTS: tuple[str, ...] = get_args(Layout)


@dataclass(frozen=True)
class Publication:
    """What to publish of a run, and where.

    Attributes:
        repo_id: `org/name` of the repository for the dense model and the card.
        capacities: Capacities of the ready subnetworks, among those that the run evaluated; None for the trained ones.
        layout: Where ready subnetworks go: `branches`, `subfolders` or `repos`.
        with_code: Whether to publish the code that `trust_remote_code` runs, too.
        license: License of the weights, as the Hub abbreviates it (`apache-2.0`); None leaves it open.
        with_examples: Whether to publish the picture `examples.png` of test images, which may show people, or may not
            be published under the licence of the data set.
        eval_task: Task in the `eval.yaml` of the Hub data set that the run was evaluated on, to list the dense network
            on its leaderboard; None for no leaderboard.
        onnx: Precisions at which each network is also published as ONNX: `fp32`, `fp16`, `int8`. The first is what
            transformers.js loads.
        data_dir: A folder of images, best of training, with which ONNX files are compared with torch; int8 needs it.
        with_onnx_test: Whether the queries of each ONNX file search the gallery of the run's test, and the card says
            what they find. The test images must be where they were when the run was evaluated.

    Raises:
        ImportError: If ONNX is asked for and the extra `onnx` isn't installed.
        ValueError: If `layout` is not one of these, or `onnx` or `data_dir` can't be.
    """

    repo_id: str
    capacities: Sequence[float] | None = None
    layout: Layout = "branches"
    with_code: bool = False
    license: str | None = None
    with_examples: bool = False
    eval_task: str | None = None
    onnx: Sequence[Precision] = ()
    data_dir: Path | None = None
    with_onnx_test: bool = False

    def __post_init__(self) -> None:
        """Check the layout, and what is asked for as ONNX."""
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}.")
        if self.onnx:
            check_precisions(self.onnx, has_images=self.data_dir is not None)
            require_onnx()
        elif self.data_dir is not None:
            raise ValueError(f"data_dir={str(self.data_dir)!r} is for ONNX files: give onnx, too, or leave it out.")
        elif self.with_onnx_test:
            raise ValueError("with_onnx_test=True is for ONNX files: give onnx, too, or leave it out.")


@dataclass(frozen=True)
class StagedFolder:
    """What one branch of one repository will hold.

    Attributes:
        path: The local folder.
        repo_id: `org/name` of the repository.
        branch: `main`, or the branch of a ready subnetwork.
        repo_type: `"model"` or `"space"`.
    """

    path: Path
    repo_id: str
    branch: str = MAIN
    repo_type: str = "model"

    def files(self) -> dict[str, Path]:
        """The local files by their path in the repository, sorted."""
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path for path in files}


@dataclass(frozen=True)
class StagedRun:
    """A run ready to be published.

    Attributes:
        directory: The folder that holds all of it.
        subnetworks: Branches or repositories of the ready subnetworks; empty if they are folders of `main`.
        main: The dense model with the card.
    """

    directory: Path
    subnetworks: tuple[StagedFolder, ...]
    main: StagedFolder

    @property
    def folders(self) -> tuple[StagedFolder, ...]:
        """All folders in the order of upload: the card comes last, when what it describes is there."""
        return (*self.subnetworks, self.main)

    def describe(self) -> str:
        """One line for every file: its size in bytes and its path."""
        lines = []
        for folder in self.folders:
            lines.append(f"{folder.repo_id}, branch {folder.branch}:")
            lines += [f"  {file.stat().st_size:>13,}  {name}" for name, file in folder.files().items()]
        size = sum(file.stat().st_size for folder in self.folders for file in folder.files().values())
        return "\n".join([*lines, f"together {size:,} bytes"])


def stage_run(run: Path, publication: Publication, directory: Path) -> StagedRun:
    """Lay out a run for publishing: the dense model in capacity bands, ready subnetworks, processor, card, metrics.

    Args:
        run: A finished run directory of train_accelerate.py.
        publication: What to publish of it, and where.
        directory: An empty folder to write to.

    Raises:
        FileNotFoundError: If `run` is not a finished run directory, or lacks the examples that are to be published.
        ValueError: If a capacity was never evaluated, the model can't be pruned, or the run's files are damaged.
        OSError: If the disk has too little room.
    """
    check_run(run)
    staging = _Staging(run, publication, directory)
    try:
        return staging.stage()
    except (OSError, SafetensorError) as error:  # what Python and safetensors raise on full disks
        raise OSError(
            f"The files to publish could not be written to {directory} ({error}). Nothing was uploaded. They need "
            "about twice the space of the run's model/: free some, or set TMPDIR to a folder on a larger disk."
        ) from error


def check_run(run: Path) -> None:
    """Check that `run` is a finished run directory.

    Raises:
        FileNotFoundError: If something is missing.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"The run directory {run} doesn't exist. Name the --output_dir of a finished run.")
    for needed in ("model/config.json", f"model/{PROCESSOR}", "config.yaml", RECORD):
        if not (run / needed).is_file():
            raise FileNotFoundError(
                f"{run} is not a finished run directory: {needed} is missing. Finish its training (with --resume), or "
                f"{EVALUATE_AGAIN}."
            )


class _Staging:
    """Lays out the folders of one run."""

    def __init__(self, run: Path, publication: Publication, directory: Path) -> None:
        self._run = run
        self._publication = publication
        self._directory = directory
        self._record = read_run(run)
        self._model: PrunNetModel = PrunNetModel.from_pretrained(run / "model")
        self._capacities = _choose_capacities(self._model, self._record, publication.capacities)
        images = publication.data_dir
        self._images = [] if images is None else find_calibration_images(images)
        self._onnx: dict[tuple[float, str], ExportedFile] = {}
        self._test = load_test(run) if publication.with_onnx_test else None
        # The card's snippet is run in `directory`, where the name of a repository is the path of its folder.
        self._main = StagedFolder(directory / publication.repo_id, publication.repo_id)
        if publication.with_examples and not (run / EXAMPLES).is_file():
            raise FileNotFoundError(
                f"with_examples=True needs {EXAMPLES}, which {run} lacks: it was tested on streams, or by an earlier "
                f"version. Leave with_examples out, or {EVALUATE_AGAIN}."
            )

    def stage(self) -> StagedRun:
        public_run = self._public_run()
        self._save(self._model, self._main.path)
        folders = {capacity: self._subnetwork_folder(capacity) for capacity in self._capacities}
        for capacity, folder in folders.items():
            self._save(self._model.prune(capacity), folder.path)
        for file in public_run.iterdir():
            if file.name in (RECORD, *PICTURES):
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
        """What cards are made from, without names of folders of this machine."""
        public = self._directory / ".run"
        write_json(public / RECORD, without_local_paths(asdict(RunRecord.read(self._run / RECORD))))
        write_text(public / "config.yaml", yaml.safe_dump(self._record.recipe, sort_keys=False))
        for picture in PICTURES:
            if (self._run / picture).is_file() and (picture != EXAMPLES or self._publication.with_examples):
                shutil.copyfile(self._run / picture, public / picture)
        record_indices(public, self._model, [row.capacity for row in self._record.capacities])
        return public

    def _save(self, model: PrunNetModel, folder: Path) -> None:
        """Save a model (in bands if it is prunable) without the names of its training classes, and its processor."""
        model.config.id2label = None
        model.config.num_labels = 2  # transformers' default, which its files leave out
        model.config.backbone_kwargs = without_local_paths(model.config.backbone_kwargs)
        model.save_pretrained(folder, bands=band_edges(model.config))
        PrunNetImageProcessor.from_pretrained(self._run / "model").save_pretrained(folder)
        if self._publication.onnx:
            self._onnx |= add_onnx(model, folder, self._publication.onnx, self._images)
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
        onnx = measured(self._onnx, len(self._images), self._model, self._test) if self._onnx else None
        card = build_card(
            public_run,
            model_id=publication.repo_id,
            layout=publication.layout,
            root=self._directory,
            subnetworks={capacity: folder.path for capacity, folder in folders.items()},
            license=publication.license,
            with_code=publication.with_code,
            onnx=onnx,
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
                onnx=onnx and onnx.of(capacity),
            )
            write_text(folder.path / README, card)


def band_edges(config: PrunNetConfig) -> list[float] | None:
    """Where bands of a published model end: at the capacities that the run trained, so that each fetches no more.

    None if it isn't saved in bands.
    """
    return list(config.capacities) if config.prunable else None


def _choose_capacities(model: PrunNetModel, record: RunRecord, capacities: Sequence[float] | None) -> list[float]:
    if not model.config.prunable:
        if capacities:
            raise ValueError(
                f"capacities must be left out, as the run's model is itself a subnetwork of capacity "
                f"{format_capacity(model.config.capacity)} and can't be pruned; got {list(capacities)}."
            )
        return []
    evaluated = [row.capacity for row in record.capacities]
    chosen = check_capacities(model.config.capacities if capacities is None else capacities)
    unknown = [capacity for capacity in chosen if capacity not in evaluated]
    if unknown:
        raise ValueError(
            f"capacities must be among those that the run evaluated, {', '.join(map(format_capacity, evaluated))}; "
            f"got also {', '.join(map(format_capacity, unknown))}. The card must say how good they are: add them to "
            f"--eval_capacities and {EVALUATE_AGAIN}."
        )
    return chosen
