"""Diversity of texts by their words: hand-made cases, published values, and the definitions written out."""

from __future__ import annotations

import math
import random

import diversity_plain
import numpy as np
import pytest
from alignbench.diversity.compression import compression_ratio
from alignbench.diversity.measure import METRICS, measure, measure_vectors
from alignbench.diversity.ngrams import adjusted, distinct, expectation_adjusted, ngrams
from alignbench.diversity.overlap import LONGEST, distinct_pairs, mean_pairwise_rouge_l
from alignbench.diversity.self_bleu import self_bleu
from alignbench.diversity.words import cut, words
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.scorers.embeddings import HashedEmbedder

TEXT = st.lists(st.sampled_from("abcdef"), max_size=9)  # few words, so that texts share many
TEXTS = st.lists(TEXT, min_size=2, max_size=9)
EMBEDDER = HashedEmbedder()
SENTENCES = (
    "A fox crossed the frozen river at dawn.",
    "At dawn a fox crossed the frozen river.",
    "My grandmother bakes bread on Sundays, and nobody may help her.",
    "The lighthouse keeper counted ships until he fell asleep.",
    "Nobody may help the lighthouse keeper on Sundays.",
)


def measured(texts):
    return measure(texts) | measure_vectors(EMBEDDER.embed(texts))


# Words


def test_words_are_lower_case_and_marks_stand_alone():
    assert " ".join(words("Don't shout: “Öl”,\n3.5%!")) == "don ' t shout : “ öl ” , 3 . 5 % !"
    assert words(" \n\t") == words("") == []


def test_a_cut_text_is_written_as_it_was():
    text = "  One,  Two\nthree. "
    assert [cut(text, n) for n in range(5)] == ["", "  One", "  One,", "  One,  Two", "  One,  Two\nthree"]
    assert cut(text, 5) == cut(text, 100) == text


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, 20))
def test_a_cut_text_has_the_first_words_of_the_whole(text, n):
    assert words(cut(text, n)) == words(text)[:n]
    assert text.startswith(cut(text, n))


# Distinct-n and EAD


def test_distinct_n_by_hand():
    texts = [["a", "b", "a", "b"], ["b", "a"]]
    assert distinct(texts, 1) == 2 / 6
    assert distinct(texts, 2) == 2 / 4  # ab ba ab, ba; "b b" would be across two texts
    assert distinct(texts, 3) == 1
    assert math.isnan(distinct(texts, 5))
    assert math.isnan(distinct([], 1))


def test_ead_of_50_different_among_100_of_gpt2s_vocabulary():
    assert adjusted(50, 100, 50257) == pytest.approx(0.50049, abs=5e-6)


def test_ead_is_the_mean_over_the_orders_that_there_are():
    texts = [["a", "b", "a"]]
    each = [adjusted(2, 3, 10), adjusted(2, 2, 10), adjusted(1, 1, 10)]
    assert expectation_adjusted(texts, vocabulary=10) == pytest.approx(np.mean(each))
    assert expectation_adjusted(texts, (2,), 10) == pytest.approx(each[1])
    assert math.isnan(expectation_adjusted([[]]))


def test_random_words_have_an_ead_of_one_whatever_their_number_where_distinct_falls():
    draw = np.random.default_rng(0)
    texts = [[[str(word) for word in draw.integers(0, 500, n)]] for n in (200, 2000)]
    assert [expectation_adjusted(text, (1,), 500) for text in texts] == pytest.approx([1, 1], abs=0.06)
    assert distinct(texts[0], 1) > 3 * distinct(texts[1], 1)


@settings(deadline=None)
@given(TEXTS)
def test_ngrams_are_those_of_the_definition(texts):
    for n, found in enumerate(ngrams(texts, 5), 1):
        plain = diversity_plain.ngrams_of(texts, n)
        assert len(found.ids) == len(plain)
        assert found.different == len(set(plain)) == len(set(found.ids.tolist()))
        assert len(set(zip(plain, found.ids.tolist(), strict=True))) == found.different  # one number each
        assert np.bincount(found.owners, minlength=len(texts)).tolist() == [max(len(t) - n + 1, 0) for t in texts]


@settings(deadline=None)
@given(TEXT.filter(len), st.integers(2, 6))
def test_copies_divide_distinct_n_by_their_number(text, copies):
    assert distinct([text] * copies, 1) == pytest.approx(distinct([text], 1) / copies)


# Self-BLEU


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_self_bleu_is_the_mean_of_sacrebleus_with_all_others_as_references(texts, order):
    assert self_bleu(texts, order) == pytest.approx(diversity_plain.self_bleu(texts, order), abs=1e-9)


def test_self_bleu_of_many_lengths_and_repetitions_equals_sacrebleus():
    draw = random.Random(0)
    texts = [[draw.choice("abcdefghijkl") for _ in range(draw.randint(1, 40))] for _ in range(60)]
    assert self_bleu(texts) == pytest.approx(diversity_plain.self_bleu(texts), abs=1e-9)


@settings(deadline=None)
@given(TEXT.filter(len), st.integers(2, 6))
def test_identical_texts_tell_each_other_wholly(text, copies):
    assert self_bleu([text] * copies) == pytest.approx(100)
    assert mean_pairwise_rouge_l([text] * copies)[0] == pytest.approx(1)


def test_texts_without_a_common_word_tell_nothing_of_each_other():
    assert self_bleu([["a", "b"], ["c"], ["d", "e", "f"]]) == 0
    assert math.isnan(self_bleu([["a"]]))


# ROUGE-L


@settings(deadline=None)
@given(TEXTS)
def test_rouge_l_is_that_of_the_package_over_all_pairs(texts):
    value, pairs = mean_pairwise_rouge_l(texts)
    assert value == pytest.approx(diversity_plain.rouge_l(texts), abs=1e-12)
    assert pairs == len(texts) * (len(texts) - 1) // 2


def test_a_sample_of_pairs_is_near_the_mean_of_all_and_the_same_at_the_same_seed():
    draw = random.Random(0)
    texts = [[draw.choice("abcdefghij") for _ in range(draw.randint(3, 20))] for _ in range(150)]
    exact, all_pairs = mean_pairwise_rouge_l(texts)
    sampled, pairs = mean_pairwise_rouge_l(texts, pairs=3000)
    assert (all_pairs, pairs) == (11_175, 3000)
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.01)
    assert mean_pairwise_rouge_l(texts, 3000) == (sampled, pairs)
    assert mean_pairwise_rouge_l(texts, 3000, seed=1)[0] != sampled
    assert mean_pairwise_rouge_l([["a"]]) == (pytest.approx(math.nan, nan_ok=True), 0)


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 2000), st.integers(0, 9))
def test_pairs_are_of_different_texts_and_none_comes_twice(n, most, seed):
    first, second = distinct_pairs(n, most, seed)
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(first) == min(most, n * (n - 1) // 2)
    assert all(0 <= a < b < n for a, b in found)


def test_pairs_of_very_many_texts_are_still_pairs():
    n = 3_000_000  # 4.5 · 10¹² pairs
    first, second = distinct_pairs(n, 1000, 0)
    assert (first >= 0).all()
    assert (first < second).all()
    assert second.max() < n


def test_of_very_long_texts_the_beginnings_are_compared():
    begin = [[f"{text}{n}" for n in range(LONGEST - 100)] + ["common"] * 100 for text in "ab"]
    assert mean_pairwise_rouge_l([text + ["common"] * 30_000 for text in begin]) == mean_pairwise_rouge_l(begin)
    assert mean_pairwise_rouge_l(begin)[0] == pytest.approx(100 / LONGEST)


# Compression


def test_what_is_said_again_compresses():
    assert compression_ratio(SENTENCES[2:3] * 20) > 5 > compression_ratio(SENTENCES)
    assert compression_ratio(SENTENCES) == pytest.approx(diversity_plain.compression_ratio(SENTENCES))
    assert compression_ratio(["half a character: \ud83d"]) > 0
    assert math.isnan(compression_ratio([]))


# All of it


def test_measure_equals_the_definitions_on_a_small_set():
    texts = [text.replace("fox", animal) for text in SENTENCES for animal in ("fox", "wolf", "Fox")]
    vectors = EMBEDDER.embed(texts)
    found, plain = measured(texts), diversity_plain.measure(texts, vectors)
    assert {name: found[name] for name in plain} == pytest.approx(plain, rel=1e-6)
    assert set(found) | {"silhouette"} == {metric.name for metric in METRICS}  # of one cluster there is none


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from((*SENTENCES, "", " \n", "?", "No.")), max_size=6), st.randoms(), st.booleans())
def test_whatever_was_written_each_number_is_finite_and_named_and_order_does_not_matter(texts, shuffler, embedded):
    numbers = measured if embedded else measure
    found = numbers(texts)
    bounds = {metric.name: metric.bounds for metric in METRICS}
    for name, value in found.items():
        low, high = bounds[name]
        assert math.isfinite(value)
        assert low is None or value >= low - 1e-6
        assert high is None or value <= high + 1e-6
    turned = list(texts)
    shuffler.shuffle(turned)
    again = numbers(turned)
    free = ("compression_ratio", "clusters", "silhouette")  # gzip and k-means look at texts in order
    assert {k: v for k, v in again.items() if k not in free} == pytest.approx(
        {k: v for k, v in found.items() if k not in free}, rel=1e-5, abs=1e-6
    )


def test_one_text_has_nothing_to_be_compared_with():
    one = measured(["One text alone."])
    assert set(one) == {"distinct_1", "distinct_2", "distinct_3", "ead"}
    assert measured([]) == {}


def test_a_model_that_falls_silent_is_not_diverse():
    silent = measured([""] * 8)
    assert silent["self_bleu"] == pytest.approx(100)
    assert silent["rouge_l_overlap"] == 1
    assert silent["distinct_1"] == 1 / 8
    assert (silent["cosine_distance"], silent["clusters"]) == (0, 1)
    assert silent["vendi"] == pytest.approx(1)


def test_many_texts_differ_more_than_variations_of_one():
    alike = [SENTENCES[0].replace("fox", animal) for animal in ("fox", "wolf", "cat", "dog", "hen")]
    narrow, wide = measured(alike), measured(SENTENCES)
    for metric in METRICS:
        if metric.better == "higher":
            assert wide[metric.name] > narrow[metric.name]
        if metric.better == "lower":
            assert wide[metric.name] < narrow[metric.name]
