"""Configuration of PrunNet models."""

import math
import os
import re
from typing import Any, ClassVar, Literal, get_args

from transformers import PreTrainedConfig

from .classifiers import LOGIT_SCALE, MARGIN, Classifier
from .pruning.allocation import ALLOCATIONS, UNIFORM
from .pruning.layers import ScoreInit
from .pruning.masking import check_capacities, check_capacity

Granularity = Literal["weight", "channel"]
TRAINED_CAPACITIES = (0.2, 0.4, 0.6, 0.8)
STATISTICS_GRID = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
ALLOCATIONS_SAID = (*ALLOCATIONS, "adaptive")
"""How a checkpoint's kept weights can be shared among its layers: by `prune`, or by adaptive pruning."""
NOT_ARCHITECTURE = (
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_custom_load",
    "pretrained_filter_fn",
    "pretrained_strict",
)
"""Arguments of `timm.create_model` that say where weights come from. A configuration that names files of this machine
would open them on any other that loads it. (`pretrained_cfg_overlay` matters only to `pretrained_backbone=True`.)"""
OF_THE_PACKAGE = (
    "exportable",
    "feature_cfg",
    "feature_cls",
    "features_only",
    "model_name",
    "no_jit",
    "out_indices",
    "scriptable",
)
"""Arguments of `timm.create_model` that PrunNet sets, or that make something other than a network for embeddings."""
MEASURED = ("space", "dataset", "protocol", "metric", "values")
"""What `measured` has, if it isn't None."""
COMPATIBLE = ("space", "teacher", "gallery", "dataset", "protocol", "metric", "values", "itself")
"""What `compatible_with` has, if it isn't None."""
_WRITTEN = "Leave it out: a run writes it, also train_accelerate.py --eval_only."
PRUNING_ARGUMENTS = ("capacity", "allocation")
"""Arguments of pruning. A checkpoint states them, and no argument changes what it states."""
LABEL_ARGUMENTS = ("num_labels", "id2label", "label2id")
"""Arguments that ask for a classifier, to be trained if the checkpoint has none."""


class PrunNetConfig(PreTrainedConfig):
    """What a PrunNet network is made of, and what its checkpoint holds.

    Attributes:
        backbone: Name of any timm model made of Conv2d, Linear and norm layers.
        backbone_kwargs: Further arguments of `timm.create_model`, such as `{"drop_path_rate": 0.1}`.
        image_size: Side in pixels of the square images the network is made for.
        embedding_dim: Length of an embedding.
        num_labels: Number of training classes (of `PrunNetForImageClassification` only).
        capacities: Capacities that training optimised in addition to the dense network, ascending, without 1.0.
        statistics_capacities: Capacities with running statistics in the checkpoint, ascending. By default the trained
            ones, 1.0 (always there), and 0.05, 0.1, 0.3, 0.5, 0.7, 0.9. Empty once pruned.
        capacity: Kept share of the prunable weights in this checkpoint: 1.0 while it is prunable.
        allocation: How its kept weights are shared among the layers: `"uniform"`, the same share of each; or
            `"pq_index"`, `"global"` (see `prune`), or `"adaptive"` (found by adaptive pruning), once pruned.
        granularity: What a capacity is a share of. `"weight"`: single weights, as in the paper; files get smaller.
            `"channel"`: whole inner units of blocks; files get smaller and the network faster.
        kept_units: Of `"channel"`, once pruned: how many units are left of each group, by its name in the backbone.
        prunable: Whether the checkpoint holds scores, so that subnetworks can be cut from it.
        stem_pool: False replaces the backbone's `maxpool` after the stem by Identity (the paper's ResNet-18).
        score_init: How scores start: `"kaiming"` (random, the paper's) or `"magnitude"` (of the weights).
        classifier: What training compares embeddings with classes by: `"softmax"`, a linear layer, as in the paper;
            `"cosface"` or `"arcface"`, cosines with a margin.
        logit_scale: Of `"cosface"` and `"arcface"`: what cosines are multiplied by. Above 0.
        margin: Of these: how much harder training makes it to be right, at least 0. A difference of cosines for
            `"cosface"`, an angle in radians for `"arcface"`.
        embedding_space: Id of the space of the embeddings. Networks can be compared only if they have the same.
            None until training has ended.
        weights_digest: Digests of the weights that have this space, by the type to which they are cast (see
            `storage.weights_digest`). Saving compares them, and renews the id of weights that were changed since.
        measured: How well queries of each capacity find images in the dense network's gallery: `space`, `dataset`,
            `protocol`, `metric`, and `values`, in [0, 1] by capacity (`{"0.20": 0.72, "1.00": 0.74}`). A run writes it
            once it has evaluated the model. It goes when the space is renewed.
        compatible_with: The space that existed before and into which the network was trained: its id `space`, the
            `teacher` that made it, a `gallery` of it; `dataset`, `protocol` and `metric` of the test, `values` of
            queries of each capacity in the gallery of that space, in [0, 1], and `itself`, that of queries by the
            space's own model. What isn't known is None, and `values` are empty. A run writes it, as `measured`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; the message names it and says what is allowed.
    """

    model_type = "prunnet"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["pooler_output"]  # transformers' Trainer gathers logits only

    backbone: str = "resnet18"
    backbone_kwargs: dict[str, Any] | None = None
    image_size: int = 224
    embedding_dim: int = 256
    capacities: list[float] | tuple[float, ...] = TRAINED_CAPACITIES
    statistics_capacities: list[float] | tuple[float, ...] | None = None
    capacity: float = 1.0
    allocation: str = UNIFORM
    granularity: str = "weight"
    kept_units: dict[str, int] | None = None
    prunable: bool = True
    stem_pool: bool = True
    score_init: str = "kaiming"
    classifier: str = "softmax"
    logit_scale: float = LOGIT_SCALE
    margin: float = MARGIN
    embedding_space: str | None = None
    weights_digest: dict[str, str] | None = None
    measured: dict[str, Any] | None = None
    compatible_with: dict[str, Any] | None = None
    # Whether an argument beside the checkpoint asked for a classifier. Not saved.
    asks_for_classifier: ClassVar[bool] = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Check every field and fill in the default grid of statistics."""
        _check_mapping("id2label", self.id2label)
        _check_mapping("label2id", self.label2id)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if not isinstance(self.backbone, str) or not self.backbone:
            raise TypeError(f"backbone must be the name of a timm model, such as 'resnet18'; got {self.backbone!r}.")
        self.backbone_kwargs = _check_backbone_kwargs(self.backbone_kwargs)
        _check_bool("prunable", self.prunable)
        _check_bool("stem_pool", self.stem_pool)
        self._check_space()
        _check_positive("image_size", self.image_size)
        _check_positive("embedding_dim", self.embedding_dim)
        _check_positive("num_labels", self.num_labels)
        self._check_granularity()
        if self.score_init not in get_args(ScoreInit):
            allowed = ", ".join(get_args(ScoreInit))
            raise ValueError(f"score_init must be one of {allowed}; got {self.score_init!r}.")
        self._check_classifier()
        if self.allocation not in ALLOCATIONS_SAID:
            allowed = ", ".join(map(repr, ALLOCATIONS_SAID))
            raise ValueError(f"allocation must be one of {allowed}; got {self.allocation!r}.")
        if self.prunable and self.allocation != UNIFORM:
            raise ValueError(
                f"allocation must be {UNIFORM!r} while prunable is true; got {self.allocation!r}. Pass it to prune()."
            )
        self.capacity = check_capacity(self.capacity)
        self.capacities = [c for c in check_capacities(self.capacities) if c < 1.0]
        self.statistics_capacities = self._statistics_grid()

    def _check_granularity(self) -> None:
        if self.granularity not in get_args(Granularity):
            allowed = ", ".join(get_args(Granularity))
            raise ValueError(f"granularity must be one of {allowed}; got {self.granularity!r}.")
        _check_mapping("kept_units", self.kept_units)
        is_thin = self.granularity == "channel" and not self.prunable
        if is_thin and self.kept_units is None:
            raise ValueError(
                "kept_units must say how many units are left of each group if granularity is 'channel' and prunable "
                "is false; got None. Only pruning sets it: call prune() on the dense model, or download the "
                "checkpoint again."
            )
        if self.kept_units is not None and not is_thin:
            raise ValueError(
                "kept_units must be left out unless a model of whole units is pruned (granularity='channel' and "
                f"prunable=False); got granularity={self.granularity!r} and prunable={self.prunable!r} with "
                f"kept_units of {len(self.kept_units)} groups. Only pruning sets it: leave such arguments out, or "
                "download the checkpoint again."
            )
        for group, count in (self.kept_units or {}).items():
            if not isinstance(group, str):
                raise TypeError(f"kept_units must have names of groups; got {group!r} ({type(group).__name__}).")
            _check_positive(f"kept_units[{group!r}]", count)
        if self.granularity == "channel" and self.allocation != UNIFORM:
            raise ValueError(
                f"allocation must be {UNIFORM!r} if granularity is 'channel', whose units aren't shared out among "
                f"layers; got {self.allocation!r}."
            )

    def _check_classifier(self) -> None:
        if self.classifier not in get_args(Classifier):
            allowed = ", ".join(get_args(Classifier))
            raise ValueError(f"classifier must be one of {allowed}; got {self.classifier!r}.")
        if not (_is_finite(self.logit_scale) and self.logit_scale > 0):
            raise ValueError(f"logit_scale must be a number above 0, such as 16; got {self.logit_scale!r}.")
        if not (_is_finite(self.margin) and 0 <= self.margin < math.pi / 2):
            raise ValueError(f"margin must be a number from 0 to pi / 2, such as 0.2; got {self.margin!r}.")

    def _check_space(self) -> None:
        _check_id("embedding_space", self.embedding_space)
        _check_mapping("weights_digest", self.weights_digest)
        for name, digest in (self.weights_digest or {}).items():
            _check_id(f"weights_digest[{name!r}]", digest)
        _check_measured(self.measured)
        _check_compatible(self.compatible_with)

    def _statistics_grid(self) -> list[float]:
        if not self.prunable:
            return []
        if self.statistics_capacities is None:
            return check_capacities([*self.capacities, *STATISTICS_GRID])
        return check_capacities([*self.statistics_capacities, 1.0], "statistics_capacities")

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Save as `PreTrainedConfig.save_pretrained` does.

        Raises:
            TypeError: If a field that was set since has the wrong type, so that it couldn't be loaded.
            ValueError: If `register_for_auto_class` was called, or such a field isn't allowed.
        """
        refuse_copying_code(self)
        self._check_space()
        self._check_granularity()
        self._check_classifier()
        super().save_pretrained(save_directory, **kwargs)

    def __repr__(self) -> str:
        """What tells networks apart; `to_json_string()` has everything."""
        return f"{type(self).__name__}({self.summary})"

    @property
    def summary(self) -> str:
        """What tells networks apart, in two lines."""
        return (
            f"backbone={self.backbone!r}, image_size={self.image_size}, embedding_dim={self.embedding_dim}, "
            f"capacity={self.capacity},\n  prunable={self.prunable}, granularity={self.granularity!r}, "
            f"embedding_space={self.embedding_space!r}"
        )

    @property
    def stored_subnetworks(self) -> list[float]:
        """Capacities below 1 with stored running statistics; those of the dense network are its batch norms' own."""
        return [capacity for capacity in self.statistics_capacities or [] if capacity < 1.0]

    @property
    def num_classes(self) -> int:
        """Number of training classes; `num_labels`, which other models may lack."""
        return len(self.id2label or {})

    # The arguments that PreTrainedConfig has after the first are taken by keyword only.
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Read the configuration of a checkpoint, as `PreTrainedConfig.from_pretrained` does.

        Raises:
            OSError: If there is no config.json.
            TypeError: If `capacity` or `allocation` is given, because no argument changes what a checkpoint is.
            ValueError: If it configures another kind of model.
        """
        # Models ask for the unused arguments, and prune. A pipeline passes all arguments to both.
        for_a_model = kwargs.get("return_unused_kwargs", False) or "_from_pipeline" in kwargs
        given = ", ".join(f"{name}={kwargs[name]!r}" for name in PRUNING_ARGUMENTS if name in kwargs)
        if given and not for_a_model:
            raise TypeError(
                f"{given} can't be given for a configuration, which states to what a checkpoint was pruned. To prune, "
                f"call PrunNetModel.from_pretrained(path, {given}), or model.prune({given})."
            )
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read config.json. If there is none, transformers would silently use the defaults.

        Raises:
            OSError: If there is no config.json.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config_dict:
            raise OSError(
                f"{pretrained_model_name_or_path} has no config.json: it holds no model, or one whose saving was "
                f"interrupted. {model_in_run(pretrained_model_name_or_path) or 'Save or download it again.'}"
            )
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a configuration, refusing that of another kind of model.

        No argument changes what a checkpoint was pruned to: `capacity` and `allocation` among `kwargs` mean to prune,
        and are left to the model's `from_pretrained`. AutoConfig drops them, and a pipeline relies on that.

        Raises:
            ValueError: If `config_dict` configures another kind of model.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This checkpoint holds a model of type {model_type!r}, not {cls.model_type!r}. Load it with its own "
                "class (transformers.AutoModel finds it)."
            )
        to_prune = {name: kwargs.pop(name) for name in PRUNING_ARGUMENTS if name in kwargs}
        asks = any(name in kwargs for name in LABEL_ARGUMENTS)
        with_unused = kwargs.pop("return_unused_kwargs", False)
        config, unused = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
        config._check_granularity()
        config._check_classifier()  # transformers sets what arguments change without a check
        if asks:
            config.__dict__["asks_for_classifier"] = True
        return (config, {**unused, **to_prune}) if with_unused else config

    def to_dict(self) -> dict[str, Any]:
        """What is saved."""
        content: dict[str, Any] = super().to_dict()
        content.pop("asks_for_classifier", None)
        return content


def model_in_run(path: Any) -> str:
    """What to load instead, if `path` is the directory of a run; else nothing."""
    inside = os.path.join(str(path), "model")
    is_run = os.path.isfile(os.path.join(inside, "config.json"))
    return f"It is the directory of a run: load {inside}." if is_run else ""


def refuse_copying_code(saved: Any) -> None:
    """Raise a ValueError if transformers would copy the package's code beside a model, a configuration or a processor.

    The copies would lack the folders that this code imports from. Classes that `trust_remote_code` loaded are copies
    themselves, in one folder, and may be copied again.
    """
    kind = type(saved)
    if kind._auto_class is not None and kind.__module__.startswith("prunnet_hf."):
        raise ValueError(
            f"save_pretrained can't copy the code of {kind.__name__}, for which "
            f"register_for_auto_class({kind._auto_class!r}) asks. Don't call that, and publish a run with its code by "
            "push_to_hub.py --with_code."
        )


def _check_positive(name: str, value: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}.")


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false; got {value!r} ({type(value).__name__}).")


def _check_mapping(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, dict):
        raise TypeError(f"{name} must be a mapping, or left out; got {value!r} ({type(value).__name__}).")


def _check_id(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16}", value)):
        raise ValueError(
            f"{name} must be 16 hexadecimal digits (0 to 9, a to f), or None; got {str(value)[:80]!r}. "
            "model.renew_embedding_space() sets it."
        )


def _check_measured(measured: Any) -> None:
    """Refuse what isn't None or of the form that the attribute `measured` has."""
    _check_mapping("measured", measured)
    if measured is None:
        return
    if {*measured} != {*MEASURED}:
        raise ValueError(f"measured must have {', '.join(MEASURED)}; got {sorted(map(str, measured))}. {_WRITTEN}")
    _check_id("measured['space']", measured["space"])
    for name in ("dataset", "protocol", "metric"):
        if not isinstance(measured[name], str):
            raise TypeError(f"measured[{name!r}] must be text; got {measured[name]!r}. {_WRITTEN}")
    _check_values("measured['values']", measured["values"])


def _check_compatible(found: Any) -> None:
    """Refuse what isn't None or of the form that the attribute `compatible_with` has."""
    _check_mapping("compatible_with", found)
    if found is None:
        return
    if {*found} != {*COMPATIBLE}:
        raise ValueError(
            f"compatible_with must have {', '.join(COMPATIBLE)}; got {sorted(map(str, found))}. {_WRITTEN}"
        )
    _check_id("compatible_with['space']", found["space"] or "None")
    for name in ("teacher", "gallery", "dataset", "protocol", "metric"):
        if not isinstance(found[name], str | None):
            raise TypeError(f"compatible_with[{name!r}] must be text or None; got {found[name]!r}. {_WRITTEN}")
    _check_values("compatible_with['values']", found["values"])
    if found["itself"] is not None and not _is_share(found["itself"]):
        raise ValueError(
            f"compatible_with['itself'] must be a number in [0, 1], or None; got {found['itself']!r}. {_WRITTEN}"
        )


def _check_values(name: str, values: Any) -> None:
    _check_mapping(name, values)
    for capacity, value in (values or {}).items():
        if not _is_share(value) or not _is_capacity(capacity):
            raise ValueError(
                f"{name} must have numbers in [0, 1] by capacities such as '0.20'; got {capacity!r}: {value!r}. "
                f"{_WRITTEN}"
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_capacity(text: Any) -> bool:
    try:
        return isinstance(text, str) and 0 < float(text) <= 1
    except ValueError:
        return False


def _check_backbone_kwargs(value: Any) -> dict[str, Any]:
    """The arguments of a backbone, after checking that they say what it is and not where its weights are."""
    _check_mapping("backbone_kwargs", value)
    for name in value or {}:
        if name in NOT_ARCHITECTURE:
            raise ValueError(
                f"backbone_kwargs must describe the architecture only; got {name}={value[name]!r}, which says where "
                "weights come from. For timm's weights pass pretrained_backbone=True to the model; load others into "
                "model.backbone by load_state_dict before training."
            )
        if not isinstance(name, str) or name in OF_THE_PACKAGE:
            raise ValueError(
                f"backbone_kwargs must be arguments of the backbone's architecture; got {name!r}. Leave it out: "
                "PrunNet sets it, or has no use for it."
            )
    return dict(value or {})
