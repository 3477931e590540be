"""Agreement, summary and screen of label tables: by hand, in simulations, and on real annotations."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from commands import assert_one_line_error, run

from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import agreement
from alignbench.labels.screen import CUT_OFFS, kept, screen
from alignbench.labels.summary import summary
from alignbench.labels.table import Label, read_labels, write_labels


def ranked(prompt, labeler, **ranks):
    return [Label(prompt, f"say {prompt}", f"{m} on {prompt}", labeler, m, rank=r) for m, r in ranks.items()]


def flagged(prompt, *answers, groups=""):
    """What labelers a, b, c, … answer about the one output of a prompt; None: nothing."""
    return [
        Label(prompt, None, "x", "abc"[i], "hen", groups[i] if groups else None, flags={"violent": bool(answer)})
        for i, answer in enumerate(answers)
        if answer is not None
    ]


def found(labels, statistic, who="all"):
    findings, _ = agreement(labels, resamples=200)
    (one,) = [f.estimate for f in findings if (f.statistic, f.who) == (statistic, who)]
    return one


RANKINGS = (
    *(label for who, ranks in (("ada", (1, 2, 3)), ("bob", (1, 3, 2))) for label in
      ranked("p1", who, hen=ranks[0], cow=ranks[1], pig=ranks[2])),
    *ranked("p2", "ada", hen=1, cow=1), *ranked("p2", "bob", hen=1, cow=2),
    *ranked("p3", "ada", hen=2, cow=2), *ranked("p3", "bob", hen=1, cow=1),
)  # fmt: skip
GROUPS = (
    *flagged("p1", 1, 1, 0, groups="ttu"),
    *flagged("p2", 0, 1, 0, groups="ttu"),
    *flagged("p3", 1, 1, 1, groups="ttu"),
    *flagged("p4", 0, None, 0, groups="ttu"),
)


def test_pairs_agree_with_ties_as_a_category_or_dropped():
    # p1: hen-cow and hen-pig agree, cow-pig does not; p2: a tie and a win; p3: two ties
    with_ties, untied = found(RANKINGS, "agreement"), found(RANKINGS, "agreement_ties_dropped")
    assert (with_ties.value, with_ties.n, with_ties.clusters) == (3 / 5, 5, 3)
    assert (untied.value, untied.n, untied.clusters) == (2 / 3, 3, 1)


def test_kappa_and_alpha_do_not_depend_on_the_order_of_outputs():
    names = {"hen": "z", "cow": "y", "pig": "x"}
    renamed = [replace(own, output="", model=names[own.model]) for own in RANKINGS]  # equal outputs are two items
    for statistic in ("agreement", "cohen_kappa", "fleiss_kappa", "alpha_nominal", "alpha_ordinal"):
        assert found(renamed, statistic).value == pytest.approx(found(RANKINGS, statistic).value)


def test_without_ties_chance_is_one_half():
    # hen before cow on all prompts but one: an estimate of chance by order would be far above ½
    labels = []
    for n in range(4):
        labels += [*ranked(f"p{n}", "ada", hen=1, cow=2), *ranked(f"p{n}", "bob", hen=1 + 2 * (n == 0), cow=2)]
    values = [found(labels, name).value for name in ("agreement", "cohen_kappa", "fleiss_kappa")]
    assert values == pytest.approx([3 / 4, 2 * 3 / 4 - 1, 2 * 3 / 4 - 1])


@pytest.mark.parametrize(
    ("statistic", "who", "value", "n"),
    [
        ("agreement", "all", 6 / 10, 10),
        ("agreement", "group t", 2 / 3, 3),  # a and b: yes, no, yes
        ("agreement", "groups t and u", 4 / 7, 7),  # a and c: no, yes, yes, yes; b and c: no, no, yes
        ("agreement", "group u", None, 0),  # one labeler
        ("agreement_with_others", "labeler a", (1 / 2 + 1 / 2 + 1 + 1) / 4, 4),
        ("agreement_with_majority", "labeler a", 1, 2),  # the others of p1 and p2 have no majority
    ],
)
def test_agreement_within_and_between_groups_and_of_a_labeler(statistic, who, value, n):
    estimate = found(GROUPS, statistic, who)
    assert (estimate.value, estimate.n) == (None if value is None else pytest.approx(value), n)


def test_unanimity_on_five_prompts_is_not_certainty_and_a_single_category_has_no_kappa():
    labels = [label for n in range(5) for label in flagged(f"p{n}", n % 2, n % 2)]
    for statistic, who in (("agreement", "all"), ("agreement_with_others", "labeler a")):
        estimate = found(labels, statistic, who)
        assert (estimate.value, estimate.high) == (1, 1)
        assert 0.3 < estimate.low < 0.6
    kappa = found(labels, "fleiss_kappa")
    assert (kappa.value, kappa.low, kappa.high) == (1, None, None)
    none = [label for n in range(5) for label in flagged(f"p{n}", 0, 0)]
    assert (found(none, "agreement").value, found(none, "fleiss_kappa").value) == (1, None)


def test_likert_marks_have_alpha_on_three_levels():
    marks = {"p1": (1, 2), "p2": (7, 6), "p3": (4, 4)}
    labels = [Label(p, None, "x", "ab"[i], likert=both[i]) for p, both in marks.items() for i in (0, 1)]
    nominal, ordinal, interval = (found(labels, f"alpha_{level}").value for level in ("nominal", "ordinal", "interval"))
    assert nominal < 0.3 < ordinal < interval


@pytest.mark.slow
def test_intervals_over_prompts_cover_the_truth():
    # each prompt has four outputs, all easy (labelers say the truth) or all hard (they toss a coin)
    draw = np.random.default_rng(5)
    truths = {"agreement": 0.75, "fleiss_kappa": 0.5, "alpha_nominal": 0.5}
    covered = []
    for _ in range(200):
        hard, truth = draw.random(60) < 0.5, draw.random((60, 4)) < 0.5
        coin = draw.random((60, 4, 3)) < 0.5
        labels = [
            Label(str(p), None, str(o), str(who), flags={"f": bool(coin[p, o, who] if hard[p] else truth[p, o])})
            for p, o, who in product(range(60), range(4), range(3))
        ]
        estimates = {f.statistic: f.estimate for f in agreement(labels, resamples=400)[0] if f.who == "all"}
        covered.append([estimates[name].low <= value <= estimates[name].high for name, value in truths.items()])
    assert np.mean(covered, 0) == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (ranked("p", "ada", hen=1, cow=2), r"no agreement to measure: one labeler only \(ada\)"),
        (ranked("p1", "ada", hen=1, cow=2) + ranked("p2", "bob", hen=1, cow=2), "ranking: no two labelers judged the"),
        ([Label("p", None, "x", who) for who in "ab"], "the labels hold no ranks, Likert marks or flags"),
    ],
)
def test_without_overlap_there_is_no_agreement_to_measure(labels, message):
    with pytest.raises(AlignbenchError, match=message):
        agreement(labels)


def test_a_question_without_overlap_is_named_beside_the_others():
    findings, notes = agreement([*flagged("p1", 1, 0), *ranked("p1", "c", hen=1, cow=2)], resamples=200)
    assert {finding.question for finding in findings} == {"violent"}
    assert notes == ["ranking: no two labelers judged the same pair of outputs"]


# Summary


def test_marks_and_flags_of_a_model_have_intervals_over_prompts():
    labels = [Label(f"p{n}", None, "x", who, "hen", likert=5 + n % 3) for n in range(6) for who in "ab"]
    labels += [Label(f"p{n}", None, "y", "a", "cow", flags={"violent": n == 0}) for n in range(6)]
    by = {(finding.model, finding.statistic): finding.estimate for finding in summary(labels)}
    likert, violent = by.pop(("hen", "likert")), by.pop(("cow", "violent"))
    assert (likert.value, likert.n, likert.clusters) == (6, 12, 6)
    assert (violent.value, by) == (pytest.approx(1 / 6), {})


def test_win_rates_between_models_count_ties_half():
    labels = [label for n in range(8) for label in ranked(f"p{n}", "ada", hen=1, cow=2 - (n < 2), pig=5)]
    by = {(f.model, f.against): f.estimate for f in summary(labels) if f.statistic == "win_rate"}
    assert (by["cow", "hen"].value, by["hen", "pig"].value) == (pytest.approx(1 / 8), 1)  # two ties of eight
    assert by["hen", "pig"].low < 0.8
    with pytest.raises(AlignbenchError, match="nothing to summarise"):
        summary([Label("p", None, "x", "ada")])


# Screen


def four_labelers(prompts=60):
    """The researchers; one who always agrees; one with the opposite rankings; one who did little."""
    hens = {"researchers": range(prompts), "faithful": range(prompts), "new": range(2)}
    labels = [label for who, own in hens.items() for n in own for label in ranked(f"p{n}", who, hen=1, cow=2)]
    return labels + [label for n in range(prompts) for label in ranked(f"p{n}", "contrary", hen=2, cow=1)]


def marks_of(labels, **settings):
    return {(one.labeler, one.criterion): one.mark for one in screen(labels, **settings)}


def test_labelers_are_marked_by_their_interval_and_those_below_left_out():
    labels = four_labelers()
    screened = screen(labels, reference="researchers")
    marks = {one.labeler: one.mark for one in screened}
    assert marks == {"faithful": "above", "contrary": "below", "new": "cannot tell"}
    (new,) = [one.estimate for one in screened if one.labeler == "new"]
    assert (new.value, new.n) == (1, 2)
    assert {label.labeler for label in kept(labels, screened)} == {"researchers", "faithful", "new"}
    beside_all = marks_of(labels)  # without a reference labelers are compared with the others
    assert beside_all["contrary", "rankings"] == beside_all["faithful", "rankings"] == "below"  # half are contrary


def test_sensitive_speech_is_any_of_its_flags():
    flags = {
        "researchers": {"sexual": True, "violent": False},
        "same": {"sexual": False, "violent": True},
        "blind": {"sexual": False, "violent": False, "hallucination": True},
    }
    labels = [Label(f"p{n}", None, "x", who, flags=own) for n in range(60) for who, own in flags.items()]
    marks = marks_of(labels, reference="researchers")
    assert marks == {("same", "flagging"): "above", ("blind", "flagging"): "below"}
    assert set(marks_of(labels, reference="researchers", sensitive=["sexual"]).values()) == {"below"}


def test_demonstrations_are_outputs_with_a_labelers_name():
    labels = [
        Label(f"p{n}", None, f"by {who}", rater, who, likert=mark)
        for n in range(20)
        for who, rater, mark in (
            ("ada", "researchers", 7 - n % 2), ("bob", "researchers", 3 + n % 2),
            ("ada", "bob", 1), ("bob", "ada", 7), ("ada", "ada", 1),
        )
    ]  # fmt: skip
    marks = marks_of(labels, reference="researchers")
    assert marks == {("ada", "demonstrations"): "above", ("bob", "demonstrations"): "below"}
    assert screen(labels, reference="researchers")[0].estimate.value == 6.5
    assert set(marks_of(labels, reference="researchers", cut_offs=CUT_OFFS | {"demonstrations": 3}).values()) == {
        "above"
    }


def test_an_unknown_reference_and_labels_without_a_criterion_are_refused():
    with pytest.raises(AlignbenchError, match=r"no labeler 'who' to compare with \(there are: contrary, faithful"):
        screen(four_labelers(2), reference="who")
    with pytest.raises(AlignbenchError, match="nothing to screen by"):
        screen([Label("p", None, "x", "ada", flags={"hallucination": True})])


# Commands


@pytest.fixture
def file(tmp_path):
    write_labels(four_labelers(), tmp_path / "labels.jsonl")
    return tmp_path / "labels.jsonl"


def shown(*arguments):
    done = run("labels", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_counts_the_labels(tmp_path):
    theirs, out = tmp_path / "theirs.csv", tmp_path / "labels.jsonl"
    theirs.write_text("doc,text,who,good,t\n1,a,w1,yes,3\n1,a,w2,no,4\n")
    maps = ("--map", "doc=prompt_id", "--map", "text=output", "--map", "who=labeler")
    text = shown("import", theirs, "--out", out, *maps, "--flag", "good", "--ignore", "t")
    assert "labelers\t2\n" in text
    assert "rows with good\t2\n" in text
    assert [label.flags for label in read_labels(str(out))] == [{"good": True}, {"good": False}]


def test_findings_are_a_table_or_json_and_screen_and_export_write_a_new_file(file, tmp_path):
    before, out = file.read_bytes(), tmp_path / "kept.jsonl"
    assert "ranking\tagreement_ties_dropped\tall\t0.344" in shown("agreement", file, "--resamples", 200)
    as_json = json.loads(shown("agreement", file, "--resamples", 200, "--json"))
    assert as_json[0]["estimate"]["n"] == 60 * 3 + 6
    assert "cow\twin_rate\then\t0.33" in shown("summary", file)
    assert json.loads(shown("summary", file, "--json"))[0]["against"] == "hen"
    text = shown("screen", file, "--reference", "researchers", "--out", out)
    assert "labeler\tcriterion\tvalue\t95 % interval\tn\tprompts\tcut-off\tmark\n" in text
    assert "contrary\trankings\t0.000" in text
    assert "contrary" not in out.read_text(encoding="utf-8")
    text = shown("export", file, "--out", tmp_path / "rankings.jsonl")
    assert "written\t182\n" in text
    assert "left out: all responses tied\t0\n" in text
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(([command, "{}", "--out", "{}"], "this is the input file") for command in ("screen", "export", "import")),
        (["screen", "{}", "--sensitive", "rude"], "labels.jsonl: no flag 'rude' (there are: none)"),
        (["screen", "{}", "--reference", "who"], "labels.jsonl: no labeler 'who'"),
        (["import", "{}", "--out", "{}.new", "--map", "doc"], "--map doc: write THEIRS=OURS"),
    ],
)
def test_errors_name_the_file_or_the_option(file, arguments, message):
    assert_one_line_error(run("labels", *(argument.format(file) for argument in arguments)), message)


@pytest.mark.needs_data
def test_the_statistics_of_real_annotations_follow_their_definitions(data_dir):
    """Three workers on the factuality of XSum summaries (Maynez et al. 2020)."""
    labels = read_labels(
        str(data_dir / "xsum-hallucination" / "factuality_annotations_xsum_summaries.csv"),
        columns={"bbcid": "prompt_id", "system": "model", "summary": "output", "worker_id": "labeler"},
        flags=["is_factual"],
    )
    assert len(labels) == 5597
    judged = {}
    for label in labels:
        if "is_factual" in label.flags:
            judged.setdefault((label.prompt_id, label.item), []).append(label.flags["is_factual"])
    counts = np.array([(len(answers) - sum(answers), sum(answers)) for answers in judged.values()])
    counts = counts[counts.sum(1) > 1]
    pairs = counts.sum(1) * (counts.sum(1) - 1)
    same = (counts * (counts - 1)).sum(1)
    chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    assert found(labels, "agreement").value == pytest.approx(same.sum() / pairs.sum())
    assert found(labels, "fleiss_kappa").value == pytest.approx(((same / pairs).mean() - chance) / (1 - chance))
    assert found(labels, "agreement").value == pytest.approx(0.958, abs=5e-4)
