"""Text metrics: edge cases of the official scripts, sacrebleu's values on a corpus, and bounds for any text."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.scorers import bleu, drop, extractive, quac, rouge, squad
from alignbench.scorers.extractive import numerals
from alignbench.scorers.sentences import sentences
from alignbench.stats.estimates import Estimate

WORDS = st.sampled_from(
    ["a", "the", "The", "owl", "barn,", "7", "7.0", "twenty-one", "O'Dell", "$5", "café", "–", "nan"]
)
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
PLAIN_WORDS = st.text("bcdfghjklm", min_size=1, max_size=4)


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


@pytest.mark.parametrize("name", METRICS)
def test_bleu_and_chrf_are_100_for_the_references_and_0_for_empty_outputs(name: str) -> None:
    assert corpus_score(name, REFERENCES, REFERENCES) == 100
    assert corpus_score(name, [""] * 5, REFERENCES) == 0


def test_a_sentences_counts_are_those_of_its_words() -> None:
    # both words and the bigram are in a reference; of two references at the same distance the shorter counts
    assert bleu.bleu_statistics("owl the", ["owl the barn", "owl"]) == [2, 1, 0, 0, 2, 1, 0, 0, 2, 1]
    assert bleu.chrf_statistics("ow", ["owl"])[:6] == [2, 3, 2, 1, 2, 1]


def test_two_references_help_and_are_named_in_the_signature() -> None:
    one = bleu.corpus_bleu([bleu.bleu_statistics("the owl has gone away", ["the owl has left it"])])
    two = bleu.corpus_bleu([bleu.bleu_statistics("the owl has gone away", ["the owl has left it", "it has gone away"])])
    assert two > one
    assert bleu.bleu_signature(2).startswith("nrefs:2|")


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


# Signs of hallucination


def test_rouge2_precision_is_that_of_rouge_score_without_a_stemmer() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    output, source = "The owl saw the owl hunt; it hunted.", "An owl hunts. The owl saw it, and the owl hunted."
    expected = RougeScorer(["rouge2"], use_stemmer=False).score(source, output)["rouge2"].precision
    assert extractive.rouge2_precision(output, source) == pytest.approx(expected)
    assert extractive.rouge2_precision(source, source) == 1
    assert math.isnan(extractive.rouge2_precision("Owl!", source))
    assert extractive.rouge2_precision("été passé", "L’été passé") == 1


@pytest.mark.parametrize(
    "writings",
    [
        ["1,000", "1000", "1000.0", "one thousand", "1k", "a thousand", "$1,000"],
        ["5%", "5 %", "five per cent", "5.0 percent"],
        ["1.5 million", "1.50m", "1,500,000", "1.5-million"],
        ["ninety-nine", "ninety nine", "99"],
        ["two hundred and five", "205"],
        ["three million two hundred thousand and six", "3,200,006"],
        ["1990s", "1990"],
    ],
)
def test_numbers_are_compared_by_value(writings: list[str]) -> None:
    for output in writings:
        for source in writings:
            assert extractive.numbers_not_in(f"It was {output} then.", f"They said {source}, or so.") == []


@pytest.mark.parametrize(
    ("output", "source", "missing"),
    [
        ("12 owls, 7 hawks and 12 kites", "7 kites", ["12"]),
        ("one of them saw one hundred", "nobody", ["100"]),  # a lone "one" is a pronoun
        ("the third owl, the 4th hawk", "nobody", []),
        ("3 owls", "the third owl", []),
        ("1.5 million", "1.5 percent", ["1500000"]),
        ("1.5 percent", "1.5 million", ["1.5"]),
        ("a 5m pole", "a pole of 5 metres", []),  # million or metres
        ("G20 leaders and COVID-19", "nothing", []),  # names, not amounts
        ("two and three", "twenty-three", ["2", "3"]),
        ("2019-20", "2019", ["20"]),
        ("9" * 5000, "9" * 4999, ["9" * 5000]),
        ("1e400", "1", []),
    ],
)
def test_numbers_not_in_the_source(output: str, source: str, missing: list[str]) -> None:
    assert extractive.numbers_not_in(output, source) == missing


@given(st.integers(0, 999_999))
def test_any_number_in_words_equals_the_number_in_digits(number: int) -> None:
    (found,) = numerals(_in_words(number))
    assert found.readings == (number,)
    assert extractive.numbers_not_in(f"{number:,} owls", f"{_in_words(number)} owls") == []


BELOW_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety"


def _in_words(number: int) -> str:
    below, tens = BELOW_TWENTY.split(), TENS.split()
    if number >= 1000:
        rest = number % 1000
        return f"{_in_words(number // 1000)} thousand" + (f" {_in_words(rest)}" if rest else "")
    if number >= 100:
        return f"{below[number // 100]} hundred" + (f" and {_in_words(number % 100)}" if number % 100 else "")
    if number >= 20:
        return tens[number // 10] + (f"-{below[number % 10]}" if number % 10 else "")
    return below[number]


@pytest.mark.parametrize(
    ("output", "source", "missing"),
    [
        ("Mr Odell met Ada Quill in Zurich.", "ada quill met mr. ODELL", ["Zurich"]),
        ("Owls hunt. Police said so.", "nothing", []),  # a capital at the beginning of a sentence
        ("Zurich is old. They love Zurich.", "nothing", ["Zurich"]),  # unless it is also capitalised within one
        ("Ada Quill spoke.", "Quill spoke", ["Ada Quill"]),  # the first name is new
        ("The Prime Minister spoke.", "a minister, the prime one", []),
        ("In Zurich's centre", "Zurich", []),
        ("He joined the NHS.", "the National Health Service", []),
        ("He joined the National Health Service.", "the NHS", []),
        ("He lives in the U.S. now.", "the US", []),
        ("He met Jörg Agüero.", "Jorg Aguero", []),
        ('She said: "We know." I agree.', "nothing", []),
        ("He saw J. R. Odell.", "nothing", ["J R Odell"]),
        ("He met Swedes.", "a Swede", []),
    ],
)
def test_names_not_in_the_source(output: str, source: str, missing: list[str]) -> None:
    assert extractive.spans_not_in(output, source) == missing


def test_a_new_number_or_name_flags_a_text() -> None:
    source = "On Monday Ada Quill counted twelve owls in the barn."
    same = {"rouge2_precision": 1.0, "novel_numbers": 0.0, "novel_spans": 0.0, "flagged": 0.0}
    assert extractive.flags(source, source) == same
    assert extractive.flags("She counted 13 owls.", source)["flagged"] == 1
    assert extractive.flags("She met Odell.", source)["flagged"] == 1
    assert extractive.flags("a dozen birds were seen by a lady", source)["flagged"] == 0  # abstraction is not flagged
    nothing = extractive.flags("", source)
    assert nothing["flagged"] == 0
    assert math.isnan(nothing["rouge2_precision"])


@given(
    st.lists(st.sampled_from(["Ada", "owl", "Zurich.", "The", "12", "five", "“Quill”", "U.S.", "it's"])).map(" ".join)
)
def test_no_text_is_flagged_against_itself(text: str) -> None:
    assert extractive.flags(text, text)["flagged"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Odell paid 3.5 dollars. He left.", ["Mr. Odell paid 3.5 dollars.", "He left."]),
        ("He left the U.S. Army. It rained.", ["He left the U.S. Army.", "It rained."]),
        ("He lives in the U.S. The owl does too.", ["He lives in the U.S.", "The owl does too."]),
        ("J. R. Odell of Quill Inc. spoke!", ["J. R. Odell of Quill Inc. spoke!"]),
        ('"Why not?" She left. (It rained.) 12 came.', ['"Why not?"', "She left.", "(It rained.)", "12 came."]),
        ("Wait... what? Yes!", ["Wait... what?", "Yes!"]),
        ("See No. 5. He said no. Then he left.", ["See No. 5.", "He said no.", "Then he left."]),
        ("the owl left . it was 3.5 miles .", ["the owl left .", "it was 3.5 miles ."]),
        ("First line\n\nSecond. Third", ["First line", "Second.", "Third"]),
        ("梟が来た。雪が降る！", ["梟が来た。", "雪が降る！"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text())
def test_sentences_keep_all_text_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.text(), st.text())
def test_any_text_can_be_scored(output: str, source: str) -> None:
    assert extractive.flags(output, source)["flagged"] in (0, 1)
    assert 0 <= squad.f1(output, [source]) <= 1
    assert 0 <= drop.scores(output, [source])[1] <= 1
    assert 0 <= bleu.sentence_bleu(output, source) <= 100
    assert 0 <= bleu.corpus_chrf([bleu.chrf_statistics(output, [source])]) <= 100


@given(PLAIN_WORDS, PLAIN_WORDS)
def test_one_word_is_right_or_wrong_by_every_metric(a: str, b: str) -> None:
    same = float(a == b)
    assert squad.f1(a, [b]) == squad.f1(b, [a]) == quac.f1(a, [b]) == drop.scores(a, [b])[1] == same
