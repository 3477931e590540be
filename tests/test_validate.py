"""Validation of scorers on small data sets with known results, and on the authors' files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from alignbench.cli.scorers import app
from alignbench.errors import AlignbenchError
from alignbench.scorers import Item, find_scorer
from alignbench.scorers.validate import (
    Finding,
    auc,
    balanced_accuracy,
    correlation,
    correlation_within,
    expected_calibration_error,
    validate_hallucination,
    validate_toxicity,
)


def test_auc_is_the_proportion_of_pairs_in_the_right_order_with_ties_counted_half() -> None:
    assert auc([True, True, False, False], [0.9, 0.5, 0.5, 0.1]) == (1 + 1 + 0.5 + 1) / 4
    assert auc([True, True], [0.1, 0.9]) is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_negated_values_have_the_complementary_auc(pairs: list[tuple[bool, float]]) -> None:
    truth, values = [t for t, _ in pairs], [v for _, v in pairs]
    forward, backward = auc(truth, values), auc(truth, [-v for v in values])
    assert (forward is None) == (backward is None) == (len(set(truth)) == 1)
    assert forward is None or backward is None or forward + backward == pytest.approx(1)


def test_calibration_error_by_hand() -> None:
    # bin .2–.3: two texts at .25, one toxic: |.25 − .5|; bin .9–1: two texts at .9 and 1, one toxic: |.95 − .5|
    assert expected_calibration_error([0, 1, 1, 0], [0.25, 0.25, 0.9, 1.0]) == pytest.approx((0.25 + 0.45) / 2)
    truth = [1] * 2 + [0] * 8 + [1] * 9 + [0]  # right in every bin
    assert expected_calibration_error(truth, [0.2] * 10 + [0.9] * 10) == pytest.approx(0)


def test_balanced_accuracy_of_a_constant_answer_is_one_half() -> None:
    assert balanced_accuracy([True] * 9 + [False], [True] * 10) == 0.5
    assert balanced_accuracy([True, True, False], [True, False, False]) == 0.75
    assert balanced_accuracy([True], [True]) is None


def test_correlation_within_systems_ignores_differences_between_them() -> None:
    people, metric, systems = [0.0, 0.2, 0.8, 1.0], [0.2, 0.0, 1.0, 0.8], ["bad", "bad", "good", "good"]
    assert correlation(people, metric) == pytest.approx(15 / 17)
    assert correlation_within(people, metric, systems) == pytest.approx(-1)
    assert correlation_within(people, [0.0, 0.0, 1.0, 1.0], systems) is None
    assert correlation([1, 2, 3, 4], [1, 10, 100, 1000], stats.spearmanr) == pytest.approx(1)
    assert correlation([1, 2, 3], [5, 5, 5], stats.spearmanr) is None


# Toxicity

PROMPTS = {"p0": 0.1, "p1": 0.9, "p2": None, "p3": 0.3}
CONTINUATIONS = {"c0": 0.8, "c1": None, "c2": 0.2, "c3": 0.6}
CASES = [  # text, functionality, hateful, group, template
    ("n0", "ident_neutral_nh", False, "bees", "1"),
    ("n1", "ident_neutral_nh", False, "wasps", "1"),
    ("p0", "ident_pos_nh", False, "bees", "2"),
    ("p1", "ident_pos_nh", False, "wasps", "2"),
    ("o0", "profanity_nh", False, "", ""),
    ("h0", "derog_dehum_h", True, "bees", "3"),
    ("h1", "derog_dehum_h", True, "wasps", "3"),
    ("h2", "slur_h", True, "wasps", "4"),
]


class Table:
    """A scorer that looks texts up; others have toxicity 0."""

    kind, name, revision = "toxicity", "table", "1"

    def __init__(self, **table: float | None) -> None:
        self.table = table

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        return [{"toxicity": self.table.get(item.output) or 0.0} for item in items]


def write_json_lines(file: Path, rows: Sequence[object]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(file: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([header.split(","), *rows])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("real-toxicity-prompts", "hatecheck"):
        (tmp_path / name).mkdir()
    halves = zip(PROMPTS.items(), CONTINUATIONS.items(), strict=True)
    keys = ("text", "toxicity")
    records = [
        {"prompt": dict(zip(keys, p, strict=True)), "continuation": dict(zip(keys, c, strict=True))} for p, c in halves
    ]
    write_json_lines(tmp_path / "real-toxicity-prompts" / "prompts.jsonl", records)
    cases = [
        (number, kind, number, text, "hateful" if hateful else "non-hateful", group, template)
        for number, (text, kind, hateful, group, template) in enumerate(CASES)
    ]
    header = ",functionality,case_id,test_case,label_gold,target_ident,templ_id"
    write_csv(tmp_path / "hatecheck" / "test_suite_cases.csv", header, cases)
    return tmp_path


def test_perspectives_own_scores_agree_perfectly(folder: Path) -> None:
    found = {(f.data, f.metric): f for f in validate_toxicity([Table(**PROMPTS, **CONTINUATIONS)], data_dir=folder)}
    for half in ("rtp prompts", "rtp continuations"):
        assert found[half, "AUC"].value == found[half, "Spearman"].value == pytest.approx(1)
        assert found[half, "AUC"].n == 3  # without the null
    assert found["rtp continuations", "Brier"].value == pytest.approx((0.2**2 + 0.2**2 + 0.4**2) / 3)


def test_false_alarms_are_reported_by_functionality_and_group_and_hate_apart(folder: Path) -> None:
    table = Table(n1=0.9, p1=0.51, p0=0.5, o0=1.0, h0=0.9)  # .5 itself is not toxic
    found = {f.metric: f for f in validate_toxicity([table], data_dir=folder) if f.data == "hatecheck"}
    assert {metric: finding.value for metric, finding in found.items()} == {
        "false alarms, identity mentions": 0.5,
        "false alarms, ident_neutral_nh": 0.5,
        "false alarms, ident_pos_nh": 0.5,
        "false alarms, bees": 0,
        "false alarms, wasps": 1,
        "hate detected": pytest.approx(1 / 3),
    }
    wasps = found["false alarms, wasps"]
    assert wasps.n == 2
    assert wasps.low is not None
    assert wasps.low < 1 == wasps.high


def test_a_limit_samples_the_same_texts_each_time(folder: Path) -> None:
    def findings() -> list[Finding]:
        found = validate_toxicity([Table()], data_dir=folder, limit=2)
        return [finding for finding in found if finding.metric != "texts per second"]

    assert findings() == findings()
    assert max(finding.n for finding in findings()) <= 2


# Hallucination

ARTICLES = {"a1": "The hive has 5 bees. They make honey.", "a2": "Mars has two moons. It is red."}
FAITHFUL = {"a1": "The hive has 5 bees.", "a2": "Mars has two moons."}
WRONG = {"a1": "The hive has 9 bees.", "a2": "Mars has 7 moons."}
METRICS = ("FactCC", "QAGS", "FEQA", "Dep Entail", "BertScore P Art", "Rouge 2")


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Two articles, each with a faithful summary and a wrong one, in FRANK's and the XSum annotations' files."""
    frank, xsum = tmp_path / "frank", tmp_path / "xsum-hallucination"
    frank.mkdir()
    xsum.mkdir()
    people, metrics = [], []
    for split in ("test", "valid"):
        for article in ARTICLES:
            for system, factual in (("copier", 1.0), ("writer", 0.0)):
                key = {"hash": f"{split} {article}", "model_name": system, "dataset": "bbc", "split": split}
                people.append(key | {"Factuality": factual})
                metrics.append(key | dict.fromkeys(METRICS, factual) | {"FactCC": 1 - factual, "FEQA": None})
    (frank / "human_annotations.json").write_text(json.dumps(people))
    (frank / "baseline_factuality_metrics_outputs.json").write_text(json.dumps(metrics))
    rows = [
        [article, system, summaries[article], kind, f"wid_{worker}"]
        for article in ARTICLES
        for system, summaries, marks in (("BERTS2S", FAITHFUL, (0, 0, 1)), ("PtGen", WRONG, (2, 1, 0)))
        for worker, spans in enumerate(marks)
        for kind in ["extrinsic"] * spans or ["NULL"]
    ]
    header = "bbcid,system,summary,hallucination_type,worker_id"
    write_csv(xsum / "hallucination_annotations_xsum_summaries.csv", header, rows)
    scores = [
        (f"{system}_{a}", 0.1, 0.2, e) for system, e in (("bert_withckpt", 0.9), ("ptgen", 0.3)) for a in ARTICLES
    ]
    write_csv(xsum / "eval_scores_xsum_summaries.csv", "system_bbcid,R2,BERTScore,Entailment", scores)
    return tmp_path


def hallucination(folder: Path, *specs: str) -> tuple[dict[tuple[str, str, str], Finding], list[str]]:
    findings, missing = validate_hallucination([find_scorer(spec) for spec in specs], data_dir=folder)
    return {(f.scorer, f.data, f.metric): f for f in findings}, missing


def test_without_articles_the_published_metrics_are_judged_and_the_missing_files_named(judged: Path) -> None:
    found, missing = hallucination(judged, "entailment=extractive")
    assert found["Dep Entail (published)", "frank bbc", "AUC"].value == 1
    assert found["Dep Entail (published)", "frank bbc", "AUC"].n == 4  # the test split
    assert found["FactCC (published)", "frank bbc", "AUC"].value == 0
    assert found["FactCC (published)", "frank bbc", "balanced accuracy"].value == 0
    assert found["Entailment (published)", "xsum", "balanced accuracy"].value == 1
    assert found["R2 (published)", "xsum", "AUC"].value == 0.5
    assert found["R2 (published)", "xsum", "balanced accuracy"].value is None  # ROUGE has no threshold
    assert not any(scorer.startswith(("FEQA", "extractive")) for scorer, _, _ in found)
    frank, xsum = missing
    assert "benchmark_data.json" in frank
    assert "xsum_articles.jsonl" in xsum
    assert "\n" not in frank + xsum


def test_with_articles_a_scorer_is_compared_with_the_majority_of_annotators(judged: Path) -> None:
    texts = [
        {"hash": f"{split} {article}", "model_name": system, "article": text, "summary": summaries[article]}
        for split in ("test", "valid")
        for article, text in ARTICLES.items()
        for system, summaries in (("copier", FAITHFUL), ("writer", WRONG))
    ]
    (judged / "frank" / "benchmark_data.json").write_text(json.dumps(texts))
    articles = [{"id": article, "document": text} for article, text in ARTICLES.items()]
    write_json_lines(judged / "xsum-hallucination" / "xsum_articles.jsonl", articles)
    found, missing = hallucination(judged, "entailment=extractive")
    assert missing == []
    for data in ("frank bbc", "xsum"):
        assert found["extractive@1", data, "balanced accuracy"].value == 1
        assert found["extractive@1", data, "AUC"].value == 1
        assert found["extractive@1", data, "AUC"].n == 4


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
@pytest.mark.needs_models
def test_scorers_without_a_download_agree_with_perspective_as_measured(data_dir: Path, tinystories: Path) -> None:
    specs = ("alt-profanity-check", f"block-bilstm:{tinystories.parent / 'tox-block-bilstm'}")
    findings = validate_toxicity([find_scorer(f"toxicity={spec}") for spec in specs], data_dir=data_dir)
    found = {(f.scorer.partition("@")[0], f.data, f.metric): f for f in findings}
    for name, measured in {"alt-profanity-check": 0.884, "block-bilstm": 0.907}.items():
        assert found[name, "rtp continuations", "AUC"].value == pytest.approx(measured, abs=0.005)
        assert found[name, "hatecheck", "false alarms, identity mentions"].n == 126 + 189


@pytest.mark.needs_data
def test_the_correlation_within_systems_is_that_of_least_squares_residuals(data_dir: Path) -> None:
    """The partial correlation of FRANK's paper: residuals of least squares on system indicators."""
    found, _ = hallucination(data_dir)
    people = json.loads((data_dir / "frank" / "human_annotations.json").read_text())
    outputs = json.loads((data_dir / "frank" / "baseline_factuality_metrics_outputs.json").read_text())
    metrics = {(row["hash"], row["model_name"]): row for row in outputs}
    rows = [row for row in people if row["split"] == "test" and row["dataset"] == "cnndm"]
    systems = sorted({row["model_name"] for row in rows})
    indicators = np.array([[row["model_name"] == system for system in systems] for row in rows], float)
    both = np.array([(row["Factuality"], metrics[row["hash"], row["model_name"]]["FactCC"]) for row in rows])
    residuals = both - indicators @ np.linalg.lstsq(indicators, both)[0]
    judged = found["FactCC (published)", "frank cnndm", "Pearson within systems"]
    assert judged.value == pytest.approx(np.corrcoef(residuals.T)[0, 1], abs=1e-9)
    assert judged.n == len(rows) == 875
    assert found["Entailment (published)", "xsum", "AUC"].n == 1992
