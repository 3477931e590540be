"""Figures of preference, labels, truth, toxicity and bias show the run folders' numbers, all of them and no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from audit_runs import N, shares, weights_of, write_run
from figure_checks import assert_looks_as_before, assert_nothing_overlaps, assert_same_bytes, shown_texts

from alignbench.labels.agreement import questions, with_reference
from alignbench.labels.summary import summary
from alignbench.labels.table import Label
from alignbench.stats import estimates
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, gather
from reports.figures import (
    bias_entropy,
    labeler_agreement,
    likert,
    metadata_flags,
    toxicity,
    toxicity_by_prompt,
    truthfulness,
    win_rate_by_size,
)
from reports.style import styled

FIGURES = (
    bias_entropy, labeler_agreement, likert, metadata_flags, toxicity, toxicity_by_prompt, truthfulness,
    win_rate_by_size,
)  # fmt: skip
NASTY = (
    "a-model-with-a-name-of-sixty-characters-and-then-some-more-ppo",
    "a-model-with-a-name-of-sixty-characters-and-then-some-more-sft",
    "$costs$_a_$lot",
    "נמוך ומימין لليسار",
    "emoji 🦜🦜 \u202e<b>bold</b>",
)
JUDGE = {"kind": "preference", "name": "reward:judge", "revision": "1" * 40}
PROMPT_TOXICITIES = [row / N for row in range(N)]


def made(folder: Path, names: Sequence[str], tasks: Callable[[int], list[Any]], **described: Any) -> Evidence:
    """Runs of these names, each with `tasks(its number)`. described: run.json's fields -> a value a run."""
    paths = []
    for number, name in enumerate(names):
        path = write_run(folder, name.replace("/", ""), *tasks(number))
        run = json.loads((path / "run.json").read_text())
        run["model"]["name"] = name
        for field, values in described.items():
            run[field] = values[number]
        (path / "run.json").write_text(json.dumps(run))
        paths.append(path)
    # each by itself: comparing them all is the audit's business, and takes long
    systems = [system for path in paths for system in gather([path]).systems]
    return Evidence(tuple(sorted(systems, key=lambda system: len(system.run.lineage))))


def contest(rate: float, baseline: str = "sft-large", **changes: Any) -> tuple[str, Any, dict[str, Any]]:
    """Verdicts with exactly this rate; the answers of the one that wins are no longer than the others."""
    wins, lengths = shares(rate), np.random.default_rng(3).normal(size=N).round(3) * 50
    values = {"win_rate": wins, "length_difference": lengths.tolist()}
    versus = {"name": baseline, "folder": "answers-1", "template": "none"}
    documents = f"{baseline:0<64}"[:64]
    return "win_rate", values, {"scorers": [JUDGE], "baseline": versus, "documents_sha256": documents, **changes}


def lineage(*stages: str) -> list[dict[str, str]]:
    return [{"stage": stage, "name": stage, "weights_sha256": weights_of(stage)} for stage in stages]


def toxic(variant: str, mean: float, scorer: str = "words") -> tuple[str, Any, dict[str, Any]]:
    name = "real_toxicity_instructgpt" + ("" if variant == "basic" else f"_{variant}")
    values = (mean * np.array(PROMPT_TOXICITIES)).tolist()
    columns = [
        {"prompt_toxicity": toxicity, "prompt": f"prompt {row}"} for row, toxicity in enumerate(PROMPT_TOXICITIES)
    ]
    judged = {"scorers": [{"kind": "toxicity", "name": scorer, "revision": "1" * 40}]}
    texts = [f"text {row}" for row in range(N)]
    return name, {"toxicity_greedy": values}, {"columns": columns, "texts": texts, **judged}


def labelled(
    models: Sequence[str], labelers: int = 3, prompts: int = 12, seed: int = 0, flags: Sequence[str] = ("sexual",)
) -> tuple[Label, ...]:
    draw = np.random.default_rng(seed)
    found = []
    for prompt in range(prompts):
        for labeler in range(labelers):
            ranks = draw.permutation(len(models)) + 1
            for model, rank in zip(models, ranks, strict=True):
                found.append(
                    Label(
                        f"prompt {prompt}", f"prompt {prompt}", f"{model} says {prompt}", f"labeler {labeler}", model,
                        "training" if labeler % 2 else "held-out", float(rank), int(draw.integers(1, 8)),
                        {flag: bool(draw.random() < 0.3) for flag in flags},
                    )
                )  # fmt: skip
    return tuple(found)


def drawn(figure: ModuleType, evidence: Evidence) -> Drawing:
    with styled():
        (found,) = figure.draw(evidence)
    return found


def metric_of(evidence: Evidence, system: str, task: str, metric: str) -> tuple[float | None, ...]:
    """Value, low and high as result.json has them."""
    (own,) = [own for each in evidence.systems if each.name == system for own in each.tasks if own.task == task]
    result = json.loads((own.path / "result.json").read_text())
    (found,) = [m for m in result["metrics"] if m["metric"] == metric and m["category"] is None]
    return found["value"], found["low"], found["high"]


def judged_truth(share: float) -> list[Any]:
    scorers = [{"kind": kind, "name": f"lm:{kind}", "revision": "1" * 40} for kind in ("truth", "info")]
    true = shares(share)
    informative = [a * b for a, b in zip(true, reversed(shares(0.7)), strict=True)]
    prompts = ("", "_instruction", "_qa_instruction")
    values = {"true": true, "true_and_info": informative}
    return [(f"truthfulqa_generation{prompt}", values, {"scorers": scorers}) for prompt in prompts]


def bias(benchmark: str, entropy: float) -> tuple[str, Any, dict[str, Any]]:
    of_jobs = [{"bls_pct_female": float(row), "occupation": f"job {row}"} for row in range(N)]
    values = {"entropy": (entropy + 0.2 * np.sin(np.arange(N))).tolist()}
    if benchmark.startswith("winogender"):
        values["gender_gap"] = [0.0] * N
    return benchmark, values, {"columns": of_jobs}


def everything(number: int) -> list[Any]:
    better = 0.3 + 0.04 * number
    return [
        contest(better),
        *judged_truth(better),
        *(toxic(variant, 0.7 - 0.03 * number) for variant in ("basic", "respectful", "biased")),
        *(bias(f"{name}{variant}", 0.5) for name in ("winogender", "crows_pairs") for variant in ("", "_biased")),
    ]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Three systems of one size, with labels."""
    names = ["base", "sft", "ppo"]
    found = made(tmp_path_factory.mktemp("three"), names, everything, parameters=[10**6] * 3)
    return replace(found, labels=labelled(names))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Twelve systems of three sizes and four stages, some with names that no figure expects, and 22 labelers."""
    names = [*NASTY, *(f"model {number}" for number in range(7))]
    stages = ("base", "sft", "ppo", "ppo-ptx")
    found = made(
        tmp_path_factory.mktemp("many"), names, everything,
        parameters=[10 ** (6 + number // 4) for number in range(12)],
        lineage=[lineage(*stages[: 1 + number % 4]) for number in range(12)],
    )  # fmt: skip
    flags = ("fails_instruction", "inappropriate_for_customer_assistant", "$x_y$", "a" * 70)
    return replace(found, labels=labelled(names, labelers=22, prompts=3, flags=flags))


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_without_data_says_what_is_missing(figure: ModuleType, tmp_path: Path):
    evidence = made(tmp_path, ["one"], lambda number: [("rte", {"acc": shares(0.5)})])
    with pytest.raises(NoDataError, match=r"^(no|neither) .*[a-z]$"):
        figure.draw(evidence)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_same_evidence_gives_the_same_bytes(figure: ModuleType, three: Evidence):
    assert_same_bytes(drawn(figure, three), drawn(figure, three))


@pytest.fixture(scope="module")
def of_many(many: Evidence) -> dict[ModuleType, Drawing]:
    return {figure: drawn(figure, many) for figure in FIGURES}


@pytest.mark.parametrize("figure", FIGURES)
def test_no_words_meet_or_are_cut(figure: ModuleType, three: Evidence, of_many: dict[ModuleType, Drawing]):
    with styled():
        assert_nothing_overlaps(drawn(figure, three).figure)
        assert_nothing_overlaps(of_many[figure].figure)


@pytest.mark.parametrize(
    ("figure", "task", "metric"),
    [
        (win_rate_by_size, "win_rate", "win_rate"),
        (win_rate_by_size, "win_rate", "win_rate_length_controlled"),
        (truthfulness, "truthfulqa_generation", "true"),
        (truthfulness, "truthfulqa_generation_qa_instruction", "true_and_info"),
        (toxicity, "real_toxicity_instructgpt_biased", "toxicity_greedy"),
        (bias_entropy, "crows_pairs_biased", "entropy"),
        (bias_entropy, "winogender", "entropy"),
    ],
)
def test_the_table_holds_the_run_folders_numbers(figure: ModuleType, task: str, metric: str, three: Evidence):
    table = drawn(figure, three).table
    own = table[(table.task == task) & (table.metric == metric)].set_index("system")
    assert sorted(own.index) == ["base", "ppo", "sft"]
    for system, row in own.iterrows():
        assert (row.value, row.low, row.high) == metric_of(three, str(system), task, metric)
        assert row.n == N


def test_bars_are_as_long_as_the_table_says(three: Evidence):
    found = drawn(truthfulness, three)
    widths = [patch.get_width() for axes in found.figure.axes for patch in axes.patches]
    assert sorted(widths) == pytest.approx(sorted(found.table.value))


def test_equal_sizes_are_rows_with_the_best_at_the_top(three: Evidence):
    (axes,) = drawn(win_rate_by_size, three).figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ppo", "sft", "base"]
    assert "baseline: sft-large" in [text.get_text() for text in axes.texts]


def test_a_method_of_several_sizes_is_a_line_over_them(of_many: dict[ModuleType, Drawing]):
    (axes,) = of_many[win_rate_by_size].figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 4  # base, sft, ppo, ppo-ptx
    assert len({line.get_color() for line in lines}) == 4
    table = of_many[win_rate_by_size].table
    sft = table[(table.method == "sft") & (table.metric == "win_rate")].sort_values("parameters")
    assert any(list(line.get_ydata()) == pytest.approx(list(sft.value)) for line in lines)


@pytest.mark.parametrize("ratio", [1.003, 1.3])
def test_models_of_no_known_method_are_points_that_are_told_apart(ratio: float, tmp_path: Path):
    names = [*NASTY, *(f"model {number}" for number in range(7))]
    sizes = [int(10**8 * ratio**number) for number in range(12)]
    evidence = made(tmp_path, names, lambda number: [contest(0.3 + 0.03 * number)], parameters=sizes)
    found = drawn(win_rate_by_size, evidence)
    with styled():
        assert_nothing_overlaps(found.figure)
    (axes,) = found.figure.axes
    low, high = axes.get_xlim()
    inside = [line for line in axes.lines if line.get_transform() == axes.transData and len(line.get_xdata()) == 1]
    filled = [float(line.get_xdata()[0]) for line in inside if line.get_markerfacecolor() != "white"]
    assert len(set(filled)) == 12
    assert low < min(filled) < max(filled) < high


def test_one_instruction_alone_has_names_at_the_ends_of_its_lines(tmp_path: Path):
    found = drawn(toxicity_by_prompt, made(tmp_path, NASTY, lambda number: [toxic("basic", 0.2 + 0.1 * number)]))
    assert not found.figure.legends
    with styled():
        assert_nothing_overlaps(found.figure)


def test_the_baseline_stands_at_fifty_per_cent_among_sized_models(tmp_path: Path):
    def tasks(number: int) -> list[Any]:
        return [contest(0.7, "small")] if number else [("rte", {"acc": shares(0.5)})]

    evidence = made(tmp_path, ["small", "large"], tasks, parameters=[10**6, 10**9])
    table = drawn(win_rate_by_size, evidence).table.set_index(["system", "metric"])
    assert table.value["small", "win_rate"] == 0.5
    assert np.isnan(table.low["small", "win_rate"])
    assert table.value["large", "win_rate"] == pytest.approx(0.7)


def test_contests_against_another_baseline_are_counted_not_mixed(tmp_path: Path):
    evidence = made(
        tmp_path, ["a", "b"], lambda number: [contest(0.6, "usual"), *([contest(0.9, "weak")] if number else [])]
    )
    found = drawn(win_rate_by_size, evidence)
    assert set(found.table.baseline) == {"usual"}
    assert "Not shown: 1 contest against" in found.caption


def test_beside_each_win_rate_stands_what_explains_it(tmp_path: Path):
    task, values, changes = contest(0.6)
    beside = {
        "words": [30.0] * N, "baseline_words": [20.0] * N, "longer": shares(0.7), "agrees_with_longer": shares(0.8),
        "position_consistency": shares(0.9),
    }  # fmt: skip
    evidence = made(tmp_path, ["a", "b"], lambda number: [(task, values | beside, changes)])
    found = drawn(win_rate_by_size, evidence)
    assert found.title == "Win rates"  # no size is known
    own = found.table[found.table.system == "a"].set_index("metric").value
    expected = {"words": 30, "baseline_words": 20, "longer": 0.7, "agrees_with_longer": 0.8}
    for metric, value in (expected | {"position_consistency": 0.9}).items():
        assert own[metric] == pytest.approx(value)
    assert (
        "a: 30 words, the baseline 20, always the longer 70%, the judge agrees with that on 80%, the same verdict in "
        "both orders 90%" in found.caption
    )
    with styled():
        assert_nothing_overlaps(found.figure)


def test_what_was_measured_otherwise_is_not_called_missing(tmp_path: Path):
    def tasks(number: int) -> list[Any]:
        name, values, changes = bias("crows_pairs", 0.5)
        other = {"documents_sha256": "e" * 64} if number == 2 else {}
        return [("rte", {"acc": shares(0.5)})] if number == 3 else [(name, values, changes | other)]

    found = drawn(bias_entropy, made(tmp_path, ["a", "b", "c", "d"], tasks))
    assert "Left out: 1 model measured otherwise, 1 model without these numbers." in found.caption


def test_entropy_stands_beside_the_share_of_stereotypes(tmp_path: Path):
    def tasks(number: int) -> list[Any]:
        name, values, changes = bias("crows_pairs", 0.5)
        return [(name, values | {"pct_stereotype": shares(0.6 + 0.1 * number)}, changes), bias("winogender", 0.5)]

    found = drawn(bias_entropy, made(tmp_path, ["a", "b"], tasks))
    own = found.table[found.table.metric == "pct_stereotype"]
    assert own[["system", "value"]].values.tolist() == [["a", pytest.approx(0.6)], ["b", pytest.approx(0.7)]]
    marks = [line for axes in found.figure.axes for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_xdata().tolist() for line in marks] == [[pytest.approx(0.6), pytest.approx(0.7)]]
    assert "a 60%, b 70%" in found.caption
    assert "rewards a model that is merely less sure" in found.caption
    with styled():
        assert_nothing_overlaps(found.figure)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_word_after_is_the_pages(figure: ModuleType, three: Evidence):
    assert not drawn(figure, three).source.startswith("after")


def test_runs_without_a_judge_do_not_hide_those_with_one(tmp_path: Path):
    def tasks(number: int) -> list[Any]:
        return judged_truth(0.6) if number == 0 else [("truthfulqa_generation", {"bleu_acc": shares(0.3)})]

    table = drawn(truthfulness, made(tmp_path, ["judged", "x", "y"], tasks)).table
    assert set(table.system) == {"judged"}


def test_multiple_choice_stands_in_where_no_judge_was_asked(tmp_path: Path):
    values = {"mc1": [*shares(0.4)[1:], None], "mc2": [0.5] * (N - 1) + [None], "mc3": [0.5] * (N - 1) + [None]}
    chance = [{"chance": {"mc1": 0.25, "mc2": 0.5, "mc3": 0.25}}] * N
    found = drawn(truthfulness, made(tmp_path, ["a"], lambda number: [("truthfulqa_mc", values, {"columns": chance})]))
    assert set(found.table.metric) == {"mc1", "mc2"}
    assert "1 unscored document" in found.caption


def test_toxicity_has_a_row_of_panels_for_each_scorer(tmp_path: Path):
    def tasks(number: int) -> list[Any]:
        return [toxic(variant, 0.5, scorer) for variant in ("basic", "biased") for scorer in ("words", "model")]

    found = drawn(toxicity, made(tmp_path, ["a", "b"], tasks))
    assert len(found.figure.axes) == 4
    assert set(found.table.scorer) == {f"words@{'1' * 40}", f"model@{'1' * 40}"}


def test_what_people_call_toxic_is_found_by_prompt_and_output(tmp_path: Path):
    evidence = made(tmp_path, ["a"], lambda number: [toxic("basic", 0.5), toxic("biased", 0.5)])
    said = [
        Label(str(row), f"prompt {row}", f"text {row}", labeler, flags={"toxic": row < 6})
        for row in range(8)
        for labeler in ("x", "y")
    ]
    said.append(Label("z", "another prompt", "text 1", "x", flags={"toxic": False}))
    table = drawn(toxicity, replace(evidence, labels=tuple(said))).table
    people = table[(table.scorer == "people") & (table.instruction == "basic")].iloc[0]
    assert (people.value, people.n, people.unscored) == (12 / 16, 16, N - 8)


def test_toxicity_by_prompt_is_the_mean_of_each_tenth(three: Evidence):
    table = drawn(toxicity_by_prompt, three).table
    own = table[(table.system == "base") & (table.instruction == "basic")]
    assert list(own.bin_low) == pytest.approx([tenth / 10 for tenth in range(10)])
    assert set(own.n) == {N // 10}
    third = 0.7 * np.array(PROMPT_TOXICITIES[24:36])
    expected = estimates.mean(third)
    row = own.iloc[2]
    assert (row.value, row.low, row.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_unscored_outputs_are_counted_and_prompts_without_score_are_in_no_tenth(tmp_path: Path):
    name, values, changes = toxic("basic", 0.5)
    outputs = [None, *values["toxicity_greedy"][1:]]
    columns = [
        {**column, "prompt_toxicity": None} if row == 5 else column for row, column in enumerate(changes["columns"])
    ]
    evidence = made(
        tmp_path, ["a"], lambda number: [(name, {"toxicity_greedy": outputs}, {**changes, "columns": columns})]
    )
    first = drawn(toxicity_by_prompt, evidence).table.iloc[0]
    assert (first.n, first.unscored) == (10, 1)


def test_likert_and_flags_are_those_of_the_summary(three: Evidence):
    known = {(own.model, own.statistic): own.estimate for own in summary(three.labels, resamples=50)}
    marks = drawn(likert, three).table.set_index("system")
    flags = drawn(metadata_flags, three).table.set_index(["system", "flag"])
    for system in ("base", "sft", "ppo"):
        mean, flag = known[system, "likert"], known[system, "sexual"]
        assert tuple(marks.loc[system, ["value", "low", "high"]]) == (mean.value, mean.low, mean.high)
        assert tuple(flags.loc[(system, "sexual"), ["value", "low", "high"]]) == (flag.value, flag.low, flag.high)
        assert sum(marks.loc[system, f"share_{mark}"] for mark in range(1, 8)) == pytest.approx(1)


def test_every_flag_has_its_panel(of_many: dict[ModuleType, Drawing]):
    found = of_many[metadata_flags]
    assert set(found.table.flag) == {"fails_instruction", "inappropriate_for_customer_assistant", "$x_y$", "a" * 70}
    assert sum(axes.axison for axes in found.figure.axes) == 4


def test_labels_of_models_without_runs_are_shown_after_the_systems(three: Evidence):
    found = drawn(likert, replace(three, labels=labelled(["zeta", "ppo", "alpha"])))
    assert list(found.table.system) == ["ppo", "alpha", "zeta"]


def test_agreement_is_that_of_each_two_labelers(three: Evidence):
    table = drawn(labeler_agreement, three).table
    judgements = questions(three.labels)[0].overlapping()
    assert judgements.question == "ranking"
    assert len(table) == 3
    for row in table.itertuples():
        one, other = judgements.labelers.index(row.labeler), judgements.labelers.index(row.other)
        expected = with_reference(judgements, one, other)
        assert (row.value, row.n) == (expected.value, expected.n)


def test_labelers_who_always_agree_agree_and_those_of_a_group_stand_together():
    def label(prompt: int, labeler: str, group: str, marked: int) -> Label:
        return Label(str(prompt), None, "text", labeler, "m", group, likert=marked)

    said = [label(p, who, group, 1 + p % 7) for p in range(9) for who, group in (("a2", "x"), ("a10", "x"), ("b", "w"))]
    said += [label(p, "contrary", "x", 7 - p % 7) for p in range(9)]
    found = drawn(labeler_agreement, Evidence((), labels=tuple(said)))
    (axes,) = found.figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a2", "a10", "contrary"]
    value = found.table.set_index(["labeler", "other"]).value
    assert value["a2", "a10"] == 1
    assert value["a2", "contrary"] == pytest.approx(1 / 9)  # 1 + p % 7 = 7 - p % 7 for p = 3 alone


def test_cells_of_more_than_twenty_labelers_have_no_numbers(three: Evidence, of_many: dict[ModuleType, Drawing]):
    assert len(drawn(labeler_agreement, three).figure.axes[0].texts) == 2 * 3 + 2  # cells, groups
    assert len(of_many[labeler_agreement].figure.axes[0].texts) == 2


def test_control_characters_of_names_reach_neither_picture_nor_words(of_many: dict[ModuleType, Drawing]):
    for found in of_many.values():
        told = [text for text, _ in shown_texts(found.figure)]
        assert not any("\u202e" in text for text in (*told, found.caption, found.alt))


def test_the_picture_of_win_rates_is_as_it_was(of_many: dict[ModuleType, Drawing]):
    with styled():
        assert_looks_as_before(of_many[win_rate_by_size].figure, "win_rate_by_size")
