"""Text metrics: edge cases of the official scripts, sacrebleu's values on a corpus, and bounds for any text."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st

from alignbench.diversity import lexical
from alignbench.scorers import bleu, drop, extractive, quac, rouge, squad
from alignbench.stats.estimates import Estimate
from alignbench.tasks.common import CORPUS_SCORES, ngram_counts
from alignbench.types.record import Record

CASES = cases("text_metrics")
WORDS = ["a", "the", "The", "owl", "barn,", "7", "7.0", "twenty-one", "O'Dell", "$5", "café", "–", "nan"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


@pytest.mark.parametrize("module", [squad, drop])
def test_answers_are_normalised_as_in_the_official_script(module) -> None:
    table = CASES[f"{module.__name__.rpartition('.')[2]}_normalise"]
    assert [module.normalise(text) for text, _ in table] == [normal for _, normal in table]


SCORES = {
    "squad": lambda *pair: (squad.exact_match(*pair), squad.f1(*pair)),
    "drop": drop.scores,  # by aligned spans
    "quac": lambda *pair: (quac.f1(*pair), quac.agreement(pair[1])),  # a system as one annotator against the rest
}


@pytest.mark.parametrize(
    ("name", "prediction", "references", "values"),
    [(name, *row[:2], row[2:]) for name in SCORES for row in CASES[f"{name}_scores"]],
)
def test_the_best_reference_counts(name: str, prediction, references, values: list[float]) -> None:
    assert SCORES[name](prediction, references) == pytest.approx(values)


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=3))
def test_squad_f1_is_symmetric_ignores_case_and_articles_and_is_at_least_exact_match(a: str, b: str, more) -> None:
    assert squad.exact_match(a, [b, *more]) <= squad.f1(a, [b, *more]) <= 1
    assert squad.f1(a, [a]) == squad.exact_match(a, [a]) == 1
    if squad.normalise(a) and squad.normalise(b):
        assert squad.f1(a, [b]) == pytest.approx(squad.f1(b, [a]))
        assert squad.f1(f"The {a.upper()} an", [b]) == squad.f1(a, [b])


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=3))
def test_drop_scores_are_proportions_and_independent_of_the_order_of_spans(prediction, references) -> None:
    match, f1 = drop.scores(prediction, references)
    assert match in (0, 1)
    assert 0 <= f1 <= 1
    # a sum in another order may round differently
    assert drop.scores(prediction[::-1], references) == (match, pytest.approx(f1, abs=0.01 + 1e-9))
    assert f1 == 1 or not match or len(prediction) > 1


HYPOTHESES, REFERENCES = map(list, zip(*CASES["corpus"], strict=True))
METRICS = {
    "bleu": (bleu.bleu_statistics, bleu.corpus_bleu, bleu.BLEU_SIGNATURE),
    "chrf": (bleu.chrf_statistics, bleu.corpus_chrf, bleu.CHRF_SIGNATURE),
}


def counts_of(name: str, hypotheses: list[str], references: list[str]) -> list[list[float]]:
    return [METRICS[name][0](output, [right]) for output, right in zip(hypotheses, references, strict=True)]


@pytest.mark.parametrize("corpus", ["small", pytest.param("wmt15", marks=pytest.mark.needs_data)])
def test_bleu_and_chrf_equal_sacrebleus_command_line_with_the_same_signature(corpus, request, tmp_path: Path) -> None:
    hypotheses, references = HYPOTHESES, REFERENCES
    if corpus == "wmt15":  # a degraded copy
        file = request.getfixturevalue("data_dir") / "wmt15-fr-en" / "newsdiscusstest2015.en"
        if not file.is_file():
            pytest.skip(f"no {file}")
        references, random = file.read_text(encoding="utf-8").splitlines(), np.random.default_rng(0)
        hypotheses = [" ".join(word for word in line.split() if random.random() > 0.2) for line in references]
    for name, lines in (("hypotheses", hypotheses), ("references", references)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    files = [str(tmp_path / "references"), "-i", str(tmp_path / "hypotheses")]
    command = [sys.executable, "-m", "sacrebleu", *files, "-m", *METRICS, "-f", "json", "-w", "10"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for (name, (_, score, signature)), theirs in zip(METRICS.items(), found, strict=True):
        assert score(counts_of(name, hypotheses, references)) == pytest.approx(theirs["score"])
        assert signature == theirs["signature"]


def test_a_sentences_counts_are_those_of_its_words() -> None:
    # both words and the bigram are in a reference; of two references at the same distance the shorter counts
    assert bleu.bleu_statistics("owl the", ["owl the barn", "owl"]) == [2, 1, 0, 0, 2, 1, 0, 0, 2, 1]
    assert bleu.chrf_statistics("ow", ["owl"])[:6] == [2, 3, 2, 1, 2, 1]


@pytest.mark.parametrize("name", METRICS)
def test_the_corpus_interval_is_that_of_sacrebleus_bootstrap(name: str) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    counts, score = counts_of(name, HYPOTHESES * 40, REFERENCES * 40), METRICS[name][1]
    ours = bleu.corpus_interval(counts, score)
    theirs = {"bleu": BLEU, "chrf": CHRF}[name]().corpus_score(HYPOTHESES * 40, [REFERENCES * 40], n_bootstrap=1000)
    assert ours.value == pytest.approx(theirs.score)
    assert ours.low < ours.value < ours.high
    # two sets of 1000 resamples: the ends of 95 % intervals agree to a tenth of their width
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert ours.standard_error == pytest.approx((ours.high - ours.low) / 3.92, rel=0.1)
    assert bleu.corpus_interval(counts, score) == ours != bleu.corpus_interval(counts, score, seed=1)
    # a corpus of one sentence or none has no interval
    assert bleu.corpus_interval(counts[:1], score) == Estimate(score(counts[:1]), None, None, None, 1, 1)
    assert bleu.corpus_interval([], score) == Estimate(None, None, None, None, 0, 0)


def test_a_corpus_without_four_words_in_any_output_has_the_orders_that_it_has() -> None:
    right = [bleu.bleu_statistics(text, [text]) for text in ("yes", "two hawks")]
    assert (bleu.corpus_bleu(right), bleu.corpus_bleu(right, short=True)) == (0, 100)
    outputs = {"1": ("yes", "yes"), "2": ("no", "two hawks")}
    records = [record_of(name, *texts) for name, texts in outputs.items()]
    (found, estimate), _ = CORPUS_SCORES.compute(records, True)
    # one of two words is right, there is no bigram, and the references have three words
    assert estimate.value == pytest.approx(50 * np.exp(1 - 3 / 2))
    assert found.signature == bleu.bleu_signature(short=True) != bleu.bleu_signature()
    assert CORPUS_SCORES.resample is not None
    for drawn_from in (records, [*records, Record("3", "")]):  # a document without references does not count
        weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 3.0]])[:, : len(drawn_from)]
        assert CORPUS_SCORES.resample(drawn_from)(weights)["bleu"] == pytest.approx([estimate.value, 100])
    longer = [*records, record_of("3", "the owl saw the hawk", "the owl saw the hawk")]
    (found, _), _ = CORPUS_SCORES.compute(longer, False)
    assert found.signature == bleu.bleu_signature()


def record_of(name: str, output: str, reference: str) -> Record:
    return Record(name, "", statistics=ngram_counts(output, [reference]))


def test_bleu_and_chrf_compare_composed_letters():
    both = "Le cafe\u0301 est ferme\u0301.", ["Le caf\u00e9 est ferm\u00e9."]
    assert bleu.sentence_bleu(both[0], both[1][0]) == 100
    assert bleu.corpus_bleu([bleu.bleu_statistics(*both)]) == bleu.corpus_chrf([bleu.chrf_statistics(*both)]) == 100
    assert extractive.flags("Rene\u0301 is here, Rene\u0301.", "Ren\u00e9 is here.")["rouge2_precision"] == 2 / 3
    assert lexical.words(both[0]) == lexical.words(both[1][0]) == lexical.words(lexical.cut(both[0], 9))


@pytest.mark.parametrize(("output", "reference", "value"), CASES["sentence_bleu"])
def test_sentence_bleu_is_that_of_truthfulqa(output, reference, value):
    assert bleu.sentence_bleu(output, reference) == pytest.approx(value)


@pytest.mark.parametrize(("output", "reference", "rouge1", "rouge2", "rouge_l"), CASES["rouge"])
def test_rouge_of_any_script(output: str, reference: str, rouge1: float, rouge2: float, rouge_l: float) -> None:
    for score in (rouge.rouge, rouge.truthfulqa_rouge):
        found = score(output, reference)
        assert [found["rouge1"], found["rouge2"], found["rougeL"]] == pytest.approx([rouge1, rouge2, rouge_l])


def test_rouge_has_a_stemmer_and_compares_sentences_and_truthfulqas_does_not() -> None:
    # the owl sat | the red owl sat: 3 of 3 and 3 of 4 words, 1 of 2 and 1 of 3 pairs
    scores = rouge.rouge("The owl sat.", "The red owl sat.")
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == pytest.approx(6 / 7)
    assert scores["rouge2"] == pytest.approx(2 / 5)
    swapped = "Owls hunt. Mice hide.", "Mice hide. Owls hunt."
    assert (rouge.rouge(*swapped)["rougeLsum"], rouge.rouge(*swapped)["rougeL"]) == (1, 0.5)
    assert rouge.truthfulqa_rouge(*swapped)["rougeLsum"] == 0.5
    assert rouge.rouge("hunting owls", "hunted owls")["rouge1"] == 1
    assert rouge.truthfulqa_rouge("hunting owls", "hunted owls")["rouge1"] == 0.5


@given(st.text(), st.text())
def test_any_text_can_be_scored(output: str, source: str) -> None:
    assert extractive.flags(output, source)["flagged"] in (0, 1)
    assert 0 <= squad.f1(output, [source]) <= 1
    assert 0 <= drop.scores(output, [source])[1] <= 1
    assert 0 <= bleu.sentence_bleu(output, source) <= 100
    assert 0 <= bleu.corpus_chrf([bleu.chrf_statistics(output, [source])]) <= 100
    assert all(0 <= value <= 1 for value in rouge.rouge(output, source).values())
    assert set(rouge.rouge("", source).values()) == {0.0}
    assert rouge.rouge(f"owl hawk {output}", f"owl hawk {output}")["rougeL"] == 1
