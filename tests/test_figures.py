"""All figures: values of the run folders, readable with any names, left out with a reason without data."""

from __future__ import annotations

import pytest
from audit_runs import shares, write_run
from figure_checks import assert_looks_as_before, assert_nothing_overlaps, shown_texts
from report_runs import NASTY, evidence_of

from reports.evidence import Evidence
from reports.figures import FIGURES, MISSING
from reports.report import draw_all
from reports.style import looks, new_figure, short_names, size_of, styled

pytest_plugins = ("report_fixtures",)
WITH_VALUES = {
    "win_rate_by_size", "truthfulness", "toxicity", "bias_entropy", "tax_panels", "sweep_gamma", "sweep_beta",
    "tax_over_training",
}  # fmt: skip
NAMES = {
    *WITH_VALUES, *(f"audit_forest_{number}" for number in range(1, 7)), "reward_tax_front", "likert",
    "metadata_flags", "toxicity_by_prompt", "persona_clouds_first_name", "persona_clouds_nationality",
    *(f"persona_histograms_{field}" for field in ("first_name", "gender", "age_decade", "nationality", "opinion")),
    "review_sentiment", "embeddings_map", "cosine_heat_map", "token_entropy_histogram",
    "token_entropy_on_policy_histogram", "token_entropy_curve", "training_curves", "training_curves_sft",
    "training_curves_reward", "labeler_agreement",
}  # fmt: skip


def test_every_figure_is_drawn_if_there_are_data(drawings):
    assert set(drawings) == NAMES


@pytest.mark.parametrize("name", sorted(WITH_VALUES))
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
        assert (row.value, row.low, row.high, row.n) == (own.value, own.low, own.high, own.n)
        assert (row.unscored, row.scorer) == (own.n_unscored, own.scorer or "")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_texts_do_not_overlap_and_are_not_cut(name, drawings):
    assert_nothing_overlaps(drawings[name].figure)
    assert drawings[name].alt.endswith(".")
    assert drawings[name].caption.endswith(".")
    assert not drawings[name].source.startswith("after")  # the page writes this word


@pytest.mark.slow
def test_names_of_any_length_and_script_do_not_overlap(nasty):
    assert len(nasty) >= 25
    for drawing in nasty.values():
        assert_nothing_overlaps(drawing.figure)
        texts = [text for text, _ in shown_texts(drawing.figure)]
        assert not any("\u202e" in text for text in (*texts, drawing.caption, drawing.alt)), drawing.name


def test_a_figure_without_data_says_what_is_missing(tmp_path):
    run = write_run(tmp_path, "m", ("crows_pairs", {"pct_stereotype": shares(0.5)}))
    for evidence in (Evidence(()), evidence_of(run)):
        assert draw_all(evidence) == ([], MISSING)
    assert list(MISSING) == list(FIGURES)


@pytest.mark.parametrize("name", ["audit_forest_5", "review_sentiment", "win_rate_by_size", "tax_panels"])
def test_a_picture_has_not_changed(name, drawings):
    assert_looks_as_before(drawings[name].figure, name)


def test_a_system_has_the_same_look_in_every_figure(drawings, evidence):
    own = looks([system.name for system in evidence.systems])["ppo"]
    for name in ("sweep_gamma", "tax_panels", "win_rate_by_size", "likert", "reward_tax_front"):
        lines = [line for axes in drawings[name].figure.axes for line in axes.get_lines()]
        assert {line.get_color() for line in lines if line.get_marker() == own.marker} == {own.colour}, name


@pytest.mark.parametrize(("x", "text", "problem"), [(0.51, "there", "overlap"), (0.9, "too long " * 9, "leaves")])
def test_texts_that_overlap_or_are_cut_are_found(x, text, problem):
    with styled():
        figure, axes = new_figure(2)
        axes.text(0.5, 0.5, "here")
        axes.text(x, 0.5, text, in_layout=False)
    with pytest.raises(AssertionError, match=problem):
        assert_nothing_overlaps(figure)


def test_short_names_stay_different():
    names = [f"checkpoint-{k}-of-many-with-a-long-name" for k in range(12)] + ["a" * 60, "a" * 61, "b", *NASTY]
    short = short_names(names, 20)
    assert len(set(short.values())) == len(names)
    assert max(map(len, short.values())) <= 20
    assert short["b"] == "b"
    assert "-7-of" in short["checkpoint-7-of-many-with-a-long-name"]


def test_numbers_of_parameters_have_three_digits():
    found = [size_of(n) for n in (12, 260_000, 134_515_008, 999_999_999, 1.3e9, 175e9)]
    assert found == ["12", "260K", "135M", "1B", "1.3B", "175B"]
