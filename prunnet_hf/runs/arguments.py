"""The arguments of a training run: dataclasses whose fields are command-line flags and keys of YAML recipes."""

import json
import math
import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from ..backbone import has_fitting_weights
from ..classifiers import LOGIT_SCALE, MARGIN, Classifier
from ..commands import CommandParser, model_directory
from ..configuration_prunnet import TRAINED_CAPACITIES, Granularity, PrunNetConfig
from ..data.loading import in_folders, takers, without_folder
from ..data.sets.gldv2_lists import Subset
from ..pruning.layers import ScoreInit
from ..pruning.masking import check_capacities
from ..retrieval.foreign_encoders import FOREIGN_NAMES, is_foreign
from ..storage.json_text import load_json
from .methods import (
    INTO_LOSSES,
    MERGERS,
    METHODS,
    CapacitySampling,
    LearningRateSchedule,
    Method,
    OptimizerName,
    Projection,
    by_method,
    fill_defaults,
    find_method,
    into_weights,
)
from .recipes import CONFIG_HELP, read_recipe, recipe_flags
from .unused import refuse_unused

EVIDENCE_PENALTY = 1.0
"""The published factor."""
LARGEST_SEED = 2**32 - 1
"""The largest that NumPy takes."""

EMBEDDING_DIM = 256
_INTO_LOSS = ("regression",)
_KEEP_CONTENT = ("crop_flip", "crop")
"""Augmentations that leave an image what it was when the target was made of it."""
_DENSE_PHASE = ("dense_epochs", "dense_learning_rate")


@dataclass
class ModelArguments:
    """The network."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A PrunNet checkpoint to fine-tune, local or on the Hub, instead of a new network."},
    )
    backbone: str = field(
        default="resnet18", metadata={"help": "Any timm model made of Conv2d, Linear and norm layers."}
    )
    backbone_kwargs: str = field(
        default="{}", metadata={"help": "JSON object: further arguments of timm.create_model."}
    )
    pretrained_backbone: Literal["auto", "true", "false"] = field(
        default="auto",
        metadata={
            "nargs": "?",
            "const": "true",
            "help": "Start from timm's pretrained weights (downloads them). auto: if the backbone has some and "
            "backbone_kwargs changes no shape.",
        },
    )
    embedding_dim: int | None = field(
        default=None,
        metadata={
            "help": f"Length of an embedding; by default {EMBEDDING_DIM}, with --into or --teacher that of the space."
        },
    )
    stem_pool: bool = field(default=True, metadata={"help": "False leaves out the max-pool after the stem."})
    granularity: Granularity | None = by_method(
        "granularity",
        "What a capacity is a share of. weight: single weights, as in the paper; files get smaller. channel: whole "
        "units of blocks; files get smaller and the network faster. A checkpoint to fine-tune keeps its own.",
    )
    score_init: ScoreInit = field(
        default="kaiming", metadata={"help": "How scores start: at random, or as the weights' magnitudes."}
    )
    classifier: Classifier | None = by_method(
        "classifier",
        "How training classifies embeddings. softmax: by a linear layer, as in the paper. cosface, arcface: by "
        "cosines, with a margin. A checkpoint to fine-tune keeps its own.",
    )
    logit_scale: float | None = field(
        default=None,
        metadata={"help": f"For cosface and arcface: what cosines are multiplied by; {LOGIT_SCALE:g} by default."},
    )
    margin: float | None = field(
        default=None,
        metadata={
            "help": "For cosface (difference of cosines) and arcface (radians): how much harder training makes it to "
            f"be right; {MARGIN:g} by default."
        },
    )

    def __post_init__(self) -> None:
        """Accept `backbone_kwargs` as JSON text (flag) or mapping (recipe), and `pretrained_backbone` as a bool."""
        text: Any = str(self.pretrained_backbone).lower()
        self.pretrained_backbone = text
        check_choices(self)
        self.pretrained_backbone = {"true": True, "false": False}.get(text, text)
        self.backbone_kwargs = _json_text("backbone_kwargs", self.backbone_kwargs)

    @property
    def takes_pretrained_weights(self) -> bool:
        """Whether training starts from timm's weights."""
        if self.model_name_or_path is not None:
            return False
        if self.pretrained_backbone == "auto":
            return has_fitting_weights(self.backbone, json.loads(self.backbone_kwargs))
        return bool(self.pretrained_backbone)


@dataclass
class DataArguments:
    """The images."""

    dataset: str = field(
        default="glyphs",
        metadata={
            "help": f"{without_folder()} (part of the package); {in_folders()} (with data_dir); or a Hub data set "
            "with an image and a label column."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "The folder of the data set. An image_folder has train/ and test/ with a folder for each class; "
            "for the others see docs/datasets.md."
        },
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read images as streams; gldv2 straight from its tar files."}
    )
    class_share: float | None = field(
        default=None,
        metadata={"help": f"For {takers('class_share')}: share of the training classes to use; the paper uses 0.3."},
    )
    num_classes: int | None = field(
        default=None, metadata={"help": f"For {takers('num_classes')}: number of training classes to use."}
    )
    subset: Subset = field(
        default="clean",
        metadata={"help": f"For {takers('subset')}: train on the images of train_clean.csv or of train.csv."},
    )
    bounding_boxes: bool = field(
        default=False, metadata={"help": f"For {takers('bounding_boxes')}: crop images to their boxes."}
    )
    image_size: int = field(default=224, metadata={"help": "Side of the network's input images in pixels."})
    resize: int | None = field(
        default=None,
        metadata={"help": "Shorter side before the crop; by default 8/7 of image_size, as 256 is 8/7 of 224."},
    )
    augmentation: str = field(
        default="crop_flip", metadata={"help": "Training augmentation: crop_flip, crop or affine."}
    )
    num_workers: int = field(default=2, metadata={"help": "Processes that read images, for each training process."})
    skip_corrupt_images: bool = field(
        default=False, metadata={"help": "Leave out training images that can't be read, instead of stopping."}
    )
    validation_share: float = field(
        default=0.0, metadata={"help": "Share of the training classes held out to choose the best model by."}
    )

    def __post_init__(self) -> None:
        """Check choices and ranges."""
        check_choices(self)
        _check_at_least(self, 1, "image_size")
        _check_at_least(self, 0, "num_workers")
        if self.shorter_side < self.image_size:
            raise ValueError(
                f"resize must be at least image_size ({self.image_size}), or nothing is left to crop; got "
                f"{self.resize}."
            )
        if not 0.0 <= self.validation_share < 1.0:
            raise ValueError(f"validation_share must be in [0, 1); got {self.validation_share!r}.")

    @property
    def shorter_side(self) -> int:
        """The length in pixels that an image's shorter side is resized to: `resize`, or 8/7 of `image_size`."""
        return round(self.image_size * 8 / 7) if self.resize is None else self.resize


@dataclass
class TrainArguments:
    """The run."""

    output_dir: str = field(default="out/run", metadata={"help": "The run directory."})
    method: str = field(
        default="distilled",
        metadata={
            "choices": list(METHODS),
            "help": " ".join(f"{name}: {method.description}" for name, method in METHODS.items()),
        },
    )
    capacities: list[float] = field(
        default_factory=lambda: [0.05, 0.1, *TRAINED_CAPACITIES],
        metadata={"help": "Capacities to train, evaluate and save, each in (0, 1]."},
    )
    capacity_sampling: CapacitySampling = by_method(
        "capacity_sampling",
        "The capacities that each step trains with the dense network. sandwich: the smallest of `capacities`, and "
        "`capacity_draws` random ones between it and 1, drawn again at each step; the rest of `capacities` is only "
        "evaluated and saved. fixed: all of `capacities`, as in the paper.",
    )
    capacity_draws: int = field(
        default=2,
        metadata={
            "help": "For sandwich: number of random capacities, one from each of as many equal parts of the range."
        },
    )
    shrink_share: float = field(
        default=0.5,
        metadata={"help": "For sandwich: share of training during which the smallest capacity comes down from 0.6."},
    )
    eval_capacities: list[float] = field(
        default_factory=lambda: [0.3], metadata={"help": "More capacities to evaluate, which are not trained."}
    )
    epochs: int = field(default=30, metadata={"help": "Passes over the training images."})
    batch_size: int = field(default=64, metadata={"help": "Training images in a batch, for each process."})
    eval_batch_size: int = field(default=64, metadata={"help": "Images in a batch when evaluating, for each process."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches that make one step."})
    optimizer: OptimizerName = field(default="sgd", metadata={"help": "sgd (with momentum) or adamw."})
    learning_rate: float = by_method("learning_rate", "Highest learning rate.")
    momentum: float = field(default=0.9, metadata={"help": "Momentum of sgd."})
    weight_decay: float = by_method("weight_decay", "Weight decay.")
    score_learning_rate: float = by_method("score_learning_rate", "Highest learning rate of scores.")
    score_weight_decay: float = by_method("score_weight_decay", "Weight decay of scores.")
    lr_schedule: LearningRateSchedule = field(default="cosine", metadata={"help": "How the learning rate falls."})
    warmup_epochs: float = field(default=0.0, metadata={"help": "Epochs over which the learning rate rises from 0."})
    milestones: list[int] = field(
        default_factory=lambda: [5, 10, 20],
        metadata={"help": "For multistep: epochs after which the rate is multiplied by 0.1."},
    )
    mixed_precision: Literal["no", "bf16", "fp16"] | None = field(
        default=None, metadata={"help": "Precision of the passes; by default what accelerate was launched with."}
    )
    channels_last: bool = field(
        default=True,
        metadata={"help": "Store the channels of a pixel next to each other, which is faster."},
    )
    sync_batchnorm: bool = field(
        default=False,
        metadata={"help": "On GPUs: batch norms use the images of all processes, not only those of their own."},
    )
    skip_nonfinite_steps: bool = field(
        default=False,
        metadata={"help": "Leave out steps whose loss or gradient isn't finite, instead of stopping."},
    )
    max_grad_norm: float = field(default=100.0, metadata={"help": "The gradient is clipped to this norm; above 0."})
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "The finished network whose space is learned: a run directory, a model or a Hub repository; or, "
            f"but not with bct and regression, {FOREIGN_NAMES}. It stays as it is. With bct and regression it runs in "
            "every step; with other methods its embeddings of the training images, computed once, are the targets."
        },
    )
    into: str | None = field(
        default=None,
        metadata={
            "help": "Train into a space that exists: that of a gallery, or of a Parquet table of embeddings or a "
            "folder of its shards, whose vectors of the training images are the targets, unless --teacher gives them; "
            "or of a model, as for --teacher. The trained networks search galleries of that space."
        },
    )
    into_loss: list[str] = field(
        default_factory=lambda: list(_INTO_LOSS),
        metadata={
            "help": "With --into or --teacher: one or more losses, NAME or NAME:WEIGHT. "
            + "; ".join(f"{name}: {loss.description}" for name, loss in INTO_LOSSES.items())
            + "."
        },
    )
    evidence_penalty: float = field(
        default=EVIDENCE_PENALTY,
        metadata={"help": "For sfsc: factor on the penalty for misleading evidence; 0 leaves the penalty out."},
    )
    dense_epochs: int | None = by_method(
        "dense_epochs",
        "For distilled: epochs in which the dense network is trained alone, before `epochs` with its subnetworks. 0: "
        "none, and no distillation.",
    )
    dense_learning_rate: float | None = by_method(
        "dense_learning_rate", "For distilled: highest rate of these epochs."
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "For distilled: weight of the loss towards the teacher's probabilities."}
    )
    distillation_temperature: float = field(
        default=2.0, metadata={"help": "For distilled: what logits are divided by for this loss; above 0."}
    )
    merger: str | None = field(
        default=None,
        metadata={
            "help": "For prunnet: how gradients are merged. integration: projected where they conflict, as in the "
            "paper (default). sum: added up. PACKAGE.MODULE:CLASS: by your own prunnet_hf.training.mergers.Merger."
        },
    )
    projection: Projection = field(
        default="last",
        metadata={
            "help": "How conflicting gradients are projected. last: as in the released code. sequential: as in PCGrad."
        },
    )
    scale_dense_gradients: bool = by_method(
        "scale_dense_gradients",
        "Multiply the gradients of classifier, projector and norms, which only the dense pass trains, by the number "
        "of passes, as is done for all other parameters.",
    )
    alpha: float = by_method("alpha", "How much a gradient loses weight when projection changes it.")
    seed: int = field(default=0, metadata={"help": "Seed of all random numbers."})
    eval_every: int = field(default=0, metadata={"help": "Epochs between evaluations; 0: only at the end."})
    checkpoint_every: int = field(
        default=1, metadata={"help": "Epochs between checkpoints; 0: only one, after the last epoch."}
    )
    checkpoint_steps: int = field(
        default=0, metadata={"help": "Steps between checkpoints, also within an epoch; 0: none."}
    )
    keep_checkpoints: int = field(default=2, metadata={"help": "The number of newest checkpoints to keep."})
    calibration_images: int = field(
        default=2048, metadata={"help": "The number of training images to measure running statistics on."}
    )
    report_to: list[str] = field(
        default_factory=list, metadata={"help": "Trackers of accelerate to log to, such as tensorboard."}
    )
    log_every: int = field(default=10, metadata={"help": "Steps between two log entries."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace an earlier run in output_dir. What else is there stays."}
    )
    resume: bool = field(default=False, metadata={"help": "Continue from the newest checkpoint in output_dir."})
    eval_only: bool = field(
        default=False,
        metadata={"help": "Only evaluate the model in output_dir (or model_name_or_path)."},
    )

    def __post_init__(self) -> None:
        """Fill in the defaults of the method, and check what can be checked without data."""
        method = find_method(self.method)
        if self.optimizer == "adamw" and self.learning_rate is None:
            raise ValueError(
                "learning_rate must be given with --optimizer adamw, as the defaults are of sgd; got None. Our "
                "recipes have 0.00003 for ViT-S and ConvNeXt-T, 0.001 for Swin-T."
            )
        fill_defaults(self, method)
        check_choices(self)
        _check_at_least(self, 1, "epochs", "gradient_accumulation_steps", "keep_checkpoints", "eval_batch_size")
        _check_at_least(self, 1, "log_every", "capacity_draws")
        _check_at_least(self, 2, "calibration_images")
        _check_at_least(self, 0, "learning_rate", "momentum", "weight_decay", "warmup_epochs", "max_grad_norm")
        _check_at_least(self, 0, "score_learning_rate", "score_weight_decay", "distillation_weight")
        _check_at_least(self, 0, *(name for name in _DENSE_PHASE if getattr(self, name) is not None))
        _check_at_least(self, 0, "alpha", "seed", "eval_every", "checkpoint_every", "checkpoint_steps")
        _check_at_least(self, 0, "evidence_penalty")
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed must be at most {LARGEST_SEED}; got {self.seed}.")
        if not 0.0 <= self.shrink_share <= 1.0:
            raise ValueError(f"shrink_share must be in [0, 1]; got {self.shrink_share!r}.")
        if self.max_grad_norm == 0:
            raise ValueError("max_grad_norm must be above 0, as clipping to 0 would stop all learning; got 0.")
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2, as batch norms need more than one image; got {self.batch_size}."
            )
        if self.overwrite_output_dir and (self.resume or self.eval_only):
            other = "resume" if self.resume else "eval_only"
            raise ValueError(
                f"overwrite_output_dir=True starts a new run in the place of the one that --{other} is about. Leave "
                "one of the two out."
            )
        self.eval_capacities = check_capacities(self.eval_capacities, "eval_capacities")
        self.capacities = check_capacities(self.capacities)
        self._check_method(method)
        self._check_into(method)
        self._check_dense_phase(method)
        self._check_capacities(method)

    def _check_method(self, method: Method) -> None:
        if self.merger is not None and not method.has_merger:
            raise ValueError(
                f"merger is only for --method prunnet; got {self.merger!r} with --method {self.method}, which has its "
                "own way of merging gradients. Leave --merger out."
            )
        if method.needs_teacher and self.teacher is None and not self.eval_only:
            raise ValueError(
                f"teacher must name a finished run or a model for --method {self.method}, such as --teacher "
                "out/dense; got None."
            )
        if method.needs_teacher and self.teacher is not None and is_foreign(self.teacher):
            raise ValueError(
                f"teacher must be a model of this package for --method {self.method}, in whose every step it runs; "
                f"got {self.teacher!r}. Leave --method out to train into its space."
            )
        if self.evidence_penalty != EVIDENCE_PENALTY and not method.learns_evidence:
            raise ValueError(
                f"evidence_penalty is only for methods that learn evidence; got {self.evidence_penalty!r} with "
                f"--method {self.method}. Leave --evidence_penalty out, or give --method sfsc."
            )
        if self.merger not in (None, *MERGERS) and ":" not in self.merger:
            raise ValueError(
                f"merger must be one of {', '.join(MERGERS)}, or PACKAGE.MODULE:CLASS; got {self.merger!r}."
            )

    @property
    def trains_into(self) -> bool:
        """Whether the run trains into a space that exists."""
        takes_teacher = self.teacher is not None and not find_method(self.method).needs_teacher
        return self.into is not None or takes_teacher

    @property
    def needs_labels(self) -> bool:
        """Whether training images must have classes."""
        return not self.trains_into or any(INTO_LOSSES[name].needs_labels for name in into_weights(self.into_loss))

    def _check_into(self, method: Method) -> None:
        into_weights(self.into_loss)
        if self.trains_into and method.trains_into is None:
            name = "teacher" if self.into is None else "into"
            able = ", ".join(name for name, each in METHODS.items() if each.trains_into)
            raise ValueError(
                f"{name} is for methods that train into a space that exists, {able}; got {getattr(self, name)!r} with "
                f"--method {self.method}. Leave --{name} out, or choose another method."
            )
        if not self.trains_into and self.into_loss != list(_INTO_LOSS):
            raise ValueError(
                f"into_loss is only for runs into a space that exists; got {' '.join(self.into_loss)!r}. Give --into "
                "or --teacher, or leave it out."
            )

    def _check_dense_phase(self, method: Method) -> None:
        if not 0.0 < self.distillation_temperature < math.inf:
            raise ValueError(
                f"distillation_temperature must be a number above 0, such as 2; got {self.distillation_temperature!r}."
            )
        given = [name for name in _DENSE_PHASE if getattr(self, name) is not None]
        if given and not method.has_dense_phase:
            raise ValueError(
                f"{given[0]} is only for --method distilled; got {getattr(self, given[0])!r} with --method "
                f"{self.method}, which has no phase in which the dense network is trained alone. Leave it out."
            )

    def _check_capacities(self, method: Method) -> None:
        if not method.has_subnetworks and len(self.capacities) != 1:
            raise ValueError(
                f"--method {self.method} trains one network at one capacity, such as --capacities 0.2; got "
                f"{self.capacities}."
            )
        if method.has_subnetworks and not any(capacity < 1.0 for capacity in self.capacities):
            raise ValueError(
                f"capacities must name a subnetwork, such as 0.2, for --method {self.method}; got {self.capacities}. "
                "--method independent --capacities 1.0 trains the dense network alone."
            )


@dataclass
class RunArguments:
    """All arguments of a run."""

    model: ModelArguments
    data: DataArguments
    train: TrainArguments

    def __post_init__(self) -> None:
        """Fill in what of the network depends on the method, and check the arguments that depend on each other."""
        if self.model.model_name_or_path is None and not self.train.eval_only:  # else the checkpoint decides
            fill_defaults(self.model, find_method(self.train.method))
        if self.model.embedding_dim is None and not self.train.trains_into:
            self.model.embedding_dim = EMBEDDING_DIM
        if self.train.trains_into:
            self._check_targets()
        if not self.train.eval_only:
            refuse_unused(self.model, self.train)
        if self.train.sync_batchnorm and self.data.streaming:
            raise ValueError(
                "sync_batchnorm=True and streaming=True don't work together: a process that has read its part of a "
                "stream runs black images until all have read theirs, and they would enter everyone's statistics. "
                "Leave one of the two out."
            )
        if self.data.validation_share > 0 and self.train.eval_every == 0 and not self.train.eval_only:
            raise ValueError(
                f"validation_share={self.data.validation_share} holds out classes to choose the best model by, but "
                "eval_every=0 never evaluates on them. Give --eval_every, or leave validation_share out."
            )

    def _check_targets(self) -> None:
        if self.data.augmentation not in _KEEP_CONTENT:
            raise ValueError(
                f"augmentation must be {' or '.join(_KEEP_CONTENT)} with --into and --teacher, as targets are made of "
                f"the images as they are; got {self.data.augmentation!r}."
            )
        if self.train.needs_labels and self.model.classifier == "softmax":
            raise ValueError(
                "classifier must be cosface or arcface with --into_loss classifier, which compares embeddings with a "
                "vector for each class; got 'softmax'."
            )
        if self.data.streaming:
            raise ValueError(
                "streaming=True doesn't work with --into and --teacher, whose targets are of images in files. Leave "
                "--streaming out."
            )

    def as_dict(self) -> dict[str, Any]:
        """All arguments in one mapping, as in a recipe."""
        return {**asdict(self.model), **asdict(self.data), **asdict(self.train)}


class _Formatter(ArgumentDefaultsHelpFormatter):
    """Adds defaults to `--help`, but not that one is None: the argument's own text says what that means."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(HfArgumentParser, CommandParser):
    """Flags from the fields of dataclasses, and errors as `CommandParser` has them."""

    def __init__(self, kinds: Sequence[type], name: str | None) -> None:
        super().__init__(list(kinds), prog=name, formatter_class=_Formatter)  # type: ignore[arg-type]
        # transformers adds it for flags that are true by default, which this one is for most methods.
        if "scale_dense_gradients" in {action.dest for action in self._actions}:
            negative = ("--no_scale_dense_gradients", "--no-scale-dense-gradients")
            same = "The same as --scale_dense_gradients false."
            self.add_argument(*negative, dest="scale_dense_gradients", action="store_false", default=None, help=same)


def parse_arguments(command_line: Sequence[str] | None = None, name: str | None = None) -> RunArguments:
    """Read flags, which win over the recipe that `--config` names, which wins over the defaults.

    Args:
        command_line: The words after the program's name; by default those of `sys.argv`.
        name: How the program is called, for `--help` and errors; by default the name of its file.

    Raises:
        FileNotFoundError: If the recipe doesn't exist.
        ValueError: If it isn't a mapping, or has unknown keys.
    """
    kinds = [ModelArguments, DataArguments, TrainArguments]
    model, data, train = parse_dataclasses(kinds, command_line, name=name, defaults_of=_defaults_of_subnetwork)
    return RunArguments(model, data, train)


def parse_dataclasses(
    kinds: Sequence[type],
    command_line: Sequence[str] | None = None,
    settled: Mapping[str, Any] | None = None,
    name: str | None = None,
    defaults_of: Callable[[Namespace], Mapping[str, Any]] = lambda known: {},
) -> list[Any]:
    """Read several dataclasses from flags, which win over the recipe of `--config`, which wins over the defaults.

    Args:
        kinds: The dataclasses; each field is a flag and a key of the recipe.
        command_line: The words after the program's name; by default those of `sys.argv`.
        settled: Arguments that the command itself decides; they win over flags.
        name: As for `parse_arguments`.
        defaults_of: Gives the defaults that follow from arguments, where others than usual do.

    Returns:
        One instance of each dataclass.

    Raises:
        FileNotFoundError: If the recipe doesn't exist.
        ValueError: If it isn't a mapping, or has unknown keys.
    """
    parser = _Parser(kinds, name)
    parser.add_argument("--config", help=f"{CONFIG_HELP}; flags win over it.")
    flags = list(sys.argv[1:] if command_line is None else command_line)
    known, unknown = parser.parse_known_args(flags)
    if unknown:
        raise ValueError(f"Unknown arguments: {' '.join(unknown)}.{parser.hint(unknown)} --help lists all.")
    if known.config is not None:
        names = {action.dest for action in parser._actions}
        recipe = read_recipe(known.config, names - {"config", "debug", "help"})
        # Only a recipe can have an empty list: a flag needs a value.
        parser.set_defaults(**{name: value for name, value in recipe.items() if value == []})
        flags = [*recipe_flags(recipe), *flags]
    flags += recipe_flags(settled or {})
    parser.set_defaults(**defaults_of(parser.parse_known_args(flags)[0]))
    parsed = parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
    return [*parsed[: len(kinds)]]  # the rest holds --config and --debug


def _defaults_of_subnetwork(known: Namespace) -> dict[str, Any]:
    """A subnetwork to fine-tune is trained alone, at its own capacity."""
    if known.model_name_or_path is None or known.eval_only:
        return {}
    try:
        config = PrunNetConfig.from_pretrained(model_directory(known.model_name_or_path))
    except (OSError, ValueError, TypeError):  # what is wrong with it is said when it is loaded
        return {}
    return {} if config.prunable else {"method": "independent", "capacities": [config.capacity]}


def check_choices(arguments: Any) -> None:
    """Make sure that every `Literal` field of a dataclass holds one of its choices.

    Raises:
        ValueError: If a field doesn't.
    """
    for name, hint in get_type_hints(type(arguments)).items():
        value, choices = getattr(arguments, name), get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


def _check_at_least(arguments: DataArguments | TrainArguments, smallest: int, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if not smallest <= value < math.inf:
            raise ValueError(f"{name} must be a number of at least {smallest}; got {value!r}.")


def _json_text(name: str, value: Any) -> str:
    parsed = value
    if isinstance(value, str):
        try:
            parsed = load_json(value)
        except ValueError as error:
            raise ValueError(
                f"{name} must be a JSON object, such as '{{\"drop_rate\": 0.1}}'; got {value!r} ({error})."
            ) from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} must be a JSON object (recipe: a mapping); got {value!r}.")
    return json.dumps(parsed)
