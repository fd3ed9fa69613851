"""Entries for leaderboards: in huggingface_hub's form, and only where the Hub has the data set."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from prunnet_hf.hub.eval_results import eval_results_yaml
from tests.hub.example_run import RECIPE
from tests.hub.example_run import finished
from tests.hub.example_run import metrics
from tests.hub.example_run import value

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
    with pytest.raises(ValueError, match=r"'retrieval' needs a run on a data set of the Hub.*this one is on 'photos'"):
        eval_results_yaml(finished(metrics()), "retrieval", repo_id="org/name")


def test_capacity_that_was_never_evaluated() -> None:
    with pytest.raises(ValueError, match="one that the run evaluated"):
        eval_results_yaml(finished(metrics(), HUB_RECIPE), "retrieval", repo_id="org/name", capacity=0.3)
