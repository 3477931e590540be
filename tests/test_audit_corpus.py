"""Corpus metrics in the audit: on the common documents, with equal numbers of values on both sides."""

import numpy as np
import pytest
from audit_runs import N, add_metric, around, bleu_statistics, headline_of, shares, write_run

from alignbench.audit import corpus
from alignbench.audit.compare import compare
from alignbench.audit.render import tables
from alignbench.runs.folder import read_object
from alignbench.scorers.embeddings import HashedEmbedder

HASHED = [{"kind": "embedding", "name": "hashed", "revision": HashedEmbedder().revision}]


def rows_of(tmp_path, *names, **settings):
    (contrast,) = compare(names or ["base", "aligned"], runs=tmp_path, **settings).contrasts
    return {row.metric: row for row in contrast.rows}


def write_bleu(out, name, right):
    values = {"sentence_chrf": around(50)}
    write_run(out, name, ("wmt15_fr_en", values, {"columns": [bleu_statistics(int(n), 10) for n in right]}))


def results_of(tmp_path, metric):
    files = (next(tmp_path.glob(f"{name}-*/*/result.json")) for name in ("base", "aligned"))
    return [next(m for m in read_object(file)["metrics"] if m["metric"] == metric) for file in files]


def test_corpus_bleu_is_resampled_in_pairs_from_the_counts_of_the_documents(tmp_path):
    rights = np.random.default_rng(0).integers(4, 10, N)
    write_bleu(tmp_path, "base", rights)
    write_bleu(tmp_path, "aligned", rights - 1)
    row = headline_of(compare(["base", "aligned"], runs=tmp_path).contrasts[0])
    results = results_of(tmp_path, "bleu")
    assert (row.reference, row.aligned) == tuple(pytest.approx(result["value"]) for result in results)
    assert (row.metric, row.test, row.verdict, row.n) == ("bleu", "bootstrap", "loss", N)
    assert row.standard_error < 0.5 * np.hypot(*(result["standard_error"] for result in results))


def test_a_metric_of_two_versions_of_a_package_is_two_metrics(tmp_path):
    for name in ("base", "aligned"):
        write_bleu(tmp_path, name, [0] * N)
    (file,) = tmp_path.glob("aligned-*/wmt15*/result.json")
    file.write_text(file.read_text().replace("version:2", "version:1"))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert "bleu" not in {row.metric for row in contrast.rows}
    assert any("wmt15_fr_en.bleu (scorer: " in line and "version:1" in line for line in contrast.left_out)


def test_a_correlation_is_computed_again_on_each_resample(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "RESAMPLES", 200)
    women = np.linspace(1, 99, N)
    for name, slope in (("base", 0.05), ("aligned", 0.0)):
        targets = [{"occupation": f"o{i}", "bls_pct_female": w} for i, w in enumerate(women)]
        gaps = slope * women + np.random.default_rng(3).normal(size=N)
        values = {"entropy": around(0.5), "pct_she": shares(0.5), "gender_gap": gaps.tolist()}
        columns = [{"target": target, "category": "occupation"} for target in targets]
        write_run(tmp_path, name, ("winogender", values, {"columns": columns}))
    row = rows_of(tmp_path)["gap_workforce_r"]
    assert row.test == "bootstrap"
    assert row.gain > 0.5  # the aligned model reflects the workforce less
    assert row.p == pytest.approx(1 / 201)


def test_a_metric_that_cannot_be_resampled_is_compared_unpaired_with_a_note(tmp_path):
    for name, value in (("base", 3.0), ("aligned", 2.0)):
        run = write_run(tmp_path, name, ("squad2", {"f1": around(0.5)}))
        add_metric(run, "squad2", metric="variety", unit="bits", value=value, standard_error=0.3)
    row = rows_of(tmp_path)["variety"]
    assert (row.test, row.delta) == ("unpaired", -1.0)
    assert row.standard_error == pytest.approx(0.3 * np.sqrt(2))
    assert row.p == pytest.approx(0.0184, abs=1e-4)  # 2.357 standard errors
    audit = compare(["base", "aligned"], runs=tmp_path)
    for every in (True, False):
        notes = tables(audit, every_metric=every)[0].notes
        assert any(note.startswith("unpaired: ") for note in notes) == every


def write_texts(out, name, texts, embedder=HASHED):
    values = {"answer_rate": [1.0] * len(texts)}
    write_run(out, name, ("diversity_across", values, {"texts": texts, "scorers": embedder}))


def tales(n, words):
    draw = np.random.default_rng(5)
    return [" ".join(f"w{number}" for number in draw.integers(0, words, 12)) for _ in range(n)]


def test_identical_outputs_are_equally_diverse_if_one_run_has_more_of_them(tmp_path):
    texts = tales(36, 400)
    write_texts(tmp_path, "base", texts)
    write_texts(tmp_path, "aligned", texts[:24])
    rows = rows_of(tmp_path)
    assert all(row.reference == row.aligned and row.p in (None, 1) for row in rows.values())
    assert any(row.scorer for row in rows.values())
    assert {row.n for name, row in rows.items() if name.startswith("across_")} == {24}
    assert {row.verdict for row in rows.values()} <= {"–", "inconclusive"}


def test_less_diversity_is_a_loss_in_percent_of_the_range(tmp_path):
    write_texts(tmp_path, "base", tales(36, 400))
    write_texts(tmp_path, "aligned", tales(36, 12))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    row = headline_of(contrast)
    assert (row.test, row.verdict, row.n) == ("jackknife", "loss", 36)
    assert row.low < row.delta < row.high
    distance = next(row for row in contrast.rows if "cosine_distance" in row.metric)
    assert distance.tax_of_range == pytest.approx(-distance.delta * 50)  # between 0 and 2
    assert contrast.mean is None  # diversity is no capability
    assert [(own.ability, own.verdict) for own in contrast.abilities] == [("diversity", "loss")]


def test_without_the_embedder_metrics_of_vectors_are_left_out_if_documents_are_missing(tmp_path):
    other = [{"kind": "embedding", "name": "sentence-transformers:far", "revision": "abc"}]
    for name, texts in (("many", tales(36, 400)), ("few", tales(36, 400)[:30]), ("as-many", tales(36, 300))):
        write_texts(tmp_path, name, texts, other)
    few, many = compare(["many", "few", "as-many"], runs=tmp_path).contrasts
    assert any("diversity_across.across_cosine_distance" in line and "far@abc" in line for line in few.left_out)
    assert not [row for row in few.rows if row.scorer]
    assert "across_distinct_2" in {row.metric for row in few.rows}
    # no document is missing: the values of the runs, with their own errors
    assert {row.test for row in many.rows if row.scorer} == {"unpaired"}


def test_fields_with_unequal_numbers_of_values_are_reported_and_not_tested(tmp_path):
    for name, read in (("base", 100), ("aligned", 60)):
        draw = np.random.default_rng(6)
        fields = {field: [None] for field in ("name", "gender", "age", "review", "probability")}
        nations = [f"n{draw.integers(0, 9)}" if row < read else None for row in range(100)]
        columns = [{"statistics": fields | {"nationality": [nation]}} for nation in nations]
        write_run(tmp_path, name, ("personas", {"parse_failure": [1.0] * 100}, {"columns": columns}))
    rows = rows_of(tmp_path)
    richness = rows["nationality_hill_0"]
    assert (richness.note, richness.p, richness.verdict) == ("counts differ: 100 / 60", None, "–")
    notes = tables(compare(["base", "aligned"], runs=tmp_path), every_metric=True)[0].notes
    assert any("counts differ: 100 / 60: " in note and "nationality_hill_0" in note for note in notes)
    at_50 = {(row.note, row.test) for name, row in rows.items() if name.endswith("_at_50")}
    assert at_50 == {("", "jackknife")}


def test_a_length_controlled_win_rate_is_compared_in_pairs(tmp_path):
    draw = np.random.default_rng(7)
    lengths, wins = draw.normal(size=N), draw.random(N)
    for name, p in (("base", 0.45), ("aligned", 0.75)):
        values = {"win_rate": [float(x < p) for x in wins], "length_difference": lengths.tolist()}
        write_run(tmp_path, name, ("win_rate", values))
    of = rows_of(tmp_path)
    row, raw = of["win_rate_length_controlled"], of["win_rate"]
    assert row.test == "bootstrap"
    assert row.delta == pytest.approx(raw.delta, abs=0.02)  # lengths explain nothing here
    assert row.standard_error == pytest.approx(raw.standard_error, rel=0.15)
    assert row.standard_error < np.hypot(*(m["standard_error"] for m in results_of(tmp_path, row.metric)))
