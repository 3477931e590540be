"""Panels of judges, and ratings by rubrics: majorities, expected values under the log-probabilities, kept reasons."""

import hashlib
import math
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from cases import cases, read_lines, write_lines
from commands import assert_refused, run
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scorer_models import save_classifier, stock_logprob
from standin_server import StandIn, asked_of
from tiny import save_tiny_checkpoint

from alignbench.evaluation.score_file import judge_files
from alignbench.scorers import Item, find_scorer, rubric
from alignbench.scorers.panel import majority, split_judges
from alignbench.scorers.preference import PROMPTS
from alignbench.scorers.rubric import BEFORE, expected_rating, read_rating
from alignbench.types.engine import Completion

CASES = cases("judge_ratings")
PROMPT, GOOD, BAD = "What do bees make?", "Honey, and wax for the hive.", "Two moons."
WON, LOST, EQUAL = (Item(own, PROMPT, references=(other,)) for own, other in ((GOOD, BAD), (BAD, GOOD), (GOOD, GOOD)))
RUBRIC = "criteria:\n- {name: true, text: It is true., weight: 3}\n- {name: short, text: It is short.}\n"
RUBRIC = RUBRIC.replace("name: true", 'name: "true"')
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A language model, a reward model, and labels by which the bad answer is the better one."""
    folder = tmp_path_factory.mktemp("judges")
    save_tiny_checkpoint(folder / "plain", max_position_embeddings=8192)
    save_classifier(folder / "rm", ("LABEL_0",), positions=130)
    pair = {"prompt": PROMPT, "output_1": GOOD, "output_2": BAD, "preference": 1}
    write_lines(folder / "labels,a.jsonl", [pair])
    (folder / "rubric.yaml").write_text(RUBRIC)
    return folder


@pytest.mark.parametrize(("path", "judges"), CASES["split"])
def test_a_comma_separates_judges_if_the_name_of_a_judge_follows(path, judges):
    assert split_judges(path) == judges


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6))
def test_a_majority_is_antisymmetric_and_one_vote_more_decides(votes):
    assert majority(votes) == 1 - majority([1 - vote for vote in votes])
    assert majority([*votes, *votes, 1.0]) == (1.0 if majority(votes) == 0.5 else majority(votes))


def test_a_panel_has_the_majority_its_disagreement_and_each_vote(models):
    specs = ["longer", f"labels:{models}/labels,a.jsonl", f"reward:{models}/rm"]
    panel = find_scorer(f"preference=panel:{','.join(specs)}")
    members = [find_scorer(f"preference={spec}") for spec in specs]
    votes = [member.score([WON])[0]["win"] for member in members]
    assert votes[:2] == [1.0, 0.0]
    won, lost = panel.score([WON, LOST])
    assert won["win"] == votes[2] == 1 - lost["win"]
    assert [won[f"win_{n}"] for n in (1, 2, 3)] == votes
    assert won["disagreement"] == lost["disagreement"] == pytest.approx(2 / 3)
    assert "consistent" not in won
    assert panel.name == "panel:longer,labels:labels,a.jsonl,reward:rm"
    identities = [f"{member.name}@{member.revision}" for member in members]
    assert panel.revision == hashlib.sha256("\n".join(identities).encode()).hexdigest()
    (missing,) = panel.score([Item("Wax.", PROMPT, references=(BAD,))])
    assert missing == "labels:labels,a.jsonl: no labeler compares these two answers to this prompt"


def test_a_panel_with_a_judge_that_sees_an_order_has_a_consistency(models):
    judge = find_scorer(f"preference=lm:{models}/plain")
    panel = find_scorer(f"preference=panel:longer,lm:{models}/plain")
    (own,), (found,) = judge.score([WON]), panel.score([WON])
    first, second = (majority([1.0, own[at]]) for at in ("first", "second"))
    assert (found["first"], found["second"], found["consistent"]) == (first, second, float(first == second))
    assert found["win"] == majority([1.0, own["win"]])
    assert panel.score([EQUAL])[0]["win"] == 0.5


def test_ratings_of_a_local_model_are_expected_values_after_its_own_reason(models, monkeypatch):
    monkeypatch.setattr(rubric, "SAMPLING", replace(rubric.SAMPLING, max_tokens=40))
    judge = find_scorer(f"preference=rubric:{models}/rubric.yaml@lm:{models}/plain")
    won, lost, same = judge.score([WON, LOST, EQUAL])
    texts = {"true": "It is true.", "short": "It is short."}
    expected = {}
    for who, answer in (("score", GOOD), ("baseline_score", BAD)):
        for name, text in texts.items():
            asked = f"{PROMPTS['rating'].format(PROMPT, answer, text)}{PROMPTS['rate']}\nExplanation:"
            begun = f" {won.reasons[f'{who}.{name}']}\n\n{BEFORE}"
            logprobs = [stock_logprob(models / "plain", asked, f"{begun}{number}]]") for number in range(1, 11)]
            expected[f"{who}.{name}"] = float(softmax(logprobs) @ np.arange(1, 11))
    assert {name: won[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    for who in ("score", "baseline_score"):
        weighted = (3 * expected[f"{who}.true"] + expected[f"{who}.short"]) / 4
        assert won[who] == pytest.approx(weighted, abs=1e-4)
    assert won["win"] == (won["score"] > won["baseline_score"]) == 1 - lost["win"]
    assert (won["expected_scores"], same["win"]) == (1.0, 0.5)
    assert lost["score"] == pytest.approx(won["baseline_score"])
    digest = hashlib.sha256(RUBRIC.encode()).hexdigest()
    assert judge.name == "rubric:rubric.yaml@lm:plain"
    assert judge.revision.endswith(f"+{digest}")
    sampled = judge.again(3, 1.0)
    assert sampled.revision == f"{judge.revision}+seed 3 at temperature 1"
    assert sampled.score([WON])[0].reasons != won.reasons


@pytest.mark.parametrize(("reply", "score", "expected"), CASES["replies"])
def test_a_rating_is_the_expected_value_where_the_log_probabilities_determine_it(reply, score, expected):
    top = tuple((piece, tuple((t, math.log(p)) for t, p in top.items())) for piece, top in reply)
    found = read_rating(Completion("".join(piece for piece, _ in reply), top=top))
    assert (found.score, found.expected) == (pytest.approx(score), expected)
    assert found.reason == "Fine."


def test_an_answer_without_a_rating_from_1_to_10_is_none():
    for text in ("", "[[11]]", "[[0]]", "Rating: 7", "Not [[3]] but [[0]]", "[[3]], or [[8.5]]", "[[3]] [[]]"):
        assert read_rating(Completion(text)).startswith("the judge gave no verdict: ")
    assert read_rating(Completion("[[8.5]], that is [[ 08 ]]")).score == 8
    assert "cut at" in read_rating(Completion("[[7]]", "length"))
    assert expected_rating(Completion("[[7]]"), 7) is None  # no log-probabilities


@contextmanager
def rater(top=True, refuse=False):
    """A server whose ratings are the length of the answer, with the next number half as likely."""
    with StandIn() as standin:
        answer = standin._answer

        def instead(path, body):
            text = asked_of(body)
            if "<answer>" not in text:
                return answer(path, body)
            if refuse and body.get("top_logprobs"):
                return 400, {"error": {"message": "top_logprobs must be at most 5", "param": "top_logprobs"}}
            rating = min(len(re.search(r"<answer>\n(.*)\n</answer>", text, re.DOTALL)[1]) // 4, 9)
            pieces = ["So.", " Rating:", " [[", str(rating), "]]"]
            tokens = [
                {"token": own, "logprob": 0.0, "top_logprobs": [{"token": own, "logprob": 0.0}]} for own in pieces
            ]
            likely = {rating: 2 / 3, rating + 1: 1 / 3}
            tokens[3]["top_logprobs"] = [{"token": str(n), "logprob": math.log(p)} for n, p in likely.items()]
            assert body.get("top_logprobs") == (None if refuse else 20)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(pieces)}}
            return 200, {"model": "m", "choices": [choice | ({"logprobs": {"content": tokens}} if top else {})]}

        standin._answer = instead
        yield standin


def test_an_endpoint_gives_expected_values_or_the_written_number_and_reasons_are_in_the_records(tmp_path):
    files = [
        write_lines(tmp_path / f"{name}.jsonl", [{"id": "q", "output": text}])
        for name, text in (("own", GOOD), ("other", BAD))
    ]
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"id": "q", "prompt": PROMPT}])
    for top, refuse, score in ((True, False, 7 + 1 / 3), (False, False, 7.0), (False, True, 7.0)):
        with rater(top, refuse) as standin:
            spec = f"preference=score:endpoint:{standin.spec}"
            found = judge_files(*files, tmp_path / f"{top}{refuse}", scorers=[spec], prompts=prompts)
        values = {metric.metric: metric.value for metric in found.results[0].metrics}
        assert values["score"] == pytest.approx(score)
        assert values["expected_scores"] == top
        assert values["win_rate"] == 1
        (record,) = read_lines(found.folder / found.folders[0] / "documents.jsonl")
        assert record["outputs"][0]["reasons"] == {
            "preference": {"score.overall": "So.", "baseline_score.overall": "So."}
        }


@pytest.mark.parametrize(("spec", "pattern"), CASES["refused"])
def test_what_is_no_panel_or_rubric_is_refused_in_one_line(spec, pattern, models):
    assert_refused(pattern, find_scorer, f"preference={spec.replace('$', str(models))}")


@pytest.mark.parametrize(("text", "pattern"), CASES["rubrics"])
def test_a_wrong_rubric_is_refused_in_one_line(text, pattern, tmp_path, models):
    (tmp_path / "r.yaml").write_text(text)
    assert_refused(pattern, find_scorer, f"preference=rubric:{tmp_path}/r.yaml@lm:{models}/plain")


def test_the_new_judges_are_listed():
    listed = run("scorers", "list").stdout
    for name in ("panel:JUDGE,JUDGE,…", "rubric:FILE@JUDGE", "score:JUDGE", "longer"):
        assert f"preference={name}" in listed
