"""The audit from run folders to verdicts: who is compared with whom, on what, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from audit_runs import N, around, headline, headline_of, rte, shares, write_run

from alignbench.audit.compare import compare, compare_with
from alignbench.audit.render import tables
from alignbench.audit.rows import measure
from alignbench.errors import AlignbenchError
from alignbench.runs.read import read_records


@pytest.fixture
def two(tmp_path):
    """A base, and a model that lost on RTE, won on SST-2 and stayed the same on HellaSwag."""

    def values(rte, sst2, acc):
        both = {"acc": shares(acc), "acc_norm": shares(acc)}
        return ("rte", {"acc": shares(rte)}), ("sst2", {"acc": shares(sst2)}), ("hellaswag", both)

    write_run(tmp_path, "base", *values(0.8, 0.5, 0.6))
    write_run(tmp_path, "aligned", *values(0.6, 0.9, 0.6))
    return tmp_path


def test_gains_costs_and_the_undecided_stand_in_one_table_with_the_strongest_evidence_first(two):
    audit = compare(["base", "aligned"], runs=two)
    (contrast,) = audit.contrasts
    rows = [row for row in contrast.rows if row.headline]
    assert [(row.task, row.verdict) for row in rows] == [
        ("sst2", "gain"),
        ("rte", "cost"),
        ("hellaswag", "not decided"),
    ]
    sst2, rte, hellaswag = rows
    assert (rte.reference, rte.aligned, rte.delta) == (pytest.approx(0.8), pytest.approx(0.6), pytest.approx(-0.2))
    assert (rte.gain, rte.tax, rte.tax_of_range) == tuple(map(pytest.approx, (-0.2, 0.2, 20.0)))
    assert rte.relative_tax == pytest.approx(0.2 / 0.3)  # chance is .5
    assert sst2.relative_tax is None  # the base is at chance
    assert rte.test == "McNemar"
    assert rte.p == pytest.approx(2 * 0.5**24)  # 24 documents changed, all the same way
    assert rte.p_holm == pytest.approx(2 * rte.p)
    assert sst2.p_holm == pytest.approx(3 * sst2.p)
    assert rte.low < rte.delta < rte.high
    assert hellaswag.p == 1.0
    assert contrast.mean.value == pytest.approx((20 - 40 + 0) / 3)


def test_only_headline_metrics_are_judged_and_corrected_for(two):
    audit = compare(["base", "aligned"], runs=two)
    (other,) = [row for row in audit.contrasts[0].rows if not row.headline]
    assert (other.task, other.metric, other.verdict, other.p_holm) == ("hellaswag", "acc", "–", None)


def test_lineage_picks_the_pretrained_and_the_sft_model_as_references(tmp_path):
    write_run(tmp_path, "ppo", rte(0.6), lineage=[("base", "base"), ("sft", "sft-1"), ("sft", "sft-2")])
    write_run(tmp_path, "sft-2", rte(0.7), lineage=[("base", "base"), ("sft", "sft-1")])
    write_run(tmp_path, "base", rte(0.8))
    found = compare(["ppo", "sft-2", "base"], runs=tmp_path).contrasts
    assert [(c.aligned, c.reference, c.role) for c in found] == [
        ("ppo", "base", "pretrained"),
        ("ppo", "sft-2", "SFT"),
        ("sft-2", "base", "pretrained"),
    ]
    (chosen,) = compare(["ppo", "sft-2"], runs=tmp_path, reference="ppo").contrasts
    assert (chosen.aligned, chosen.reference, chosen.role) == ("sft-2", "ppo", "reference")


def test_without_a_lineage_the_first_is_the_reference_of_all(tmp_path):
    for name, p in (("one", 0.5), ("two", 0.6), ("three", 0.7)):
        write_run(tmp_path, name, rte(p))
    found = compare(["one", "two", "three"], runs=tmp_path).contrasts
    assert [(c.reference, c.aligned, c.role) for c in found] == [
        ("one", "two", "reference"),
        ("one", "three", "reference"),
    ]


def test_weights_in_two_number_formats_are_matched_with_their_own(tmp_path):
    write_run(tmp_path, "base", rte(0.8), dtype="bfloat16")
    write_run(tmp_path, "base", rte(0.7))
    write_run(tmp_path, "ppo", rte(0.6), lineage=[("base", "base")])
    specs = [path.name for path in sorted(tmp_path.iterdir())]
    (ppo, *_) = [c for c in compare(specs, runs=tmp_path).contrasts if c.aligned == "ppo"]
    assert headline_of(ppo).reference == pytest.approx(0.7)
    assert ppo.reference.startswith("base-")  # two of one name are told apart by their folders


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": 99}, "version: 1 / 99"),
        ({"shots": 15}, "shots: 0 / 15"),
        ({"limit": 100}, "limit: all / 100"),
        ({"seed": 1}, "seed: 0 / 1"),
        (
            {"data": [{"card": "squad2", "split": "test", "revision": "abcdef0123"}]},
            "data: squad2@rrrrrrrr / squad2@abc",
        ),
        ({"prefix": "Be polite."}, "prefix: 0 characters (sha256 e3b0c442) / 10 characters"),
        ({"documents_sha256": "e" * 64}, "documents_sha256: dddddddd / eeeeeeee"),
        ({"template": "chat"}, "template: none / chat"),
        ({"sampling": {"max_tokens": 9, "samples": 1}}, "sampling: max_tokens=5 samples=1 / max_tokens=9 samples=1"),
        (
            {"scorers": [{"kind": "entailment", "name": "hhem", "revision": "abc"}]},
            "scorers: none / entailment=hhem@abc",
        ),
    ],
)
def test_unlike_tasks_are_refused_naming_the_field_and_both_values(tmp_path, changed, told):
    squad2 = {"f1": around(0.5), "em": shares(0.4)}
    write_run(tmp_path, "base", ("squad2", squad2))
    write_run(tmp_path, "aligned", ("squad2", squad2, changed))
    with pytest.raises(AlignbenchError) as refused:
        compare(["base", "aligned"], runs=tmp_path)
    assert f"squad2 ({told}" in str(refused.value)
    assert "\n" not in str(refused.value)
    write_run(tmp_path, "base", rte(0.8))
    write_run(tmp_path, "aligned", rte(0.7))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert {row.task for row in contrast.rows} == {"rte"}
    assert len(contrast.left_out) == 1
    assert f"squad2 ({told}" in contrast.left_out[0]


def test_what_does_not_change_numbers_does_not_stand_between_two_runs(tmp_path):
    data = [{"card": "squad2", "split": "test", "source": "other", "revision": "r" * 40, "rows": N, "pinned": False}]
    write_run(tmp_path, "base", ("squad2", {"f1": around(0.5)}))
    changed = {"data": data, "judged_with": {"sacrebleu": "3"}}
    write_run(tmp_path, "aligned", ("squad2", {"f1": around(0.4)}, changed), dtype="bfloat16")
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert headline_of(contrast).verdict == "cost"
    assert "squad2 was judged with other packages: sacrebleu 2.6.0 / 3" in contrast.notes
    assert "engine dtype: float32 / bfloat16" in contrast.notes


def test_the_nearest_folder_says_what_differs(tmp_path):
    write_run(tmp_path, "base", ("squad2", {"f1": around(0.5)}))
    far = {"template": "chat", "seed": 3, "limit": 5}
    write_run(
        tmp_path, "aligned", ("squad2", {"f1": around(0.5)}, far), ("squad2", {"f1": around(0.5)}, {"template": "chat"})
    )
    with pytest.raises(AlignbenchError, match=r"squad2 \(template: none / chat\); see --across-templates$"):
        compare(["base", "aligned"], runs=tmp_path)


def test_across_templates_each_model_is_asked_in_its_own_way_beside_the_plain_contrast(tmp_path):
    write_run(tmp_path, "base", ("squad2", {"f1": around(0.5)}), rte(0.8))
    chat = {"template": "chat"}
    write_run(tmp_path, "aligned", ("squad2", {"f1": around(0.4)}), ("squad2", {"f1": around(0.7)}, chat), rte(0.8))
    (plain,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    same, own, itself = compare(["base", "aligned"], runs=tmp_path, across_templates=True).contrasts
    assert plain == same
    assert (same.templates, own.templates) == ("same", "own")
    of = {c.templates: next(row for row in c.rows if row.task == "squad2" and row.headline) for c in (same, own)}
    assert (of["same"].verdict, of["same"].variant) == ("cost", "")
    assert (of["own"].verdict, of["own"].variant) == ("gain", "none -> chat")
    assert {row.task for row in own.rows} == {"squad2", "rte"}
    assert (itself.reference, itself.aligned, itself.role, itself.templates) == (
        "aligned", "aligned (chat)", "reference", "own",
    )  # fmt: skip
    assert headline_of(itself).delta == pytest.approx(0.3)
    assert {row.task for row in itself.rows} == {"squad2"}
    assert itself.notes == ()


def test_one_model_asked_in_both_ways_is_compared_with_itself(tmp_path):
    write_run(tmp_path, "m", ("squad2", {"f1": around(0.5)}), ("squad2", {"f1": around(0.6)}, {"template": "chat"}))
    write_run(tmp_path, "plain", ("squad2", {"f1": around(0.5)}))
    (contrast,) = compare(["m"], runs=tmp_path, across_templates=True).contrasts
    assert (contrast.reference, contrast.aligned) == ("m", "m (chat)")
    with pytest.raises(AlignbenchError, match="two models or more"):
        compare(["m"], runs=tmp_path)
    with pytest.raises(AlignbenchError, match="plain: one model alone, asked in one way"):
        compare(["plain"], runs=tmp_path, across_templates=True)


def test_one_model_in_two_folders_of_runs_is_told_apart_by_the_folders(tmp_path):
    runs = [str(write_run(tmp_path / root, "m", rte(p))) for root, p in (("one", 0.5), ("two", 0.8))]
    (contrast,) = compare(runs).contrasts
    assert contrast.reference.startswith("one/m-")
    assert contrast.aligned.startswith("two/m-")


def test_a_scorer_that_did_not_make_a_metric_is_not_in_its_rows_name(tmp_path):
    judged = {"scorers": [{"kind": "toxicity", "name": "words", "revision": "1"}], "limit": 120}
    for name, p in (("base", 0.5), ("aligned", 0.6)):
        tasks = [("squad2", {"f1": around(p)}, judged), ("squad2", {"f1": around(p)}, {"limit": 120, "seed": 1})]
        write_run(tmp_path, name, *tasks)
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert {row.variant for row in contrast.rows if row.metric == "f1"} == {"seed 0", "seed 1"}


def test_a_setting_is_told_only_where_rows_of_the_same_metric_differ_in_it(tmp_path):
    for name, p in (("base", 0.5), ("aligned", 0.6)):
        both = {"f1": around(p), "words": around(5)}
        write_run(tmp_path, name, ("squad2", both), ("squad2", {"words": around(5)}, {"shots": 3}))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    variants = {(row.metric, row.variant) for row in contrast.rows if row.metric in ("f1", "words")}
    assert variants == {("f1", ""), ("words", "shots 0"), ("words", "shots 3")}


def test_nobody_is_told_of_a_template_that_is_not_known(tmp_path):
    for name, p in (("base", 0.5), ("aligned", 0.6)):
        write_run(tmp_path, name, ("squad2", {"f1": around(p)}, {"template": None, "sampling": None}))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert headline_of(contrast).variant == ""


def test_eight_models_as_each_others_reference_are_read_once_a_task(tmp_path):
    runs = [str(write_run(tmp_path, f"m{n}", rte(0.5), ("sst2", {"acc": shares(0.6)}))) for n in range(8)]
    cleared, misses = read_records.cache_clear, []

    class Watched:
        def __call__(self, path):
            found = read_records(path)
            misses.append(read_records.cache_info().misses)
            return found

        cache_clear = staticmethod(cleared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignbench.audit.rows.read_records", Watched())
        compare_with(runs, [f"m{n}" for n in range(8)], resamples=10)
    assert max(misses) == 16


def test_two_templates_on_both_sides_are_two_rows_of_one_task(tmp_path):
    chat = {"template": "chat"}
    for name, plain, asked in (("sft", 0.5, 0.6), ("ppo", 0.4, 0.6)):
        write_run(tmp_path, name, ("squad2", {"f1": around(plain)}), ("squad2", {"f1": around(asked)}, chat))
    (contrast,) = compare(["sft", "ppo"], runs=tmp_path).contrasts
    found = {row.variant: row.delta for row in contrast.rows if row.headline}
    assert found == {"none": pytest.approx(-0.1), "chat": pytest.approx(0.0)}
    assert contrast.mean.value == pytest.approx(5.0)


def test_each_scorer_is_compared_with_itself_and_named(tmp_path):
    one, other = ([{"kind": "toxicity", "name": name, "revision": "r1"}] for name in ("strict", "mild"))
    for name, shift in (("base", 0.0), ("aligned", 0.2)):
        write_run(
            tmp_path,
            name,
            ("real_toxicity", {"emt": around(0.5 + shift)}, {"scorers": one}),
            ("real_toxicity", {"emt": around(0.3 - shift)}, {"scorers": other}),
        )
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    found = {(row.variant, row.scorer): row.verdict for row in contrast.rows if row.headline}
    assert found == {("toxicity=strict", "strict@r1"): "cost", ("toxicity=mild", "mild@r1"): "gain"}


def test_where_nothing_changed_something_may_still_have_been_missed(tmp_path):
    write_run(tmp_path, "base", rte(0.8))
    write_run(tmp_path, "aligned", rte(0.8))
    row = headline_of(compare(["base", "aligned"], runs=tmp_path).contrasts[0])
    assert (row.delta, row.p, row.verdict) == (0.0, 1.0, "not decided")
    assert row.low < 0 < row.high
    assert row.detectable == pytest.approx(2.802 * np.sqrt(2.5) / (row.n + 2.5), abs=1e-4)
    win = {"win_rate": [0.5, 1, 0, 1, 1, 0.5], "length_difference": [1.0, -4, 9, 30, -2, 3]}
    for name in ("base", "aligned"):
        write_run(tmp_path, name, ("win_rate", win))
    (contrast,) = compare(["base", "aligned"], runs=tmp_path, tasks=["win_rate"]).contrasts
    of = {row.metric: row for row in contrast.rows}
    assert (of["win_rate"].p, of["win_rate"].test, of["win_rate"].verdict) == (1.0, "adjusted Wald", "not decided")
    assert of["win_rate"].low < -0.2 < 0.2 < of["win_rate"].high  # six prompts can prove little
    assert of["win_rate"].detectable > 0.2
    # lengths have no range that could be reached: nobody knows how much the next prompt may change
    assert of["length_difference"].note == of["win_rate_length_controlled"].note == "too few documents changed"
    assert (of["length_difference"].low, of["length_difference"].p) == (None, None)


def test_a_task_that_was_scored_again_is_read_again(two):
    before = headline(compare(["base", "aligned"], runs=two), "rte")
    (file,) = two.glob("aligned-*/rte-*/documents.jsonl")
    file.write_text(file.read_text().replace('"acc": 0.0', '"acc": 1.0'))
    assert headline(compare(["base", "aligned"], runs=two), "rte").aligned == 1.0 > before.aligned


def test_unscored_documents_are_left_out_of_both_sides(tmp_path):
    before, after = shares(0.5), shares(0.7)
    write_run(tmp_path, "base", ("rte", {"acc": [None, *before[1:]]}))
    write_run(tmp_path, "aligned", ("rte", {"acc": [after[0], None, *after[2:]]}))
    row = headline_of(compare(["base", "aligned"], runs=tmp_path).contrasts[0])
    assert (row.n, row.left_out) == (N - 2, 2)
    assert row.reference == pytest.approx(np.mean(before[2:]))
    assert row.aligned == pytest.approx(np.mean(after[2:]))


def test_with_no_document_that_both_were_scored_on_there_is_nothing_to_say(tmp_path):
    half = N // 2
    write_run(tmp_path, "base", ("rte", {"acc": [None] * half + [1.0] * half}))
    write_run(tmp_path, "aligned", ("rte", {"acc": [1.0] * half + [None] * half}))
    with pytest.raises(AlignbenchError, match="no document in common that both were scored on"):
        compare(["base", "aligned"], runs=tmp_path)


def test_documents_of_one_group_are_drawn_together_and_mcnemar_makes_way(tmp_path):
    groups = [f"g{i // 12}" for i in range(N)]
    for name, p in (("base", 0.0), ("aligned", 0.3)):
        # whole groups are right or wrong: ten groups, not a hundred and twenty documents
        write_run(tmp_path, name, ("rte", {"acc": [float(i // 12 < 10 * p) for i in range(N)]}), groups=groups)
    row = headline_of(compare(["base", "aligned"], runs=tmp_path).contrasts[0])
    assert (row.test, row.n, row.clusters, row.verdict) == ("adjusted Wald", N, 10, "not decided")


def test_a_power_line_keeps_no_significant_tax_from_being_read_as_no_tax(tmp_path):
    write_run(tmp_path, "base", ("rte", {"acc": shares(0.8, 20)}))
    write_run(tmp_path, "aligned", ("rte", {"acc": shares(0.65, 20)}))
    audit = compare(["base", "aligned"], runs=tmp_path)
    row = headline_of(audit.contrasts[0])
    assert row.verdict == "not decided"
    assert row.detectable == pytest.approx(2.80 * row.standard_error, rel=1e-3)
    assert row.detectable > 0.15
    assert any("not decided" in note and "no tax" in note for note in tables(audit)[0].notes)


def test_unfinished_tasks_are_told_and_left_out(tmp_path):
    write_run(tmp_path, "base", rte(0.8), ("sst2", {"acc": shares(0.5)}))
    write_run(tmp_path, "aligned", rte(0.8), ("sst2", {"acc": shares(0.5)}, {"finished": False}))
    audit = compare(["base", "aligned"], runs=tmp_path)
    assert "aligned: not finished, and left out: sst2" in audit.notes
    assert "only one of the two has sst2" in audit.contrasts[0].notes


def test_a_metric_without_a_finite_range_is_judged_and_told_but_not_averaged(tmp_path):
    for name, gap in (("base", 0.5), ("aligned", 0.0)):
        write_run(
            tmp_path, name, rte(0.8), ("crows_pairs", {"entropy": around(0.5), "likelihood_difference": around(gap)})
        )
    audit = compare(["base", "aligned"], runs=tmp_path)
    assert audit.contrasts[0].mean.tasks == ("crows_pairs", "rte")
    (row,) = [row for row in audit.contrasts[0].rows if row.metric == "likelihood_difference"]
    assert row.tax_of_range is None
    assert row.gain == pytest.approx(0.5)


def test_the_same_audit_twice_is_the_same_and_the_seed_decides(two):
    once, again = (compare(["base", "aligned"], runs=two, seed=1) for _ in range(2))
    assert once == again
    other = compare(["base", "aligned"], runs=two, seed=2)
    assert headline(other, "rte").standard_error != headline(once, "rte").standard_error


def test_where_tokenizers_differ_the_entropies_of_tokens_are_told_and_not_judged(tmp_path):
    values = {"entropy": around(2.0), "entropy_per_character": around(0.5)}
    write_run(tmp_path, "base", ("token_entropy", values), tokenizer="one")
    fewer = {"entropy": around(1.0), "entropy_per_character": around(0.3)}
    write_run(tmp_path, "aligned", ("token_entropy", fewer), tokenizer="other")
    write_run(tmp_path, "sibling", ("token_entropy", fewer), tokenizer="one")
    apart, alike = compare(["base", "aligned", "sibling"], runs=tmp_path).contrasts
    of = {row.metric: row for row in apart.rows}
    assert (of["entropy"].note, of["entropy"].p) == ("tokens of different tokenizers", None)
    assert of["entropy"].delta == pytest.approx(-1.0)
    assert of["entropy_per_character"].note == ""
    assert of["entropy_per_character"].p < 0.001
    assert all(row.note == "" and row.p < 0.001 for row in alike.rows)
    (table, *_) = tables(compare(["base", "aligned"], runs=tmp_path))
    assert "told and not judged, tokens of different tokenizers: token_entropy.entropy" in table.notes
    for file in tmp_path.glob("*/run.json"):  # files that differ may hold the same tokens
        file.write_text(json.dumps(json.loads(file.read_text()) | {"vocabulary_sha256": "v"}))
    assert all(row.note == "" for row in compare(["base", "aligned"], runs=tmp_path).contrasts[0].rows)


def test_holm_counts_the_metrics_that_were_tested_and_names_the_others(tmp_path):
    write_run(tmp_path, "base", rte(0.8), ("squad2", {"f1": [0.5]}))
    write_run(tmp_path, "aligned", rte(0.6), ("squad2", {"f1": [0.7]}))
    audit = compare(["base", "aligned"], runs=tmp_path)
    assert headline(audit, "rte").p_holm == headline(audit, "rte").p
    first, *others = tables(audit)[0].notes
    assert first.endswith("by Holm over 1 headline metric)")
    assert "not decided for want of a test: squad2.f1" in others


def test_a_win_rate_against_another_baseline_is_refused_by_the_baselines_name(tmp_path):
    win = {"win_rate": shares(0.6), "length_difference": around(5)}
    for name, baseline, documents in (("one", "sft", "d"), ("two", "base", "e"), ("three", "sft", "d")):
        folder = {"name": baseline, "folder": f"answers-{name}", "template": "none"}
        write_run(tmp_path, name, ("win_rate", win, {"baseline": folder, "documents_sha256": documents * 64}))
    with pytest.raises(AlignbenchError, match=r"win_rate \(baseline: sft / base\)"):
        compare(["one", "two"], runs=tmp_path)
    assert compare(["one", "three"], runs=tmp_path).contrasts[0].rows  # other folders of the same answers


def test_a_result_of_before_that_knows_no_bounds_is_still_read(two):
    audit = compare(["base", "aligned"], runs=two)
    for file in two.glob("*/*/result.json"):
        result = json.loads(file.read_text())
        assert {tuple(metric.pop("bounds")) for metric in result["metrics"]} == {(0.0, 1.0)}
        file.write_text(json.dumps(result))
    assert compare(["base", "aligned"], runs=two) == audit


def test_against_several_references_each_contrast_is_that_of_an_audit_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("alignbench.audit.compare.measure", counted := Counting(measure))
    runs = [
        str(write_run(tmp_path, "base", ("hellaswag", {"acc": shares(0.5)}))),
        str(write_run(tmp_path, "sft", ("hellaswag", {"acc": shares(0.6)}), lineage=[("base", "base")])),
        str(write_run(tmp_path, "alone", ("hellaswag", {"acc": shares(0.3)}))),
    ]
    found = compare_with(runs, [None, "base", "alone"])
    assert counted.contrasts == [4]  # base → sft and base → alone stand in two of the audits, and are measured once
    for reference, audit in found.items():
        assert audit == compare(runs, reference=reference)


def test_rows_of_one_task_with_other_shots_or_limits_are_told_apart(tmp_path):
    for name, p in (("base", 0.5), ("aligned", 0.6)):
        tasks = [("rte", {"acc": shares(p)}, changes) for changes in ({}, {"shots": 15}, {"limit": 120})]
        write_run(tmp_path, name, *tasks)
    (contrast,) = compare(["base", "aligned"], runs=tmp_path).contrasts
    assert {row.variant for row in contrast.rows} == {
        "shots 0, no limit", "shots 15, no limit", "shots 0, limit 120",
    }  # fmt: skip


class Counting:
    def __init__(self, measure):
        self.measure, self.contrasts = measure, []

    def __call__(self, contrasts, **settings):
        self.contrasts.append(len(contrasts))
        return self.measure(contrasts, **settings)
