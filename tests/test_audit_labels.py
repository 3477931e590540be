"""What labelers said in the verdict of the audit and of the report."""

import json
import re
from dataclasses import replace

import pytest
from audit_runs import shares, write_run
from commands import run

from alignbench.audit.compare import compare
from alignbench.audit.labels import label_rows
from alignbench.labels.table import Label, write_labels

PROMPTS = 20
RTE = ("rte", {"acc": shares(0.6)})


def labels_of(who, won, *, likert=(3, 5), flags=((0, 1), (0, 0)), group=None):
    """A labeler's labels of both models on each prompt. won: for the aligned model, on each prompt
    flags: (base, ppo) of hallucination and of sexual"""
    found = []
    for n, own in enumerate(won):
        for at, model in enumerate(("base", "ppo")):
            marks = {"rank": 1 if own == 0.5 else 2 - (own == at), "likert": likert[at]}
            answers = {"hallucination": bool(flags[0][at]), "sexual": bool(flags[1][at])}
            found.append(Label(f"p{n}", f"say {n}", f"{model} {n}", who, model, group, flags=answers, **marks))
    return found


def rows_of(labels):
    base, ppo = ([own for own in labels if own.model == model] for model in ("base", "ppo"))
    return {row.metric: row for row in label_rows(base, ppo, resamples=500)}


def answers(model):
    columns = [
        {"prompt": f"say {n}", "outputs": [{"text": f"{model} {n}"}], "metrics": {"answer_rate": 1.0, "words": 2.0}}
        for n in range(PROMPTS)
    ]
    return "answers", {"answer_rate": [1.0] * PROMPTS, "words": [2.0] * PROMPTS}, {"columns": columns}


class TestRows:
    def test_values_and_directions_by_hand(self):
        labels = [*labels_of("ada", [1, 1, 0.5, 0] * 5), *labels_of("bob", [1, 0, 0.5, 0] * 5)]
        rows = rows_of(labels)
        rate = rows["win_rate"]
        assert (rate.reference, rate.aligned, rate.n) == (0.5, pytest.approx((1 + 0.5 + 0.5 + 0) / 4), PROMPTS)
        assert rate.low < 0 < rate.high
        assert (rows["likert"].reference, rows["likert"].aligned) == (3, 5)
        assert (rows["likert"].gain, rows["hallucination"].gain, rows["toxic"].gain) == (2, -1, 0)
        assert rows["sexual"].headline is False
        assert rate.scorer == "2 labelers, 40 judgements"
        assert "violent" not in rows  # not asked

    def test_a_rate_on_which_labelers_differ_is_not_known_for_other_labelers(self):
        """Three to five of six prefer the aligned model on each prompt: always the same ones, or others each time."""
        rows = []
        for shift in (0, 1):
            wins = [[int((n + shift * prompt) % 6 < 3 + prompt % 3) for prompt in range(60)] for n in range(6)]
            labels = [label for who, won in zip("abcdef", wins, strict=True) for label in labels_of(who, won)]
            rows.append(rows_of(labels)["win_rate"])
        same, turn = rows
        assert same.aligned == turn.aligned == pytest.approx(2 / 3)
        assert same.low < 0 < turn.low
        assert same.p > 0.05 > turn.p

    def test_one_labeler_is_said_to_be_one(self):
        row = rows_of(labels_of("ada", [1, 0, 0.5, 1] * 5))["win_rate"]
        assert "one labeler" in row.note
        assert row.low is not None

    def test_wins_on_every_prompt_have_a_test_and_an_interval(self):
        row = rows_of([*labels_of("ada", [1] * PROMPTS), *labels_of("bob", [1] * PROMPTS)])["win_rate"]
        assert (row.aligned, row.p < 0.05, 0 < row.low < row.high <= 0.5) == (1, True, True)

    def test_only_what_one_labeler_said_of_both_counts(self):
        labels = [own for own in labels_of("ada", [1] * 4) if own.model == "base"]
        labels += [own for own in labels_of("bob", [1] * 4) if own.model == "ppo"]
        assert rows_of(labels) == {}


class TestVerdict:
    @pytest.fixture
    def runs(self, tmp_path):
        return [write_run(tmp_path / "runs", name, RTE, answers(name)) for name in ("base", "ppo")]

    @pytest.fixture
    def file(self, tmp_path):
        won = [1, 1, 1, 1, 0.5] * 4
        labels = [own for who in "abcd" for own in labels_of(who, won, group="held-out" if who == "d" else "training")]
        write_labels(labels, tmp_path / "labels.jsonl")
        return tmp_path / "labels.jsonl"

    def test_labels_are_part_of_the_verdict_of_compare(self, runs, file):
        done = run("compare", *runs, "--labels", file, "--json", "--resamples", 500)
        assert done.returncode == 0, done.stderr
        audit = json.loads(done.stdout)
        verdicts = {own["ability"]: own["sentence"] for own in audit["contrasts"][0]["abilities"]}
        assert "labels.win_rate rose by 0.400 from 0.500 to 0.900" in verdicts["preference"]
        assert "labels.likert rose by 2.000" in verdicts["preference"]
        assert "labels.hallucination rose by 1.000 from 0.000 to 1.000" in verdicts["hallucination"]
        assert "toxicity" in verdicts
        without = json.loads(run("compare", *runs, "--json", "--resamples", 500).stdout)["contrasts"][0]
        assert audit["contrasts"][0]["mean"]["value"] == without["mean"]["value"]  # they are no capability
        assert run("compare", *runs, "--labels", file, "--fail-if", "labels.hallucination loss > 0.1").returncode == 3

    @pytest.mark.parametrize(("who", "note"), [("a", "one labeler"), ("ab", "about 90 %"), ("abc", "")])
    def test_few_labelers_are_noted(self, who, note):
        labels = [own for name in who for own in labels_of(name, [1, 0.5, 0, 1] * 5)]
        row = rows_of(labels)["win_rate"]
        assert note in row.note
        assert bool(row.note) is bool(note)

    def test_labels_of_other_outputs_of_a_model_of_the_same_name_do_not_count(self, runs, file, tmp_path):
        from alignbench.labels.table import read_labels

        labels = [own for own in read_labels(str(file)) if own.prompt_id != "p3"]
        labels += [Label("p3", "say 3", f"other {m}", "a", m, "training", rank=1) for m in ("base", "ppo")]
        audit = compare([str(own) for own in runs], labels=labels, resamples=500)
        (row,) = (own for own in audit.contrasts[0].rows if own.metric == "win_rate")
        assert row.n == PROMPTS - 1
        assert any("ppo: 1 labels are not of answers in its run" in note for note in audit.notes)

    def test_labels_that_are_of_no_compared_model_or_of_one_are_named(self, runs):
        own = [label for label in labels_of("ada", [1] * PROMPTS) if label.model == "ppo"]
        settings = {"resamples": 500}
        audit = compare([str(run) for run in runs], labels=own, **settings)
        assert "labels (of one of the two models only)" in audit.contrasts[0].left_out
        other = [replace(label, model=name) for label in own for name in ("mine", None)]
        audit = compare([str(run) for run in runs], labels=other, **settings)
        expected = "labels: none is of these models (base, ppo); they name (no model named), mine"
        assert expected in audit.notes
        assert expected not in compare([str(run) for run in runs], **settings).notes

    def test_the_report_shows_them(self, runs, file, tmp_path):
        done = run("report", *runs, file, "--out", tmp_path / "report")
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "report" / "index.html").read_text()
        assert re.search(r"win_rate\s*↑ rose from 0\.500 to 0\.900", page)
        assert "Judgements of labelers" in page
        assert 'href="#task/labels"' not in page
