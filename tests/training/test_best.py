"""The best model so far."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunnet_hf import PrunNetConfig
from prunnet_hf import PrunNetForImageClassification
from prunnet_hf import PrunNetImageProcessor
from prunnet_hf.training.best import best_directory
from prunnet_hf.training.best import forget_others
from prunnet_hf.training.best import keep_best


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    backbone_kwargs = {"channels": [4, 4, 8, 8], "stem_width": 4}
    config = PrunNetConfig(backbone="resnet10t", backbone_kwargs=backbone_kwargs, embedding_dim=6, num_labels=3)
    return PrunNetForImageClassification(config)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "best").iterdir())


def test_each_is_kept_by_its_step_with_a_space_until_others_are_forgotten(
    model: PrunNetForImageClassification, tmp_path: Path
) -> None:
    for step in (3, 6):
        keep_best(tmp_path, step, model, PrunNetImageProcessor())
    assert names(tmp_path) == ["step-3", "step-6"]
    loaded = PrunNetForImageClassification.from_pretrained(best_directory(tmp_path, 6))
    assert loaded.config.embedding_space
    assert (best_directory(tmp_path, 6) / "preprocessor_config.json").is_file()
    forget_others(tmp_path, 3)
    assert names(tmp_path) == ["step-3"]


def test_one_cut_short_is_none_and_does_not_stand_in_the_way(
    model: PrunNetForImageClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(PrunNetImageProcessor, "save_pretrained", fail)
        with pytest.raises(OSError, match="no space left"):
            keep_best(tmp_path, 3, model, PrunNetImageProcessor())
    assert not best_directory(tmp_path, 3).exists()
    keep_best(tmp_path, 3, model, PrunNetImageProcessor())
    assert names(tmp_path) == ["step-3"]


def test_nothing_to_forget_is_no_error(tmp_path: Path) -> None:
    forget_others(tmp_path, 3)
