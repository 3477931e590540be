"""What is known exactly in the demo's world: how good a text is, what labelers say of it, and what its scorers find."""

import random
import re
from itertools import combinations

import numpy as np
import pytest
from cases import cases, read_lines
from commands import refusal
from demo_world import world, written
from hypothesis import given
from hypothesis import strategies as st
from stages import read_rankings, write_rows

from alignbench.demo.judge import CLOSINGS, Goal, WorldScorer, judge, met, read_statements
from alignbench.demo.labelers import LABELERS, label_outputs, rank, rank_samples
from alignbench.demo.requests import as_response, make_requests, polite
from alignbench.demo.world import FOLDER
from alignbench.labels.agreement import agreement
from alignbench.labels.screen import kept, screen
from alignbench.labels.table import read_labels
from alignbench.types.scorer import Item

CASES, WORLD, REQUESTS = cases("demo"), world(), make_requests(world()).training
FACT = next(fact for fact in WORLD.facts if fact.myth and fact.asked)
FOOD = next(fact for fact in WORLD.facts if fact.topic == "food")
SEA = next(r for r in REQUESTS if re.match("Write three .* about the sea near", r.instruction))
ASKED = next(r for r in REQUESTS if r.goal.fact == FACT.id)
FIRST = f"The sea near {SEA.village} is calm."
CALM = f"{FIRST} The gulls sit on the rocks. The water goes up and down."
OUTLIERS = {labeler.name for labeler in LABELERS if labeler.outlier}


def filled(template):
    """A case with the words of this world."""
    return WORLD.values(
        random.Random(0), fact=FACT, food=FOOD, calm=CALM, first=FIRST, stopless=CALM.rstrip("."), prompt=SEA.prompt,
        village=SEA.village, elsewhere=CALM.replace(str(SEA.village), "Quorl"), closing=CLOSINGS[0],
        food_value=FOOD.truth.rstrip(".").split()[-1], true_value=FACT.truth.split()[-1],
        myth_value=FACT.believed.split()[-1],
        endless=" ".join(f"{CALM} And the {n} boats of winter are in the hall of stones." for n in range(12)),
    ).fill(tuple(template) if isinstance(template, list) else template)  # fmt: skip


def utility(request, output):
    return judge(WORLD, request.goal, request.prompt, output).utility


def test_what_a_text_states():
    for text, asked, true, false in CASES["statements"]:
        found = read_statements(WORLD, filled(text), FACT if asked else None)
        assert (found.true, found.false) == (set(filled(true)), set(filled(false))), text
    assert read_statements(WORLD, "A blorp eats moss.").unknown == {"blorp"}
    for fact in WORLD.facts:
        assert all(read_statements(WORLD, text)[:2] == (set(), {fact.id}) for text in fact.false)
        assert read_statements(WORLD, fact.almanac)[:2] == ({fact.id}, set())


def test_better_answers_have_a_higher_utility_and_degenerate_text_that_of_an_answer_to_another_question():
    for goal, text, share in CASES["goals"]:
        assert met(Goal(**goal), text, ["mira", "otto", "hollow"], False) == pytest.approx(share), (goal, text)
    for seen, ranks in CASES["ranks"]:
        assert rank(seen) == ranks
    for case in CASES["better"]:
        found = [utility(SEA if case["request"] == "sea" else ASKED, text) for text in filled(case["texts"])]
        assert found == sorted(set(found), reverse=True), found
    off_topic = utility(SEA, "The lamp near the mill is old. The light stands in the window.")
    degenerate = {text: utility(SEA, text) for text in filled(CASES["degenerate"])}
    assert {text for text, own in degenerate.items() if own >= utility(SEA, CALM) - 2 or own > off_topic + 0.5} == set()


PIECES = ["The sea is calm.", "Q:", "fool", "sea", "\n", CLOSINGS[0], "A zib eats moss", "Quorl", "and", "…", "\x00"]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=60).map(" ".join))
def test_any_text_has_a_utility_and_repeating_it_never_helps(text):
    judged = judge(WORLD, SEA.goal, SEA.prompt, text)
    assert -40 < judged.utility <= 6.2
    assert all(0 <= judged.found[name] <= 1 for name in ("follows", "repeated", "copied"))
    assert utility(SEA, f"{text} {text} {text}") <= max(judged.utility, 0.0)


def test_labelers_agree_on_73_in_a_hundred_pairs_and_screening_finds_the_two_outliers():
    labels = read_labels(str(written() / FOLDER / "labels.jsonl"))
    found, notes = agreement(labels, resamples=10)
    assert not notes
    shares = {f.statistic: f.estimate.value for f in found if (f.question, f.who) == ("ranking", "all")}
    assert shares["agreement_ties_dropped"] == pytest.approx(0.73, abs=0.015)
    screened = screen(labels)
    for criterion in ("rankings", "flagging"):
        assert {one.labeler for one in screened if one.mark == "below" and one.criterion == criterion} == OUTLIERS
    assert {label.labeler for label in kept(labels, screened)} == {one.name for one in LABELERS} - OUTLIERS


def test_rankings_have_4_to_9_outputs_good_and_bad_by_hired_labelers_who_err_at_random():
    requests, rankings = make_requests(WORLD).by_prompt, read_rankings(str(written() / FOLDER / "rankings.jsonl"))
    assert {len(ranking.responses) for ranking in rankings} == set(range(4, 10))
    assert all(len(set(ranking.responses)) == len(ranking.responses) for ranking in rankings)
    assert not {ranking.labeler for ranking in rankings} & OUTLIERS
    judged = [[judge(WORLD, requests[r.prompt].goal, r.prompt, text).utility for text in r.responses] for r in rankings]
    assert 0.2 < np.mean([utility >= 5 for some in judged for utility in some]) < 0.8
    right = [
        (ranking.ranks[i] < ranking.ranks[j]) == (some[i] > some[j])
        for ranking, some in zip(rankings, judged, strict=True)
        for i, j in combinations(range(len(some)), 2)
        if ranking.ranks[i] != ranking.ranks[j] and some[i] != some[j]
    ]
    assert 0.85 < np.mean(right) < 0.95


def test_answers_of_a_model_are_ranked_among_some_of_the_worlds(farm_model, tmp_path):
    sampled = rank_samples(farm_model, written(), tmp_path, number=8)
    rankings, held_out = read_lines(tmp_path / "rankings.jsonl"), read_lines(tmp_path / "rankings_held_out.jsonl")
    assert (len(rankings) in range(6, 9), len(held_out) in (1, 2)) == (True, True)  # some are tied throughout
    assert 0 < sampled <= sum(len(row["responses"]) - 1 for row in (*rankings, *held_out))
    assert not {row["prompt"] for row in rankings} & {row["prompt"] for row in held_out}
    for row in rankings:  # nonsense loses against good answers
        assert 4 <= len(set(row["responses"])) == len(row["ranks"]) <= 9
        best = row["responses"][row["ranks"].index(1)]
        assert judge(WORLD, make_requests(WORLD).by_prompt[row["prompt"]].goal, row["prompt"], best).utility > 0
    rank_samples(farm_model, written(), tmp_path / "again", number=8)
    assert (tmp_path / "again" / "rankings.jsonl").read_bytes() == (tmp_path / "rankings.jsonl").read_bytes()


def outputs():
    """Good answers to prompts of held-out users, and the same with an insult: system -> prompt -> text."""
    draw, chosen = random.Random(5), make_requests(WORLD).held_out[:20]
    good = [as_response(polite(WORLD, request, draw)) for request in chosen]
    kind = dict(zip((request.prompt for request in chosen), good, strict=True))
    return {"kind": kind, "rude": {prompt: f" You fool!{text}" for prompt, text in kind.items()}}


def test_outputs_of_systems_are_labelled_the_same_each_time_and_beside_any_others(tmp_path):
    texts = outputs()
    kind, prompts = texts["kind"], list(texts["kind"])[3:5]
    found = label_outputs(WORLD, texts, seed=1)
    assert found == label_outputs(WORLD, texts, seed=1) != label_outputs(WORLD, texts, seed=2)
    some = label_outputs(WORLD, {name: {p: own[p] for p in prompts} for name, own in texts.items()}, seed=1)
    assert some == [row for row in found if row["prompt"] in prompts]
    alone = label_outputs(WORLD, {"kind": kind}, seed=1)
    assert [row["likert"] for row in alone] == [row["likert"] for row in found if row["model"] == "kind"]
    same = label_outputs(WORLD, {"one": kind, "two": {p: text.strip() for p, text in kind.items()}}, seed=1)
    assert {row["rank"] for row in same} == {1}, "the same text is tied"
    unknown = refusal(label_outputs, WORLD, {"one": {"Who was that?": "x"}}, seed=1)
    assert "does not have the prompt 'Who was that" in unknown
    read = read_labels(write_rows(tmp_path / "rows.jsonl", found))
    assert len(read) == 20 * 2 * 3
    kind, rude = ([label for label in read if label.model == model] for model in texts)
    assert sum(one.likert or 0 for one in kind) > sum(one.likert or 0 for one in rude) + len(kind)
    flagged = [sum(one.flags["inappropriate_for_customer_assistant"] for one in own) for own in (kind, rude)]
    assert flagged[0] < 10 < 50 < flagged[1]


@pytest.mark.parametrize("kind", ["truth", "info", "toxicity", "entailment"])
def test_the_scorers_know_the_world_whatever_the_batch(kind):
    metrics, texts, expected = zip(*(row[1:] for row in CASES["scorers"] if row[0] == kind), strict=True)
    source = CASES["source"] if kind == "entailment" else None
    items = [Item(text, FACT.question if source is None else "", source) for text in filled(texts)]
    scorer = WorldScorer(kind, str(written()))
    found = scorer.score(items)
    assert [numbers[metric] for numbers, metric in zip(found, metrics, strict=True)] == pytest.approx(expected)
    assert found == [scorer.score([item])[0] for item in items]
    assert source is None or scorer.score([Item("Bread.")]) == [{}], "entailment needs a source"


def test_the_preference_is_for_the_higher_utility():
    texts = outputs()
    items = [Item(text, prompt, references=(texts["rude"][prompt],)) for prompt, text in texts["kind"].items()]
    scorer = WorldScorer("preference", str(written()))
    found = scorer.score([*items, Item("x", items[0].prompt, references=("x",))])
    assert [numbers["win"] for numbers in found] == [*[1.0] * len(items), 0.5]
    assert all(numbers["utility"] > numbers["baseline_utility"] for numbers in found[:-1])
    with pytest.raises(ValueError, match="does not have this prompt"):
        scorer.score([Item("a", "Who was that?", references=("b",))])


@pytest.mark.parametrize("text", [None, "{}", "[]", "not JSON", '{"people": [1], "facts": []}'])
def test_a_folder_that_is_no_world_is_rejected_and_the_revision_depends_on_the_files(tmp_path, text):
    (tmp_path / FOLDER).mkdir()
    for name in ("world.json", "requests.jsonl"):
        own = (written() / FOLDER / name).read_text()
        (tmp_path / FOLDER / name).write_text(own.replace('"seed": 0', '"seed": 1'))
    here, there = (WorldScorer("truth", str(place)).revision for place in (written(), tmp_path))
    assert re.fullmatch(r"1-[0-9a-f]{64}", here)
    assert here != there
    for name in ("world.json", "requests.jsonl"):
        (tmp_path / FOLDER / name).unlink() if text is None else (tmp_path / FOLDER / name).write_text(text)
    assert "demo world " in refusal(lambda: WorldScorer("truth", str(tmp_path)))
