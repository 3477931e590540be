"""Validation of scorers on small data sets with known results, and on the authors' files."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cases import cases
from commands import assert_one_line_error, assert_refused, run
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from alignbench.progress import Progress
from alignbench.scorers import find_scorer, validate
from alignbench.scorers.validate import Finding, correlation, correlation_within, of_two_classes
from alignbench.stats.calibration import calibration

KNOWN = cases("validate")
DATA = Path(__file__).parent / "cases" / "validate"


def test_agreement_with_two_classes_and_calibration_error_by_hand() -> None:
    # ties count half
    assert of_two_classes(roc_auc_score, [True, True, False, False], [0.9, 0.5, 0.5, 0.1]) == 3.5 / 4
    assert of_two_classes(balanced_accuracy_score, [True] * 9 + [False], [True] * 10) == 0.5
    assert of_two_classes(balanced_accuracy_score, [True, True, False], [True, False, False]) == 0.75
    assert of_two_classes(roc_auc_score, [True, True], [0.1, 0.9]) is None  # one class
    # bin .2–.3: two texts at .25, one toxic: |.25 − .5|; bin .9–1: two texts at .9 and 1, one toxic: |.95 − .5|
    assert calibration([0.25, 0.25, 0.9, 1.0], [0, 1, 1, 0])[0] == pytest.approx((0.25 + 0.45) / 2)
    truth = [1] * 2 + [0] * 8 + [1] * 9 + [0]  # right in every bin
    assert calibration([0.2] * 10 + [0.9] * 10, truth)[0] == pytest.approx(0)


def test_correlation_within_systems_ignores_differences_between_them() -> None:
    people, metric, systems = [0.0, 0.2, 0.8, 1.0], [0.2, 0.0, 1.0, 0.8], ["bad", "bad", "good", "good"]
    assert correlation(people, metric) == pytest.approx(15 / 17)
    assert correlation_within(people, metric, systems) == pytest.approx(-1)
    assert correlation_within(people, [0.0, 0.0, 1.0, 1.0], systems) is None
    assert correlation([1, 2, 3, 4], [1, 10, 100, 1000], stats.spearmanr) == pytest.approx(1)
    assert correlation([1, 2, 3], [5, 5, 5], stats.spearmanr) is None


def toxicity(limit: int | None = None, **table: float) -> dict[tuple[str, str], Finding]:
    """Of a scorer that looks texts up; others have toxicity 0."""
    scorer = SimpleNamespace(kind="toxicity", name="table", revision="1")
    scorer.score = lambda items: [{"toxicity": table.get(item.output, 0.0)} for item in items]
    found = validate.validate_toxicity([scorer], DATA, limit, Progress())
    return {(f.data, f.metric): f for f in found}


def test_perspectives_own_scores_agree_perfectly() -> None:
    found = toxicity(**KNOWN["perspective"])
    for half in ("rtp prompts", "rtp continuations"):
        assert found[half, "AUC"].value == found[half, "Spearman"].value == pytest.approx(1)
        assert found[half, "AUC"].n == 3  # without the null
    assert found["rtp continuations", "Brier"].value == pytest.approx((0.2**2 + 0.2**2 + 0.4**2) / 3)


def test_false_alarms_are_reported_by_functionality_and_group_and_a_limit_draws_the_same_texts() -> None:
    found = toxicity(n1=0.9, p1=0.51, p0=0.5, o0=1.0, h0=0.9)  # .5 itself is not toxic
    alarms = {metric: finding for (data, metric), finding in found.items() if data == "hatecheck"}
    assert {metric: finding.value for metric, finding in alarms.items()} == pytest.approx(KNOWN["false_alarms"])
    wasps = alarms["false alarms, wasps"]
    assert (wasps.n, wasps.high) == (2, 1)
    assert 0 < wasps.low < 1
    found = toxicity(limit=2)
    assert found == toxicity(limit=2)
    assert max(finding.n for finding in found.values()) <= 2


def hallucination(folder: Path, *specs: str) -> tuple[dict[tuple[str, str, str], Finding], list[str]]:
    findings, missing = validate.validate_hallucination([find_scorer(spec) for spec in specs], folder, None, Progress())
    return {(f.scorer, f.data, f.metric): f for f in findings}, missing


def test_scorers_and_published_metrics_are_compared_with_the_majority_of_annotators() -> None:
    found, missing = hallucination(DATA, "entailment=extractive")
    for *finding, value in KNOWN["summaries"]:
        assert (found[tuple(finding)].value, found[tuple(finding)].n) == (value, 4), finding  # the test split
    assert not any(scorer.startswith("FEQA") for scorer, _, _ in found)  # which has no values
    assert missing == []


def test_without_articles_the_published_metrics_are_judged_and_the_missing_files_named(tmp_path: Path) -> None:
    articles = "benchmark_data.json", "xsum_articles.jsonl"
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*articles))
    whole, _ = hallucination(DATA)
    found, missing = hallucination(tmp_path, "entailment=extractive")
    assert found == whole
    assert [name in line and "\n" not in line for name, line in zip(articles, missing, strict=True)] == [True, True]
    # a faulty file is an error and not missing
    (tmp_path / "frank" / articles[0]).write_text('[{"hash": "test a1"}]')
    assert_refused(r"benchmark_data.json:1: no field 'model_name'", hallucination, tmp_path)


def test_scorers_are_listed_findings_printed_as_json_and_scorers_of_another_kind_refused() -> None:
    shown = run("scorers", "list").stdout
    assert "toxicity=alt-profanity-check\t\tyes\tMIT\tnone" in shown
    assert "toxicity=detoxify-unbiased[:CHECKPOINT-OR-FOLDER]\tdefault" in shown
    assert "truth=judge:FOLDER-OR-HUB-ID\t\tneeds a path" in shown
    arguments = ["scorers", "validate", "toxicity", "--data-dir", DATA, "--json", "--scorer"]
    shown = run(*arguments, "toxicity=alt-profanity-check")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert {row["data"] for row in found} == {"rtp prompts", "rtp continuations", "hatecheck"}
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in found)
    assert_one_line_error(run(*arguments, "entailment=extractive"), "validates toxicity scorers")


@pytest.mark.needs_data
def test_the_correlation_within_systems_is_that_of_least_squares_residuals(data_dir: Path) -> None:
    """The partial correlation of FRANK's paper: residuals of least squares on system indicators."""
    found, _ = hallucination(data_dir)
    people = pd.read_json(data_dir / "frank" / "human_annotations.json", dtype=False)
    metrics = pd.read_json(data_dir / "frank" / "baseline_factuality_metrics_outputs.json", dtype=False)
    people = people[(people.split == "test") & (people.dataset == "cnndm")]
    metrics = metrics.drop_duplicates(["hash", "model_name"], keep="last")[["hash", "model_name", "FactCC"]]
    rows = people.merge(metrics, on=["hash", "model_name"])
    indicators = pd.get_dummies(rows.model_name).to_numpy(float)
    both = rows[["Factuality", "FactCC"]].to_numpy(float)
    residuals = both - indicators @ np.linalg.lstsq(indicators, both)[0]
    judged = found["FactCC (published)", "frank cnndm", "Pearson within systems"]
    assert judged.value == pytest.approx(np.corrcoef(residuals.T)[0, 1], abs=1e-9)
    assert judged.n == len(rows) == 875
    assert found["Entailment (published)", "xsum", "AUC"].n == 1992


@pytest.mark.slow
@pytest.mark.needs_data
def test_a_scorer_without_a_download_agrees_with_perspective_as_measured(data_dir: Path) -> None:
    findings = validate.validate_toxicity([find_scorer("toxicity=alt-profanity-check")], data_dir, None, Progress())
    found = {(f.data, f.metric): f for f in findings}
    assert found["rtp continuations", "AUC"].value == pytest.approx(0.884, abs=0.005)
    assert found["hatecheck", "false alarms, identity mentions"].n == 126 + 189
