"""Text metrics: edge cases of the official scripts, sacrebleu's values on a corpus, and bounds for any text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.scorers import bleu, drop, extractive, quac, rouge, squad
from alignbench.stats.estimates import Estimate

WORDS = st.sampled_from(
    ["a", "the", "The", "owl", "barn,", "7", "7.0", "twenty-one", "O'Dell", "$5", "café", "–", "nan"]
)
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)


# SQuAD


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Barn-Owl!", "barnowl"),
        ("an owl, a barn", "owl barn"),
        ("“Owl” – café", "“owl” – café"),
        ("theatre another", "theatre another"),
        ("a\tthe\nan", ""),
        ("U.S.", "us"),
    ],
)
def test_squad_removes_case_ascii_punctuation_articles_and_spaces(text: str, normal: str) -> None:
    assert squad.normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "references", "match", "f1"),
    [
        ("The Barn Owl.", ["barn owl"], 1, 1),
        ("owl", ["barn owl", "hawk"], 0, 2 / 3),
        ("owl owl", ["owl"], 0, 2 / 3),  # repeated words count
        ("the", ["barn owl"], 0, 0),
        ("", ["barn owl"], 0, 0),
        ("hawk", ["barn owl"], 0, 0),
        ("hawk", ["!", "hawk"], 1, 1),
        ("", ["!", "hawk"], 0, 0),  # an empty reference among others is ignored
        # an unanswerable question, to which only an empty answer is right
        *(
            (said, none, right, right)
            for none in ((), ("",), ("the",))
            for said, right in (("", 1), ("A.", 1), ("owl", 0))
        ),
    ],
)
def test_squad_scores_the_best_reference(prediction: str, references: list[str], match: float, f1: float) -> None:
    assert squad.exact_match(prediction, references) == match
    assert squad.f1(prediction, references) == pytest.approx(f1)


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_squad_f1_is_between_exact_match_and_one(prediction: str, references: list[str]) -> None:
    f1 = squad.f1(prediction, references)
    assert 0 <= f1 <= 1
    assert squad.exact_match(prediction, references) <= f1


@given(TEXTS, TEXTS)
def test_squad_f1_is_symmetric_and_ignores_case_and_articles(a: str, b: str) -> None:
    assert squad.f1(a, [b]) == pytest.approx(squad.f1(b, [a]))
    assert squad.f1(f"The {a.upper()} an", [b]) == squad.f1(a, [b])


# DROP


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10", "10.0"),
        ("1,000 yards", "1000.0 yards"),
        ("$5", "5.0"),
        ("-5", "5.0"),  # the hyphen separates
        ("twenty-one", "twenty one"),
        (".5", "0.5"),
        ("1.5.", "15.0"),  # not a number, so its dots are punctuation
        ("3/4", "34.0"),
        ("The a-team", "team"),
        ("touch\ta down", "touch down"),
    ],
)
def test_drop_normalises_numbers(text: str, normal: str) -> None:
    assert drop.normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "references", "match", "f1"),
    [
        ("10", ["10.0"], 1, 1),
        ("10 yards", ["10"], 0, 0.67),
        ("9 yards", ["10 yards"], 0, 0),  # the unit alone does not count
        ("yards", ["10 yards"], 0, 0),
        ("10 yards", ["yards"], 0, 0.67),  # an additional number is one additional word
        ("owl owl hawk", ["owl hawk"], 0, 1),  # bags are sets here, exact match is not
        (["hawk", "owl"], [["owl", "hawk"]], 1, 1),
        (["owl"], [["owl", "hawk"]], 0, 0.5),
        (["owl", "hawk", "kite"], [["owl", "hawk"]], 0, 0.67),
        (["owl", "owl"], [["owl"]], 0, 0.5),
        (["owl", "owl", "hawk"], [["owl", "hawk", "hawk"]], 1, 0.67),  # the official match compares sets and counts
        ("owl hawk", [["owl", "hawk"]], 0, 0.33),  # one span is aligned with one span
        (["red owl", "owl"], [["owl", "red owl"]], 1, 1),  # in any order
        ("owl", ["hawk", ["owl"]], 1, 1),
        ("", ["owl"], 0, 0),
        ([], ["owl"], 0, 0),
        ("", ["", " "], 0, 0),  # blank references are ignored
        ("owl", [], 0, 0),
    ],
)
def test_drop_scores_the_best_reference_by_aligned_spans(
    prediction: str | list[str], references: list[str | list[str]], match: float, f1: float
) -> None:
    assert drop.scores(prediction, references) == (match, f1)


def test_drop_f1_is_rounded_to_two_decimals_per_document() -> None:
    assert drop.scores("owl", ["owl hawk"]) == (0, 0.67)
    assert drop.scores(["a b", *"cdefgh"], [["b", *"cdefgh", "i"]]) == (0, 0.88)  # 0.875


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=3))
def test_drop_scores_are_proportions_and_independent_of_the_order_of_spans(
    prediction: list[str], references: list[list[str]]
) -> None:
    match, f1 = drop.scores(prediction, references)
    assert match in (0, 1)
    assert 0 <= f1 <= 1
    reversed_match, reversed_f1 = drop.scores(prediction[::-1], references)
    assert reversed_match == match
    assert reversed_f1 == pytest.approx(f1, abs=0.01 + 1e-9)  # a sum in another order may round differently
    assert f1 == 1 or not match or len(prediction) > 1


# QuAC


@pytest.mark.parametrize(
    ("prediction", "references", "f1"),
    [
        ("the owl", ["owl"], 1),
        ("owl", ["owl", "hawk"], 0.5),  # without it, no reference agrees
        ("owl", ["owl", "owl", "hawk"], 1),
        ("owl", ["owl", "hawk", "kite"], 2 / 3),
        ("", ["owl"], 0),
        ("CANNOTANSWER", ["CANNOTANSWER"], 1),
        ("owl", ["CANNOTANSWER"], 0),
        ("CANNOTANSWER", ["owl"], 0),
        ("CANNOTANSWER", ["owl", "CANNOTANSWER"], 1),  # by half of the annotators
        ("CANNOTANSWER", ["owl", "owl", "CANNOTANSWER"], 0),
        ("owl", ["owl", "owl", "CANNOTANSWER"], 1),
        ("CANNOTANSWER", [], 1),
    ],
)
def test_quac_measures_a_system_as_one_annotator_against_the_rest(
    prediction: str, references: list[str], f1: float
) -> None:
    assert quac.f1(prediction, references) == pytest.approx(f1)


def test_quac_agreement_is_the_mean_best_f1_among_annotators() -> None:
    assert quac.agreement(["owl"]) == quac.agreement([]) == 1
    assert quac.agreement(["red owl", "owl"]) == pytest.approx(2 / 3)
    assert quac.agreement(["owl", "hawk", "owl"]) == pytest.approx(2 / 3)
    assert quac.agreement(["owl", "hawk"]) == 0 < quac.AGREEMENT


# BLEU and chrF

REFERENCES = [
    "The owl left its barn at dusk, and nobody saw it go.",
    "Prices rose by 3.5% in May; the bank didn't expect that.",
    '"Why not?" she asked.',
    "Snow.",
    "It's the third time this year that the river has left its bed.",
]
HYPOTHESES = [
    "At dusk the owl left its barn and nobody saw it.",
    "Prices rose 3.5 % in May, which the bank did not expect.",
    '"Why not?" asked she.',
    "It snows.",
    "It's the third time this year that the river leaves its bed.",
]


METRICS = {
    "bleu": (bleu.bleu_statistics, bleu.corpus_bleu, bleu.BLEU_SIGNATURE),
    "chrf": (bleu.chrf_statistics, bleu.corpus_chrf, bleu.CHRF_SIGNATURE),
}


def corpus_score(name: str, hypotheses: list[str], references: list[str]) -> float:
    statistics, score, _ = METRICS[name]
    return score([statistics(output, [right]) for output, right in zip(hypotheses, references, strict=True)])


def assert_equals_the_command_line(folder: Path, hypotheses: list[str], references: list[str]) -> None:
    for name, lines in (("hypotheses", hypotheses), ("references", references)):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    files = [str(folder / "references"), "-i", str(folder / "hypotheses")]
    command = [sys.executable, "-m", "sacrebleu", *files, "-m", *METRICS, "-f", "json", "-w", "10"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for name, theirs in zip(METRICS, found, strict=True):
        assert corpus_score(name, hypotheses, references) == pytest.approx(theirs["score"])
        assert theirs["signature"] == METRICS[name][2]


def test_bleu_and_chrf_equal_sacrebleus_command_line_with_the_same_signature(tmp_path: Path) -> None:
    assert_equals_the_command_line(tmp_path, HYPOTHESES, REFERENCES)


@pytest.mark.needs_data
def test_bleu_and_chrf_equal_the_command_line_on_a_degraded_copy_of_wmt15(data_dir: Path, tmp_path: Path) -> None:
    file = data_dir / "wmt15-fr-en" / "newsdiscusstest2015.en"
    if not file.is_file():
        pytest.skip(f"no {file}")
    references = file.read_text(encoding="utf-8").splitlines()
    random = np.random.default_rng(0)
    degraded = [" ".join(word for word in line.split() if random.random() > 0.2) for line in references]
    assert_equals_the_command_line(tmp_path, degraded, references)


def test_a_sentences_counts_are_those_of_its_words() -> None:
    # both words and the bigram are in a reference; of two references at the same distance the shorter counts
    assert bleu.bleu_statistics("owl the", ["owl the barn", "owl"]) == [2, 1, 0, 0, 2, 1, 0, 0, 2, 1]
    assert bleu.chrf_statistics("ow", ["owl"])[:6] == [2, 3, 2, 1, 2, 1]


@pytest.mark.parametrize("name", METRICS)
def test_the_corpus_interval_is_that_of_sacrebleus_bootstrap(name: str) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    hypotheses, references = HYPOTHESES * 40, REFERENCES * 40
    statistics, score, _ = METRICS[name]
    counts = [statistics(output, [right]) for output, right in zip(hypotheses, references, strict=True)]
    ours = bleu.corpus_interval(counts, score)
    theirs = {"bleu": BLEU, "chrf": CHRF}[name]().corpus_score(hypotheses, [references], n_bootstrap=1000)
    assert ours.value == pytest.approx(theirs.score)
    assert ours.low is not None
    assert ours.high is not None
    assert ours.low < ours.value < ours.high
    # two sets of 1000 resamples: the ends of 95 % intervals agree to a tenth of their width
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert ours.standard_error == pytest.approx((ours.high - ours.low) / 3.92, rel=0.1)
    assert bleu.corpus_interval(counts, score) == ours
    assert bleu.corpus_interval(counts, score, seed=1) != ours


def test_a_corpus_of_one_sentence_or_none_has_no_interval() -> None:
    one = bleu.bleu_statistics(HYPOTHESES[0], [REFERENCES[0]])
    assert bleu.corpus_interval([one], bleu.corpus_bleu) == Estimate(bleu.corpus_bleu([one]), None, None, None, 1, 1)
    assert bleu.corpus_interval([], bleu.corpus_bleu) == Estimate(None, None, None, None, 0, 0)


def test_sentence_bleu_is_that_of_truthfulqa() -> None:
    assert bleu.sentence_bleu("Owls hunt at night.", "Owls hunt at night.") == 100
    assert bleu.sentence_bleu("", "Owls hunt at night.") == 0
    # n-gram precisions 4/5, 3/4, 2/3, 1/2; no brevity penalty
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert bleu.sentence_bleu("Owls hunt at night!", "Owls hunt at night.") == pytest.approx(expected)
    # international tokenisation separates the € from the 5, 13a does not
    assert bleu.sentence_bleu("it costs €5 now", "it costs € 5 now") == 100


# ROUGE


def test_rouge_by_hand() -> None:
    # the owl sat | the red owl sat: 3 of 3 and 3 of 4 words, 1 of 2 and 1 of 3 pairs
    scores = rouge.rouge("The owl sat.", "The red owl sat.")
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == pytest.approx(6 / 7)
    assert scores["rouge2"] == pytest.approx(2 / 5)


def test_rouge_lsum_ignores_the_order_of_sentences_and_rouge_l_does_not() -> None:
    scores = rouge.rouge("Owls hunt. Mice hide.", "Mice hide. Owls hunt.")
    assert scores["rougeLsum"] == 1
    assert scores["rougeL"] == 0.5


def test_rouge_of_truthfulqa_has_no_stemmer_and_no_sentence_splitting() -> None:
    assert rouge.rouge("hunting owls", "hunted owls")["rouge1"] == 1
    assert rouge.truthfulqa_rouge("hunting owls", "hunted owls")["rouge1"] == 0.5
    assert rouge.truthfulqa_rouge("Owls hunt. Mice hide.", "Mice hide. Owls hunt.")["rougeLsum"] == 0.5


@given(TEXTS, TEXTS)
def test_rouge_is_a_proportion_one_for_equal_texts_and_zero_for_empty_ones(a: str, b: str) -> None:
    assert all(0 <= value <= 1 for value in rouge.rouge(a, b).values())
    assert set(rouge.rouge("", b).values()) == {0.0}
    assert rouge.rouge(f"owl hawk {a}", f"owl hawk {a}")["rougeL"] == 1


@given(st.text(), st.text())
def test_any_text_can_be_scored(output: str, source: str) -> None:
    assert extractive.flags(output, source)["flagged"] in (0, 1)
    assert 0 <= squad.f1(output, [source]) <= 1
    assert 0 <= drop.scores(output, [source])[1] <= 1
    assert 0 <= bleu.sentence_bleu(output, source) <= 100
    assert 0 <= bleu.corpus_chrf([bleu.chrf_statistics(output, [source])]) <= 100
