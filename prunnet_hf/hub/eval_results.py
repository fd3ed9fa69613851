"""Results in the form of the Hub's leaderboards: files under `.eval_results/` of a model's repository.

They apply where the run was evaluated on a Hub data set that is registered as a benchmark. Which task of it that is
stands in the data set's own `eval.yaml`, not in the run: the publisher has to say it.

Source: https://huggingface.co/docs/hub/eval-results and huggingface_hub's `EvalResultEntry`.
"""

from __future__ import annotations

import yaml
from huggingface_hub import EvalResultEntry
from huggingface_hub import eval_result_entries_to_yaml

from ..masking import format_capacity
from .figures import FinishedRun
from .metadata import HUB
from .metadata import hub_dataset

EVAL_RESULTS_FILE = ".eval_results/prunnet_hf.yaml"


def eval_results_yaml(run: FinishedRun, task_id: str, *, repo_id: str, capacity: float = 1.0) -> str:
    """The content of `EVAL_RESULTS_FILE`: the headline metric's self-test, as a leaderboard has one value a model.

    Args:
        run: The run.
        task_id: Of the data set's tasks, as its `eval.yaml` names it.
        repo_id: Repository of the model; the entry links to its `metrics.json`.
        capacity: Of the model in the repository.

    Raises:
        ValueError: If the run was not evaluated on a data set of the Hub, or not at this capacity.
    """
    dataset = hub_dataset(run)
    if dataset is None:
        raise ValueError(
            f"task_id={task_id!r} needs a run on a data set of the Hub, where its leaderboard is; this one is on "
            f"{run.metrics['dataset']!r}. Leave task_id out."
        )
    metric = run.metric_names[0]
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=task_id,
        value=round(run.value(metric, capacity, capacity), 4),
        source_url=f"{HUB}/{repo_id}/blob/main/metrics.json",
        source_name="metrics.json",
        notes=f"{metric} in [0, 1], queries and gallery at capacity {format_capacity(capacity)}, split "
        f"{run.metrics['split']}, protocol {run.metrics['protocol']}; {run.metrics['command']}",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
