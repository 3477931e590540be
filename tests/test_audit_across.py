"""Metrics across documents in the audit: on the documents in common, with as many values on either side."""

from __future__ import annotations

import json

import numpy as np
import pytest
from audit_runs import N, around, bleu_columns, headline_of, shares, write_run

from alignbench.audit import across
from alignbench.audit.compare import compare
from alignbench.audit.render import tables
from alignbench.runs.folder import read_object
from alignbench.scorers.embeddings import HashedEmbedder


def test_a_metric_of_two_versions_of_a_package_is_two_metrics(tmp_path):
    columns = [bleu_columns(0, 1)] * N
    for name in ("base", "aligned"):
        write_run(tmp_path, name, ("wmt15_fr_en", {"sentence_chrf": around(50)}, {"columns": columns}))
    (file,) = tmp_path.glob("aligned-*/wmt15*/result.json")
    file.write_text(file.read_text().replace("version:2", "version:1"))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert "bleu" not in {row.metric for row in contrast.rows}
    assert any("wmt15_fr_en.bleu (scorer: " in line and "version:1" in line for line in contrast.left_out)


def test_corpus_bleu_is_resampled_in_pairs_from_the_documents_counts(tmp_path):
    rights = np.random.default_rng(0).integers(4, 10, N)
    for name, less in (("base", 0), ("aligned", 1)):
        columns = [bleu_columns(int(right) - less, 10) for right in rights]
        write_run(tmp_path, name, ("wmt15_fr_en", {"sentence_chrf": around(50)}, {"columns": columns}))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    row = headline_of(contrast)
    results = [
        next(m for m in json.loads(file.read_text())["metrics"] if m["metric"] == "bleu")
        for file in (next(tmp_path.glob(f"{name}-*/wmt15*/result.json")) for name in ("base", "aligned"))
    ]
    assert (row.reference, row.aligned) == tuple(pytest.approx(result["value"]) for result in results)
    assert (row.metric, row.test, row.verdict, row.n) == ("bleu", "bootstrap", "cost", N)
    assert row.standard_error < 0.5 * np.hypot(*(result["standard_error"] for result in results))


def test_a_correlation_is_computed_anew_on_each_resample(tmp_path, monkeypatch):
    monkeypatch.setattr(across, "RESAMPLES", 200)
    women = np.linspace(1, 99, N)
    for name, slope in (("base", 0.05), ("aligned", 0.0)):
        gaps = slope * women + np.random.default_rng(3).normal(size=N)
        columns = [{"occupation": f"o{i}", "bls_pct_female": w, "category": "occupation"} for i, w in enumerate(women)]
        values = {"entropy": around(0.5), "pct_she": shares(0.5), "gender_gap": gaps.tolist()}
        write_run(tmp_path, name, ("winogender", values, {"columns": columns}))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    (row,) = [row for row in contrast.rows if row.metric == "gap_workforce_r"]
    assert row.test == "bootstrap"
    assert row.gain > 0.5  # the aligned model mirrors the workforce less
    assert row.p == pytest.approx(1 / 201)


def test_what_cannot_be_resampled_is_compared_unpaired_and_the_table_says_so(tmp_path):
    # a measure of diversity, say: no column in the records, and nothing that computes it from them
    for name, value in (("base", 3.0), ("aligned", 2.0)):
        path = write_run(tmp_path, name, ("squad2", {"f1": around(0.5)}))
        (file,) = path.glob("squad2-*/result.json")
        result = json.loads(file.read_text())
        result["metrics"].append(
            result["metrics"][0] | {"metric": "variety", "unit": "bits", "value": value, "standard_error": 0.3}
        )
        file.write_text(json.dumps(result))
    audit = compare(["base", "aligned"], runs=tmp_path)
    (row,) = [row for row in audit.contrasts[0].rows if row.metric == "variety"]
    assert (row.test, row.delta) == ("unpaired", -1.0)
    assert row.standard_error == pytest.approx(0.3 * np.sqrt(2))
    assert row.p == pytest.approx(0.0184, abs=1e-4)  # 2.357 standard errors
    assert any(note.startswith("unpaired: ") for note in tables(audit, every_metric=True)[0].notes)
    assert not any(note.startswith("unpaired: ") for note in tables(audit)[0].notes)


HASHED = [{"kind": "embedding", "name": "hashed", "revision": HashedEmbedder().revision}]


def write_texts(out, name, texts, embedder=HASHED):
    """One answer to each of so many instructions; None: it could not be scored."""
    values = {"answer_rate": [1.0] * len(texts)}
    write_run(out, name, ("diversity_across", values, {"texts": texts, "scorers": embedder}))


def of_vectors(contrast):
    return [row for row in contrast.rows if row.scorer]


def tales(n, words):
    draw = np.random.default_rng(5)
    return [" ".join(f"w{number}" for number in draw.integers(0, words, 12)) for _ in range(n)]


def test_the_same_outputs_are_as_diverse_however_many_one_of_the_runs_has(tmp_path):
    texts = tales(36, 400)
    write_texts(tmp_path, "many", texts)
    write_texts(tmp_path, "few", texts[:24])
    (contrast,) = compare(["many", "few"], runs=tmp_path).contrasts
    rows = {row.metric: row for row in contrast.rows}
    assert all(row.reference == row.aligned for row in contrast.rows)
    assert of_vectors(contrast)
    assert {row.n for name, row in rows.items() if name.startswith("across_")} == {24}
    assert {row.verdict for row in contrast.rows} <= {"–", "not decided"}
    assert not [row for row in contrast.rows if row.p is not None and row.p < 1]


def test_lost_diversity_is_a_cost_in_percent_of_the_range(tmp_path):
    write_texts(tmp_path, "base", tales(36, 400))
    write_texts(tmp_path, "aligned", tales(36, 12))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    row = headline_of(contrast)
    assert (row.test, row.verdict, row.n) == ("jackknife", "cost", 36)
    assert row.low < row.delta < row.high
    distance = next(row for row in of_vectors(contrast) if "cosine_distance" in row.metric)
    assert distance.tax_of_range == pytest.approx(-distance.delta * 50)  # between 0 and 2
    assert contrast.mean.tasks == ("diversity_across",)
    assert not any("finite range" in note for note in contrast.notes)


def test_without_the_embedder_vectors_are_left_out_where_documents_are_missing(tmp_path):
    other = [{"kind": "embedding", "name": "sentence-transformers:far", "revision": "abc"}]
    write_texts(tmp_path, "many", tales(36, 400), other)
    write_texts(tmp_path, "few", tales(36, 400)[:30], other)
    write_texts(tmp_path, "as-many", tales(36, 300), other)
    few, many = compare(["many", "few", "as-many"], runs=tmp_path).contrasts
    assert any("diversity_across.across_cosine_distance" in line and "far@abc" in line for line in few.left_out)
    assert not of_vectors(few)
    assert "across_distinct_2" in {row.metric for row in few.rows}
    # nothing is missing: the runs' own values stand, with their own errors
    assert {row.test for row in of_vectors(many)} == {"unpaired"}


def personas(n, read):
    """Columns of n personas, of which the nationality of so many could be read."""
    draw = np.random.default_rng(6)
    fields = ("name", "gender", "age", "review", "probability")
    return [
        {field: [None] for field in fields} | {"nationality": [f"n{draw.integers(0, 9)}" if row < read else None]}
        for row in range(n)
    ]


def test_fields_of_which_unequal_numbers_were_read_are_told_and_not_judged(tmp_path):
    for name, read in (("base", 100), ("aligned", 60)):
        values = {"parse_failure": [1.0] * 100}
        write_run(tmp_path, name, ("personas", values, {"columns": personas(100, read)}))
    audit = compare(["base", "aligned"], runs=tmp_path)
    rows = {row.metric: row for row in audit.contrasts[0].rows}
    assert rows["nationality_hill_0"].note == "counts differ: 100 / 60"
    assert (rows["nationality_hill_0"].p, rows["nationality_hill_0"].verdict) == (None, "–")
    assert any(
        "counts differ: 100 / 60: " in note and "nationality_hill_0" in note
        for note in tables(audit, every_metric=True)[0].notes
    )
    at_50 = [row for name, row in rows.items() if name.endswith("_at_50")]
    assert at_50
    assert all(row.note == "" and row.test == "jackknife" for row in at_50)


def test_a_length_controlled_win_rate_is_compared_in_pairs(tmp_path):
    draw = np.random.default_rng(7)
    lengths, wins = draw.normal(size=N), draw.random(N)
    for name, p in (("base", 0.45), ("aligned", 0.75)):
        values = {"win_rate": [float(x < p) for x in wins], "length_difference": lengths.tolist()}
        write_run(tmp_path, name, ("win_rate", values))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    of = {row.metric: row for row in contrast.rows}
    row, raw = of["win_rate_length_controlled"], of["win_rate"]
    assert row.test == "bootstrap"
    assert row.delta == pytest.approx(raw.delta, abs=0.02)  # lengths explain nothing here
    assert row.standard_error == pytest.approx(raw.standard_error, rel=0.15)
    results = [read_object(file) for file in tmp_path.glob("*/win_rate*/result.json")]
    errors = [m["standard_error"] for r in results for m in r["metrics"] if m["metric"] == row.metric]
    assert row.standard_error < np.hypot(*errors)
