"""Agreement, summary and screen of label tables: by hand, in simulations, and on real annotations."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from cases import cases
from commands import assert_one_line_error, assert_refused, run
from test_labels import ranked

from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import agreement
from alignbench.labels.screen import kept, screen
from alignbench.labels.summary import summary
from alignbench.labels.table import Label, read_labels, write_labels

CASES = cases("label_agreement")


def found(labels, statistic, who="all"):
    findings, _ = agreement(labels, resamples=200)
    (one,) = [f.estimate for f in findings if (f.statistic, f.who) == (statistic, who)]
    return one


def labels_of(case):
    groups, labels = case.get("groups", {}), []
    for prompt, labelers in case["labels"].items():
        for who, own in labelers.items():
            flags = {} if own is None else {"violent": own}
            flag = Label(prompt, None, "x", who, "hen", groups.get(who), flags=flags)
            labels += ranked(prompt, who, **own) if isinstance(own, dict) else [flag]
    return labels


@pytest.mark.parametrize("case", CASES["tables"])
def test_agreement_of_small_tables_by_hand_whatever_the_names_of_the_models(case):
    renamed = {"hen": "z", "cow": "y", "pig": "x"}
    for names in ({}, renamed):
        labels = [replace(own, model=names.get(own.model, own.model)) for own in labels_of(case)]
        found = {(f.who, f.statistic): f.estimate for f in agreement(labels, resamples=200)[0]}
        for who in case.keys() - {"labels", "groups"}:
            for statistic, expected in case[who].items():
                values = {name: getattr(found[who, statistic], name) for name in expected}
                assert values == {name: x if x is None else pytest.approx(x, abs=1e-3) for name, x in expected.items()}


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


@pytest.mark.parametrize(("labels", "message"), CASES["refused"])
def test_without_overlap_there_is_no_agreement_to_measure(labels, message):
    labels = labels_of({"labels": labels})
    assert_refused(message, agreement, labels)
    findings, notes = agreement(labels_of(CASES["tables"][4]) + labels, resamples=200)  # beside another question
    assert {finding.question for finding in findings} == {"violent"}
    assert notes == ["ranking: no two labelers judged the same pair of outputs"] * (labels[0].rank is not None)


def test_a_summary_has_marks_and_flags_with_intervals_over_prompts_and_win_rates_with_ties_as_half():
    labels = [Label(f"p{n}", None, "x", who, "hen", likert=5 + n % 3) for n in range(6) for who in "ab"]
    labels += [Label(f"p{n}", None, "y", "a", "cow", flags={"violent": n == 0}) for n in range(6)]
    by = {(finding.model, finding.statistic): finding.estimate for finding in summary(labels)}
    likert, violent = by.pop(("hen", "likert")), by.pop(("cow", "violent"))
    assert (likert.value, likert.n, likert.clusters) == (6, 12, 6)
    assert (violent.value, by) == (pytest.approx(1 / 6), {})
    labels = [label for n in range(8) for label in ranked(f"p{n}", "ada", hen=1, cow=2 - (n < 2), pig=5)]
    by = {(f.model, f.against): f.estimate for f in summary(labels) if f.statistic == "win_rate"}
    assert (by["cow", "hen"].value, by["hen", "pig"].value) == (pytest.approx(1 / 8), 1)  # two ties of eight
    assert by["hen", "pig"].low < 0.8
    assert_refused("nothing to summarise", summary, [Label("p", None, "x", "ada")])


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
    flags = {"researchers": {"sexual": True, "violent": False}, "same": {"sexual": False, "violent": True}}
    flags["blind"] = {"sexual": False, "violent": False, "hallucination": True}
    labels = [Label(f"p{n}", None, "x", who, flags=own) for n in range(60) for who, own in flags.items()]
    marks = marks_of(labels, reference="researchers")
    assert marks == {("same", "flagging"): "above", ("blind", "flagging"): "below"}


def test_demonstrations_are_outputs_with_a_labelers_name_and_without_a_criterion_there_is_no_screen():
    labels = [
        Label(f"p{n}", None, f"by {who}", rater, who, likert=mark)
        for n in range(20)
        for who, rater, mark in (
            ("ada", "researchers", 7 - n % 2), ("bob", "researchers", 3 + n % 2),
            ("ada", "bob", 1), ("bob", "ada", 7), ("ada", "ada", 1),
        )
    ]  # fmt: skip
    reference = "researchers"
    marks = {("ada", "demonstrations"): "above", ("bob", "demonstrations"): "below"}
    assert marks_of(labels, reference=reference) == marks
    assert screen(labels, reference=reference)[0].estimate.value == 6.5
    with pytest.raises(AlignbenchError, match=r"no labeler 'who' to compare with \(there are: contrary, faithful"):
        screen(four_labelers(2), reference="who")
    assert_refused("nothing to screen by", screen, [Label("p", None, "x", "ada", flags={"hallucination": True})])


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
    assert "contrary\trankings\t0.000" in shown("screen", file, "--reference", "researchers", "--out", out)
    assert "contrary" not in out.read_text(encoding="utf-8")
    text = shown("export", file, "--out", tmp_path / "rankings.jsonl")
    assert "written\t182\n" in text
    assert "left out: all responses tied\t0\n" in text
    assert file.read_bytes() == before


@pytest.mark.parametrize(("arguments", "message"), CASES["commands"])
def test_errors_name_the_file_or_the_option(file, arguments, message):
    assert_one_line_error(run("labels", *(argument.format(file) for argument in arguments.split())), message)


@pytest.mark.needs_data
def test_the_statistics_of_real_annotations_follow_their_definitions(data_dir):
    """Three workers on the factuality of XSum summaries (Maynez et al. 2020)."""
    labels = read_labels(
        str(data_dir / "xsum-hallucination" / "factuality_annotations_xsum_summaries.csv"),
        columns={"bbcid": "prompt_id", "system": "model", "summary": "output", "worker_id": "labeler"},
        flags=["is_factual"],
    )
    assert len(labels) == 5597
    # docs/labels.md
    for statistic, value in (("agreement", 0.958), ("fleiss_kappa", 0.773), ("alpha_nominal", 0.774)):
        assert found(labels, statistic).value == pytest.approx(value, abs=5e-4)
