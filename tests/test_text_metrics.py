"""Text metrics: the official scripts' answers on their edge cases, sacrebleu's on a corpus, and bounds on anything."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
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
def test_squad_takes_out_case_ascii_punctuation_articles_and_spaces(text: str, normal: str) -> None:
    assert squad.normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "references", "match", "f1"),
    [
        ("The Barn Owl.", ["barn owl"], 1, 1),
        ("owl", ["barn owl", "hawk"], 0, 2 / 3),
        ("owl owl", ["owl"], 0, 2 / 3),  # a word counts as often as it stands in both
        ("the", ["barn owl"], 0, 0),
        ("", ["barn owl"], 0, 0),
        ("hawk", ["barn owl"], 0, 0),
        ("hawk", ["!", "hawk"], 1, 1),
        ("", ["!", "hawk"], 0, 0),  # a reference of which nothing is left is no way to be right
    ],
)
def test_squad_scores_the_best_reference(prediction: str, references: list[str], match: float, f1: float) -> None:
    assert squad.exact_match(prediction, references) == match
    assert squad.f1(prediction, references) == pytest.approx(f1)


@pytest.mark.parametrize("references", [(), ("",), ("the",)])
def test_the_only_right_answer_to_an_unanswerable_question_is_none(references: tuple[str, ...]) -> None:
    assert squad.exact_match("", references) == squad.f1("", references) == 1
    assert squad.exact_match("The.", references) == squad.f1("The.", references) == 1
    assert squad.exact_match("owl", references) == squad.f1("owl", references) == 0


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_squad_f1_is_a_share_and_a_match_is_its_ceiling(prediction: str, references: list[str]) -> None:
    f1 = squad.f1(prediction, references)
    assert 0 <= f1 <= 1
    assert squad.exact_match(prediction, references) <= f1


@given(TEXTS, TEXTS)
def test_squad_f1_is_symmetric_and_blind_to_case_and_articles(a: str, b: str) -> None:
    assert squad.f1(a, [b]) == pytest.approx(squad.f1(b, [a]))
    assert squad.f1(f"The {a.upper()} an", [b]) == squad.f1(a, [b])


# DROP


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10", "10.0"),
        ("1,000 yards", "1000.0 yards"),
        ("$5", "5.0"),
        ("-5", "5.0"),  # the hyphen divides
        ("twenty-one", "twenty one"),
        (".5", "0.5"),
        ("1.5.", "15.0"),  # no number as it stands, so that its dots are punctuation
        ("3/4", "34.0"),
        ("The a-team", "team"),
        ("touch\ta down", "touch down"),
    ],
)
def test_drop_writes_every_number_the_same_way(text: str, normal: str) -> None:
    assert drop.normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "references", "match", "f1"),
    [
        ("10", ["10.0"], 1, 1),
        ("10 yards", ["10"], 0, 0.67),
        ("9 yards", ["10 yards"], 0, 0),  # the unit alone is worth nothing
        ("yards", ["10 yards"], 0, 0),
        ("10 yards", ["yards"], 0, 0.67),  # a number too many is one word too many
        ("owl owl hawk", ["owl hawk"], 0, 1),  # bags are sets here, exact match is not
        (["hawk", "owl"], [["owl", "hawk"]], 1, 1),
        (["owl"], [["owl", "hawk"]], 0, 0.5),
        (["owl", "hawk", "kite"], [["owl", "hawk"]], 0, 0.67),
        (["owl", "owl"], [["owl"]], 0, 0.5),
        (["owl", "owl", "hawk"], [["owl", "hawk", "hawk"]], 1, 0.67),  # the official match is one of sets and counts
        ("owl hawk", [["owl", "hawk"]], 0, 0.33),  # one span can be put to one span
        (["red owl", "owl"], [["owl", "red owl"]], 1, 1),  # not in the order of writing
        ("owl", ["hawk", ["owl"]], 1, 1),
        ("", ["owl"], 0, 0),
        ([], ["owl"], 0, 0),
        ("", ["", " "], 0, 0),  # blank references count for nothing
        ("owl", [], 0, 0),
    ],
)
def test_drop_scores_the_best_reference_by_aligned_spans(
    prediction: str | list[str], references: list[str | list[str]], match: float, f1: float
) -> None:
    assert drop.scores(prediction, references) == (match, f1)


def test_drop_rounds_to_two_decimals_before_the_mean_over_documents() -> None:
    assert drop.scores("owl", ["owl hawk"]) == (0, 0.67)
    assert drop.scores(["a b", *"cdefgh"], [["b", *"cdefgh", "i"]]) == (0, 0.88)  # 0.875


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=3))
def test_drop_scores_are_shares_and_do_not_depend_on_the_order_of_spans(
    prediction: list[str], references: list[list[str]]
) -> None:
    match, f1 = drop.scores(prediction, references)
    assert match in (0, 1)
    assert 0 <= f1 <= 1
    turned_match, turned_f1 = drop.scores(prediction[::-1], references)
    assert turned_match == match
    assert turned_f1 == pytest.approx(f1, abs=0.01 + 1e-9)  # a sum in another order may round the other way
    assert f1 == 1 or not match or len(prediction) > 1


# QuAC


@pytest.mark.parametrize(
    ("prediction", "references", "f1"),
    [
        ("the owl", ["owl"], 1),
        ("owl", ["owl", "hawk"], 0.5),  # left out once, it leaves nothing that agrees
        ("owl", ["owl", "owl", "hawk"], 1),
        ("owl", ["owl", "hawk", "kite"], 2 / 3),
        ("", ["owl"], 0),
        ("CANNOTANSWER", ["CANNOTANSWER"], 1),
        ("owl", ["CANNOTANSWER"], 0),
        ("CANNOTANSWER", ["owl"], 0),
        ("CANNOTANSWER", ["owl", "CANNOTANSWER"], 1),  # half of the annotators are enough
        ("CANNOTANSWER", ["owl", "owl", "CANNOTANSWER"], 0),
        ("owl", ["owl", "owl", "CANNOTANSWER"], 1),
        ("CANNOTANSWER", [], 1),
    ],
)
def test_quac_measures_a_system_as_one_annotator_against_the_rest(
    prediction: str, references: list[str], f1: float
) -> None:
    assert quac.f1(prediction, references) == pytest.approx(f1)


def test_quac_leaves_questions_out_on_which_annotators_disagree() -> None:
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


def _command_line(folder: Path, hypotheses: list[str], references: list[str], metric: str) -> dict[str, object]:
    """What sacrebleu's command line says of two files."""
    for name, lines in (("hypotheses", hypotheses), ("references", references)):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    options = [folder / "references", "-i", folder / "hypotheses", "-m", metric, "-f", "json", "-w", "10"]
    command = [sys.executable, "-m", "sacrebleu", *map(str, options)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert isinstance(said, dict)
    return said


def _ours(
    hypotheses: list[str],
    references: list[str],
    statistics: Callable[[str, list[str]], list[float]],
    score: Callable[[list[list[float]]], float],
) -> float:
    return score([statistics(said, [right]) for said, right in zip(hypotheses, references, strict=True)])


def _equals_the_command_line(folder: Path, hypotheses: list[str], references: list[str]) -> None:
    said = _command_line(folder, hypotheses, references, "bleu")
    assert _ours(hypotheses, references, bleu.bleu_statistics, bleu.corpus_bleu) == pytest.approx(said["score"])
    assert said["signature"] == bleu.BLEU_SIGNATURE
    said = _command_line(folder, hypotheses, references, "chrf")
    assert _ours(hypotheses, references, bleu.chrf_statistics, bleu.corpus_chrf) == pytest.approx(said["score"])
    assert said["signature"] == bleu.CHRF_SIGNATURE


def test_bleu_and_chrf_equal_sacrebleus_command_line_with_the_same_signature(tmp_path: Path) -> None:
    _equals_the_command_line(tmp_path, HYPOTHESES, REFERENCES)


@pytest.mark.needs_data
def test_bleu_and_chrf_equal_the_command_line_on_a_degraded_copy_of_wmt15(data_dir: Path, tmp_path: Path) -> None:
    file = data_dir / "wmt15-fr-en" / "newsdiscusstest2015.en"
    if not file.is_file():
        pytest.skip(f"no {file}")
    references = file.read_text(encoding="utf-8").splitlines()
    random = np.random.default_rng(0)
    degraded = [" ".join(word for word in line.split() if random.random() > 0.2) for line in references]
    _equals_the_command_line(tmp_path, degraded, references)
    assert _ours(references, references, bleu.bleu_statistics, bleu.corpus_bleu) == 100


def test_the_references_are_the_ceiling_of_bleu_and_chrf_and_empty_outputs_the_floor() -> None:
    for statistics, score in ((bleu.bleu_statistics, bleu.corpus_bleu), (bleu.chrf_statistics, bleu.corpus_chrf)):
        assert _ours(REFERENCES, REFERENCES, statistics, score) == 100
        assert _ours([""] * 5, REFERENCES, statistics, score) == 0


def test_a_sentences_counts_are_those_of_its_words() -> None:
    # both words and the one bigram stand in a reference; the shorter reference is nearer in length than the longer,
    # at the same distance
    assert bleu.bleu_statistics("owl the", ["owl the barn", "owl"]) == [2, 1, 0, 0, 2, 1, 0, 0, 2, 1]
    assert bleu.chrf_statistics("ow", ["owl"])[:6] == [2, 3, 2, 1, 2, 1]


def test_two_references_help_and_are_named_in_the_signature() -> None:
    one = bleu.corpus_bleu([bleu.bleu_statistics("the owl has gone away", ["the owl has left it"])])
    two = bleu.corpus_bleu([bleu.bleu_statistics("the owl has gone away", ["the owl has left it", "it has gone away"])])
    assert two > one
    assert bleu.bleu_signature(2).startswith("nrefs:2|")


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_the_corpus_interval_is_sacrebleus_own_bootstrap(name: str) -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    hypotheses, references = HYPOTHESES * 40, REFERENCES * 40
    statistics, score, theirs = {
        "bleu": (bleu.bleu_statistics, bleu.corpus_bleu, BLEU()),
        "chrf": (bleu.chrf_statistics, bleu.corpus_chrf, CHRF()),
    }[name]
    counts = [statistics(said, [right]) for said, right in zip(hypotheses, references, strict=True)]
    ours = bleu.corpus_interval(counts, score)
    reference = theirs.corpus_score(hypotheses, [references], n_bootstrap=1000)
    assert ours.value == pytest.approx(reference.score)
    assert ours.low is not None
    assert ours.high is not None
    assert ours.low < ours.value < ours.high
    # two sets of 1000 resamples: the ends of 95 % intervals agree to a tenth of their width
    assert (ours.high - ours.low) / 2 == pytest.approx(reference._ci, rel=0.1)
    assert ours.standard_error == pytest.approx((ours.high - ours.low) / 3.92, rel=0.1)
    assert bleu.corpus_interval(counts, score) == ours
    assert bleu.corpus_interval(counts, score, seed=1) != ours


def test_a_corpus_of_one_sentence_or_none_has_no_interval() -> None:
    one = bleu.bleu_statistics(HYPOTHESES[0], [REFERENCES[0]])
    assert bleu.corpus_interval([one], bleu.corpus_bleu) == Estimate(bleu.corpus_bleu([one]), None, None, None, 1, 1)
    assert bleu.corpus_interval([], bleu.corpus_bleu) == Estimate(None, None, None, None, 0, 0)


def test_a_sentences_bleu_is_truthfulqas() -> None:
    assert bleu.sentence_bleu("Owls hunt at night.", "Owls hunt at night.") == 100
    assert bleu.sentence_bleu("", "Owls hunt at night.") == 0
    # four words of five and then 3/4, 2/3, 1/2 n-grams; nothing shorter than the reference
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert bleu.sentence_bleu("Owls hunt at night!", "Owls hunt at night.") == pytest.approx(expected)
    # 13a would keep the € with 5, international tokenisation does not
    assert bleu.sentence_bleu("it costs €5 now", "it costs € 5 now") == 100


# ROUGE


def test_rouge_by_hand() -> None:
    # the owl sat | the red owl sat: 3 of 3 and 3 of 4 words, 1 of 2 and 1 of 3 pairs
    scores = rouge.rouge("The owl sat.", "The red owl sat.")
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == pytest.approx(6 / 7)
    assert scores["rouge2"] == pytest.approx(2 / 5)


def test_rouge_lsum_takes_sentences_in_any_order_and_rouge_l_does_not() -> None:
    scores = rouge.rouge("Owls hunt. Mice hide.", "Mice hide. Owls hunt.")
    assert scores["rougeLsum"] == 1
    assert scores["rougeL"] == 0.5


def test_truthfulqas_rouge_neither_stems_nor_splits() -> None:
    assert rouge.rouge("hunting owls", "hunted owls")["rouge1"] == 1
    assert rouge.truthfulqa_rouge("hunting owls", "hunted owls")["rouge1"] == 0.5
    assert rouge.truthfulqa_rouge("Owls hunt. Mice hide.", "Mice hide. Owls hunt.")["rougeLsum"] == 0.5


@given(TEXTS, TEXTS)
def test_rouge_is_a_share_one_for_itself_and_zero_for_nothing(a: str, b: str) -> None:
    assert all(0 <= value <= 1 for value in rouge.rouge(a, b).values())
    assert set(rouge.rouge("", b).values()) == {0.0}
    assert rouge.rouge(f"owl hawk {a}", f"owl hawk {a}")["rougeL"] == 1


# signs of hallucination


def test_rouge2_precision_is_rouge_scores_without_its_stemmer() -> None:
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
def test_a_number_is_the_same_however_it_is_written(writings: list[str]) -> None:
    for output in writings:
        for source in writings:
            assert extractive.numbers_not_in(f"It was {output} then.", f"They said {source}, or so.") == []


@pytest.mark.parametrize(
    ("output", "source", "missing"),
    [
        ("12 owls, 7 hawks and 12 kites", "7 kites", ["12"]),
        ("one of them saw one hundred", "nobody", ["100"]),  # a lone one is a pronoun
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
def test_numbers_that_the_source_does_not_have(output: str, source: str, missing: list[str]) -> None:
    assert extractive.numbers_not_in(output, source) == missing


@given(st.integers(0, 999_999))
def test_any_number_in_words_is_the_number_in_digits(number: int) -> None:
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
        ("Owls hunt. Police said so.", "nothing", []),  # capitals of a sentence's beginning
        ("Zurich is old. They love Zurich.", "nothing", ["Zurich"]),  # unless it has one within a sentence too
        ("Ada Quill spoke.", "Quill spoke", ["Ada Quill"]),  # the first name came from elsewhere
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
def test_names_that_the_source_does_not_have(output: str, source: str, missing: list[str]) -> None:
    assert extractive.spans_not_in(output, source) == missing


def test_a_text_is_flagged_for_a_number_or_a_name_that_its_source_does_not_have() -> None:
    source = "On Monday Ada Quill counted twelve owls in the barn."
    assert extractive.flags(source, source) == {
        "rouge2_precision": 1.0,
        "novel_numbers": 0.0,
        "novel_spans": 0.0,
        "flagged": 0.0,
    }
    assert extractive.flags("She counted 13 owls.", source)["flagged"] == 1
    assert extractive.flags("She met Odell.", source)["flagged"] == 1
    assert extractive.flags("a dozen birds were seen by a lady", source)["flagged"] == 0  # abstraction is no error
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
        (
            '"Why not?" She left. (It rained.) 12 owls came.',
            ['"Why not?"', "She left.", "(It rained.)", "12 owls came."],
        ),
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
def test_sentences_lose_nothing_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.text(), st.text())
def test_no_text_is_too_strange_to_score(output: str, source: str) -> None:
    assert extractive.flags(output, source)["flagged"] in (0, 1)
    assert 0 <= squad.f1(output, [source]) <= 1
    assert 0 <= drop.scores(output, [source])[1] <= 1
    assert 0 <= bleu.sentence_bleu(output, source) <= 100
    assert 0 <= bleu.corpus_chrf([bleu.chrf_statistics(output, [source])]) <= 100


@given(PLAIN_WORDS, PLAIN_WORDS)
def test_one_word_is_right_or_wrong(a: str, b: str) -> None:
    same = float(a == b)
    assert squad.f1(a, [b]) == squad.f1(b, [a]) == quac.f1(a, [b]) == drop.scores(a, [b])[1] == same
