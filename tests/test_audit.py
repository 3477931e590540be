"""The audit from run folders to verdicts: which models, which tasks and which documents are compared."""

import numpy as np
import pytest
from audit_runs import N, around, headline_of, rte, shares, write_run
from cases import cases, update
from commands import assert_refused, refusal

from alignbench.audit.compare import compare, compare_with
from alignbench.audit.render import tables
from alignbench.audit.rows import measure
from alignbench.runs.read import TaskRun

CASES = cases("audit")
CHAT = {"template": "chat"}


def squad2(mean, changes=None, **more):
    return "squad2", {"f1": around(mean), **more}, changes or {}


@pytest.fixture
def audit(tmp_path):
    """Compare a base and an aligned model, given the tasks of each."""

    def run(base, aligned, aligned_settings=None, **settings):
        write_run(tmp_path, "base", *base)
        write_run(tmp_path, "aligned", *aligned, **(aligned_settings or {}))
        return compare(["base", "aligned"], runs=tmp_path, **settings)

    return run


def values(rte, sst2, acc):
    both = {"acc": shares(acc), "acc_norm": shares(acc)}
    return ("rte", {"acc": shares(rte)}), ("sst2", {"acc": shares(sst2)}), ("hellaswag", both)


def test_rows_have_verdicts_on_headline_metrics_with_the_strongest_evidence_first(audit, tmp_path):
    (contrast,) = audit(values(0.8, 0.5, 0.6), values(0.6, 0.9, 0.6)).contrasts
    sst2, rte, hellaswag = (row for row in contrast.rows if row.headline)
    found = [(row.task, row.verdict) for row in (sst2, rte, hellaswag)]
    assert found == [("sst2", "gain"), ("rte", "loss"), ("hellaswag", "inconclusive")]
    assert (rte.reference, rte.aligned, rte.delta) == tuple(map(pytest.approx, (0.8, 0.6, -0.2)))
    assert (rte.gain, rte.tax, rte.tax_of_range) == tuple(map(pytest.approx, (-0.2, 0.2, 20.0)))
    assert rte.relative_tax == pytest.approx(0.2 / 0.3)  # chance is .5
    assert sst2.relative_tax is None  # the base is at chance
    assert (rte.test, rte.p) == ("McNemar", pytest.approx(2 * 0.5**24))  # 24 documents changed, all the same way
    assert (rte.p_holm, sst2.p_holm, hellaswag.p) == (pytest.approx(2 * rte.p), pytest.approx(3 * sst2.p), 1.0)
    assert rte.low < rte.delta < rte.high
    assert contrast.mean.value == pytest.approx((20 - 40 + 0) / 3)
    (other,) = [row for row in contrast.rows if not row.headline]
    assert (other.task, other.metric, other.verdict, other.p_holm) == ("hellaswag", "acc", "–", None)
    folders = [next(tmp_path.glob(f"{n}-*/rte-*")) for n in ("base", "aligned")]
    assert [rte.reference_folder, rte.aligned_folder] == folders


def test_lineage_selects_the_pretrained_and_the_last_sft_model_as_references(tmp_path):
    write_run(tmp_path, "ppo", rte(0.6), lineage=[("base", "base"), ("sft", "sft-1"), ("sft", "sft-2")])
    write_run(tmp_path, "sft-2", rte(0.7), lineage=[("base", "base"), ("sft", "sft-1")])
    write_run(tmp_path, "base", rte(0.8))
    found = compare(["ppo", "sft-2", "base"], runs=tmp_path).contrasts
    assert [(c.aligned, c.reference, c.role) for c in found] == [
        ("ppo", "base", "pretrained"),
        ("ppo", "sft-2", "SFT"),
        ("sft-2", "base", "pretrained"),
    ]
    write_run(tmp_path, "last", rte(0.6), lineage=[("ppo", "sft-2"), ("dpo", "base"), ("ppo", "ppo")])
    *_, other = compare(["base", "sft-2", "ppo", "last"], runs=tmp_path).contrasts
    assert (other.aligned, other.reference, other.role) == ("last", "ppo", "PPO")  # the last of those with another role
    (chosen,) = compare(["ppo", "sft-2"], runs=tmp_path, reference="ppo").contrasts
    assert (chosen.aligned, chosen.reference, chosen.role) == ("sft-2", "ppo", "reference")
    for name in ("one", "two", "three"):  # without lineages the first is the reference
        write_run(tmp_path, name, rte(0.5))
    found = compare(["one", "two", "three"], runs=tmp_path).contrasts
    assert [(c.reference, c.aligned, c.role) for c in found] == [("one", x, "reference") for x in ("two", "three")]


def test_an_ancestor_in_two_number_formats_is_matched_by_the_engine(tmp_path):
    write_run(tmp_path, "base", rte(0.8), dtype="bfloat16")
    write_run(tmp_path, "base", rte(0.7))
    write_run(tmp_path, "ppo", rte(0.6), lineage=[("base", "base")])
    specs = [path.name for path in sorted(tmp_path.iterdir())]
    (ppo, *_) = [c for c in compare(specs, runs=tmp_path).contrasts if c.aligned == "ppo"]
    assert headline_of(ppo).reference == pytest.approx(0.7)
    assert ppo.reference.startswith("base-")  # two runs of one name are shown with their folders


def test_with_several_references_each_contrast_is_measured_once_and_equals_a_separate_audit(tmp_path, monkeypatch):
    counted, read, records = [], [], TaskRun.records
    monkeypatch.setattr(TaskRun, "records", lambda own, *to: read.append(own.path) or records(own, *to))
    monkeypatch.setattr(
        "alignbench.audit.compare.measure",
        lambda contrasts, **settings: counted.append(len(contrasts)) or measure(contrasts, **settings),
    )
    models = ("base", 0.5, []), ("sft", 0.6, [("base", "base")]), ("alone", 0.3, [])
    runs = [str(write_run(tmp_path, n, rte(p), ("sst2", {"acc": shares(p)}), lineage=own)) for n, p, own in models]
    found = compare_with(runs, [None, "base", "alone"])
    assert counted == [4]  # base → sft and base → alone are in two of the audits
    assert len(read) == 12  # two tasks of each model, for their calibration and for the audit
    for reference, audit in found.items():
        assert audit == compare(runs, reference=reference)


@pytest.mark.parametrize(("changed", "shown"), CASES["settings"])
def test_tasks_with_different_settings_are_left_out_with_the_field_and_both_values(audit, changed, shown):
    assert f"squad2 ({shown}" in refusal(audit, [squad2(0.5)], [squad2(0.5, changed)])
    (contrast,) = audit([rte(0.8)], [rte(0.7)]).contrasts
    assert {row.task for row in contrast.rows} == {"rte"}
    assert [f"squad2 ({shown}" in line for line in contrast.left_out] == [True]


def test_file_names_package_versions_and_number_formats_do_not_make_tasks_incomparable(audit, tmp_path):
    data = [{"card": "squad2", "split": "test", "source": "other", "revision": "r" * 40, "rows": N, "pinned": False}]
    changed = {"data": data, "judged_with": {"sacrebleu": "3"}}
    (contrast,) = audit([squad2(0.5)], [squad2(0.4, changed)], {"dtype": "bfloat16"}).contrasts
    assert headline_of(contrast).verdict == "loss"
    assert "squad2: scored with different packages: sacrebleu 2.6.0 / 3" in contrast.notes
    assert "engine dtype: float32 / bfloat16" in contrast.notes
    again = [compare(["base", "aligned"], runs=tmp_path, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1]
    assert len({headline_of(found.contrasts[0]).low for found in again}) == 2, "the seed determines the resamples"


def test_across_templates_each_model_is_also_compared_with_its_own_template(audit, tmp_path):
    tasks = [squad2(0.5), rte(0.8)], [squad2(0.4), squad2(0.7, CHAT), rte(0.8)]
    same, own, itself = audit(*tasks, across_templates=True).contrasts
    assert compare(["base", "aligned"], runs=tmp_path).contrasts == (same,)
    assert (same.templates, own.templates) == ("same", "own")
    assert (headline_of(same, "squad2").verdict, headline_of(same, "squad2").variant) == ("loss", "")
    assert (headline_of(own, "squad2").verdict, headline_of(own, "squad2").variant) == ("gain", "none -> chat")
    assert {row.task for row in own.rows} == {"squad2", "rte"}
    found = (itself.reference, itself.aligned, itself.role, itself.templates, itself.notes)
    assert found == ("aligned", "aligned (chat)", "reference", "own", ())
    assert headline_of(itself).delta == pytest.approx(0.3)
    assert {row.task for row in itself.rows} == {"squad2"}
    # the most similar folder determines the difference that is shown
    far = [squad2(0.5, {"template": "chat", "seed": 3, "limit": 5}), squad2(0.5, CHAT)]
    write_run(tmp_path, "chats", *far)
    line = r"squad2 \(template: none / chat\); see --across-templates$"
    assert_refused(line, compare, ["base", "chats"], runs=tmp_path)
    assert_refused("two models or more", compare, ["base"], runs=tmp_path)
    assert_refused("base: one model with one template", compare, ["base"], runs=tmp_path, across_templates=True)


@pytest.mark.parametrize(("task", "metric", "folders", "shown"), CASES["variants"])
def test_rows_of_one_metric_are_distinguished_by_the_settings_in_which_they_differ(
    tmp_path, task, metric, folders, shown
):
    for name, p in (("base", 0.5), ("aligned", 0.6)):
        write_run(tmp_path, name, *((task, {metric: around(p)}, changes) for changes in folders))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert {row.variant for row in contrast.rows if row.metric == metric} == set(shown)
    (primary,) = [row for row in contrast.rows if row.primary]  # several rows count as one benchmark
    assert primary.tax_of_range == pytest.approx(10.0 if metric == "emt" else -10.0)


def test_a_setting_is_shown_only_if_rows_of_the_same_metric_differ_in_it(audit):
    tasks = [squad2(0.5, words=around(5)), ("squad2", {"words": around(5)}, {"shots": 3})]
    (contrast,) = audit(tasks, tasks).contrasts
    variants = {(row.metric, row.variant) for row in contrast.rows if row.metric in ("f1", "words")}
    assert variants == {("f1", ""), ("words", "shots 0"), ("words", "shots 3")}


def test_win_rates_against_different_baselines_are_not_comparable(tmp_path):
    win = {"win_rate": shares(0.6), "length_difference": around(5)}
    for name, baseline, documents in (("one", "sft", "d"), ("two", "base", "e"), ("three", "sft", "d")):
        folder = {"name": baseline, "folder": f"answers-{name}", "template": "none"}
        write_run(tmp_path, name, ("win_rate", win, {"baseline": folder, "documents_sha256": documents * 64}))
    assert_refused(r"win_rate \(baseline: sft / base\)", compare, ["one", "two"], runs=tmp_path)
    assert compare(["one", "three"], runs=tmp_path).contrasts[0].rows  # other folders of the same answers


def test_unfinished_tasks_are_left_out_with_a_note(audit):
    sst2 = {"acc": shares(0.5)}
    found = audit([rte(0.8), ("sst2", sst2)], [rte(0.8), ("sst2", sst2, {"finished": False})])
    assert "aligned: unfinished, left out: sst2" in found.notes
    assert "only one of the two has sst2" in found.contrasts[0].notes


def test_documents_without_a_value_are_left_out_for_both_models(audit):
    before, after = shares(0.5), shares(0.7)
    tasks = ("rte", {"acc": [None, *before[1:]]}), ("rte", {"acc": [after[0], None, *after[2:]]})
    row = headline_of(audit(tasks[:1], tasks[1:]).contrasts[0])
    assert (row.n, row.left_out) == (N - 2, 2)
    assert (row.reference, row.aligned) == (pytest.approx(np.mean(before[2:])), pytest.approx(np.mean(after[2:])))
    half, none = [1.0] * (N // 2), [None] * (N // 2)
    tasks = [[("rte", {"acc": acc})] for acc in ([*half, *none], [*none, *half])]
    assert_refused("no document in common that both have values for", audit, *tasks)


def test_without_any_change_or_with_few_groups_an_interval_still_has_a_width(audit, tmp_path):
    row = headline_of(audit([rte(0.8)], [rte(0.8)]).contrasts[0])
    assert (row.delta, row.p, row.verdict) == (0.0, 1.0, "inconclusive")
    assert row.low < 0 < row.high
    assert row.detectable == pytest.approx(2.802 * np.sqrt(2.5) / (row.n + 2.5), abs=1e-4)
    win = ("win_rate", {"win_rate": [0.5, 1, 0, 1, 1, 0.5], "length_difference": [1.0, -4, 9, 30, -2, 3]})
    of = {row.metric: row for row in audit([win], [win], tasks=["win_rate"]).contrasts[0].rows}
    assert (of["win_rate"].p, of["win_rate"].test, of["win_rate"].verdict) == (1.0, "adjusted Wald", "inconclusive")
    assert of["win_rate"].low < -0.2 < 0.2 < of["win_rate"].high  # six prompts prove little
    assert of["win_rate"].detectable > 0.2
    # lengths have no range, so the largest change of an unseen prompt is unknown
    assert of["length_difference"].note == of["win_rate_length_controlled"].note == "too few documents changed"
    assert (of["length_difference"].low, of["length_difference"].p) == (None, None)
    for name, right in (("ten", 0), ("other", 3)):  # whole groups are right or wrong: ten groups, not 120 documents
        acc = [float(i // 12 < right) for i in range(N)]
        write_run(tmp_path, name, ("rte", {"acc": acc}), groups=[f"g{i // 12}" for i in range(N)])
    row = headline_of(compare(["ten", "other"], runs=tmp_path).contrasts[0])
    assert (row.test, row.n, row.clusters, row.verdict) == ("adjusted Wald", N, 10, "inconclusive")


def test_a_metric_without_a_finite_range_is_tested_but_not_in_the_mean_tax(audit):
    base, aligned = ({"entropy": around(0.5), "likelihood_difference": around(gap)} for gap in (0.5, 0.0))
    (contrast,) = audit([rte(0.8), ("crows_pairs", base)], [rte(0.8), ("crows_pairs", aligned)]).contrasts
    assert contrast.mean.tasks == ("rte",)
    (row,) = [row for row in contrast.rows if row.metric == "likelihood_difference"]
    assert (row.tax_of_range, row.gain) == (None, pytest.approx(0.5))


def test_token_entropies_of_different_tokenizers_are_reported_and_not_tested(tmp_path):
    both = [{"entropy": around(2 - x), "entropy_per_character": around(0.5 - 0.2 * x)} for x in (0, 1)]
    write_run(tmp_path, "base", ("token_entropy", both[0]), tokenizer="one")
    write_run(tmp_path, "aligned", ("token_entropy", both[1]), tokenizer="other")
    write_run(tmp_path, "sibling", ("token_entropy", both[1]), tokenizer="one")
    found = compare(["base", "aligned", "sibling"], runs=tmp_path)
    of = {row.metric: row for row in found.contrasts[0].rows}
    assert (of["entropy"].note, of["entropy"].p) == ("tokens of different tokenizers", None)
    assert of["entropy"].delta == pytest.approx(-1.0)
    assert of["entropy_per_character"].note == ""
    assert of["entropy_per_character"].p < 0.001
    assert all(row.note == "" and row.p < 0.001 for row in found.contrasts[1].rows)
    assert "tokens of different tokenizers: token_entropy.entropy" in tables(found)[0].notes
    for file in tmp_path.glob("*/run.json"):  # different files may contain the same tokens
        update(file, vocabulary_sha256="v")
    assert all(row.note == "" for row in compare(["base", "aligned"], runs=tmp_path).contrasts[0].rows)


def test_holms_correction_counts_the_metrics_that_have_a_test_and_others_are_inconclusive(audit):
    few = [("rte", {"acc": shares(p, 20)}) for p in (0.8, 0.65)]
    found = audit([few[0], ("squad2", {"f1": [0.5]})], [few[1], ("squad2", {"f1": [0.7]})])
    row = headline_of(found.contrasts[0], "rte")
    assert (row.verdict, row.p_holm) == ("inconclusive", row.p)
    assert row.detectable == pytest.approx(2.80 * row.standard_error, rel=1e-3)
    assert row.detectable > 0.15
    first, *others = tables(found)[0].notes
    assert first.endswith("Holm correction for 1 test)")
    assert "there is no test: squad2.f1" in others
    assert any('"inconclusive" is not "no change"' in note for note in others)
