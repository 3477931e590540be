"""Diversity of wording: hand-made cases, published values, and equality with the definitions written out."""

import math
import random
from unicodedata import normalize

import diversity_plain
import pytest
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.diversity import lexical
from alignbench.diversity.lexical import LONGEST, cut, distinct, distinct_pairs, mean_pairwise_rouge_l, self_bleu, words
from alignbench.diversity.sets import METRICS, measure, measure_vectors
from alignbench.scorers.embeddings import HashedEmbedder

# few words, so that texts share many
TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), min_size=2, max_size=9)
EMBEDDER = HashedEmbedder()
ANIMALS = ("fox", "wolf", "cat", "dog", "hen")
SENTENCES = cases("diversity")["sentences"]


def measured(texts):
    return measure(texts) | measure_vectors(EMBEDDER.embed(texts))


def random_texts(n, letters, longest):
    draw = random.Random(0)
    return [[draw.choice(letters) for _ in range(draw.randint(1, longest))] for _ in range(n)]


def test_words_are_lower_case_and_other_marks_are_words():
    assert " ".join(words("Don't shout: “Öl”,\n3.5%!")) == "don ' t shout : “ öl ” , 3 . 5 % !"
    assert words(" \n\t") == words("") == []


@given(st.text(max_size=40), st.integers(0, 20))
def test_a_cut_text_has_the_first_words_of_the_whole_in_its_own_spelling(text, n):
    assert words(cut(text, n)) == words(text)[:n]
    assert normalize("NFC", text).startswith(cut(text, n))
    assert cut("  One,  Two\nthree. ", 3) == "  One,  Two"
    assert cut(" One ", 1) == cut(" One ", 5) == " One "


@given(TEXTS, st.integers(1, 5))
def test_linear_implementations_equal_the_definitions(texts, order):
    assert self_bleu(texts, order) == pytest.approx(diversity_plain.self_bleu(texts, order), abs=1e-9)
    assert distinct(texts, order) == pytest.approx(diversity_plain.distinct(texts, order), nan_ok=True)
    assert mean_pairwise_rouge_l(texts) == pytest.approx(diversity_plain.rouge_l(texts), abs=1e-12)
    expected = diversity_plain.expectation_adjusted(texts, 10)
    assert lexical.expectation_adjusted(texts, 10) == pytest.approx(expected, nan_ok=True)


def test_published_values_many_lengths_and_what_has_no_value():
    texts = random_texts(60, "abcdefghijkl", 40)
    assert self_bleu(texts) == pytest.approx(diversity_plain.self_bleu(texts), abs=1e-9)
    # 50 different ones among 100 words, without longer n-grams (Liu et al. 2022)
    assert lexical.expectation_adjusted([[str(i % 50)] for i in range(100)]) == pytest.approx(0.50049, abs=5e-6)
    assert math.isnan(distinct([["a", "b"]], 3))
    assert math.isnan(self_bleu([["a"]]))
    assert math.isnan(mean_pairwise_rouge_l([["a"]]))


def test_rouge_l_of_random_pairs_is_close_to_that_of_all_and_determined_by_the_seed():
    texts = random_texts(150, "abcdefghij", 20)
    exact, sampled = mean_pairwise_rouge_l(texts), mean_pairwise_rouge_l(texts, pairs=3000)
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.01)
    assert mean_pairwise_rouge_l(texts, 3000) == sampled != mean_pairwise_rouge_l(texts, 3000, seed=1)
    # the beginnings of very long texts are compared
    begin = [[f"{text}{n}" for n in range(LONGEST - 100)] + ["common"] * 100 for text in "ab"]
    assert mean_pairwise_rouge_l([text + ["common"] * 30_000 for text in begin]) == mean_pairwise_rouge_l(begin)
    assert mean_pairwise_rouge_l(begin) == pytest.approx(100 / LONGEST)


@given(st.integers(2, 60) | st.just(3_000_000), st.integers(1, 2000), st.integers(0, 9))
def test_pairs_are_of_different_texts_and_distinct(n, most, seed):
    first, second = distinct_pairs(n, most, seed)
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(first) == min(most, n * (n - 1) // 2)
    assert all(0 <= a < b < n for a, b in found)


def test_all_metrics_equal_their_definitions_on_a_small_set_and_have_the_right_direction():
    texts = [text.replace("fox", animal) for text in SENTENCES for animal in ("fox", "wolf", "Fox")]
    found, plain = measured(texts), diversity_plain.measure(texts, EMBEDDER.embed(texts))
    assert {name: found[name] for name in plain} == pytest.approx(plain, rel=1e-6)
    assert set(found) | {"silhouette"} == {metric.name for metric in METRICS}  # a single cluster has no silhouette
    narrow, wide = measured([SENTENCES[0].replace("fox", animal) for animal in ANIMALS]), measured(SENTENCES)
    for metric in METRICS:
        if metric.better != "–":
            assert (wide[metric.name] > narrow[metric.name]) == (metric.better == "higher"), metric.name


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from((*SENTENCES, "", " \n", "?", "No.", "\ud83d")), max_size=6), st.randoms())
def test_metrics_are_finite_within_their_bounds_and_independent_of_the_order(texts, shuffler):
    numbers = measure if "\ud83d" in texts else measured
    found, bounds = numbers(texts), {metric.name: metric.bounds for metric in METRICS}
    for name, value in found.items():
        low, high = bounds[name]
        assert low - 1e-6 <= value <= (1e9 if high is None else high + 1e-6)
    shuffler.shuffle(texts)
    again = numbers(texts)
    for name in found.keys() - {"compression_ratio", "clusters", "silhouette"}:  # gzip and k-means depend on the order
        assert again[name] == pytest.approx(found[name], rel=1e-5, abs=1e-6)


def test_a_single_text_is_compared_with_none_and_a_model_that_writes_nothing_is_not_diverse():
    assert set(measured(["One text alone."])) == {"distinct_1", "distinct_2", "distinct_3", "ead"}
    assert measured([]) == {}
    found = {name: round(value, 6) for name, value in measured([""] * 8).items() if name != "ead"}
    assert found == {
        "distinct_1": 1 / 8, "self_bleu": 100, "rouge_l_overlap": 1, "cosine_distance": 0, "vendi": 1, "clusters": 1,
        "compression_ratio": found["compression_ratio"],
    }  # fmt: skip
