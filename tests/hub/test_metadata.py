"""The metadata, read back by huggingface_hub's own classes; they hold nothing that the run doesn't say."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries

from prunnet_hf.hub.metadata import card_data, eval_results_yaml
from tests.hub.example_run import RECIPE, finished, metrics, metrics_of_units, value


def round_trip(data: ModelCardData) -> ModelCardData:
    """Read back from a card's YAML."""
    return ModelCard(f"---\n{data.to_yaml()}\n---\ntext").data


def of_run(content: dict[str, Any] | None = None, recipe: dict[str, Any] | None = None, **options: Any) -> Any:
    run = finished({**metrics(), **(content or {})}, {**RECIPE, **(recipe or {})})
    return round_trip(card_data(run, name="example", **options))


def test_metadata_survive_a_round_trip() -> None:
    data = of_run()
    assert data.to_dict() == card_data(finished(metrics()), name="example").to_dict()
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.metrics == ["mAP", "recall@1"]
    assert data.model_name == "example"


def test_results_of_every_capacity_with_data_set_split_protocol_and_command() -> None:
    found = {result.metric_name: result for result in of_run().eval_results}
    # For each metric three self-tests and three cross-tests; that of the dense network with itself is both.
    assert len(found) == 2 * (3 + 2)
    result = found["mAP, query capacity 0.20, gallery 1.00"]
    assert result.metric_value == value("mAP", 0.2, 1.0)
    assert found["recall@1, query capacity 0.50, gallery 0.50"].metric_value == value("recall@1", 0.5, 0.5)
    assert (result.dataset_name, result.dataset_split) == ("photos", "test")
    assert result.dataset_args == {
        "protocol": "leave_one_out",
        "command": "train_accelerate.py --config recipe.yaml",
    }
    assert result.metric_args == {"query_capacity": 0.2, "gallery_capacity": 1.0}
    assert result.source_url is None


def test_capacities_of_whole_units_are_said_to_be_such() -> None:
    content = metrics_of_units()
    data = round_trip(card_data(finished(content), name="example"))
    assert {result.metric_args["granularity"] for result in data.eval_results} == {"channel"}
    assert "structured-pruning" in data.tags
    assert "structured-pruning" not in of_run().tags


def test_results_of_a_repository_link_to_their_file() -> None:
    result = of_run(repo_id="org/name").eval_results[0]
    assert result.source_url.endswith("/org/name/blob/main/metrics.json")
    assert result.source_name == "train_accelerate.py --config recipe.yaml"


def test_subnetwork_tells_its_own_results_and_what_it_was_cut_from() -> None:
    data = of_run({"base_model": "timm/other"}, capacity=0.2, dense_id="org/name")
    assert {result.metric_args["query_capacity"] for result in data.eval_results} == {0.2}
    assert len(data.eval_results) == 4
    assert (data.base_model, data.base_model_relation) == ("org/name", "quantized")


def test_what_is_not_known_is_left_out() -> None:
    found = of_run().to_dict()
    assert not {"license", "datasets", "base_model", "base_model_relation"} & found.keys()


def test_licence_is_the_owners() -> None:
    assert of_run(license="mit").license == "mit"


@pytest.mark.parametrize(
    ("dataset", "datasets"),
    [("org/photos", ["org/photos"]), ("mnist", ["mnist"]), ("glyphs", None), ("image_folder", None), ("gldv2", None)],
)
def test_data_sets_are_those_of_the_hub(dataset: str, datasets: list[str] | None) -> None:
    assert of_run(recipe={"dataset": dataset}).datasets == datasets


def test_base_model_is_the_one_that_training_started_from() -> None:
    data = of_run({"base_model": "timm/resnet18.a1_in1k"})
    assert (data.base_model, data.base_model_relation) == ("timm/resnet18.a1_in1k", "finetune")


HUB_RECIPE = {**RECIPE, "dataset": "org/photos"}


@pytest.mark.parametrize("capacity", [0.2, 1.0])
def test_entry_is_read_back_as_the_hub_reads_it(capacity: float) -> None:
    text = eval_results_yaml(finished(metrics(), HUB_RECIPE), "retrieval", repo_id="org/name", capacity=capacity)
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id) == ("org/photos", "retrieval")
    assert entry.value == value("mAP", capacity, capacity)
    assert entry.source_url.endswith("/org/name/blob/main/metrics.json")
    assert "split test, protocol leave_one_out; train_accelerate.py --config recipe.yaml" in entry.notes


def test_run_on_a_local_folder_is_on_no_leaderboard() -> None:
    with pytest.raises(ValueError, match=r"task_id='retrieval'.*'photos'.*Leave"):
        eval_results_yaml(finished(metrics()), "retrieval", repo_id="org/name")


def test_capacity_that_was_never_evaluated() -> None:
    with pytest.raises(ValueError, match=r"capacity.*0\.30.*--eval_capacities"):
        eval_results_yaml(finished(metrics(), HUB_RECIPE), "retrieval", repo_id="org/name", capacity=0.3)
