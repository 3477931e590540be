"""Agreement, summary and screen of whole label tables: by hand, in simulations, and on real annotations."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from alignbench.cli.labels import app
from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import agreement
from alignbench.labels.screen import CutOffs, kept, screen
from alignbench.labels.summary import summary
from alignbench.labels.table import Label, read_labels, write_labels


def ranked(prompt: str, labeler: str, group: str | None = None, **ranks: float) -> list[Label]:
    return [Label(prompt, f"say {prompt}", f"{m} on {prompt}", labeler, m, group, rank=r) for m, r in ranks.items()]


def flagged(prompt: str, *said: int | None, groups: str = "", name: str = "violent") -> list[Label]:
    """What labelers a, b, c, … said of the one output of a prompt; None: nothing."""
    return [
        Label(prompt, None, "x", labeler, "hen", groups[i] if groups else None, flags={name: bool(value)})
        for i, (labeler, value) in enumerate(zip("abcdefgh", said, strict=False))
        if value is not None
    ]


def found(labels, statistic, who="all", question=None, **options):
    (one,) = [
        finding.estimate
        for finding in agreement(labels, **{"resamples": 200} | options)[0]
        if (finding.statistic, finding.who) == (statistic, who) and question in (None, finding.question)
    ]
    return one


class TestRankings:
    LABELS = (
        *ranked("p1", "ada", hen=1, cow=2, pig=3),
        *ranked("p1", "bob", hen=1, cow=3, pig=2),
        *ranked("p2", "ada", hen=1, cow=1),
        *ranked("p2", "bob", hen=1, cow=2),
        *ranked("p3", "ada", hen=2, cow=2),
        *ranked("p3", "bob", hen=1, cow=1),
    )

    def test_pairs_agree_with_ties_as_a_class_or_dropped(self):
        # p1: hen-cow and hen-pig the same, cow-pig not; p2: a tie against a win; p3: a tie on both sides
        with_ties = found(self.LABELS, "agreement")
        assert (with_ties.value, with_ties.n, with_ties.clusters) == (3 / 5, 5, 3)
        without = found(self.LABELS, "agreement_ties_dropped")
        assert (without.value, without.n, without.clusters) == (2 / 3, 3, 1)

    def test_kappa_does_not_depend_on_which_output_comes_first(self):
        renamed = [
            Label(m.prompt_id, None, "", m.labeler, {"hen": "z", "cow": "y", "pig": "x"}[m.model], rank=m.rank)
            for m in self.LABELS
        ]
        for statistic in ("cohen_kappa", "fleiss_kappa", "alpha_nominal", "alpha_ordinal"):
            assert found(renamed, statistic).value == pytest.approx(found(self.LABELS, statistic).value)

    def test_without_ties_chance_is_one_half(self):
        # four prompts, hen before cow each time but one: chance that looked at the order would expect far more than ½
        labels = [
            label
            for n in range(4)
            for label in (*ranked(f"p{n}", "ada", hen=1, cow=2), *ranked(f"p{n}", "bob", hen=1 + 2 * (n == 0), cow=2))
        ]
        assert found(labels, "agreement").value == 3 / 4
        assert found(labels, "cohen_kappa").value == pytest.approx(2 * 3 / 4 - 1)
        assert found(labels, "fleiss_kappa").value == pytest.approx(2 * 3 / 4 - 1)

    def test_the_same_output_of_two_models_is_two_items(self):
        labels = [Label("p", None, "same", who, m, rank=r) for who in "ab" for m, r in (("hen", 1), ("cow", 2))]
        assert found(labels, "agreement").n == 1


class TestGroupsAndLabelers:
    LABELS = (
        *flagged("p1", 1, 1, 0, groups="ttu"),
        *flagged("p2", 0, 1, 0, groups="ttu"),
        *flagged("p3", 1, 1, 1, groups="ttu"),
        *flagged("p4", 0, None, 0, groups="ttu"),
    )

    def test_pairs_within_and_across_groups(self):
        within = found(self.LABELS, "agreement", "group t")
        assert (within.value, within.n) == (2 / 3, 3)  # a and b: yes, no, yes
        across = found(self.LABELS, "agreement", "groups t and u")
        assert (across.value, across.n) == (4 / 7, 7)  # a and c: no, yes, yes, yes; b and c: no, no, yes
        assert found(self.LABELS, "agreement").value == pytest.approx(6 / 10)

    def test_a_group_of_one_has_no_agreement_within(self):
        assert found(self.LABELS, "agreement", "group u").value is None

    def test_a_labeler_against_the_others_and_their_majority(self):
        others = found(self.LABELS, "agreement_with_others", "labeler a")
        assert (others.value, others.n) == (pytest.approx((1 / 2 + 1 / 2 + 1 + 1) / 4), 4)
        # of p1 and p2 the other two say different things: no majority
        majority = found(self.LABELS, "agreement_with_majority", "labeler a")
        assert (majority.value, majority.n) == (1, 2)

    def test_five_prompts_on_which_all_agree_are_not_certainty(self):
        labels = [label for n in range(5) for label in flagged(f"p{n}", n % 2, n % 2)]
        for statistic, who in (("agreement", "all"), ("agreement_with_others", "labeler a")):
            estimate = found(labels, statistic, who)
            assert (estimate.value, estimate.high) == (1, 1)
            assert 0.3 < estimate.low < 0.6
        kappa = found(labels, "fleiss_kappa")
        assert (kappa.value, kappa.low, kappa.high) == (1, None, None)

    def test_one_answer_only_has_no_kappa(self):
        labels = [label for n in range(5) for label in flagged(f"p{n}", 0, 0)]
        assert found(labels, "agreement").value == 1
        assert found(labels, "fleiss_kappa").value is None


def test_marks_have_alpha_on_three_levels():
    marks = {"p1": (1, 2), "p2": (7, 6), "p3": (4, 4)}
    labels = [
        Label(p, None, "x", who, likert=m) for p, both in marks.items() for who, m in zip("ab", both, strict=True)
    ]
    nominal, ordinal, interval = (found(labels, f"alpha_{level}").value for level in ("nominal", "ordinal", "interval"))
    assert nominal < 0.3 < ordinal < interval


@pytest.mark.parametrize("statistic", ["agreement", "fleiss_kappa", "alpha_nominal"])
def test_intervals_over_prompts_hold_the_truth(statistic):
    # each prompt has four outputs, all easy (labelers say the truth) or all hard (they toss a coin)
    draw = np.random.default_rng(5)
    truths = {"agreement": 0.75, "fleiss_kappa": 0.5, "alpha_nominal": 0.5}
    held = []
    for _ in range(200):
        hard, truth = draw.random(60) < 0.5, draw.random((60, 4)) < 0.5
        coin = draw.random((60, 4, 3)) < 0.5
        labels = [
            Label(str(p), None, str(o), str(who), flags={"f": bool(coin[p, o, who] if hard[p] else truth[p, o])})
            for p, o, who in product(range(60), range(4), range(3))
        ]
        estimate = found(labels, statistic, resamples=400)
        held.append(estimate.low <= truths[statistic] <= estimate.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.04)


class TestNothingToAgreeOn:
    def test_one_labeler(self):
        with pytest.raises(AlignbenchError, match=r"no agreement to measure: one labeler only \(ada\)"):
            agreement(ranked("p", "ada", hen=1, cow=2))

    def test_no_overlap(self):
        labels = [*ranked("p1", "ada", hen=1, cow=2), *ranked("p2", "bob", hen=1, cow=2)]
        with pytest.raises(AlignbenchError, match="ranking: no two labelers judged the same pair of outputs"):
            agreement(labels)

    def test_no_answers(self):
        with pytest.raises(AlignbenchError, match="the labels hold no ranks, Likert marks or flags"):
            agreement([Label("p", None, "x", "ada"), Label("p", None, "x", "bob")])

    def test_a_question_without_overlap_is_named_beside_the_others(self):
        labels = [*flagged("p1", 1, 0), *ranked("p1", "c", hen=1, cow=2)]
        findings, notes = agreement(labels, resamples=200)
        assert {finding.question for finding in findings} == {"violent"}
        assert notes == ["ranking: no two labelers judged the same pair of outputs"]


class TestSummary:
    def test_marks_and_flags_of_a_model_with_intervals_over_prompts(self):
        labels = [Label(f"p{n}", None, "x", who, "hen", likert=5 + n % 3) for n in range(6) for who in "ab"]
        labels += [Label(f"p{n}", None, "y", "a", "cow", flags={"violent": n == 0}) for n in range(6)]
        by = {(finding.model, finding.statistic): finding.estimate for finding in summary(labels)}
        assert (by["hen", "likert"].value, by["hen", "likert"].n, by["hen", "likert"].clusters) == (6, 12, 6)
        assert by["cow", "violent"].value == pytest.approx(1 / 6)
        assert set(by) == {("hen", "likert"), ("cow", "violent")}

    def test_win_rates_between_models_count_ties_half(self):
        labels = [
            label for n in range(8) for label in ranked(f"p{n}", "ada", hen=1, cow=2 - (n < 2), pig=5)
        ]  # two ties of eight
        by = {(f.model, f.against): f.estimate for f in summary(labels) if f.statistic == "win_rate"}
        assert by["cow", "hen"].value == pytest.approx(1 / 8)
        assert by["hen", "pig"].value == 1
        assert by["hen", "pig"].low < 0.8

    def test_nothing_to_sum_up(self):
        with pytest.raises(AlignbenchError, match="nothing to summarise"):
            summary([Label("p", None, "x", "ada")])


class TestScreen:
    @staticmethod
    def labels(prompts: int = 60) -> list[Label]:
        """The researchers; one who says the same; one who says the opposite of every ranking; one who did little."""
        labels: list[Label] = []
        for n in range(prompts):
            labels += ranked(f"p{n}", "researchers", hen=1, cow=2)
            labels += ranked(f"p{n}", "faithful", hen=1, cow=2)
            labels += ranked(f"p{n}", "contrary", hen=2, cow=1)
        return labels + ranked("p0", "new", hen=1, cow=2) + ranked("p1", "new", hen=1, cow=2)

    def test_marks_by_where_the_interval_lies(self):
        marks = {one.labeler: one for one in screen(self.labels(), reference="researchers")}
        assert {name: one.mark for name, one in marks.items()} == {
            "faithful": "above", "contrary": "below", "new": "cannot tell",
        }  # fmt: skip
        assert marks["new"].estimate.value == 1
        assert marks["new"].estimate.n == 2

    def test_without_a_reference_the_rest_is_what_counts(self):
        marks = {one.labeler: one.mark for one in screen(self.labels())}
        assert marks["contrary"] == "below"
        assert marks["faithful"] == "below"  # half of the rest is contrary

    def test_keeps_all_but_those_below(self):
        labels = self.labels()
        rest = kept(labels, screen(labels, reference="researchers"))
        assert {label.labeler for label in rest} == {"researchers", "faithful", "new"}

    def test_sensitive_speech_is_any_of_its_flags(self):
        labels = [
            label
            for n in range(60)
            for label in (
                Label(f"p{n}", None, "x", "researchers", flags={"sexual": True, "violent": False}),
                Label(f"p{n}", None, "x", "same", flags={"sexual": False, "violent": True}),
                Label(f"p{n}", None, "x", "blind", flags={"sexual": False, "violent": False, "hallucination": True}),
            )
        ]
        marks = {(one.labeler, one.criterion): one.mark for one in screen(labels, reference="researchers")}
        assert marks == {("same", "flagging"): "above", ("blind", "flagging"): "below"}
        assert {one.mark for one in screen(labels, reference="researchers", sensitive=["sexual"])} == {"below"}

    def test_demonstrations_are_outputs_that_bear_a_labelers_name(self):
        labels = [
            Label(f"p{n}", None, f"by {who}", rater, who, likert=mark)
            for n in range(20)
            for who, rater, mark in (
                ("ada", "researchers", 7 - n % 2), ("bob", "researchers", 3 + n % 2),
                ("ada", "bob", 1), ("bob", "ada", 7), ("ada", "ada", 1),
            )
        ]  # fmt: skip
        found = {one.labeler: one for one in screen(labels, reference="researchers")}
        assert {name: (one.criterion, one.mark) for name, one in found.items()} == {
            "ada": ("demonstrations", "above"), "bob": ("demonstrations", "below"),
        }  # fmt: skip
        assert found["ada"].estimate.value == 6.5
        assert screen(labels, reference="researchers", cut_offs=CutOffs(demonstrations=3))[1].mark == "above"

    def test_a_reference_who_is_not_there(self):
        with pytest.raises(AlignbenchError, match=r"no labeler 'who' to compare with \(there are: contrary, faithful"):
            screen(self.labels(2), reference="who")

    def test_nothing_to_screen_by(self):
        with pytest.raises(AlignbenchError, match="nothing to screen by"):
            screen([Label("p", None, "x", "ada", flags={"hallucination": True})])


class TestCommands:
    @staticmethod
    def run(*arguments: object):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        write_labels(TestScreen.labels(), tmp_path / "labels.jsonl")
        return tmp_path / "labels.jsonl"

    def test_import_says_what_is_there(self, tmp_path):
        theirs = tmp_path / "theirs.csv"
        theirs.write_text("doc,text,who,good,t\n1,a,w1,yes,3\n1,a,w2,no,4\n")
        out = tmp_path / "labels.jsonl"
        maps = ("--map", "doc=prompt_id", "--map", "text=output", "--map", "who=labeler")
        shown = self.run("import", theirs, "--out", out, *maps, "--flag", "good", "--ignore", "t").output
        assert "labelers\t2\n" in shown
        assert "rows with good\t2\n" in shown
        assert [label.flags for label in read_labels(str(out))] == [{"good": True}, {"good": False}]
        with pytest.raises(AlignbenchError, match="--map doc: write THEIRS=OURS"):
            self.run("import", theirs, "--out", out, "--map", "doc")

    def test_agreement_and_summary_in_a_table_and_as_json(self, file):
        shown = self.run("agreement", file, "--resamples", 200).output
        assert "ranking\tagreement_ties_dropped\tall\t0.344" in shown
        as_json = json.loads(self.run("agreement", file, "--resamples", 200, "--json").output)
        assert as_json[0]["estimate"]["n"] == 60 * 3 + 6
        assert "cow\twin_rate\then\t0.33" in self.run("summary", file).output
        assert json.loads(self.run("summary", file, "--json").output)[0]["against"] == "hen"

    def test_screen_writes_beside_and_changes_nothing(self, file, tmp_path):
        before = file.read_bytes()
        out = tmp_path / "kept.jsonl"
        shown = self.run("screen", file, "--reference", "researchers", "--out", out).output
        assert "contrary\trankings\t0.000" in shown
        assert "contrary" not in out.read_text(encoding="utf-8")
        assert file.read_bytes() == before
        for command in (("screen", file), ("export", file), ("import", file)):
            with pytest.raises(AlignbenchError, match="this is the input file"):
                self.run(*command, "--out", file)
        with pytest.raises(AlignbenchError, match=r"no flag 'rude' \(there are: none\)"):
            self.run("screen", file, "--sensitive", "rude")

    def test_export_says_what_is_left_out(self, file, tmp_path):
        shown = self.run("export", file, "--out", tmp_path / "rankings.jsonl").output
        assert "written\t182\n" in shown
        assert "left out: all responses tied\t0\n" in shown

    def test_errors_name_the_file(self, tmp_path):
        write_labels(ranked("p", "ada", hen=1, cow=2), tmp_path / "one.jsonl")
        with pytest.raises(AlignbenchError, match=r"one.jsonl: no agreement to measure: one labeler only \(ada\)"):
            self.run("agreement", tmp_path / "one.jsonl")


@pytest.mark.needs_data
def test_three_workers_on_the_factuality_of_xsum_summaries(data_dir):
    """Maynez et al. 2020: the statistics are those of a plain reading of the definitions."""
    labels = read_labels(
        str(data_dir / "xsum-hallucination" / "factuality_annotations_xsum_summaries.csv"),
        columns={"bbcid": "prompt_id", "system": "model", "summary": "output", "worker_id": "labeler"},
        flags=["is_factual"],
    )
    assert len(labels) == 5597
    judged: dict[object, list[bool]] = {}
    for label in labels:
        if "is_factual" in label.flags:
            judged.setdefault((label.prompt_id, label.item), []).append(label.flags["is_factual"])
    counts = np.array([(len(said) - sum(said), sum(said)) for said in judged.values()])
    counts = counts[counts.sum(1) > 1]
    pairs = counts.sum(1) * (counts.sum(1) - 1)
    same = (counts * (counts - 1)).sum(1)
    chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    assert found(labels, "agreement").value == pytest.approx(same.sum() / pairs.sum())
    assert found(labels, "fleiss_kappa").value == pytest.approx(((same / pairs).mean() - chance) / (1 - chance))
    assert found(labels, "agreement").value == pytest.approx(0.958, abs=5e-4)
