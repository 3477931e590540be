"""Validation of scorers on small data sets with known results, and on the authors' files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import cases
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from typer.testing import CliRunner

from alignbench.cli.scorers import app
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.scorers import Item, find_scorer
from alignbench.scorers.validate import (
    FRANK_METRICS,
    Finding,
    correlation,
    correlation_within,
    expected_calibration_error,
    of_two_classes,
    validate_hallucination,
    validate_toxicity,
)

WORLD = cases("validate")
TOXICITY = {text: toxicity for row in WORLD["prompts"] for text, toxicity in (row[:2], row[2:])}


def test_agreement_with_two_classes_by_hand_and_undefined_with_one() -> None:
    # ties count half
    assert of_two_classes(roc_auc_score, [True, True, False, False], [0.9, 0.5, 0.5, 0.1]) == 3.5 / 4
    assert of_two_classes(balanced_accuracy_score, [True] * 9 + [False], [True] * 10) == 0.5
    assert of_two_classes(balanced_accuracy_score, [True, True, False], [True, False, False]) == 0.75
    assert of_two_classes(roc_auc_score, [True, True], [0.1, 0.9]) is None


def test_calibration_error_by_hand() -> None:
    # bin .2–.3: two texts at .25, one toxic: |.25 − .5|; bin .9–1: two texts at .9 and 1, one toxic: |.95 − .5|
    assert expected_calibration_error([0, 1, 1, 0], [0.25, 0.25, 0.9, 1.0]) == pytest.approx((0.25 + 0.45) / 2)
    truth = [1] * 2 + [0] * 8 + [1] * 9 + [0]  # right in every bin
    assert expected_calibration_error(truth, [0.2] * 10 + [0.9] * 10) == pytest.approx(0)


def test_correlation_within_systems_ignores_differences_between_them() -> None:
    people, metric, systems = [0.0, 0.2, 0.8, 1.0], [0.2, 0.0, 1.0, 0.8], ["bad", "bad", "good", "good"]
    assert correlation(people, metric) == pytest.approx(15 / 17)
    assert correlation_within(people, metric, systems) == pytest.approx(-1)
    assert correlation_within(people, [0.0, 0.0, 1.0, 1.0], systems) is None
    assert correlation([1, 2, 3, 4], [1, 10, 100, 1000], stats.spearmanr) == pytest.approx(1)
    assert correlation([1, 2, 3], [5, 5, 5], stats.spearmanr) is None


# Toxicity


class Table:
    """A scorer that looks texts up; others have toxicity 0."""

    kind, name, revision = "toxicity", "table", "1"

    def __init__(self, **table: float | None) -> None:
        self.table = table

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        return [{"toxicity": self.table.get(item.output) or 0.0} for item in items]


def write_json_lines(file: Path, rows: Sequence[object]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(file: Path, rows: Sequence[dict[str, object]], index_label: str | None = None) -> None:
    file.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(file, index=index_label is not None, index_label=index_label)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [
        {"prompt": {"text": p, "toxicity": p_toxicity}, "continuation": {"text": c, "toxicity": c_toxicity}}
        for p, p_toxicity, c, c_toxicity in WORLD["prompts"]
    ]
    write_json_lines(tmp_path / "real-toxicity-prompts" / "prompts.jsonl", records)
    rows = [row | {"case_id": number} for number, row in enumerate(WORLD["hatecheck"])]
    write_csv(tmp_path / "hatecheck" / "test_suite_cases.csv", rows, index_label="")
    return tmp_path


def toxicity(folder: Path, table: Table, limit: int | None = None) -> dict[tuple[str, str], Finding]:
    found = validate_toxicity([table], folder, limit, Progress())
    return {(f.data, f.metric): f for f in found if f.metric != "texts per second"}


def test_perspectives_own_scores_agree_perfectly(folder: Path) -> None:
    found = toxicity(folder, Table(**TOXICITY))
    for half in ("rtp prompts", "rtp continuations"):
        assert found[half, "AUC"].value == found[half, "Spearman"].value == pytest.approx(1)
        assert found[half, "AUC"].n == 3  # without the null
    assert found["rtp continuations", "Brier"].value == pytest.approx((0.2**2 + 0.2**2 + 0.4**2) / 3)


def test_false_alarms_are_reported_by_functionality_and_group_and_hate_apart(folder: Path) -> None:
    found = toxicity(folder, Table(n1=0.9, p1=0.51, p0=0.5, o0=1.0, h0=0.9))  # .5 itself is not toxic
    alarms = {metric: finding for (data, metric), finding in found.items() if data == "hatecheck"}
    assert {metric: finding.value for metric, finding in alarms.items()} == pytest.approx(WORLD["false_alarms"])
    wasps = alarms["false alarms, wasps"]
    assert (wasps.n, wasps.high) == (2, 1)
    assert wasps.low is not None
    assert wasps.low < 1


def test_a_limit_samples_the_same_texts_each_time(folder: Path) -> None:
    found = toxicity(folder, Table(), limit=2)
    assert found == toxicity(folder, Table(), limit=2)
    assert max(finding.n for finding in found.values()) <= 2


# Hallucination

SYSTEMS = (("copier", "faithful", 1.0), ("writer", "wrong", 0.0))


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """The summaries in FRANK's and the XSum annotations' files, without the articles."""
    frank, xsum = tmp_path / "frank", tmp_path / "xsum-hallucination"
    people, metrics = [], []
    for split in ("test", "valid"):
        for article in WORLD["articles"]:
            for system, _, factual in SYSTEMS:
                key = {"hash": f"{split} {article}", "model_name": system, "dataset": "bbc", "split": split}
                people.append(key | {"Factuality": factual})
                metrics.append(key | dict.fromkeys(FRANK_METRICS, factual) | {"FactCC": 1 - factual, "FEQA": None})
    frank.mkdir()
    (frank / "human_annotations.json").write_text(json.dumps(people))
    (frank / "baseline_factuality_metrics_outputs.json").write_text(json.dumps(metrics))
    rows = [
        {"bbcid": article, "system": system, "summary": WORLD[summary][article], "worker_id": f"wid_{worker}"}
        | {"hallucination_type": kind}
        for article in WORLD["articles"]
        for system, summary, marks in (("BERTS2S", "faithful", (0, 0, 1)), ("PtGen", "wrong", (2, 1, 0)))
        for worker, spans in enumerate(marks)
        for kind in ["extrinsic"] * spans or ["NULL"]
    ]
    write_csv(xsum / "hallucination_annotations_xsum_summaries.csv", rows)
    scores = [
        {"system_bbcid": f"{system}_{article}", "R2": 0.1, "BERTScore": 0.2, "Entailment": entailment}
        for system, entailment in (("bert_withckpt", 0.9), ("ptgen", 0.3))
        for article in WORLD["articles"]
    ]
    write_csv(xsum / "eval_scores_xsum_summaries.csv", scores)
    return tmp_path


def hallucination(folder: Path, *specs: str) -> tuple[dict[tuple[str, str, str], Finding], list[str]]:
    findings, missing = validate_hallucination([find_scorer(spec) for spec in specs], folder, None, Progress())
    return {(f.scorer, f.data, f.metric): f for f in findings}, missing


def test_without_articles_the_published_metrics_are_judged_and_the_missing_files_named(judged: Path) -> None:
    found, missing = hallucination(judged, "entailment=extractive")
    for metric, data, number, value in WORLD["published"]:
        finding = found[f"{metric} (published)", data, number]
        assert (finding.value, finding.n) == (value, 4)  # the test split
    assert not any(scorer.startswith(("FEQA", "extractive")) for scorer, _, _ in found)
    frank, xsum = missing
    assert "benchmark_data.json" in frank
    assert "xsum_articles.jsonl" in xsum
    assert "\n" not in frank + xsum


def test_with_articles_a_scorer_is_compared_with_the_majority_of_annotators(judged: Path) -> None:
    texts = [
        {"hash": f"{split} {article}", "model_name": system, "article": text, "summary": WORLD[summary][article]}
        for split in ("test", "valid")
        for article, text in WORLD["articles"].items()
        for system, summary, _ in SYSTEMS
    ]
    (judged / "frank" / "benchmark_data.json").write_text(json.dumps(texts))
    articles = [{"id": article, "document": text} for article, text in WORLD["articles"].items()]
    write_json_lines(judged / "xsum-hallucination" / "xsum_articles.jsonl", articles)
    found, missing = hallucination(judged, "entailment=extractive")
    assert missing == []
    for data in ("frank bbc", "xsum"):
        assert found["extractive@1", data, "balanced accuracy"].value == 1
        assert (found["extractive@1", data, "AUC"].value, found["extractive@1", data, "AUC"].n) == (1, 4)


def test_a_faulty_file_of_articles_is_an_error_and_not_missing(judged: Path) -> None:
    (judged / "frank" / "benchmark_data.json").write_text('[{"hash": "test a1"}]')
    with pytest.raises(AlignbenchError, match=r"benchmark_data.json:1: no field 'model_name'"):
        hallucination(judged)


# The command line


def test_the_list_shows_every_scorer_and_how_to_name_it() -> None:
    shown = CliRunner().invoke(app, ["list"]).stdout
    assert "toxicity=alt-profanity-check\t\tyes\tMIT\tnone" in shown
    assert "toxicity=detoxify-unbiased[:CHECKPOINT-OR-FOLDER]\tdefault" in shown
    assert "truth=judge:FOLDER-OR-HUB-ID\t\tneeds a path" in shown
    assert "evaluate=PATH\t\tneeds a path" in shown


def test_findings_are_printed_as_json_and_scorers_of_another_kind_refused(folder: Path) -> None:
    arguments = ["validate", "toxicity", "--data-dir", str(folder), "--json", "--scorer"]
    shown = CliRunner().invoke(app, [*arguments, "toxicity=alt-profanity-check"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert {row["data"] for row in found} == {"rtp prompts", "rtp continuations", "hatecheck"}
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in found)
    caught = CliRunner().invoke(app, [*arguments, "entailment=extractive"]).exception
    assert isinstance(caught, AlignbenchError)
    assert "validates toxicity scorers" in str(caught)


# The authors' files


@pytest.mark.slow
@pytest.mark.needs_data
def test_a_scorer_without_a_download_agrees_with_perspective_as_measured(data_dir: Path) -> None:
    findings = validate_toxicity([find_scorer("toxicity=alt-profanity-check")], data_dir, None, Progress())
    found = {(f.data, f.metric): f for f in findings}
    assert found["rtp continuations", "AUC"].value == pytest.approx(0.884, abs=0.005)
    assert found["hatecheck", "false alarms, identity mentions"].n == 126 + 189


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
