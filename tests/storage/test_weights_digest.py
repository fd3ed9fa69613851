"""The id of an embedding space lasts as long as the weights it was set for."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from prunnet_hf import PrunNetForImageClassification, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.data.sets.glyphs import load_glyphs
from prunnet_hf.retrieval.dataset_encoding import encode
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.retrieval.folder_encoding import encode_folder
from prunnet_hf.retrieval.spaces import check_compatible
from prunnet_hf.storage.weights_digest import digest_tensors, digest_weights
from tests.tiny_models import tiny, tiny_of_units

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints_0_1"
CHANGED = r"weights have changed.*embedding_space.*'{space}'.*renew_embedding_space"


@pytest.fixture(params=[tiny, tiny_of_units])
def dense(request: pytest.FixtureRequest) -> PrunNetForImageClassification:
    model: PrunNetForImageClassification = request.param()
    model.renew_embedding_space()
    return model


def change(model: nn.Module, by: float = 1e-3) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "projector" in name:
                parameter.add_(by)


def saved(model: Any, directory: Path, **options: Any) -> dict[str, Any]:
    model.save_pretrained(directory, **options)
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def test_names_types_shapes_and_values_of_tensors_make_their_digest() -> None:
    zeros = torch.zeros(2, 3)
    found = digest_tensors({"a": zeros, "b": torch.ones(())})
    assert found == digest_tensors({"b": torch.ones(()), "a": zeros.T.contiguous().T})
    others = [{"c": zeros}, {"a": zeros.half()}, {"a": zeros.T}, {"a": zeros + 1}, {"a": -zeros}]
    assert len({found, *map(digest_tensors, others), digest_tensors({"a": zeros})}) == 7


def test_the_digests_of_all_types(dense) -> None:
    digests = dense.config.weights_digest
    assert list(digests) == ["float32", "float16", "bfloat16"]
    assert digests["float32"] == dense.config.embedding_space
    assert digest_weights(copy.deepcopy(dense).half()) == digests["float16"]
    assert digest_weights(copy.deepcopy(dense).to(torch.bfloat16).float()) == digests["bfloat16"]


@pytest.mark.parametrize(
    "make", [lambda m: m, lambda m: m.prune(0.2), lambda m: m.prunnet], ids=["all", "cut", "base"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_an_unchanged_model_keeps_its_id_in_every_type(dense, make, dtype: torch.dtype, tmp_path: Path) -> None:
    model, space = make(dense), dense.config.embedding_space
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saved(model.to(dtype), tmp_path)["embedding_space"] == space
        loaded = type(model).from_pretrained(tmp_path)
        config = saved(loaded, tmp_path / "again")
        assert config["embedding_space"] == space
        assert config["weights_digest"]["float32"] == digest_weights(loaded)
        assert saved(loaded.float(), tmp_path / "again")["embedding_space"] == space


@pytest.mark.parametrize("options", [{"bands": [0.2, 0.6]}, {}], ids=["bands", "plain"])
def test_what_is_cut_while_loading_has_the_id_and_its_own_digests(dense, options, tmp_path: Path) -> None:
    dense.save_pretrained(tmp_path, **options)
    for dtype in (torch.float32, torch.bfloat16):
        cut = PrunNetModel.from_pretrained(tmp_path, capacity=0.2, dtype=dtype)
        assert cut.config.embedding_space == dense.config.embedding_space
        assert cut.config.weights_digest["float32"] == digest_weights(cut)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert saved(cut, tmp_path / "cut")["embedding_space"] == dense.config.embedding_space


@pytest.mark.parametrize("make", [lambda m: m, lambda m: m.prune(0.2), lambda m: m.to(torch.bfloat16)])
@pytest.mark.parametrize("load", [False, True])
def test_changed_weights_have_a_new_space(dense, make, load: bool, tmp_path: Path) -> None:
    space, model = dense.config.embedding_space, make(dense)
    if load:
        model.save_pretrained(tmp_path)
        model = PrunNetForImageClassification.from_pretrained(tmp_path, dtype="auto")
    change(model, 0.05)
    with pytest.warns(UserWarning, match=CHANGED.format(space=space)):
        config = saved(model, tmp_path)
    assert config["embedding_space"] == digest_weights(model) != space
    with pytest.raises(ValueError, match="can't be compared"):
        check_compatible(PrunNetModel.from_pretrained(tmp_path), space)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saved(model, tmp_path)["embedding_space"] == config["embedding_space"]


def test_what_was_measured_goes_with_the_space(dense, tmp_path: Path) -> None:
    measured = {"space": dense.config.embedding_space, "dataset": "photos", "protocol": "p", "metric": "mAP"}
    dense.config.measured = {**measured, "values": {"0.20": 0.72, "1.00": 0.74}}
    assert saved(dense, tmp_path)["measured"] == dense.prune(0.2).config.measured == dense.config.measured
    dense.renew_embedding_space()  # of the same weights: it is the same
    assert dense.config.measured is not None
    change(dense)
    with pytest.warns(UserWarning, match="changed"):
        assert saved(dense, tmp_path)["embedding_space"] != measured["space"]
    assert dense.config.measured is None
    assert PrunNetModel.from_pretrained(tmp_path).config.measured is None


def test_what_is_cut_from_changed_weights_has_their_space(dense) -> None:
    space = dense.config.embedding_space
    change(dense)
    with pytest.warns(UserWarning, match=CHANGED.format(space=space)):
        cut = dense.prune(0.2)
    assert cut.config.embedding_space == dense.config.embedding_space != space


def test_a_model_in_memory_is_compared_by_its_weights(dense) -> None:
    before = copy.deepcopy(dense)
    check_compatible(before, dense.prune(0.2))
    change(dense)
    with pytest.warns(UserWarning, match="changed"), pytest.raises(ValueError, match="can't be compared"):
        check_compatible(before, dense)


def test_embedding_compares_first(dense, tmp_path: Path) -> None:
    cut, processor, folder = (
        dense.prunnet.prune(0.2),
        PrunNetImageProcessor(size=32, crop_size=32),
        tmp_path / "images",
    )
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    change(dense)
    with pytest.warns(UserWarning, match="changed"), pytest.raises(ValueError, match="2 embedding spaces"):
        encode({1.0: dense.prunnet, 0.2: cut}, load_glyphs(2, seed=0).gallery, processor, progress=False)
    change(cut)
    with pytest.warns(UserWarning, match="changed"):
        encode_folder(cut, folder, tmp_path / "a.parquet", processor, progress=False)
    assert read_embeddings(tmp_path / "a.parquet").embedding_space == digest_weights(cut)


def test_tensors_that_are_saved_instead_are_those_that_count(dense, tmp_path: Path) -> None:
    space = dense.config.embedding_space
    state = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    state["prunnet.projector.0.bias"] += 1
    with pytest.warns(UserWarning, match="changed"):
        config = saved(dense, tmp_path, state_dict=state)
    assert config["embedding_space"] == digest_weights(PrunNetModel.from_pretrained(tmp_path)) != space


def test_scores_statistics_and_a_new_classifier_leave_the_space(dense, tmp_path: Path) -> None:
    dense.save_pretrained(tmp_path / "dense")
    dense.prune(0.2).save_pretrained(tmp_path / "cut")
    for name in ("dense", "cut"):
        model = PrunNetForImageClassification.from_pretrained(tmp_path / name, num_labels=5)
        with torch.no_grad():
            model.classifier.weight.add_(1.0)
            for layer in model.prunable_layers().values():
                layer.scores.add_(1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert saved(model, tmp_path / "new")["embedding_space"] == dense.config.embedding_space


def test_a_model_without_a_space_gets_none(tmp_path: Path) -> None:
    config = saved(tiny(), tmp_path)
    assert (config["embedding_space"], config["weights_digest"]) == (None, None)


class TestCheckpointsOfEarlierVersions:
    def test_a_prunable_one_is_compared(self, tmp_path: Path) -> None:
        for name in ("plain", "bands"):
            model = PrunNetModel.from_pretrained(CHECKPOINTS / name)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                cut = model.prune(0.2)
                config = saved(model, tmp_path)
            assert cut.config.embedding_space == config["embedding_space"] == "c284fe45c6e8149a"
            assert config["weights_digest"]["float32"] == digest_weights(model)

    def test_a_prunable_one_that_was_changed_is_renewed(self, tmp_path: Path) -> None:
        model = PrunNetModel.from_pretrained(CHECKPOINTS / "plain")
        change(model)
        with pytest.warns(UserWarning, match=CHANGED.format(space="c284fe45c6e8149a")):
            assert saved(model, tmp_path)["embedding_space"] == digest_weights(model)

    @pytest.mark.parametrize(("name", "dtype"), [("packed", "float32"), ("plain", "bfloat16")])
    def test_others_are_believed_once(self, name: str, dtype: str, tmp_path: Path) -> None:
        model = PrunNetModel.from_pretrained(CHECKPOINTS / name, dtype=dtype)
        with pytest.warns(UserWarning, match=r"no config\.weights_digest.*believed.*renew_embedding_space"):
            assert saved(model, tmp_path)["embedding_space"] == "c284fe45c6e8149a"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            saved(model, tmp_path)
        change(model, 0.05)
        with pytest.warns(UserWarning, match="changed"):
            assert saved(model, tmp_path)["embedding_space"] != "c284fe45c6e8149a"
