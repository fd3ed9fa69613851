"""Single models pushed by `model.push_to_hub` to the Hub on loopback: their cards, their forms, what they replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.storage.pushing import card_facts
from tests.hub_server import HubServer
from tests.tiny_models import tiny_of_units

REPO = "org/name"
BANDS = {f"band-0000{number}-of-00002{kind}.safetensors" for number in (1, 2) for kind in ("", ".ranks")}


@pytest.fixture(scope="module")
def model() -> PrunNetModel:
    kwargs = {"channels": [4, 4, 8, 8], "stem_width": 4}
    config = PrunNetConfig(
        backbone="resnet10t", backbone_kwargs=kwargs, image_size=32, embedding_dim=8, capacities=[0.2]
    )
    return PrunNetModel(config).eval()


def files(hub: HubServer, branch: str = "main") -> set[str]:
    return set(hub.repos[REPO].branches[branch].files) - {".gitattributes"}


def test_card_says_what_it_is(hub: HubServer, model: PrunNetModel) -> None:
    model.push_to_hub(REPO, tags="by-hand")
    assert files(hub) == {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}
    card = ModelCard.load(REPO).data
    assert (card.library_name, card.pipeline_tag) == ("transformers", "image-feature-extraction")
    assert {"prunnet", "by-hand"} <= set(card.tags)
    assert card.get("base_model") is None
    assert "by-hand" not in model.model_tags


def test_form_can_be_chosen_and_the_one_before_goes_away(hub: HubServer, model: PrunNetModel) -> None:
    images = torch.rand(2, 3, 32, 32)
    model.push_to_hub(REPO)
    commits = len(hub.repos[REPO].history("main"))
    model.push_to_hub(REPO, bands=[0.2])
    assert files(hub) == {"README.md", "config.json", "preprocessor_config.json", "bands.index.json", *BANDS}
    assert len(hub.repos[REPO].history("main")) == commits + 1
    model.push_to_hub(REPO)
    assert files(hub) == {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}
    loaded = PrunNetModel.from_pretrained(REPO)
    assert torch.equal(loaded.prune(0.2)(images).pooler_output, model.prune(0.2)(images).pooler_output)


def test_subnetwork_of_a_repository_names_its_base(hub: HubServer, model: PrunNetModel) -> None:
    model.push_to_hub(REPO)
    PrunNetModel.from_pretrained(REPO, capacity=0.2).push_to_hub("org/phone", revision="small", private=True)
    assert set(hub.repos["org/phone"].branches["small"].files) >= {"model.packed.safetensors", "README.md"}
    assert hub.repos["org/phone"].private
    card = ModelCard(hub.repos["org/phone"].branches["small"].files["README.md"].content.decode()).data
    assert (card.base_model, card.base_model_relation) == (REPO, "quantized")


def test_subnetwork_of_units_is_a_plain_file_that_any_auto_class_loads(hub: HubServer) -> None:
    model = tiny_of_units().prunnet
    images = torch.rand(2, 3, 32, 32)
    model.push_to_hub(REPO)
    PrunNetModel.from_pretrained(REPO, capacity=0.2).push_to_hub("org/phone")
    assert set(hub.repos["org/phone"].branches["main"].files) >= {"model.safetensors", "README.md"}
    card = ModelCard.load("org/phone").data
    assert (card.base_model, card.base_model_relation) == (REPO, "quantized")
    phone = AutoModel.from_pretrained("org/phone")
    assert phone.config.kept_units == model.prune(0.2).config.kept_units
    torch.testing.assert_close(phone(images).pooler_output, model(images, capacity=0.2).pooler_output)


def test_what_was_written_by_hand_stays(hub: HubServer, model: PrunNetModel) -> None:
    model.push_to_hub(REPO)
    card = ModelCard.load(REPO)
    card.text = "Mine."
    card.data.license, card.data.pipeline_tag = "mit", "image-classification"
    card.push_to_hub(REPO)
    model.push_to_hub(REPO)
    card = ModelCard.load(REPO)
    assert card.text.strip() == "Mine."
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "image-classification")


def test_facts_name_a_base_only_where_the_model_came_from_the_hub(hub: HubServer, model: PrunNetModel) -> None:
    assert "base_model" not in card_facts(model, REPO)
    model.push_to_hub("org/other")
    loaded = PrunNetModel.from_pretrained("org/other")
    assert card_facts(loaded, REPO)["base_model"] == "org/other"
    assert "base_model_relation" not in card_facts(loaded, REPO)
    assert "base_model" not in card_facts(loaded, "org/other")


@pytest.mark.parametrize("form", [{}, {"bands": [0.2]}], ids=["plain", "bands"])
def test_a_path_that_reads_like_a_repository_is_no_base(
    model: PrunNetModel, form: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("out/photos", **form)
    loaded = PrunNetModel.from_pretrained("out/photos")
    monkeypatch.chdir("/")
    for one in (loaded, loaded.prune(0.2)):
        assert "base_model" not in card_facts(one, REPO)


def test_form_that_does_not_suit_the_model_is_refused_before_a_repository_is_created(
    hub: HubServer, model: PrunNetModel
) -> None:
    with pytest.raises(ValueError, match=r"bands.*without bands"):
        model.prune(0.2).push_to_hub(REPO, bands=[0.2])
    assert not hub.repos
    assert not hub.uploaded()
