"""The cards: rendered from a run directory alone, valid Markdown and metadata, every figure from the run."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.constants import ENDPOINT

from prunnet_hf import PrunNetConfig, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.compression.report import Compressibility, CompressibilityRow, compressibility
from prunnet_hf.hub.card import (
    BEGIN,
    END,
    Layout,
    build_card,
    build_subnetwork_card,
    render_card,
    summarise,
    write_card,
)
from prunnet_hf.hub.figures import read_run
from prunnet_hf.hub.indices import recorded_indices
from prunnet_hf.hub.readme import split_front_matter
from prunnet_hf.hub.usage import Usage
from prunnet_hf.runs.methods import INTO_LOSSES, METHODS
from tests.hub.example_run import CAPACITIES, RECIPE, finished, metrics, metrics_of_units, value, write_run

ROOT = Path(__file__).parents[2]
USAGE = Usage("print(1)\n", "1\n")
INDICES = Compressibility(
    (
        CompressibilityRow(None, 0.5, 400, 200, 0.25, 150.0),
        CompressibilityRow("conv", 0.5, 100, 50, 0.4, 20.0),
        CompressibilityRow("fc", 0.5, 300, 150, 0.1, 130.0),
    ),
    p=0.5,
    q=1.0,
    eta=0.0,
)


def body(content: dict[str, Any], recipe: dict[str, Any] = RECIPE, **options: Any) -> str:
    return ModelCard(render_card(finished(content, recipe), usage=USAGE, name="example", **options)).text


def line_of(text: str, beginning: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(beginning)]
    return found


def table(text: str, first: str) -> list[list[str]]:
    """Cells of the Markdown table whose header starts with a cell `first`, without its ruling."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first}"))
    assert lines[start - 1] == "", "a table needs a blank line before it"
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            assert line == "", "a table needs a blank line after it"
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    ruling = rows.pop(1)
    assert all(re.fullmatch(r"-+:?", cell) for cell in ruling)
    assert {len(row) for row in rows} == {len(ruling)}
    return rows


def test_quality_of_each_capacity() -> None:
    # 0.3 + 0.02 + 0.002, and with the dense gallery 0.01; the dense network has 0.41
    assert table(body(metrics()), "capacity | trained") == [
        ["capacity", "trained", "self-test", "to dense", "cross-test", "to dense"],
        ["0.20", "yes", "32.2", "-8.8", "33.0", "-8.0"],
        ["0.50", "no", "35.5", "-5.5", "36.0", "-5.0"],
        ["1.00", "yes", "41.0", "+0.0", "41.0", "+0.0"],
    ]


def test_cost_of_each_capacity() -> None:
    text = body(metrics())
    assert table(text, "capacity | kept") == [
        [
            *("capacity", "kept weights", "parameters", "ready file"),
            *("multiply-adds executed", "multiply-adds on paper", "latency"),
        ],
        ["0.20", "2,469", "23,456", "0.91 MB", "98.7 M", "19.7 M", "7.2 ms"],
        ["0.50", "6,172", "23,456", "none", "98.7 M", "49.4 M", "7.5 ms"],
        ["1.00", "12,345", "23,456", "4.56 MB", "98.7 M", "98.7 M", "8.0 ms"],
    ]
    assert "37 × 37 pixels" in line_of(text, "- **Multiply-adds**")
    latency = line_of(text, "- **Latency**")
    assert "measured in ONNX Runtime 1.2.3 as the thread's CPU time on CPU (Some CPU, 1 thread)" in latency
    assert "one network was measured for all" in latency
    assert "12,345 in all" in line_of(text, "- **Kept weights**")


def test_cost_of_each_capacity_of_whole_units() -> None:
    text = body(metrics_of_units(), indices=INDICES)
    # 13 of 60 units: 5083 of 23460 parameters, 21.385 of 98.7 million multiply-adds, 3.3 of 8 ms
    assert table(text, "capacity | kept units") == [
        ["capacity", "kept units", "parameters", "ready file", "multiply-adds executed", "latency"],
        ["0.20", "13 (22 %)", "5,083 (22 %)", "0.91 MB", "21.4 M (22 %)", "3.3 ms (41 %)"],
        ["0.50", "30 (50 %)", "11,730 (50 %)", "none", "49.4 M (50 %)", "5.0 ms (62 %)"],
        ["1.00", "60 (100 %)", "23,460 (100 %)", "4.56 MB", "98.7 M (100 %)", "8.0 ms (100 %)"],
    ]
    words = " ".join(text.split())
    assert (
        "a query takes 22 % of the dense network's multiply-adds, 41 % of its time and 22 % of its parameters" in words
    )
    assert "60 in all" in line_of(text, "- **Kept units**")
    assert "all of which are executed" in line_of(text, "- **Multiply-adds**")
    assert "median of the networks taking turns" in line_of(text, "- **Latency**")
    assert "the kept share of the units in each block" in words
    assert table(text, "capacity | kept weights")[0][-1] == "SAP's bound, as share"
    assert "leaves out the units of the lowest scores" in text
    single = body(metrics(), indices=INDICES)
    for claim in ("make queries faster", "unstructured", "single weights", "on paper"):
        assert claim in single
        assert claim not in text


def test_network_of_some_units_trained_alone_says_with_what_it_compares() -> None:
    content = metrics_of_units()
    alone = {**metrics("independent", (0.2,)), "capacities": content["capacities"][:1], "model": content["model"]}
    text = body(alone)
    assert "compare at equal multiply-adds, parameters and bytes" in text
    # What share of the dense network's work it does isn't known.
    assert table(text, "capacity | kept units")[1] == [
        *("0.20", "13 (22 %)", "5,083 (22 %)", "0.91 MB", "21.4 M", "3.3 ms")
    ]
    assert "compare at equal" not in body(metrics("independent", (0.2,)))


def test_latency_of_a_very_small_network_has_digits_that_say_something() -> None:
    content = metrics()
    for row, latency in zip(content["capacities"], (0.0321, 0.0999, 0.1), strict=True):
        row["latency_ms"] = latency
    assert [row[-1] for row in table(body(content), "capacity | kept")[1:]] == ["0.032 ms", "0.100 ms", "0.1 ms"]


def test_cost_of_what_is_published_is_that_of_its_files() -> None:
    text = body(
        metrics(),
        model_id="org/name",
        layout="branches",
        files={0.5: 1_230_000},
        downloads={0.2: 1_000_000, 0.5: 2_000_000, 1.0: 4_000_000},
    )
    assert [[*row[:2], *row[3:5]] for row in table(text, "capacity | kept")] == [
        ["capacity", "kept weights", "ready file", "download"],
        ["0.20", "2,469", "none", "1.00 MB"],
        ["0.50", "6,172", "1.23 MB", "2.00 MB"],
        ["1.00", "12,345", "none", "4.00 MB"],
    ]
    # Figures are those of the run's full scores.
    assert "to a 256th of a capacity band" in line_of(text, "- **Download**")
    assert "the trained ones" not in line_of(text, "- **Download**")  # a trained capacity may lie within a band
    assert "256th" not in body(metrics())


def test_run_of_an_earlier_version_says_what_it_did_not_measure() -> None:
    old = metrics()
    for name in ("latency_device", "model", "base_model", "training_device", "chance"):
        del old[name]
    for row in old["capacities"]:
        for name in ("parameters", "multiply_adds", "executed_multiply_adds", "latency_runtime", "trained"):
            del row[name]
    text = body(old)
    assert {row[3] for row in table(text, "capacity | kept")[1:]} == {"not measured"}
    assert {row[1] for row in table(text, "capacity | trained")[1:]} == {"not recorded"}
    assert "- Multiply-adds." in text
    assert "- The cost of interpolating batch-norm statistics" in text
    latency = "is the median of the networks taking turns, fp32, measured on Some GPU by"
    assert latency in line_of(text, "- **Latency**")
    assert "curve.png" not in text
    assert "None" not in text
    assert "- Multiply-adds." not in body(metrics())


def test_matrix_of_every_metric() -> None:
    text = body(metrics())
    for metric in ("mAP", "recall@1"):
        section = text[text.index(f"\n{metric} (%) on `photos`, split `test`, rows query capacity") :]
        rows = table(section, "query")
        assert rows[0][1:] == ["0.20", "0.50", "1.00"]
        for row, query in zip(rows[1:], CAPACITIES, strict=True):
            assert row[1:] == [f"{100 * value(metric, query, gallery):.1f}" for gallery in CAPACITIES]


def test_of_many_metrics_only_the_tests_are_told() -> None:
    found = metrics()
    names = ("medium mAP", "hard mAP", "easy mAP", "medium mP@1")
    found["results"] = [
        {**result, "metric": name} for result in found["results"] for name in names if result["metric"] == "mAP"
    ]
    text = body({**found, "protocol": "revisited", "chance": None})
    assert [f"\n{name} (%) on `photos`, split `test`, rows" in text for name in names] == [True, True, True, False]
    rows = table(text.split("\nAll metrics (%)")[1], "(%)")
    assert rows[0] == ["(%)", "capacity", *names]
    assert rows[1] == ["self-test", "0.20", *["32.2"] * 4]
    assert rows[4] == ["cross-test", "0.20", *["33.0"] * 4]
    assert "All metrics (%)" not in body(metrics())


@pytest.mark.parametrize("protocol", ["leave_one_out", "in_shop", "image_folder"])
@pytest.mark.parametrize("num_shared_classes", [0, 7, None])
def test_unseen_classes_are_claimed_only_if_training_saw_none_of_them(
    protocol: str, num_shared_classes: int | None
) -> None:
    text = body({**metrics(), "protocol": protocol, "num_shared_classes": num_shared_classes})
    assert ("classes were never seen in training" in text) == (num_shared_classes == 0)
    assert ("Training saw classes of the same name (7 of them)" in text) == (num_shared_classes == 7)


def test_unseen_classes_are_not_claimed_of_a_model_trained_elsewhere() -> None:
    assert "never seen" not in body({**metrics(), "num_train_images": None, "num_shared_classes": 0})


def test_every_number_of_the_text_is_one_of_the_metrics() -> None:
    """Change every figure, and none of the old ones is left."""
    old, new = metrics(), metrics()
    for name in ("num_queries", "num_gallery", "num_train_classes", "num_train_images", "seed"):
        new[name] += 1000
    new["training_seconds"], new["chance"] = 600.0, {"mAP": 0.5}
    new["model"].update({"parameters": 34567, "embedding_dim": 21, "image_size": 41, "embedding_space": "77aa"})
    texts = [body(content) for content in (old, new)]
    for gone, come in (
        *(("the 43 images", "the 1,043 images"), ("613 images", "1,613 images"), ("of 17 classes", "of 1017 classes")),
        *(("1.5 minutes", "10.0 minutes"), ("seed 3.", "seed 1003."), ("order mAP 2.6 %", "order mAP 50.0 %")),
        *(("23,456 parameters", "34,567 parameters"), ("to 19 numbers", "to 21 numbers")),
        *(("37 × 37 pixels", "41 × 41 pixels"), ("`3f9a3f9a3f9a3f9a`", "`77aa`")),
    ):
        assert gone in texts[0]
        assert come in texts[1]
        assert f" {gone}" not in texts[1]


def test_nothing_that_comes_from_data_is_markup() -> None:
    bad = "x`y\n\n# HEADING\n\n[LINK](https://e.org) ![I](i.png) | <b> ```\n<!-- prunnet_hf: card ends -->"
    content = metrics()
    for name in ("dataset", "split", "command", "commit", "device", "latency_device", "training_device", "method"):
        content[name] = bad
    content["versions"] = {bad: bad}
    content["base_model"] = bad
    content["model"].update({"backbone": bad, "backbone_kwargs": {bad: bad}, "embedding_space": bad})
    recipe = {**RECIPE, "data_dir": bad, bad: bad}
    for changed in (content, {**content, "num_train_images": None, "base_model": None}):
        run = finished(changed, {**recipe, "model_name_or_path": bad})
        _, text = split_front_matter(render_card(run, usage=Usage("print(1)\n", bad + "\n"), name=bad))
        assert text.count("<!-- prunnet_hf: card ends -->") == 1
        outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"^#+ HEADING", outside, flags=re.MULTILINE)
        outside = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", outside)  # code within a line
        assert not re.search(r"(?<!\\)\[(LINK|I)(?<!\\)\]\(", outside)
        assert not re.search(r"(?<!\\)<b>", outside)


def test_queries_and_gallery_apart_are_both_told() -> None:
    text = body({**metrics(), "protocol": "in_shop", "num_queries": 41, "chance": None})
    assert "41 queries search 43 gallery images" in text
    assert "random order" not in text


def test_figures_come_with_data_set_split_command_and_commit() -> None:
    text = body(metrics())
    assert "`test` split of `photos`" in text
    assert "```bash\ntrain_accelerate.py --config recipe.yaml\n```" in text
    assert "at commit `0123456789ab`" in text
    captions = [line for line in text.splitlines() if re.match(r"(mAP|recall@1) \(%\)", line)]
    assert len(captions) == 3
    assert all("on `photos`, split `test`" in caption for caption in captions)


def test_first_paragraph_speaks_of_the_smallest_trained_subnetwork() -> None:
    content = metrics()
    assert "the smallest subnetwork that was trained, capacity 0.20, finds" in body(content)
    assert "with mAP 33.0 % and recall@1 53.0 %. The dense network" in body(content)
    assert "itself has mAP 41.0 % and recall@1 61.0 %, a random order mAP 2.6 %." in body(content)
    content["capacities"][0]["trained"] = False
    assert "capacity 1.00, finds" in body(content)  # the example's 0.5 wasn't trained either


def test_smallest_subnetwork_is_called_trained_only_if_that_is_known() -> None:
    content = metrics()
    for row in content["capacities"]:
        del row["trained"]
    assert "the smallest subnetwork that was trained, capacity 0.50, finds" in body(content, {"capacities": [0.5]})
    text = body(content, {})
    assert "the smallest subnetwork, capacity 0.20, finds" in text
    assert "that was trained" not in text


def test_machine_is_named_only_if_recorded() -> None:
    text = body({**metrics(), "device": None, "latency_device": None})
    assert "None" not in text
    assert "as the thread's CPU time by the command above" in line_of(text, "- **Latency**")


def test_indices_of_the_weights() -> None:
    section = body(metrics(), indices=INDICES).split("## How compressible the weights are")[1].split("\n## ")[0]
    assert table(section, "capacity | kept")[1:] == [
        # mean (100 * 0.4 + 300 * 0.1) / 400; bound (20 + 130) / 400
        ["0.50", "200", "0.250", "0.175", "0.100", "0.400", "0.375"],
    ]
    assert "https://arxiv.org/abs/2302.05601" in section
    assert "a normal distribution have 0.153" in section
    assert "does not measure quality" in section
    assert "](compressibility.png)" in section
    assert "eta" not in section
    assert "eta = 0.25" in body(metrics(), indices=Compressibility(INDICES.rows, 0.5, 1.0, 0.25))


def test_without_indices_there_is_no_section_of_them() -> None:
    assert "compressib" not in body(metrics())
    assert "PQ Index" not in body(metrics())


@pytest.mark.parametrize("options", [{}, {"model_id": "org/name", "layout": "branches"}, {"indices": INDICES}])
@pytest.mark.parametrize("capacities", [CAPACITIES, (0.2,)])
def test_markdown_is_well_formed(options: dict[str, Any], capacities: tuple[float, ...]) -> None:
    text = body(metrics(capacities=capacities), **options)
    lines = text.splitlines()
    assert lines[0] == BEGIN
    assert lines[-1] == END
    assert "{{" not in text
    assert "{%" not in text
    assert "\n\n\n" not in text.strip()
    is_code = False
    for index, line in enumerate(lines):
        if line.startswith("```"):
            assert is_code == (line == "```"), "a block of code says its language, and ends"
            assert is_code or lines[index - 1] == "", line
            is_code = not is_code
        elif not is_code and line.startswith("#"):
            assert lines[index + 1] == "", line
            assert index == 1 or lines[index - 1] == "", line
    assert not is_code


def test_recipe_is_yaml_and_leaves_out_folders_of_the_machine() -> None:
    text = body(metrics())
    assert "/home/someone" not in text
    block = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block) == {k: v for k, v in RECIPE.items() if k not in ("data_dir", "output_dir")}


def test_snippet_and_output_are_shown_as_they_are() -> None:
    text = body(metrics())
    assert "```python\nprint(1)\n```\n\nIt was run when this card was made, and printed:\n\n```text\n1\n```\n" in text


def test_snippet_that_was_not_run_is_said_to_be() -> None:
    text = ModelCard(render_card(finished(metrics()), usage=Usage("print(1)\n"), name="example")).text
    assert "This snippet was not run when this card was made." in text
    assert "```text" not in text


@pytest.mark.parametrize(
    ("layout", "loading"),
    [
        (None, 'from_pretrained("subnetworks/capacity-0.20")'),
        ("branches", 'from_pretrained("org/name", revision="capacity-0.20")'),
        ("subfolders", 'from_pretrained("org/name", subfolder="capacity-0.20")'),
        ("repos", 'from_pretrained("org/name-capacity-0.20")'),
    ],
)
def test_ready_subnetworks_are_loaded_from_where_they_are_published(layout: Layout | None, loading: str) -> None:
    text = body(metrics(), model_id="model" if layout is None else "org/name", layout=layout)
    assert text.count(loading) == 1
    assert "These lines were not run" in text
    assert "accelerate launch train_accelerate.py --model_name_or_path" in text


@pytest.mark.parametrize(
    ("layout", "loading"),
    [
        ("branches", 'revision="capacity-0.50"'),
        ("subfolders", 'subfolder="capacity-0.50"'),
        ("repos", 'from_pretrained("org/name-capacity-0.50")'),
    ],
)
def test_only_what_is_published_is_told_to_load(layout: Layout, loading: str) -> None:
    chosen = body(metrics(), model_id="org/name", layout=layout, files={0.5: 1_230_000})
    assert loading in chosen
    assert "capacity-0.20" not in chosen
    without = body(metrics(), model_id="org/name", layout=layout, files={})
    assert "# ready" not in without
    assert 'from_pretrained("org/name", capacity=0.2)' in without


@pytest.mark.parametrize("method", METHODS)
def test_card_says_how_it_was_trained(method: str) -> None:
    assert METHODS[method].description in body(metrics(method))


def test_method_that_this_version_does_not_know_is_named_and_no_more() -> None:
    text = body(metrics("curriculum"))
    assert "By the method `curriculum`" in text
    assert not any(method.description in text for method in METHODS.values())
    alone = body(metrics("curriculum", (0.2,)))
    assert "alone" not in alone
    assert "By the method `curriculum`" in alone


def test_run_that_is_evaluated_again_keeps_the_command_that_trained_it() -> None:
    again = {"command": "train_accelerate.py --eval_only true", "training_command": "train_accelerate.py --seed 3"}
    text = body({**metrics(), **again})
    measured, _, training = text.partition("## Training")
    assert again["command"] in measured
    assert again["training_command"] in training
    same = metrics()["command"]
    assert body({**metrics(), "training_command": same}) == body(metrics())  # said once


@pytest.mark.parametrize(
    ("content", "recipe", "says"),
    [
        ({"base_model": "timm/resnet18.a1_in1k"}, {"pretrained_backbone": True}, "weights of [timm/resnet18.a1_in1k]"),
        ({}, {"model_name_or_path": "/home/me/earlier"}, "from the local checkpoint `earlier`;"),
        ({}, {"pretrained_backbone": False}, "from random weights;"),
        ({}, {"pretrained_backbone": True}, "from timm's pretrained weights;"),
        ({}, {}, "of `photos`; 1.5 minutes"),  # what it started from isn't recorded
    ],
)
def test_card_says_what_training_started_from(content: dict[str, Any], recipe: dict[str, Any], says: str) -> None:
    assert says in body({**metrics(), **content}, {**RECIPE, **recipe})


def test_a_subnetwork_that_was_trained_further_says_which_it_was() -> None:
    base = {"base_subnetwork": {"capacity": 0.2, "embedding_space": "3f9a3f9a3f9a3f9a"}}
    text = body({**metrics("independent", (0.2,)), **base}, {**RECIPE, "model_name_or_path": "/home/me/phone"})
    assert "a subnetwork of capacity 0.20, fine-tuned alone, in an embedding space of its own" in text
    assert "for comparison with PrunNet" not in text.partition("\n## ")[0]
    origin = (
        "from the local checkpoint `phone`: a subnetwork of capacity 0.20 of the embedding space `3f9a3f9a3f9a3f9a`"
    )
    assert f"{origin}, and what it leaves out has stayed left out" in text


def test_independent_run_claims_no_compatibility() -> None:
    text = body(metrics("independent", (0.2,))).split("## Citation")[0]
    assert "compatible with no other network" in text.replace("\n", " ")
    for claim in ("subnetwork", "Subnetwork", "prune(", "re-index", "compatibility.png", "curve.png"):
        assert claim not in text
    assert table(text, "capacity | kept") == [
        [
            *("capacity", "kept weights", "parameters", "file"),
            *("multiply-adds executed", "multiply-adds on paper", "latency"),
        ],
        ["0.20", "2,469", "23,456", "0.91 MB", "98.7 M", "19.7 M", "7.2 ms"],
    ]
    assert table(text, "query")[1] == ["**0.20**", "32.2"]


INTO: dict[str, Any] = {
    "embedding_space": "3f9a3f9a3f9a3f9a",
    "teacher": "org/large",
    "gallery": "gallery.parquet",
    "losses": ["regression", "csd:0.5"],
    "values": {"0.20": {"mAP": 0.512, "recall@1": 0.623}, "1.00": {"mAP": 0.534, "recall@1": 0.645}},
    "itself": {"mAP": 0.551, "recall@1": 0.667},
}


def test_card_of_a_run_into_a_space_that_exists_tells_teacher_gallery_and_the_test_against_it() -> None:
    text = body({**metrics("distilled"), "into": INTO})
    assert table(text, "queries") == [
        ["queries", "mAP (%)", "recall@1 (%)", "difference"],
        ["capacity 0.20", "51.2", "62.3", "-3.9"],
        ["capacity 1.00", "53.4", "64.5", "-1.7"],
        ["its own", "55.1", "66.7", ""],
    ]
    for told in (
        "into a space that existed before, `3f9a3f9a3f9a3f9a`",
        "the embeddings that `org/large` gives the 613 training images",
        f"- `regression`: {INTO_LOSSES['regression'].description}.",
        "- `csd:0.5`: ",
        "such as `gallery.parquet`, which need not be embedded again",
        METHODS["distilled"].trains_into,
        "everything cut from it, and `org/large`",
    ):
        assert told in text.replace("\n", " ")
    assert METHODS["distilled"].description not in text


def test_card_says_whether_a_network_has_stayed_in_its_space() -> None:
    judged = {**INTO, "before": {"0.20": 0.5}, "standard_errors": {"0.20": 0.1}}
    stayed = body({**metrics("distilled"), "into": {**judged, "kept": True}})
    assert "It was in this space before, and has stayed" in stayed
    assert table(stayed, "mAP (%) in the old gallery")[1][0::3] == ["capacity 0.20", "10.0"]
    left = body({**metrics("distilled"), "into": {**judged, "kept": False, "before": {"0.20": 0.99}}})
    assert "**It has left that space**" in left
    assert "Queries of capacity 0.20 found less in the old gallery" in left
    assert "need not be embedded again" not in left
    plain = body({**metrics("distilled"), "into": INTO})
    for text, paragraph in ((stayed, "Queries by this network in"), (left, "Queries by"), (plain, "Queries by")):
        assert f"\n\n{paragraph}" in text


def test_card_of_a_run_into_a_gallery_without_test_images_says_that_it_was_not_measured() -> None:
    known = {**INTO, "teacher": None, "values": {}, "itself": None}
    text = body({**metrics("independent", (0.2,)), "into": known, "num_train_classes": None})
    assert "the vectors that the gallery `gallery.parquet` has of the 613 training images" in text
    assert "How well they do was not measured, as the gallery has no vectors of the test images." in text
    assert "613 images, without classes, of `photos`" in text
    assert "compatible with no other network" not in text.replace("\n", " ")
    assert METHODS["independent"].trains_into in text


def test_model_trained_elsewhere_shows_no_training_it_knows_nothing_of() -> None:
    unknown = dict.fromkeys(("method", "seed", "num_train_classes", "num_train_images", "training_seconds"))
    text = body({**metrics(), **unknown}, {**RECIPE, "model_name_or_path": "org/name"})
    assert "loaded from `org/name`" in text
    assert "How it was trained is not recorded" in text
    assert "None" not in text
    assert "```yaml" not in text
    assert "this is one, with seed" not in text


def test_write_card_replaces_the_readme_and_sums_up(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    (run / "README.md").write_text("old")
    lines = write_card(run, execute=False).splitlines()
    text = (run / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    assert text.endswith(f"{END}\n")
    assert "# run" in text
    assert sorted(path.name for path in run.iterdir()) == ["README.md", "config.yaml", "metrics.json"]
    assert lines == [
        "capacity 1.00: mAP 41.0 (chance 2.6)",
        "capacity 0.20: mAP 32.2 by itself, 33.0 searching the dense network's gallery; file 0.91 MB",
        f"model, subnetworks, metrics.json, compatibility.png and the card: {run}",
    ]


def test_a_picture_of_examples_comes_first_on_the_card_if_it_is_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    write_card(run, execute=False)
    without = (run / "README.md").read_text(encoding="utf-8")
    assert "examples.png" not in without
    (run / "examples.png").write_bytes(b"a picture")
    assert write_card(run, execute=False).splitlines()[-1] == f"a picture of what they find: {run / 'examples.png'}"
    with_it = (run / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", with_it)
    assert pictures == ["examples.png", "curve.png", "compatibility.png"]
    # The picture and a line about it is all that differs.
    added = [line for line in with_it.splitlines() if line not in without.splitlines()]
    assert [line[:2] for line in added] == ["![", "*T"]
    assert len(with_it.splitlines()) == len(without.splitlines()) + 4


def test_card_is_made_again_without_the_weights(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    (run / "compressibility.json").write_text("of an earlier model")
    save_models(tmp_path)
    shutil.move(tmp_path / "org/name", run / "model")
    write_card(run, execute=False)
    card = (run / "README.md").read_text(encoding="utf-8")
    found = compressibility(PrunNetModel.from_pretrained(run / "model"), CAPACITIES)
    assert f"| 0.20 | {found.of(None)[0].kept:,} | {found.of(None)[0].index:.3f} |" in card
    assert (run / "compressibility.png").read_bytes().startswith(b"\x89PNG")

    next((run / "model").glob("*.safetensors")).unlink()
    write_card(run, execute=False)
    assert (run / "README.md").read_text(encoding="utf-8") == card


def test_card_of_a_network_that_cannot_be_pruned_tells_no_indices(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics("independent", (0.2,)))
    save_models(tmp_path)
    shutil.move(tmp_path / "org/name-capacity-0.20", run / "model")
    write_card(run, execute=False)
    assert not (run / "compressibility.json").exists()
    assert "PQ Index" not in (run / "README.md").read_text(encoding="utf-8")


def test_damaged_indices_are_an_error_and_leave_the_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    (run / "README.md").write_text("old")
    (run / "compressibility.json").write_text("{")
    with pytest.raises(ValueError, match=r"run/compressibility\.json.*damaged"):
        write_card(run, execute=False)
    assert (run / "README.md").read_text() == "old"


def test_weights_that_are_not_finite_make_no_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    save_models(tmp_path)
    model = PrunNetModel.from_pretrained(tmp_path / "org/name")
    with torch.no_grad():
        model.get_parameter("backbone.layer1.0.conv1.weight").fill_(torch.nan)
    model.save_pretrained(run / "model")
    with pytest.raises(ValueError, match=r"backbone\.layer1\.0\.conv1.*finite"):
        write_card(run, execute=False)
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "metrics.json", "model"]


def test_summary_of_a_lone_network_has_no_subnetwork(tmp_path: Path) -> None:
    assert len(summarise(tmp_path, finished(metrics("independent", (1.0,)))).splitlines()) == 2


def test_code_beside_the_model_is_told() -> None:
    assert "trust_remote_code=True" in body(metrics(), model_id="org/name", layout="branches", with_code=True)
    assert "trust_remote_code" not in body(metrics(), model_id="org/name", layout="branches")


def test_failing_snippet_writes_no_card_and_shows_its_output(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())  # without a model
    with pytest.raises(RuntimeError, match=r"(?s)failed in .*run.*OSError: "):
        write_card(run)
    assert not (run / "README.md").exists()
    assert not (run / "usage.json").exists()


def save_models(root: Path) -> None:
    """A dense model as `org/name` and its subnetwork as `org/name-capacity-0.20`, with processors."""
    torch.manual_seed(0)
    config = PrunNetConfig(
        backbone="resnet10t",
        backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4},
        image_size=32,
        embedding_dim=6,
        capacities=[0.2],
        statistics_capacities=[0.2],
    )
    model = PrunNetModel(config).eval()
    processor = PrunNetImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for name, network in (("org/name", model), ("org/name-capacity-0.20", model.prune(0.2))):
        network.save_pretrained(root / name)
        processor.save_pretrained(root / name)


@pytest.mark.usefixtures("snippets_run_here")
def test_cards_to_publish_run_their_snippets_on_the_staged_models(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    root = tmp_path / "staged"
    save_models(root)
    subnetwork = root / "org/name-capacity-0.20"

    dense = build_card(
        run,
        model_id="org/name",
        layout="repos",
        root=root,
        subnetworks={0.2: subnetwork},
        license="mit",
    )
    small = build_subnetwork_card(
        run, 0.2, model_id="org/name-capacity-0.20", dense_id="org/name", root=root, license="mit"
    )

    size = f"{(subnetwork / 'model.packed.safetensors').stat().st_size / 1e6:.2f} MB"
    for text, title in ((dense, "name"), (small, "name-capacity-0.20")):
        card = ModelCard(text)
        assert card.text.splitlines()[:2] == [BEGIN, f"# {title}"]
        assert card.data.license == "mit"
        assert f"# {title}\n" in text
        assert "```text\n(3, 6) (3, 6)\n[[" in text
        assert f"| {size} |" in text
        assert "\n\n\n" not in card.text
    assert "finds images in the dense network's gallery with mAP 33.0 % and recall@1 53.0 %." in small
    assert table(small, "metric |")[1] == ["mAP", "32.2", "33.0"]
    # The run's metrics.json is in the dense model's repository only.
    assert "kept in `metrics.json` of [org/name]" in small
    sources = {result.source_url.removeprefix(ENDPOINT) for result in ModelCard(small).data.eval_results}
    assert sources == {"/org/name/blob/main/metrics.json"}
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("layout", [None, "branches", "subfolders", "repos"])
@pytest.mark.parametrize("content", [metrics(), metrics_of_units()], ids=["weights", "units"])
def test_python_on_a_card_is_python(content: dict[str, Any], layout: Layout | None) -> None:
    downloads = {0.2: 1, 0.5: 2, 1.0: 3} if layout else None
    text = body(content, layout=layout, downloads=downloads, files={0.2: 1})
    usage, loading = (
        ast.parse(block) for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    )
    assert len(usage.body) == 1
    assert len(loading.body) == 2  # at any capacity, and the ready one


def test_card_of_a_capacity_never_evaluated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    with pytest.raises(ValueError, match=r"capacity.*0\.20, 0\.50, 1\.00.*0\.30"):
        build_subnetwork_card(run, 0.3, model_id="org/small", dense_id="org/name", root=tmp_path)


@pytest.mark.parametrize("name", sorted(file.parent.name for file in ROOT.glob("model_cards/*/metrics.json")))
def test_published_card_is_what_its_run_says(name: str) -> None:
    """The cards in model_cards/ follow from the figures beside them; `benchmarks/model_card.py` makes them again."""
    folder = ROOT / "model_cards" / name
    found = read_run(folder)
    usage = Usage(**json.loads((folder / "usage.json").read_text(encoding="utf-8")))
    assert usage.output is not None
    card = (folder / "README.md").read_text(encoding="utf-8")
    has_examples = (folder / "examples.png").is_file()
    indices = recorded_indices(folder)
    assert render_card(found, usage=usage, name=name, indices=indices, has_examples=has_examples) == card
    assert "This snippet was not run" not in card
    for picture in ("compatibility.png", "curve.png", "compressibility.png"):
        assert f"]({picture})" in card
        assert (folder / picture).is_file()
