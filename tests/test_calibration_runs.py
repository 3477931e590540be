"""The calibration of runs: from the records of tasks with choices to rows of the audit, verdicts and the page."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from audit_runs import N, headline_of, shares, write_run
from cases import cases
from commands import assert_one_line_error, run
from report_runs import evidence_of

from alignbench.audit.calibration import with_calibration
from alignbench.audit.compare import compare
from alignbench.audit.references import task_of
from alignbench.runs.read import read_runs
from alignbench.runs.summary import summarise
from alignbench.stats.calibration import confidence, expected_calibration_error
from alignbench.tasks.calibration import calibrated
from reports.evidence import Evidence, System, gather
from reports.figures import calibration
from reports.style import styled

YES_NO = (" Yes", " No")


def rte(sharpness, accuracy=0.7, **changes):
    """RTE decided by means per token; sharpness: nats between the choices."""
    right, columns = shares(accuracy), []
    for row, hit in enumerate(right):
        label, gap = row % 2, sharpness * (0.5 + row / N)
        means = [-1.0, -1.0]
        means[label if hit else 1 - label] += gap
        tokens = [1, 3]  # totals would decide otherwise
        logprobs = [mean * count for mean, count in zip(means, tokens, strict=True)]
        columns.append({"choices": YES_NO, "logprobs": logprobs, "tokens": tokens, "target": {"label": label}})
    return "rte", {"acc": right}, {"columns": columns, **changes}


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path, "base", rte(0.8))
    write_run(tmp_path, "aligned", rte(4.0))
    return tmp_path


def calibrations(folder, name):
    (found,) = read_runs([name], folder)
    return [own for own in with_calibration(found).tasks if own.task.endswith("_calibration")]


def test_the_metrics_are_those_of_the_scores_that_decide(runs):
    (own,) = calibrations(runs, "base")
    records, found = list(own.records()), own.result.overall
    gaps = 0.8 * (0.5 + np.arange(N) / N)
    p = 1 / (1 + np.exp(-gaps))
    right = np.array(shares(0.7))
    assert [r.metrics["confidence"] for r in records] == pytest.approx(p)
    assert found["overconfidence"].value == pytest.approx((p - right).mean())
    assert found["brier"].value == pytest.approx((2 * (p - right) ** 2).mean())
    assert found["nll"].value == pytest.approx(-np.log(np.where(right, p, 1 - p)).mean())
    assert found["ece"].value == expected_calibration_error(p, right, intervals=False).value
    assert found["ece"].low < found["ece"].value < found["ece"].high
    assert 0.05 < found["ece_if_calibrated"].value < 0.25
    assert (found["brier"].chance, found["nll"].chance) == (0.5, pytest.approx(math.log(2)))
    assert (found["brier"].n, found["brier"].n_unscored) == (N, 0)
    task = task_of(own)
    lost = replace(records[0], metrics=dict.fromkeys(records[0].metrics))
    again = summarise(task, [*records, lost], shots=0, limit=None, seed=0).overall["ece"]
    assert (again.n, again.n_unscored, found["ece"].n_unscored) == (N, 1, 0)
    assert (task.name, task.ability, task.group, task.family) == (
        "rte_calibration",
        "calibration",
        "",
        "rte_calibration",
    )


def test_calibration_has_a_verdict_of_its_own_outside_the_tax(runs):
    (contrast,) = compare(["base", "aligned"], runs=runs).contrasts
    row = headline_of(contrast, "rte_calibration")
    assert (row.metric, row.ability, row.verdict, row.primary) == ("brier", "calibration", "loss", True)
    assert contrast.tests == 2  # accuracy is equal, but tested
    (own,) = [own for own in contrast.abilities if own.ability == "calibration"]
    assert own.sentence.startswith("Calibration: loss. rte_calibration.brier rose by ")
    assert contrast.mean.tasks == ("rte",)
    rows = {row.metric: row for row in contrast.rows if row.task == "rte_calibration"}
    assert rows["ece"].test == "bootstrap"
    assert rows["ece"].low < rows["ece"].delta < rows["ece"].high
    assert rows["overconfidence"].gain == pytest.approx(abs(rows["overconfidence"].reference)
                                                        - abs(rows["overconfidence"].aligned))  # fmt: skip
    assert compare(["base", "aligned"], runs=runs, tasks=["rte"]).contrasts[0].tests == 1
    only = compare(["base", "aligned"], runs=runs, tasks=["rte_calibration"]).contrasts[0]
    assert {row.task for row in only.rows} == {"rte_calibration"}
    failed = run("compare", "base", "aligned", "--runs", str(runs), "--fail-if", "calibration loss > 0.01")
    assert failed.returncode == 3


def test_equal_models_do_not_differ_and_runs_without_log_probabilities_have_no_calibration(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / "equal", name, rte(1.0))
        write_run(tmp_path / "without", name, ("rte", {"acc": shares(0.6)}))
    (contrast,) = compare(["one", "two"], runs=tmp_path / "equal").contrasts
    row = headline_of(contrast, "rte_calibration")
    assert (row.delta, row.p_holm) == (0, 1)
    assert {row.ability for row in compare(["one", "two"], runs=tmp_path / "without").contrasts[0].rows} == {
        "capability"
    }


def test_variants_of_truthfulqa_are_one_family(tmp_path):
    for name in ("base", "aligned"):
        columns = [{"choices": [" a", " b", " c"], "logprobs": [-1.0, -2.0, -3.0], "tokens": [1, 1, 1],
                    "target": {"true_answers": 1, "best_choice": 0}} for _ in range(N)]  # fmt: skip
        values = {"mc1": [1.0] * N, "mc2": [0.5] * N, "mc3": [1.0] * N}
        tasks = [(task, values, {"columns": columns}) for task in ("truthfulqa_mc", "truthfulqa_mc_2025")]
        write_run(tmp_path, name, *tasks, ("truthfulqa_binary", {"acc": [1.0] * N}, {"columns": columns}))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    own = [row for row in contrast.rows if row.ability == "calibration" and row.headline]
    assert len(own) == 3
    assert {row.family for row in own} == {"truthfulqa_calibration"}
    assert [row.task for row in own if row.primary] == ["truthfulqa_mc_calibration"]


def record(metrics, logprobs, choices, **fields):
    return {"id": "1", "target": {}, "choices": choices, "logprobs": logprobs, "metrics": metrics, **fields}


def test_scores_are_totals_or_per_character_or_byte_or_token():
    logprobs, choices = [-6.0, -8.0], [" abc", " äbcdefg"]
    for decides, lengths in (("total", (1, 1)), ("character", (3, 7)), ("byte", (3, 8)), ("token", (2, 5))):
        own = record({"acc": 1.0}, logprobs, choices, tokens=(2, 5), target={"label": 1})
        found = calibrated(own, ("acc", decides))["metrics"]
        assert found["confidence"] == confidence(np.divide(logprobs, lengths))
    imported = record({"acc": 1.0}, logprobs, choices, target={"target": "1"})  # no tokens: the total decided
    assert calibrated(imported, ("acc", "token"))["metrics"]["confidence"] == confidence(logprobs)


def test_mc1_is_the_best_answer_against_the_false_ones():
    own = record({"mc1": 1.0}, [-2.0, -1.0, -3.0], [" best", " true", " false"], target={"true_answers": 2})
    found = calibrated(own, ("mc1", "total"))["metrics"]
    assert found["confidence"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert found["nll"] == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize(("fields", "place"), cases("calibration")["right_choice"])
def test_without_the_right_choice_there_is_no_brier_score_but_a_confidence(fields, place):
    found = calibrated(record({"acc": 0.0}, [-1.0, -2.0], [" wool", " hay"], **fields), ("acc", "total"))["metrics"]
    assert found["overconfidence"] == pytest.approx(1 / (1 + math.exp(-1)))
    expected = None if place is None else pytest.approx(math.log(1 + math.exp(-1)) + place)
    assert found.get("nll") == expected
    assert ("brier" in found) == (place is not None)
    digits = record({"acc": 0.0}, [-1.0, -2.0], [" 1", " 2"], target={"target": "1"})
    assert "nll" not in calibrated(digits, ("acc", "total"))["metrics"], "the place or the text"


def test_documents_without_what_it_needs_have_none_of_the_metrics_and_unscored_ones_are_counted():
    decides = "acc", "total"
    assert calibrated(record({"acc": 1.0}, [-1.0], [" hay"]), decides)["metrics"] == {}
    assert calibrated(record({"acc": 1.0}, [], [" hay", " wool"]), decides)["metrics"] == {}
    assert calibrated(record({"mc2": 1.0}, [-1.0, -2.0], [" hay", " wool"]), decides)["metrics"] == {}
    unscored = calibrated(record({"acc": None}, [-1.0, None], [" hay", " wool"], unscored="NaN"), decides)
    assert set(unscored["metrics"].values()) == {None}
    mutual = record({"acc": 1.0, "acc_mutual_info": 1.0}, [-1.0, -2.0, -9.0, -1.0], [" hay", " wool"] * 2)
    assert calibrated(mutual, decides)["metrics"]["confidence"] == confidence([-1.0, -2.0])


def test_the_diagram_has_a_panel_per_system_and_its_numbers(runs):
    found = [with_calibration(own) for own in read_runs(["base", "aligned"], runs)]
    evidence = Evidence(tuple(System(own.name, own, own.tasks) for own in found))
    with styled():
        (drawing,) = calibration.diagrams(evidence)
    assert (drawing.name, len(drawing.figure.axes)) == ("reliability_rte", 2)
    for name, own in drawing.table.groupby("system"):
        (result,) = calibrations(runs, name)
        assert (len(own), own.n.sum(), own.unscored.sum()) == (15, N, 0)
        gap = (own.n * (own.confidence - own.value).abs()).sum() / N
        assert gap == pytest.approx(own.ece.iloc[0]) == pytest.approx(result.result.overall["ece"].value)
    assert list(calibration.diagrams(evidence_of(runs / next(runs.iterdir()).name))) == []
    assert {"rte", "rte_calibration"} == set(gather([runs]).tasks)


def test_changed_records_are_refused(runs):
    (file,) = runs.glob("base-*/rte-*/documents.jsonl")
    lines = file.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"logprobs": [-9.0, -1.0]})
    file.write_text("\n".join(lines) + "\n")
    assert_one_line_error(run("compare", "base", "aligned", "--runs", str(runs)), "documents.jsonl", "changed")
