"""All figures: values of the run folders, readable with any names; figures of the audit, the tax and trainings."""

from dataclasses import fields, replace
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from audit_runs import N, shares, write_run
from cases import cases, write_lines
from figure_checks import assert_looks_as_before, assert_nothing_overlaps, draw, draw_all, shown_texts
from report_runs import (
    JUDGE,
    NASTY,
    SFT,
    contest,
    evidence_of,
    gather_once,
    iterations,
    model,
    ppo,
    tax_tasks,
    training,
)

from alignbench.audit.abilities import abilities
from alignbench.audit.audit import Audit, Checkpoint, Contrast, Front, Row
from reports.drawing import SYNTHETIC, Drawing, mark_synthetic
from reports.evidence import Evidence, gather
from reports.figures import FIGURES, MISSING, audit, tax, trainings
from reports.style import new_figure, size_of, styled, wrapped_names

pytest_plugins = ("report_fixtures",)
FIGURE_NAMES = cases("figures")
NAMES = {*FIGURE_NAMES["with_values"], *chain(*FIGURE_NAMES["others"])}


@pytest.mark.parametrize("name", FIGURE_NAMES["with_values"])
def test_a_table_has_the_values_of_the_run_folders(name, drawings, evidence):
    table = drawings[name].table
    assert len(table) >= 4
    known = {
        (system.name, task.task, metric.metric, task.result.shots): metric
        for system in (*evidence.systems, *evidence.intermediate)
        for task in system.tasks
        for metric in task.result.metrics
        if metric.category is None
    }
    for row in table.itertuples():
        own = known[row.system, row.task, row.metric, getattr(row, "shots", 0)]
        expected = [np.nan if x is None else x for x in (own.value, own.low, own.high)]
        assert (row.value, row.low, row.high, row.n) == pytest.approx((*expected, own.n), rel=0, nan_ok=True)
        assert (row.unscored, row.scorer) == (own.n_unscored, own.scorer or "")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_texts_do_not_overlap_and_are_not_cut_and_known_pictures_have_not_changed(name, drawings):
    drawing = drawings[name]
    assert_nothing_overlaps(drawing.figure)
    assert drawing.alt[-1] == drawing.caption[-1] == "."
    if name in FIGURE_NAMES["pictures"]:
        assert_looks_as_before(drawing.figure, name)


@pytest.mark.slow
def test_names_of_any_length_and_script_do_not_overlap(nasty):
    drawn, _ = draw_all(nasty)
    assert len(drawn) >= 25
    for drawing in drawn:
        assert_nothing_overlaps(drawing.figure)
        texts = [text for text, _ in shown_texts(drawing.figure)]
        assert not any("\u202e" in text for text in (*texts, drawing.caption, drawing.alt)), drawing.name


@pytest.mark.parametrize("label", ["", "mean toxicity"])
def test_every_picture_of_demo_data_says_so(label):
    with styled():
        figure, _ = new_figure(2)
        figure.supxlabel(label)
    marked = mark_synthetic(Drawing("toxicity", "", "", figure, pd.DataFrame({"value": [0.5]}), "Caption.", "Alt."))
    shown = marked.figure.get_supxlabel()
    assert (label in shown, SYNTHETIC in shown, list(marked.table.data)) == (True, True, [SYNTHETIC])
    assert_nothing_overlaps(marked.figure)


def test_every_figure_is_drawn_or_says_which_data_are_missing(drawings, tmp_path):
    assert set(drawings) == NAMES
    run = write_run(tmp_path, "m", ("crows_pairs", {"pct_stereotype": shares(0.5)}))
    for evidence in (Evidence(()), evidence_of(run)):
        assert draw_all(evidence) == ([], MISSING)
    assert list(MISSING) == list(FIGURES)


def test_texts_that_overlap_or_are_cut_are_found_and_names_are_whole_and_different():
    for x, text, problem in ((0.51, "there", "overlap"), (0.9, "too long " * 9, "leaves")):
        with styled():
            figure, axes = new_figure(2)
            axes.text(0.5, 0.5, "here")
            axes.text(x, 0.5, text, in_layout=False)
        with pytest.raises(AssertionError, match=problem):
            assert_nothing_overlaps(figure)
    names = [f"checkpoint-{k}-of-many-with-a-long-name" for k in range(12)] + ["a" * 60, "a" * 61, "b", *NASTY]
    shown = wrapped_names([*names, "b\n"], 20)
    assert len(set(shown.values())) == len(names) + 1
    assert max(len(line) for own in shown.values() for line in own.split("\n")) == 20
    assert shown["checkpoint-7-of-many-with-a-long-name"] == "checkpoint-7-of-\nmany-with-a-long-\nname"
    assert (shown["b"], shown["b\n"], shown["a" * 60]) == ("b", "b #2", "\n".join(["a" * 20] * 3))
    found = [size_of(n) for n in (12, 260_000, 134_515_008, 999_999_999, 1.3e9, 175e9)]
    assert found == ["12", "260K", "135M", "1B", "1.3B", "175B"]


def texts_of(drawing):
    return {text for text, _ in shown_texts(drawing.figure)}


def row(task: str, gain: float | None, error: float = 0.02, **changes) -> Row:
    """A primary row of a proportion that is better if higher; gain: None for one without a direction."""
    low, high = (None, None) if gain is None else (gain - 2 * error, gain + 2 * error)
    percent = None if gain is None else -100 * gain
    known = dict.fromkeys(field.name for field in fields(Row)) | {
        "task": task, "variant": "", "ability": "capability", "group": "reading", "family": task, "metric": "f1",
        "headline": True, "primary": gain is not None, "unit": "proportion", "better": "higher", "reference": 0.5,
        "aligned": 0.5 + (gain or 0), "delta": gain or 0.0, "low": low, "high": high, "gain": gain, "gain_low": low,
        "gain_high": high, "standard_error": error, "p": 0.5, "test": "bootstrap", "p_holm": 0.5, "span": 1.0,
        "verdict": "inconclusive" if gain is not None else "–", "tax": -(gain or 0.0), "tax_of_range": percent,
        "tax_error": 100 * error, "n": 80, "clusters": 80, "left_out": 0, "note": "",
    }  # fmt: skip
    return Row(**known | changes)


def audited(*rows: Row, front: Front | None = None) -> Evidence:
    contrast = Contrast("sft", "ppo", "SFT", "same", rows, (), None, (), len(rows), (), ())
    return Evidence((), audits={"": Audit((contrast,), front, (), 10_000, 0, 1.0)})


class TestSummary:
    def test_a_row_is_the_mean_of_an_ability_and_its_benchmarks_and_a_win_rate_is_preference(self, tmp_path):
        wins, base = contest(0.8, "base"), write_run(tmp_path, "base", *tax_tasks(0.0))
        drawing = draw(audit.summary, gather([base, write_run(tmp_path, "ppo", *tax_tasks(0.1), wins)]))
        table = drawing.table.set_index(["ability", "task"])
        assert table.loc[("preference", "win_rate"), ["gain", "verdict", "benchmarks"]].tolist() == [
            pytest.approx(30), "gain", 1,
        ]  # fmt: skip
        means = table.query("benchmarks > 0").gain
        assert means.loc[("capability", "")] == pytest.approx((10 + (10 - 10) / 2) / 2)  # reading; RTE and HellaSwag
        single = table.query("benchmarks == 0 and ability == 'capability'").gain.droplevel(0)
        assert single.to_dict() == pytest.approx({"drop": 10, "hellaswag": 10, "rte": -10})
        assert {"ppo", "against base", "Preference", "Capability"} <= texts_of(drawing)
        assert "preference gain (mean +30.0 %" in drawing.alt
        assert_nothing_overlaps(drawing.figure)

    def test_of_several_win_rates_that_of_most_systems_is_shown_also_if_it_is_a_loss(self, tmp_path):
        task, values, settings = contest(0.9, "base")
        few = (task, values, settings | {"scorers": [JUDGE | {"name": "reward:other"}]})
        own = {"base": (), "ppo": (few, contest(0.2, "base")), "sft": (contest(0.3, "base"),)}
        runs = [write_run(tmp_path, name, *tax_tasks(0.0), *wins) for name, wins in own.items()]
        drawing = draw(audit.summary, gather(runs))
        found = drawing.table.query("aligned == 'ppo' and reference == 'base' and ability == 'preference'")
        assert (found.gain.tolist(), found.verdict.tolist()) == ([pytest.approx(-30)], ["loss"])
        assert "that with the most systems" in drawing.caption

    def test_an_ability_without_a_range_has_a_verdict_and_no_mean(self):
        bits = row("personas", -1.5, 0.2, ability="diversity", unit="bits", tax_of_range=None, span=None)
        bits = replace(bits, verdict="loss")
        evidence = audited(bits)
        contrast = replace(evidence.audit.contrasts[0], abilities=abilities([bits], None))
        drawing = draw(audit.summary, replace(evidence, audits={"": replace(evidence.audit, contrasts=(contrast,))}))
        assert "loss in bits" in texts_of(drawing)


class TestForest:
    def test_it_contains_the_rows_of_the_audit_and_the_front_its_points(self, drawings, evidence):
        for number, contrast in enumerate(evidence.audit.contrasts[: audit.MOST_CONTRASTS], 1):
            table = drawings[f"audit_forest_{number}"].table
            tested = [own for own in contrast.rows if own.primary]
            assert table[["task", "verdict"]].values.tolist() == [[own.task, own.verdict] for own in tested]
            assert table.gain.tolist() == pytest.approx([-own.tax_of_range for own in tested])
        found, drawing = evidence.audit.front, drawings["reward_tax_front"]
        columns = drawing.table[["system", "reward", "tax"]].values.tolist()
        assert columns == [[point.name, point.reward, point.tax] for point in found.points]
        assert f"{found.hypervolume:.4g}" in drawing.caption

    def test_the_interval_is_that_of_the_improvement_and_rows_beyond_forty_are_only_in_the_table(self):
        many = [row(f"task_{number:02d}", 0.01 * number, ability=f"group {number % 5}") for number in range(45)]
        many[44] = row("task_44", 0.44, better="lower", delta=-0.44, gain_low=0.4, gain_high=0.48)
        many[43] = row("task_43", 0.43, unit="points", span=50.0)
        drawing = draw(audit.forest, audited(*many))
        assert drawing.table.drawn.tolist() == [True] * 40 + [False] * 5
        shown = drawing.table.set_index("task")[["gain", "low", "high"]]
        for task, interval in (("task_42", (42, 38, 46)), ("task_43", (0.86, 0.78, 0.94)), ("task_44", (44, 40, 48))):
            assert shown.loc[task].tolist() == pytest.approx(interval), task
        assert "5 more are in the CSV" in drawing.caption
        assert {"task_39 · f1", "task_40 · f1"} & texts_of(drawing) == {"task_39 · f1"}
        assert_nothing_overlaps(drawing.figure)

    def test_rows_are_sorted_by_effect_within_groups_and_metrics_without_a_range_or_a_test_are_apart(self):
        rows = [row("low", -0.1), row("high", 0.2), row("middle", 0.05), row("alone", 0.1, ability="bias")]
        bits = row("personas", -1.5, 0.2, unit="bits", tax_of_range=None, tax_error=None, span=None)
        drawing = draw(audit.forest, audited(*rows, bits, row("token_entropy", None)))
        shown = [[label.get_text() for label in axes.get_yticklabels()] for axes in drawing.figure.axes]
        assert shown == [["alone · f1", "high · f1", "middle · f1", "low · f1"], ["personas · f1"]]
        found = drawing.table.set_index("task").loc[["high", "personas"], ["gain", "unit"]]
        assert found.values.tolist() == [[20.0, "% of the metric's range"], [-1.5, "bits"]]
        assert "token_entropy" in drawing.caption
        assert_nothing_overlaps(drawing.figure)


class TestFront:
    @pytest.mark.parametrize(("corner", "seen"), [((0.0, 100.0), 0), ((0.4, 6.0), 1)])
    def test_every_point_is_named_and_steps_join_the_front_to_a_near_reference_point(self, corner, seen):
        marks = (("a", 0.5, 0.0, True), ("b", 0.6, 5.0, False), ("c", 0.7, 4.0, True))
        points = tuple(Checkpoint(name, r, r - 0.1, r + 0.1, t, t - 1, t + 1, on) for name, r, t, on in marks)
        found = Front("win_rate.win_rate", "proportion", "base", ("drop", "rte"), points, 70.0, corner, "the default")
        drawing = draw(audit.front, audited(row("drop", 0.1), front=found))
        assert {"a", "b", "c"} <= texts_of(drawing)
        lines = drawing.figure.axes[0].get_lines()
        (steps,) = [line for line in lines if line.get_drawstyle() == "steps-post"]
        assert steps.get_xydata()[1:3].tolist() == [[0.0, 0.5], [4.0, 0.7]]
        assert drawing.alt.endswith("Dominated: b (reward 0.600, tax 5.0 %).")
        assert sum(line.get_marker() == "+" for line in lines) == seen
        assert f"reward {corner[0]:g}, tax {corner[1]:g} %" in drawing.caption


class TestTaxBySystem:
    def test_tasks_with_a_tax_are_shown_zero_shot_and_few_shot(self, drawings):
        table = drawings["tax_panels"].table
        tasks = table[["task", "metric"]].drop_duplicates().values.tolist()  # neither bias nor win rate
        assert tasks == [["drop", "f1"], ["hellaswag", "acc_norm"], ["rte", "acc"]]
        few = table.query("shots == 10")
        assert few[["system", "task"]].values.tolist() == [["base", "rte"], ["sft", "rte"], ["ppo", "rte"]]
        assert {"zero-shot", "10 examples", "chance"} <= texts_of(drawings["tax_panels"])

    def test_a_stage_of_several_sizes_is_a_line_over_them_and_missing_values_are_counted(self, tmp_path):
        folders = [
            model(tmp_path, f"{stage}-{size}", *tax_tasks(1e-8 * size)[-number:], stage=stage, parameters=size)
            for size in (1_300_000, 6_000_000)
            for stage, number in (("base", 3), ("sft", 3 if size < 2_000_000 else 1))
        ]
        drawing = draw(tax.by_system, *folders)
        assert {"1.3M", "6M", "base", "sft"} <= texts_of(drawing)
        assert "base-1300000" not in texts_of(drawing)
        assert "2 pairs of a system and a task have no value" in drawing.caption  # hellaswag and rte of the larger sft
        assert_nothing_overlaps(drawing.figure)


class TestSweeps:
    def test_models_that_differ_in_one_weight_are_compared(self, drawings):
        gamma, beta = drawings["sweep_gamma"].table, drawings["sweep_beta"].table
        assert (set(gamma.system), set(beta.system)) == ({"ppo", "ptx"}, {"ppo", "beta-2"})
        assert (set(gamma.beta), set(beta.gamma)) == ({0.02}, {0.0})
        values = gamma.set_index(["task", "gamma"]).value
        places = [("win_rate", 20.0), ("drop", 0.0), ("drop", 20.0)]
        assert values.loc[places].tolist() == pytest.approx([0.65, 0.4, 0.5])
        assert {"0", "20", "start"} <= texts_of(drawings["sweep_gamma"])

    def test_models_with_different_numbers_of_episodes_are_on_different_lines(self, tmp_path):
        folders = [
            model(tmp_path, f"{episodes}-{gamma:g}", *tax_tasks(0.01 * gamma), lineage=SFT,
                  training=ppo(gamma=gamma, episodes=episodes))
            for episodes in (256, 512)
            for gamma in (0.0, 20.0)
        ]  # fmt: skip
        gamma = draw(tax.penalty_sweeps, *folders)
        assert set(gamma.table[gamma.table.system.str.startswith("256")].episodes) == {256}
        assert {"β = 0.02, 256 episodes", "β = 0.02, 512 episodes"} <= texts_of(gamma)
        assert "the same start, reward, β and number of episodes" in gamma.caption
        assert_nothing_overlaps(gamma.figure)


class TestTrainings:
    def test_a_line_goes_from_the_start_to_the_end_and_each_kind_of_training_has_its_values(self, drawings):
        table = drawings["tax_over_training"].table.query("task == 'drop'")
        assert table[["training", "system", "episodes", "value"]].values.tolist() == [
            ["ppo", "sft", 0, pytest.approx(0.35)], ["ppo", "ppo-iteration-2", 128, pytest.approx(0.3)],
            ["ppo", "ppo", 512, pytest.approx(0.4)],
        ]  # fmt: skip
        runs, sft, reward = (drawings[f"training_curves{end}"] for end in ("", "_sft", "_reward"))
        assert runs.table.score.tolist() == pytest.approx([0.1, 0.2, 0.3])
        assert runs.table.kl.isna().tolist() == [False, False, True]
        assert "1 values that are not finite numbers" in runs.caption
        assert sft.table.loss.dropna().tolist() == [1.0, 0.5, 1 / 3, 0.25]
        assert sft.table.validation_loss.dropna().tolist() == [0.4]
        assert reward.table[["accuracy", "accuracy_low", "accuracy_high"]].dropna().values.tolist() == [[0.7, 0.6, 0.8]]

    def test_the_report_shows_the_warnings_of_a_training(self, tmp_path):
        folder = training(tmp_path / "ppo", "ppo", iterations(3))
        warned = [{"event": "warning", "iteration": i, "kind": "end", "reason": "no response ended"} for i in (1, 2)]
        write_lines(folder / "log.jsonl", [{"event": "start"}, *warned])
        expected = "Training ppo: warning in 2 iterations, first in iteration 1: no response ended."
        assert expected in gather([folder]).notes

    def test_trainings_of_one_name_are_two_lines_and_have_the_name_of_their_parent_folder(self, tmp_path):
        folders = [training(tmp_path / above / "ppo", "ppo", iterations(3)) for above in ("three", "four")]
        assert set(draw(trainings.training_curves, gather(folders)).table.run) == {"three/ppo", "four/ppo"}
        for above in ("one", "two"):
            for name, episodes in (("ppo", 512), ("ppo-iteration-2", 64)):
                lineage = [("base", f"base-{above}")]
                model(tmp_path / above, name, *tax_tasks(0.0), lineage=lineage, training=ppo(episodes=episodes))
        table = draw(trainings.over_training, gather_once(tmp_path / "one", tmp_path / "two")).table.query(
            "task == 'drop'"
        )
        assert table.groupby("training").episodes.apply(list).tolist() == [[64, 512]] * 2


@pytest.mark.parametrize("figure", [tax.penalty_sweeps, trainings.over_training, tax.by_system])
def test_unscored_documents_are_counted(figure, tmp_path):
    values = ("rte", {"acc": [None, None, *shares(0.5)[2:]]})
    for name, own in (("ppo", ppo()), ("ptx", ppo(gamma=9.0)), ("ppo-iteration-2", ppo(episodes=64))):
        model(tmp_path, name, values, lineage=SFT, training=own)
    drawing = draw(figure, gather_once(tmp_path))
    assert set(drawing.table.unscored) == {2}
    assert set(drawing.table.n) == {N - 2}
    assert f"Left out: {2 * len(drawing.table)} unscored documents." in drawing.caption
