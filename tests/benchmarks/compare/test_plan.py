"""The order of runs, which have a row, and what is chosen on validation classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.compare.__main__ import write_choice
from benchmarks.compare.methods import (
    DEFAULT,
    DEFAULT_UNITS,
    DENSE_ALONE,
    ENTRIES,
    MAX_TRIALS,
    SIDE_ENTRIES,
    find_entry,
    words_of,
)
from benchmarks.compare.plan import (
    COMPARED,
    RESULTS,
    Run,
    choose,
    compared_runs,
    read_chosen,
    score_of,
    selected,
    settings_for,
    validation_runs,
)


def write_row(
    run: Run,
    results: Path,
    cross: dict[str, float],
    flags: dict[str, object] | None = None,
    recipe: dict[str, object] | None = None,
) -> None:
    file = run.row(results)
    file.parent.mkdir(parents=True, exist_ok=True)
    written = {"flags": run.flags if flags is None else flags, "cross": cross, "record": {"recipe": recipe or {}}}
    file.write_text(json.dumps(written))


def main_runs(results: Path, recipe: str = "omniglot") -> list[Run]:
    return compared_runs(recipe, "main", choose(results))


def test_all_methods_of_seed_0_come_before_seed_1(tmp_path: Path) -> None:
    runs = main_runs(tmp_path)
    assert [run.seed for run in runs] == sorted([0, 1, 2] * len(ENTRIES))
    assert runs[0].entry.name == DEFAULT
    assert len({run.row(tmp_path) for run in runs}) == len(runs)


def test_first_trials_of_all_come_before_second_ones() -> None:
    trials = [run.trial for run in validation_runs("omniglot")]
    assert trials == sorted(trials)
    assert validation_runs("grocery") == []
    assert compared_runs("grocery", "side", {}) == []
    assert compared_runs("omniglot", "wide", {}) == []


def test_networks_of_full_width_are_compared_with_the_settings_of_the_others(tmp_path: Path) -> None:
    wide = compared_runs("grocery", "wide", choose(tmp_path))
    main = {run.entry.name: run for run in main_runs(tmp_path, "grocery") if run.seed == 0}
    assert [run.seed for run in wide] == [0] * 5
    for run in wide:
        assert run.flags == {**main[run.entry.name].flags, "backbone_kwargs": "{}", "image_size": 64, "resize": 72}


def test_no_method_has_more_trials_than_allowed_and_each_choice_exists() -> None:
    assert all(len(entry.trials) <= MAX_TRIALS for entry in ENTRIES)
    with_trials = {entry.name for entry in ENTRIES if entry.trials}
    wanted = {entry.settings_of for entry in (*ENTRIES, *SIDE_ENTRIES) if entry.settings_of is not None}
    assert wanted == with_trials
    assert {entry.settings_of for entry in ENTRIES if entry.trials} == with_trials  # each has its own


def test_a_teacher_is_one_of_the_runs_and_comes_first(tmp_path: Path) -> None:
    for runs in (main_runs(tmp_path), validation_runs("omniglot")):
        places = {run.row(tmp_path): place for place, run in enumerate(runs)}
        with_teacher = [run for run in runs if run.teacher is not None]
        assert with_teacher
        for run in with_teacher:
            assert run.teacher.seed == run.seed
            assert places[run.teacher.row(tmp_path)] < places[run.row(tmp_path)]


def test_a_run_is_done_only_with_the_same_flags(tmp_path: Path) -> None:
    run = main_runs(tmp_path)[0]
    assert not run.is_done(tmp_path)
    write_row(run, tmp_path, {"1": 0.5})
    assert run.is_done(tmp_path)
    write_row(run, tmp_path, {"1": 0.5}, {**run.flags, "margin": 0.9})
    assert not run.is_done(tmp_path)


def test_a_row_counts_only_while_its_flags_mean_the_training_that_was(tmp_path: Path) -> None:
    run = main_runs(tmp_path)[0]  # its rate of 0.0375 is the recipe's
    then = {"learning_rate": 0.0375, "epochs": 15, "output_dir": "elsewhere", "eval_capacities": [0.3], "margin": None}
    write_row(run, tmp_path, {"1": 0.5}, recipe=then)
    assert run.is_done(tmp_path)
    write_row(run, tmp_path, {"1": 0.5}, recipe={**then, "learning_rate": 0.1})
    assert not run.is_done(tmp_path)


def test_the_rows_that_are_there_are_of_todays_trainings() -> None:
    chosen = read_chosen(RESULTS)
    runs = [
        run for recipe in ("omniglot", "grocery") for phase in COMPARED for run in compared_runs(recipe, phase, chosen)
    ]
    files = {run.row(RESULTS): run for run in (*validation_runs("omniglot"), *runs)}
    found = sorted(file for phase in ("validation", *COMPARED) for file in RESULTS.glob(f"*/{phase}/*.json"))
    assert found
    assert [file.name for file in found if file not in files or not files[file].is_done(RESULTS)] == []


def test_others_have_the_epochs_that_cost_what_both_phases_of_the_default_cost(tmp_path: Path) -> None:
    for recipe, passes, epochs in (("omniglot", 20, 30), ("grocery", 8, 12)):
        found = {run.entry.name: run.flags.get("epochs") for run in main_runs(tmp_path, recipe)}
        assert found["joint, weights"] == found["prunnet, units"] == found["paper"] == found["sfsc"] == passes
        assert found[DENSE_ALONE] == found["alone 0.1"] == found["thin, alone 0.2"] == epochs
        assert found[DEFAULT] is found["bct 0.2"] is None
    assert all("epochs" not in run.flags for run in validation_runs("omniglot") if run.entry.name != DEFAULT_UNITS)


def test_the_trial_with_the_largest_mean_is_chosen_and_carried(tmp_path: Path) -> None:
    trials = [run for run in validation_runs("omniglot") if run.entry.name == DEFAULT_UNITS]
    write_row(trials[0], tmp_path, {"0.05": 0.2, "0.1": 0.6, "0.2": 0.7, "0.4": 0.7, "0.6": 0.7, "1": 0.7})  # 0.6
    write_row(trials[1], tmp_path, {"0.05": 0.5, "0.1": 0.6, "0.2": 0.6, "0.4": 0.7, "0.6": 0.7, "1": 0.8})  # 0.65
    write_row(trials[2], tmp_path, {"0.05": 0.1, "0.1": 0.1, "0.2": 0.1, "0.4": 0.1, "0.6": 0.1, "1": 0.9})
    chosen = choose(tmp_path)
    assert chosen[DEFAULT_UNITS]["settings"] == trials[1].settings
    assert [trial["mean"] for trial in chosen[DEFAULT_UNITS]["trials"]] == [60.0, 65.0, 23.33]
    for recipe in ("omniglot", "grocery"):
        carried = [run for run in compared_runs(recipe, "main", chosen) if run.entry.settings_of == DEFAULT_UNITS]
        assert {run.entry.name for run in carried} == {DEFAULT, DEFAULT_UNITS}
        assert all(run.flags == {**trials[1].flags, "granularity": run.flags["granularity"]} for run in carried)


def test_the_choice_waits_for_all_trials_unless_it_is_asked_for(tmp_path: Path) -> None:
    first, *others = validation_runs("omniglot")
    for run in others:
        write_row(run, tmp_path, {"1": 0.5})
    with pytest.raises(ValueError, match=rf"1 trials have no row: {first.name}\. Run --phase validation, or"):
        write_choice(tmp_path, asked=False)
    assert not (tmp_path / "chosen.json").exists()
    write_choice(tmp_path, asked=True)
    assert len(read_chosen(tmp_path)[first.entry.name]["trials"]) == len(first.entry.trials) - 1
    write_row(first, tmp_path, {"1": 0.75})
    write_choice(tmp_path, asked=False)  # again, by itself: there is a new trial
    assert read_chosen(tmp_path)[first.entry.name]["trials"][0]["mean"] == 75.0


def test_without_a_finished_trial_the_first_is_chosen(tmp_path: Path) -> None:
    chosen = choose(tmp_path)
    assert chosen[DENSE_ALONE] == {"settings": dict(find_entry(DENSE_ALONE).trials[0]), "trials": []}


def test_the_score_is_the_mean_over_the_capacities_of_the_tables() -> None:
    assert score_of({"cross": {"0.1": 0.25, "0.2": 0.75, "0.3": 0.9}}) == 0.5  # 0.3 is in no table
    assert score_of({"cross": {"1": 0.75}}) == 0.75


@pytest.mark.parametrize(
    ("only", "seeds", "count"),
    [(None, None, 3 * len(ENTRIES)), ([DEFAULT], None, 3), (None, [1], len(ENTRIES)), ([DEFAULT, "paper"], [0], 2)],
)
def test_selected(only: Sequence[str] | None, seeds: Sequence[int] | None, count: int, tmp_path: Path) -> None:
    assert len(selected(main_runs(tmp_path), only, seeds)) == count


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--only must be among .*'paper'.* got 'papr'"):
        selected([], ["papr"], None)


def test_a_missing_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"chosen\.json is missing.*--phase validation.*--phase choose"):
        read_chosen(tmp_path)
    with pytest.raises(ValueError, match=r"chosen\.json has no settings of 'alone, dense'.*--phase choose"):
        settings_for(find_entry("alone 0.2"), {})


def test_flags_become_words() -> None:
    assert words_of({"margin": 0.3, "capacities": [0.1, 1.0]}) == ["--margin", "0.3", "--capacities", "0.1", "1.0"]
