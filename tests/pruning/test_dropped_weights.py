"""Training a subnetwork leaves it one, and no configuration states a capacity that its weights exceed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from prunnet_hf import PrunNetForImageClassification
from tests.tiny_models import assert_same_state, images, state_of, tiny


def kept(model: Any) -> dict[str, Tensor]:
    return {name: model.get_parameter(name) != 0 for name in model.packable_weights()}


def step(model: Any) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for seed in range(3):
        optimiser.zero_grad()
        model(images(seed=seed), torch.tensor([0, 1, 2, 0])).loss.backward()
        optimiser.step()


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("form", ["cut", "packed", "bands"])
def test_training_fills_no_zeros(allocation: str, form: str, tmp_path: Path) -> None:
    model = tiny().prune(0.2, [images()], allocation=allocation)
    if form == "packed":
        model.save_pretrained(tmp_path)
        model = PrunNetForImageClassification.from_pretrained(tmp_path)
    if form == "bands":
        tiny().save_pretrained(tmp_path, bands=[0.2, 0.6])
        model = PrunNetForImageClassification.from_pretrained(tmp_path, capacity=0.2, allocation=allocation)
    before, state = kept(model), state_of(model)
    step(model.train())
    assert all(torch.equal(mask, before[name]) for name, mask in kept(model).items())
    changed = [not torch.equal(model.get_parameter(name), state[name]) for name in before]
    assert all(changed), "what is kept is trained"
    model.save_pretrained(tmp_path)
    assert (model.config.capacity, model.config.allocation) == (0.2, allocation)


def test_a_whole_network_is_trained_whole() -> None:
    model = tiny().prune(1.0).train()
    with torch.no_grad():
        model.prunnet.backbone.conv1.weight.zero_()
    step(model)
    assert model.prunnet.backbone.conv1.weight.count_nonzero() > 0


@pytest.mark.parametrize("allocation", ["uniform", "pq_index"])
def test_filled_zeros_are_a_larger_capacity(allocation: str, tmp_path: Path) -> None:
    model = tiny().prune(0.2, [images()], allocation=allocation)
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if name in model.packable_weights()}
    filled = "prunnet.backbone.conv1.weight"
    before = sum(int(mask.sum()) for mask in kept(model).values())
    zeros = sizes[filled] - int(kept(model)[filled].sum())
    with torch.no_grad():
        model.get_parameter(filled)[~kept(model)[filled]] = 0.5
    with pytest.warns(UserWarning, match=rf"capacity.*0\.20.*{before + zeros} .*zero.*not a copy"):
        model.save_pretrained(tmp_path)
    loaded = PrunNetForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.capacity == (before + zeros) / sum(sizes.values())
    assert loaded.config.allocation == "adaptive"
    assert_same_state(loaded, state_of(model))


def test_a_copy_that_is_trained_says_what_it_has_become(tmp_path: Path) -> None:
    model = copy.deepcopy(tiny().prune(0.2)).train()
    step(model)
    with pytest.warns(UserWarning, match=r"capacity.*0\.20"):
        model.save_pretrained(tmp_path)
    assert model.config.capacity > 0.9


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subnetwork of capacity 0.2, which has an embedding space; to be left as it is."""
    folder = tmp_path_factory.mktemp("phone")
    model = tiny()
    model.renew_embedding_space()
    model.prune(0.2).save_pretrained(folder)
    return folder


class TestTransformersTrainer:
    @staticmethod
    def trainer(phone: Path, output: Path, **options: Any) -> Trainer:
        model = PrunNetForImageClassification.from_pretrained(phone)
        data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images(12))]
        every_epoch = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
        arguments = TrainingArguments(
            str(output),
            num_train_epochs=3,
            per_device_train_batch_size=4,
            learning_rate=0.05,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **every_epoch,
            **options,
        )
        return Trainer(model, arguments, train_dataset=data, eval_dataset=data)

    @pytest.mark.filterwarnings("ignore:The weights have changed")
    def test_the_best_model_and_resuming(self, phone: Path, tmp_path: Path) -> None:
        whole = self.trainer(phone, tmp_path, metric_for_best_model="loss", greater_is_better=True)
        whole.train()
        best = Path(whole.state.best_model_checkpoint or "")
        assert best.name == "checkpoint-3", "the first epoch has the largest loss"
        assert_same_state(whole.model, state_of(PrunNetForImageClassification.from_pretrained(best)))
        resumed = self.trainer(phone, tmp_path, metric_for_best_model="loss", greater_is_better=False)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
        assert_same_state(
            resumed.model, state_of(PrunNetForImageClassification.from_pretrained(tmp_path / "checkpoint-9"))
        )

    def test_it_stays_a_packed_subnetwork_and_has_a_new_space(self, phone: Path, tmp_path: Path) -> None:
        space = PrunNetForImageClassification.from_pretrained(phone).config.embedding_space
        trainer = self.trainer(phone, tmp_path)
        with pytest.warns(UserWarning, match=f"changed.*'{space}'"):
            trainer.train()
        trainer.save_model(str(tmp_path / "tuned"))
        tuned = PrunNetForImageClassification.from_pretrained(tmp_path / "tuned")
        assert (tmp_path / "tuned/model.packed.safetensors").is_file()
        assert tuned.config.embedding_space != space
        assert tuned.config.capacity == 0.2
        original = kept(PrunNetForImageClassification.from_pretrained(phone))
        assert all(torch.equal(mask, original[name]) for name, mask in kept(tuned).items())
