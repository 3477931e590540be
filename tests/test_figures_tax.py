"""Figures of gains, costs and taxes show the run folders' numbers, are the same twice, and can be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from audit_runs import around, shares, weights_of, write_run
from figure_checks import assert_looks_as_before, assert_nothing_overlaps, assert_same_bytes, shown_texts

import reports.evidence
from alignbench.audit.audit import Audit, Checkpoint, Contrast, Front, Row
from reports.drawing import NoDataError
from reports.evidence import Evidence, TrainingRun, gather
from reports.figures import (
    audit_forest,
    penalty_sweeps,
    reward_tax_front,
    tax_over_training,
    tax_panels,
    training_curves,
)
from reports.style import looks, styled
from reports.tax_tasks import reward_measure

N = 60
BASE = [("base", "base")]
SFT = [*BASE, ("sft", "sft")]
MODULES = (audit_forest, penalty_sweeps, reward_tax_front, tax_over_training, tax_panels)
NASTY = (
    *(f"a_very/long-name$of$sixty_characters_and_then_some_more_{number:02d}" for number in range(12)),
    "نموذج عربي طويل", "emoji 🎉 model", "<b>markup & $x_1^2$</b>",
)  # fmt: skip


def draw(module, evidence):
    with styled():
        return module.draw(evidence)


def model(out: Path, name: str, skill: float, lineage=(), win=None, training=None, size=None, few=False) -> None:
    """A run folder: `skill` moves all its scores; training: of its last stage; few: RTE with 10 examples, too."""
    tasks = [
        ("hellaswag", {"acc": shares(0.4 + skill, N), "acc_norm": shares(0.45 + skill, N)}),
        ("rte", {"acc": shares(0.6 - skill, N)}),
        ("drop", {"f1": around(0.3 + skill, N), "em": shares(0.2, N)}),
        ("crows_pairs", {"entropy": around(0.8 + skill, N)}),
    ]
    if few:
        tasks.append(("rte", {"acc": shares(0.7 - skill, N)}, {"shots": 10}))
    if win is not None:
        columns = [{"length_difference": float(row % 7 - 3)} for row in range(N)]
        tasks.append(("win_rate", {"win_rate": shares(win, N)}, {"columns": columns}))
    path = write_run(out, name, *tasks, lineage=lineage)
    described = json.loads((path / "run.json").read_text())
    ancestors = described["lineage"] or [{"stage": "base", "name": name, "weights_sha256": weights_of(name)}]
    if training is not None:
        ancestors[-1]["stage"] = training.pop("stage")
    described |= {"lineage": ancestors, "training": training, "parameters": size}
    (path / "run.json").write_text(json.dumps(described))


def ppo(beta=0.02, gamma=0.0, episodes=512, stage="ppo"):
    return {"stage": stage, "rewards": ["r"], "kl": 5.0, "beta": beta, "gamma": gamma, "episodes": episodes}


def read(out: Path) -> Evidence:
    """Without the audits that have each system as the reference in turn, which no figure shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports.evidence, "MOST_REFERENCES", 0)
        return gather([out])


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Evidence:
    """A base, what was made from it, sweeps of both weights, and two checkpoints on the way."""
    out = tmp_path_factory.mktemp("runs")
    model(out, "base", 0.0, few=True)
    model(out, "sft", 0.1, BASE, 0.5, {"stage": "sft"}, few=True)
    model(out, "ppo", -0.2, SFT, 0.7, ppo(), few=True)
    model(out, "ptx", 0.0, SFT, 0.65, ppo(gamma=20.0, stage="ppo-ptx"))
    model(out, "gamma-100", 0.05, SFT, 0.6, ppo(gamma=100.0, stage="ppo-ptx"))
    model(out, "beta-2", -0.1, SFT, 0.55, ppo(beta=2.0))
    model(out, "other", -0.1, SFT, 0.55, ppo(beta=7.0, gamma=3.0))
    for number in (2, 4):
        model(out, f"ppo-iteration-{number}", -0.05 * number, SFT, 0.6, ppo(episodes=64 * number))
    return read(out)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory) -> Evidence:
    out = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(NASTY):
        model(out, name, 0.02 * (number % 7) - 0.06, win=0.4 + 0.02 * number, few=True)
    return read(out)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Evidence:
    out = tmp_path_factory.mktemp("runs")
    for size in (1_300_000, 6_000_000):
        model(out, f"base-{size}", 1e-8 * size, size=size)
        model(out, f"sft-{size}", 2e-8 * size, [("base", f"base-{size}")], 0.5, {"stage": "sft"}, size=size)
    return read(out)


def row(task: str, gain: float | None, error: float | None = 0.02, **changes) -> Row:
    """A headline row of a share whose greater values are better, unless `changes` say otherwise."""
    known = Row(
        task, "", "reading", "f1", True, "share", "higher", None, 0.5, 0.5 + (gain or 0), gain or 0.0,
        None if error is None or gain is None else gain - 2 * error,
        None if error is None or gain is None else gain + 2 * error,
        gain, error, 0.5, "bootstrap", 0.5, "not decided", None, None if gain is None else -gain, None,
        None if gain is None else -100 * gain, None if error is None else 100 * error, 80, 80, 0,
    )  # fmt: skip
    return replace(known, **changes)


def audited(*rows: Row, front: Front | None = None) -> Evidence:
    contrast = Contrast("sft", "ppo", "SFT", "same", rows, (), None, (), ())
    return Evidence((), audits={"": Audit((contrast,), front, (), 10_000, 0)})


class TestForest:
    def test_it_holds_what_the_audit_found(self, world):
        drawings = draw(audit_forest, world)
        contrasts = world.audits[""].contrasts[: audit_forest.MOST_CONTRASTS]
        assert [drawing.name for drawing in drawings] == [f"audit_forest_{n}" for n in range(1, len(contrasts) + 1)]
        for drawing, contrast in zip(drawings, contrasts, strict=True):
            judged = [own for own in contrast.rows if own.headline and own.gain is not None]
            assert drawing.table.task.tolist() == [own.task for own in judged]
            assert drawing.table.gain.tolist() == pytest.approx([-own.tax_of_range for own in judged])
            assert drawing.table.verdict.tolist() == [own.verdict for own in judged]

    def test_the_interval_is_that_of_the_change_for_the_better(self):
        up = row("drop", 0.1)
        down = row("hallucination_qa", 0.1, better="lower", delta=-0.1, low=-0.13, high=-0.05)
        (drawing,) = draw(audit_forest, audited(up, down))
        assert drawing.table.low.tolist() == pytest.approx([6.0, 5.0])
        assert drawing.table.high.tolist() == pytest.approx([14.0, 13.0])

    def test_of_a_metric_with_a_target_it_is_made_from_the_standard_error_of_the_gain(self):
        (drawing,) = draw(audit_forest, audited(row("crows_pairs", 0.1, better="0.5", low=-0.9, high=-0.8)))
        assert drawing.table.low.item() == pytest.approx(10 - 1.96 * 2)

    def test_a_metric_without_a_range_keeps_its_unit_in_a_panel_of_its_own(self):
        bits = row("personas", -1.5, 0.2, unit="bits", tax_of_range=None, tax_error=None)
        (drawing,) = draw(audit_forest, audited(row("drop", 0.1), bits))
        assert drawing.table[["unit", "gain"]].values.tolist() == [["% of the metric's range", 10.0], ["bits", -1.5]]
        assert len(drawing.figure.axes) == 2
        assert_nothing_overlaps(drawing.figure)

    def test_no_change_without_any_variation_is_zero(self):
        (drawing,) = draw(audit_forest, audited(row("drop", 0.0, None, tax=0.0, tax_of_range=0.0)))
        assert drawing.table.gain.item() == 0
        assert_nothing_overlaps(drawing.figure)

    def test_beyond_forty_rows_the_weakest_are_in_the_table_alone(self):
        many = [row(f"task_{number:02d}", 0.01 * number, group=f"group {number % 5}") for number in range(45)]
        (drawing,) = draw(audit_forest, audited(*many))
        assert drawing.table.drawn.tolist() == [True] * 40 + [False] * 5
        assert "5 more are in the CSV" in drawing.caption
        words = {word for word, _ in shown_texts(drawing.figure)}
        assert "task_39 · f1" in words
        assert "task_40 · f1" not in words
        assert_nothing_overlaps(drawing.figure)

    def test_a_metric_without_a_direction_is_named_and_not_drawn(self):
        (drawing,) = draw(audit_forest, audited(row("drop", 0.1), row("token_entropy", None)))
        assert drawing.table.task.tolist() == ["drop"]
        assert "token_entropy" in drawing.caption

    def test_rows_are_sorted_by_effect_within_their_group(self):
        rows = [row("low", -0.1), row("high", 0.2), row("middle", 0.05), row("alone", 0.1, group="bias")]
        (drawing,) = draw(audit_forest, audited(*rows))
        labels = [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()]
        assert labels == ["alone · f1", "high · f1", "middle · f1", "low · f1"]

    def test_it_looks_as_before(self):
        rows = [
            row("drop", 0.12, verdict="gain"), row("squad2", -0.2, 0.03, verdict="cost"), row("rte", 0.01, 0.04,
            group="inference"), row("personas", -1.5, 0.2, unit="bits", tax_of_range=None, tax_error=None),
        ]  # fmt: skip
        (drawing,) = draw(audit_forest, audited(*rows))
        with styled():
            assert_looks_as_before(drawing.figure, "audit_forest")


def front(*points: tuple[str, float, float, bool], corner=(0.0, 100.0)) -> Front:
    marks = tuple(
        Checkpoint(name, reward, reward - 0.1, reward + 0.1, tax, tax - 1, tax + 1, on)
        for name, reward, tax, on in points
    )
    return Front("win_rate.win_rate", "share", "base", ("drop", "rte"), marks, 70.0, corner, "as asked for")


class TestFront:
    def test_it_holds_the_audits_points(self, world):
        (drawing,) = draw(reward_tax_front, world)
        found = world.audits[""].front
        assert drawing.table.system.tolist() == [point.name for point in found.points]
        assert drawing.table.reward.tolist() == [point.reward for point in found.points]
        assert drawing.table.tax.tolist() == [point.tax for point in found.points]
        assert f"{found.hypervolume:.4g}" in drawing.caption

    def test_every_point_is_named_and_steps_join_those_on_the_front(self):
        points = (("a", 0.5, 0.0, True), ("b", 0.6, 5.0, False), ("c", 0.7, 4.0, True))
        (drawing,) = draw(reward_tax_front, audited(row("drop", 0.1), front=front(*points)))
        words = {word for word, _ in shown_texts(drawing.figure)}
        assert {"a", "b", "c"} <= words
        (steps,) = [line for line in drawing.figure.axes[0].get_lines() if line.get_drawstyle() == "steps-post"]
        assert steps.get_xydata()[1:3].tolist() == [[0.0, 0.5], [4.0, 0.7]]

    @pytest.mark.parametrize(("corner", "seen"), [((0.0, 100.0), 0), ((0.4, 6.0), 1)])
    def test_the_reference_point_is_drawn_where_it_is_in_sight(self, corner, seen):
        points = (("a", 0.5, 0.0, True), ("c", 0.7, 4.0, True))
        (drawing,) = draw(reward_tax_front, audited(row("drop", 0.1), front=front(*points, corner=corner)))
        assert sum(line.get_marker() == "+" for line in drawing.figure.axes[0].get_lines()) == seen
        assert f"reward {corner[0]:g}, tax {corner[1]:g} %" in drawing.caption

    def test_names_of_fifteen_points_in_one_spot_do_not_meet(self):
        points = [(name, 0.5 + 0.002 * number, 0.01 * number, True) for number, name in enumerate(NASTY)]
        (drawing,) = draw(reward_tax_front, audited(row("drop", 0.1), front=front(*points)))
        assert_nothing_overlaps(drawing.figure)


class TestPanels:
    def test_they_hold_what_the_run_folders_say(self, world):
        (drawing,) = draw(tax_panels, world)
        for mark in drawing.table.itertuples():
            (own,) = [
                metric
                for system, task in world.every_run_of(mark.task)
                for metric in task.result.metrics
                if (system.name, task.result.shots) == (mark.system, mark.shots) and metric.metric == mark.metric
            ]
            assert (mark.value, mark.low, mark.high, mark.n) == (own.value, own.low, own.high, own.n)
        assert set(drawing.table.task) == {"hellaswag", "rte", "drop"}  # no bias, no win rate among the taxes
        assert set(drawing.table.metric) == {"acc_norm", "acc", "f1"}

    def test_zero_shot_and_few_shot_are_two_lines(self, world):
        (drawing,) = draw(tax_panels, world)
        few = drawing.table[drawing.table.shots == 10]
        assert few[["system", "task"]].values.tolist() == [["base", "rte"], ["sft", "rte"], ["ppo", "rte"]]
        words = {word for word, _ in shown_texts(drawing.figure)}
        assert {"zero-shot", "few-shot (10 examples)", "chance"} <= words

    def test_what_a_model_lacks_is_counted(self, tmp_path):
        model(tmp_path, "whole", 0.0)
        write_run(tmp_path, "half", ("drop", {"f1": around(0.3, N), "em": shares(0.2, N)}))
        (drawing,) = draw(tax_panels, read(tmp_path))
        assert "2 pairs of a model and a task have no value" in drawing.caption  # hellaswag and rte

    def test_a_stage_of_several_sizes_is_a_line_over_them(self, sizes):
        (drawing,) = draw(tax_panels, sizes)
        words = {word for word, _ in shown_texts(drawing.figure)}
        assert {"1.3M", "6M", "base", "sft"} <= words
        assert "base-1300000" not in words
        assert_nothing_overlaps(drawing.figure)
        assert set(drawing.table.parameters) == {1_300_000, 6_000_000}


class TestSweeps:
    def test_systems_of_the_same_other_weight_alone_are_joined(self, world):
        gamma, beta = draw(penalty_sweeps, world)
        assert (gamma.name, beta.name) == ("sweep_gamma", "sweep_beta")
        assert set(gamma.table.system) == {"ppo", "ptx", "gamma-100"}
        assert set(beta.table.system) == {"ppo", "beta-2"}  # "other" has another gamma, too
        assert set(gamma.table.beta) == {0.02}
        assert set(beta.table.gamma) == {0.0}

    def test_they_hold_reward_and_taxes_over_the_weight(self, world):
        gamma, _ = draw(penalty_sweeps, world)
        values = {(mark.task, mark.gamma): mark.value for mark in gamma.table.itertuples()}
        assert values["win_rate", 0.0] == pytest.approx(0.7)
        assert values["win_rate", 100.0] == pytest.approx(0.6)
        assert values["drop", 0.0] == pytest.approx(0.1)
        assert values["drop", 20.0] == pytest.approx(0.3)

    def test_zero_is_on_the_axis_and_the_start_is_told(self, world):
        gamma, _ = draw(penalty_sweeps, world)
        axes = gamma.figure.axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "20", "100"]
        assert axes.get_xlim()[0] < 0
        assert "start" in {word for word, _ in shown_texts(gamma.figure)}

    def test_without_win_rates_the_reward_is_that_of_the_answers(self, tmp_path):
        rewards = np.linspace(-1, 2, N)
        columns = [{"outputs": [{"text": "t", "unscored": None, "scores": {"reward": {"reward": x}}}]} for x in rewards]
        scorer = {"kind": "reward", "name": "model:rm", "revision": "1"}
        for name in ("one", "two"):
            answers = ("answers", {"answer_rate": shares(1.0, N)}, {"columns": columns, "scorers": [scorer]})
            write_run(tmp_path, name, answers)
        measure = reward_measure(gather([tmp_path]))
        assert measure.title == "reward of answers"
        assert measure.metric.scorer == "model:rm@1"
        assert [point.value for point in measure.points] == pytest.approx([0.5, 0.5])
        assert measure.metric.low < 0.5 < measure.metric.high

    def test_models_of_other_episodes_are_other_lines_and_what_is_alike_is_told(self, tmp_path):
        for episodes in (256, 512):
            for gamma in (0.0, 20.0):
                name = f"{episodes}-{gamma:g}"
                model(tmp_path, name, 0.01 * gamma, SFT, 0.6, ppo(gamma=gamma, episodes=episodes))
        (gamma,) = draw(penalty_sweeps, read(tmp_path))
        assert set(gamma.table[gamma.table.system.str.startswith("256")].episodes) == {256}
        words = {word for word, _ in shown_texts(gamma.figure)}
        assert {"β = 0.02, 256 episodes", "β = 0.02, 512 episodes"} <= words
        assert "with the same β and as many episodes" in gamma.caption
        assert_nothing_overlaps(gamma.figure)


@pytest.mark.parametrize("module", [penalty_sweeps, tax_over_training, tax_panels], ids=("sweeps", "over", "panels"))
def test_unscored_documents_are_counted(module, tmp_path):
    for name, told in (("ppo", ppo()), ("ptx", ppo(gamma=9.0)), ("ppo-iteration-2", ppo(episodes=64))):
        values = ("rte", {"acc": [None, None, *shares(0.5, N)[2:]]})
        path = write_run(tmp_path, name, values, lineage=SFT)
        described = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps(described | {"training": told}))
    (drawing,) = draw(module, read(tmp_path))
    assert set(drawing.table.unscored) == {2}
    assert set(drawing.table.n) == {N - 2}
    assert f"Left out: {2 * len(drawing.table)} unscored documents." in drawing.caption


class TestOverTraining:
    def test_two_trainings_of_one_name_from_other_models_are_two_lines(self, tmp_path):
        for number, above in enumerate(("one", "two")):
            lineage = [("base", f"base-{above}")]
            for name, episodes in (("ppo", 512), ("ppo-iteration-2", 64)):
                model(tmp_path / above, name, 0.1 * number, lineage, 0.6, ppo(episodes=episodes))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reports.evidence, "MOST_REFERENCES", 0)
            (drawing,) = draw(tax_over_training, gather([tmp_path / "one", tmp_path / "two"]))
        own = drawing.table[drawing.table.task == "drop"]
        assert own.groupby("training").episodes.apply(list).tolist() == [[64, 512]] * 2
        assert own.groupby("training").value.apply(list).tolist() == [
            pytest.approx([0.3, 0.3]), pytest.approx([0.4, 0.4]),
        ]  # fmt: skip

    def test_a_training_goes_from_its_start_over_its_checkpoints_to_its_end(self, world):
        (drawing,) = draw(tax_over_training, world)
        own = drawing.table[drawing.table.task == "drop"]
        assert own[["system", "episodes"]].values.tolist() == [
            ["sft", 0], ["ppo-iteration-2", 128], ["ppo-iteration-4", 256], ["ppo", 512],
        ]  # fmt: skip
        assert own.value.tolist() == pytest.approx([0.4, 0.2, 0.1, 0.1])
        assert set(own.training) == {"ppo"}


def training(folder: Path, stage: str, lines: list[dict], settings: dict | None = None) -> Path:
    (folder / "final").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings or {"seed": 0}))
    (folder / "final" / "recipe.json").write_text(json.dumps({"stage": stage}))
    return folder


def iterations(count: int) -> list[dict]:
    return [
        {"step": n, "score": 0.1 * n, "kl": 0.2 * n, "entropy": 2 - 0.01 * n, "response_tokens": 30.0}
        for n in range(1, count + 1)
    ]


class TestTrainingCurves:
    def test_each_kind_of_training_is_a_drawing_of_its_own_numbers(self, tmp_path):
        ppo_lines = iterations(5)
        ppo_lines[2]["kl"] = "nan"
        steps = [{"step": n, "loss": 1 / n} for n in range(1, 5)]
        folders = [
            training(tmp_path / "ppo", "ppo", ppo_lines),
            training(tmp_path / "sft", "sft", [*steps, {"step": 4, "epoch": 1, "validation_loss": 0.4}]),
            training(
                tmp_path / "rm", "reward",
                [*steps, {"step": 4, "epoch": 1, "accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8}],
            ),
        ]  # fmt: skip
        runs, sft, reward = draw(training_curves, gather(folders))
        assert runs.table.score.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
        assert runs.table.kl.isna().tolist() == [False, False, True, False, False]
        assert "1 values were no numbers" in runs.caption
        assert sft.table.loss.dropna().tolist() == [1.0, 0.5, 1 / 3, 0.25]
        assert sft.table.validation_loss.dropna().tolist() == [0.4]
        assert reward.table[["accuracy", "accuracy_low", "accuracy_high"]].dropna().values.tolist() == [[0.7, 0.6, 0.8]]
        for drawing in (runs, sft, reward):
            assert_nothing_overlaps(drawing.figure)

    def test_runs_that_are_called_alike_are_told_apart_by_the_folder_above(self, tmp_path):
        folders = [training(tmp_path / above / "ppo", "ppo", iterations(3)) for above in ("one", "two")]
        (drawing,) = draw(training_curves, gather(folders))
        assert drawing.table.run.unique().tolist() == ["one/ppo", "two/ppo"]

    def test_fifteen_runs_of_long_names_have_a_key_above_the_panels(self, tmp_path):
        runs = tuple(
            TrainingRun(name, tmp_path / str(n), "ppo", tuple(iterations(4)), {}) for n, name in enumerate(NASTY)
        )
        (drawing,) = draw(training_curves, Evidence((), trainings=runs))
        assert_nothing_overlaps(drawing.figure)
        assert drawing.table.run.nunique() == len(NASTY)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
class TestAll:
    def test_nothing_overlaps_or_is_cut(self, module, world):
        for drawing in draw(module, world):
            assert_nothing_overlaps(drawing.figure)

    def test_the_same_evidence_gives_the_same_bytes(self, module, world):
        for first, second in list(zip(draw(module, world), draw(module, world), strict=True))[:1]:
            assert_same_bytes(first, second)

    def test_without_its_data_it_is_left_out(self, module):
        with pytest.raises(NoDataError):
            draw(module, Evidence(()))


@pytest.mark.parametrize("module", [audit_forest, reward_tax_front, tax_panels], ids=("forest", "front", "panels"))
def test_fifteen_systems_of_long_names_overlap_nowhere(module, nasty):
    for drawing in draw(module, nasty)[-3:]:
        assert_nothing_overlaps(drawing.figure)


def test_training_curves_want_a_training_folder(world):
    with pytest.raises(NoDataError):
        draw(training_curves, world)


def test_training_curves_are_the_same_twice(tmp_path):
    evidence = gather([training(tmp_path / "ppo", "ppo", iterations(3))])
    (first,), (second,) = draw(training_curves, evidence), draw(training_curves, evidence)
    assert_same_bytes(first, second)


def test_a_system_is_coloured_alike_in_every_figure(world):
    """`ptx` is the fourth system, drawn as the fourth look in both, though it is the second of its sweep."""
    own = looks([system.name for system in world.systems])["ptx"]
    gamma, _ = draw(penalty_sweeps, world)
    (panels,) = draw(tax_panels, world)
    for drawing in (gamma, panels):
        marks = [line for axes in drawing.figure.axes for line in axes.get_lines() if line.get_marker() == own.marker]
        assert {line.get_color() for line in marks} == {own.colour}
