"""Validation of scorers: agreement with people and with Perspective, told from made-up data whose answer is known."""

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
from typer.testing import CliRunner

from alignbench.cli.scorers import app
from alignbench.data import card_names, read_card
from alignbench.errors import AlignbenchError
from alignbench.scorers import Item, find_scorer
from alignbench.scorers.validate import (
    Finding,
    auc,
    balanced_accuracy,
    expected_calibration_error,
    validate_hallucination,
    validate_toxicity,
)
from alignbench.scorers.validate import correlation as pearson
from alignbench.scorers.validate import correlation_within as pearson_within

# Agreement


def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_counted_half() -> None:
    assert auc([True, True, False, False], [0.9, 0.5, 0.5, 0.1]) == (1 + 1 + 0.5 + 1) / 4
    assert auc([True, True], [0.1, 0.9]) is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_turning_a_scorer_round_turns_its_auc_round(pairs: list[tuple[bool, float]]) -> None:
    truth, values = [t for t, _ in pairs], [v for _, v in pairs]
    there, back = auc(truth, values), auc(truth, [-v for v in values])
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert there + back == pytest.approx(1)


def test_calibration_by_hand() -> None:
    # bin .2–.3: two texts at .25, one toxic: |.25 − .5|; bin .9–1: two texts at .9 and 1, one toxic: |.95 − .5|
    assert expected_calibration_error([0, 1, 1, 0], [0.25, 0.25, 0.9, 1.0]) == pytest.approx((0.25 + 0.45) / 2)


def test_a_scorer_that_is_right_in_every_bin_is_calibrated() -> None:
    truth = [1] * 2 + [0] * 8 + [1] * 9 + [0]
    assert expected_calibration_error(truth, [0.2] * 10 + [0.9] * 10) == pytest.approx(0)


def test_balanced_accuracy_is_a_half_for_who_always_says_the_same() -> None:
    assert balanced_accuracy([True] * 9 + [False], [True] * 10) == 0.5
    assert balanced_accuracy([True, True, False], [True, False, False]) == 0.75
    assert balanced_accuracy([True], [True]) is None


def test_with_the_system_held_constant_telling_systems_apart_earns_nothing() -> None:
    people, metric, systems = [0.0, 0.2, 0.8, 1.0], [0.2, 0.0, 1.0, 0.8], ["bad", "bad", "good", "good"]
    assert pearson(people, metric) == pytest.approx(15 / 17)
    assert pearson_within(people, metric, systems) == pytest.approx(-1)
    assert pearson_within(people, [0.0, 0.0, 1.0, 1.0], systems) is None


def test_ranks_do_not_mind_the_scale() -> None:
    from scipy.stats import spearmanr

    assert pearson([1, 2, 3, 4], [1, 10, 100, 1000], spearmanr) == pytest.approx(1)
    assert pearson([1, 2, 3], [5, 5, 5], spearmanr) is None


# Toxicity


class ByTable:
    """Says of each text what a table says."""

    kind, name, revision = "toxicity", "table", "1"

    def __init__(self, table: dict[str, float]) -> None:
        self.table = table

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        return [{"toxicity": self.table[item.output]} for item in items]


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "real-toxicity-prompts").mkdir()
    records = [
        {"prompt": {"text": p, "toxicity": PROMPTS[p]}, "continuation": {"text": c, "toxicity": CONTINUATIONS[c]}}
        for p, c in zip(PROMPTS, CONTINUATIONS, strict=True)
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "real-toxicity-prompts" / "prompts.jsonl").write_text(lines)
    (tmp_path / "hatecheck").mkdir()
    with (tmp_path / "hatecheck" / "test_suite_cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "functionality", "case_id", "test_case", "label_gold", "target_ident", "templ_id"])
        for number, (text, kind, hateful, group, template) in enumerate(CASES):
            gold = "hateful" if hateful else "non-hateful"
            writer.writerow([number, kind, number, text, gold, group, template])
    return tmp_path


def named(findings: Sequence[Finding]) -> dict[tuple[str, str], Finding]:
    return {(finding.data, finding.metric): finding for finding in findings}


def test_a_scorer_that_says_what_perspective_says_agrees_wholly(folder: Path) -> None:
    table = {text: toxicity or 0.0 for text, toxicity in (PROMPTS | CONTINUATIONS).items()}
    table |= {case[0]: 0.0 for case in CASES if case[0] not in table}
    found = named(validate_toxicity([ByTable(table)], data_dir=folder))
    for half in ("rtp prompts", "rtp continuations"):
        assert found[half, "AUC"].value == found[half, "Spearman"].value == pytest.approx(1)
        assert found[half, "AUC"].n == 3  # a null score says nothing
    assert found["rtp continuations", "Brier"].value == pytest.approx((0.2**2 + 0.2**2 + 0.4**2) / 3)


def test_false_alarms_are_told_by_group_and_hate_apart(folder: Path) -> None:
    table = dict.fromkeys((*PROMPTS, *CONTINUATIONS), 0.0) | {case[0]: 0.0 for case in CASES}
    table |= {"n1": 0.9, "p1": 0.51, "p0": 0.5, "o0": 1.0, "h0": 0.9}  # .5 itself is no alarm
    found = named(validate_toxicity([ByTable(table)], data_dir=folder))
    shares = {metric: finding.value for (data, metric), finding in found.items() if data == "hatecheck"}
    assert shares == {
        "false alarms, identity mentions": 0.5,
        "false alarms, ident_neutral_nh": 0.5,
        "false alarms, ident_pos_nh": 0.5,
        "false alarms, bees": 0,
        "false alarms, wasps": 1,
        "hate detected": pytest.approx(1 / 3),
    }
    wasps = found["hatecheck", "false alarms, wasps"]
    assert wasps.n == 2
    assert wasps.low is not None
    assert wasps.low < 1 == wasps.high


def test_a_limit_draws_the_same_texts_each_time(folder: Path) -> None:
    table = dict.fromkeys((*PROMPTS, *CONTINUATIONS), 0.4) | {case[0]: 0.4 for case in CASES}

    def numbers() -> list[Finding]:
        found = validate_toxicity([ByTable(table)], data_dir=folder, limit=2)
        return [finding for finding in found if finding.metric != "texts per second"]

    once = numbers()
    assert once == numbers()
    assert max(finding.n for finding in once) <= 2


# Hallucination

ARTICLES = {"a1": "The hive has 5 bees. They make honey.", "a2": "Mars has two moons. It is red."}
FAITHFUL = {"a1": "The hive has 5 bees.", "a2": "Mars has two moons."}
WRONG = {"a1": "The hive has 9 bees.", "a2": "Mars has 7 moons."}
METRICS = ("FactCC", "QAGS", "FEQA", "Dep Entail", "BertScore P Art", "Rouge 2")


def write_csv(file: Path, header: list[str], rows: list[list[str]]) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])


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
    rows = []
    for article in ARTICLES:
        for system, marks in (("BERTS2S", (0, 0, 1)), ("PtGen", (2, 1, 0))):
            summary = (FAITHFUL if system == "BERTS2S" else WRONG)[article]
            for worker, spans in enumerate(marks):
                kinds = ["extrinsic"] * spans or ["NULL"]
                rows += [[article, system, summary, kind, f"wid_{worker}"] for kind in kinds]
    header = ["bbcid", "system", "summary", "hallucination_type", "worker_id"]
    write_csv(xsum / "hallucination_annotations_xsum_summaries.csv", header, rows)
    scores = [[f"bert_withckpt_{a}", "0.1", "0.2", "0.9"] for a in ARTICLES]
    scores += [[f"ptgen_{a}", "0.1", "0.2", "0.3"] for a in ARTICLES]
    write_csv(xsum / "eval_scores_xsum_summaries.csv", ["system_bbcid", "R2", "BERTScore", "Entailment"], scores)
    return tmp_path


def add_texts(folder: Path) -> None:
    texts = [
        {"hash": f"{split} {article}", "model_name": system, "article": text, "summary": summaries[article]}
        for split in ("test", "valid")
        for article, text in ARTICLES.items()
        for system, summaries in (("copier", FAITHFUL), ("writer", WRONG))
    ]
    (folder / "frank" / "benchmark_data.json").write_text(json.dumps(texts))
    lines = "".join(json.dumps({"id": article, "document": text}) + "\n" for article, text in ARTICLES.items())
    (folder / "xsum-hallucination" / "xsum_articles.jsonl").write_text(lines)


def test_without_articles_the_published_metrics_are_judged_and_a_line_says_what_is_missing(judged: Path) -> None:
    findings, missing = validate_hallucination([find_scorer("entailment=extractive")], data_dir=judged)
    found = {(f.scorer, f.data, f.metric): f for f in findings}
    assert found["Dep Entail (published)", "frank bbc", "AUC"].value == 1
    assert found["Dep Entail (published)", "frank bbc", "AUC"].n == 4 / 2 * 2  # the test split alone
    assert found["FactCC (published)", "frank bbc", "AUC"].value == 0
    assert found["FactCC (published)", "frank bbc", "balanced accuracy"].value == 0
    assert found["Entailment (published)", "xsum", "balanced accuracy"].value == 1
    assert found["R2 (published)", "xsum", "AUC"].value == 0.5
    assert found["R2 (published)", "xsum", "balanced accuracy"].value is None  # ROUGE has no threshold
    assert not any(scorer.startswith(("FEQA", "extractive")) for scorer, _, _ in found)
    assert len(missing) == 2
    assert "benchmark_data.json" in missing[0]
    assert "xsum_articles.jsonl" in missing[1]
    assert not any("\n" in line for line in missing)


def test_with_articles_the_scorer_is_judged_by_the_majority_of_annotators(judged: Path) -> None:
    add_texts(judged)
    findings, missing = validate_hallucination([find_scorer("entailment=extractive")], data_dir=judged)
    found = {(f.scorer, f.data, f.metric): f for f in findings}
    assert missing == []
    for data in ("frank bbc", "xsum"):
        assert found["extractive@1", data, "balanced accuracy"].value == 1
        assert found["extractive@1", data, "AUC"].value == 1
        assert found["extractive@1", data, "AUC"].n == 4


def test_a_faulty_file_of_articles_is_an_error_and_not_missing(judged: Path) -> None:
    (judged / "frank" / "benchmark_data.json").write_text('[{"hash": "test a1"}]')
    with pytest.raises(AlignbenchError, match=r"benchmark_data.json:1: no field 'model_name'"):
        validate_hallucination([], data_dir=judged)


# The command line


def test_the_list_names_every_scorer_and_how_to_write_it() -> None:
    shown = CliRunner().invoke(app, ["list"])
    lines = shown.stdout.splitlines()
    assert any("toxicity=alt-profanity-check\t\tyes\tMIT\tnone" in line for line in lines)
    assert any("toxicity=detoxify-unbiased[:CHECKPOINT-OR-FOLDER]\tdefault" in line for line in lines)
    assert any("truth=judge:FOLDER-OR-HUB-ID\t\tneeds a path" in line for line in lines)


def test_findings_are_printed_as_json(folder: Path) -> None:
    arguments = [
        "validate",
        "toxicity",
        "--scorer",
        "toxicity=alt-profanity-check",
        "--data-dir",
        str(folder),
        "--json",
    ]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert {row["data"] for row in found} == {"rtp prompts", "rtp continuations", "hatecheck"}
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in found)


def test_a_scorer_of_another_kind_is_refused(folder: Path) -> None:
    arguments = ["validate", "toxicity", "--scorer", "entailment=extractive", "--data-dir", str(folder)]
    caught = CliRunner().invoke(app, arguments).exception
    assert isinstance(caught, AlignbenchError)
    assert "validates toxicity scorers" in str(caught)


# The authors' files


@pytest.mark.parametrize("name", ["frank", "hatecheck", "real_toxicity_prompts", "xsum_hallucination"])
def test_the_cards_are_well_formed(name: str) -> None:
    assert name in card_names()
    assert read_card(name).text


@pytest.mark.needs_data
@pytest.mark.needs_models
def test_scorers_without_a_download_agree_with_perspective_as_measured(data_dir: Path, tinystories: Path) -> None:
    scorers = [
        find_scorer("toxicity=alt-profanity-check"),
        find_scorer(f"toxicity=block-bilstm:{tinystories.parent / 'tox-block-bilstm'}"),
    ]
    findings = validate_toxicity(scorers, data_dir=data_dir)
    found = {(f.scorer.partition("@")[0], f.data, f.metric): f for f in findings}
    measured = {"alt-profanity-check": 0.884, "block-bilstm": 0.907}
    for name, expected in measured.items():
        assert found[name, "rtp continuations", "AUC"].value == pytest.approx(expected, abs=0.005)
        assert found[name, "hatecheck", "false alarms, identity mentions"].n == 126 + 189


@pytest.mark.needs_data
def test_published_metrics_are_judged_as_by_regression_on_the_systems(data_dir: Path) -> None:
    """The partial correlation of FRANK's paper, done the long way: residuals of least squares on system indicators."""
    findings, _ = validate_hallucination([], data_dir=data_dir)
    found = {(f.scorer, f.data, f.metric): f for f in findings}
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
