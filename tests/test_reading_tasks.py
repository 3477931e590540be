"""Tasks on a passage: documents, unanswerable questions, both layouts of the data, hallucination."""

from __future__ import annotations

import math

import pytest
from cases import cases
from task_helpers import load, score

from alignbench.tasks import glue, hallucination, reading
from alignbench.types.record import Document

CASES = cases("tasks")

# ---- documents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squad2", "hallucination_qa", "hallucination_summary"])
def test_questions_on_one_article_of_squad_are_one_cluster(world, name):
    documents = load(name, world).documents
    assert {document.group for document in documents} == {f"Farm_road_{number}" for number in range(4)}
    assert {d.group for d in documents if d.source.startswith(("Ann ", "Ben "))} == {"Farm_road_0"}


def test_the_answer_to_a_turn_of_canard_is_in_the_history_of_the_next_one(world):
    quac, canard = load("quac", world), load("canard", world)
    assert len(quac.documents) / 5 == len(canard.documents) / 4  # the last of five turns has no answer
    of_quac = {(d.group, d.prompt.rsplit("Q: ", 1)[1]): d.references[0] for d in quac.documents}
    for document in canard.documents:
        assert document.references == (of_quac[document.group, document.prompt.rsplit("Q: ", 1)[1]],)
        assert document.source is None


def test_both_layouts_of_squad_and_of_drop_give_the_same_documents():
    answered = {"id": "1", "question": "Who?", "answers": [{"text": "Ann"}, {"text": "Ann"}]}
    unanswered = {"id": "2", "question": "Why?", "answers": []}
    nested = {"title": "Farm", "paragraphs": [{"context": "Ann keeps hens.", "qas": [answered, unanswered]}]}
    flat = [
        {**qa, "title": "Farm", "context": "Ann keeps hens.", "answers": {"text": [a["text"] for a in qa["answers"]]}}
        for qa in (answered, unanswered)
    ]
    assert reading.parse_squad2(nested) == [question for row in flat for question in reading.parse_squad2(row)]
    local = {"id": "q", "passage": "P ", "question": "How many?", "answers": ["3", "three"]}
    hub = {"query_id": "q", "passage": "P", "question": "How many?", "answers_spans": {"spans": ["3", "three", "3"]}}
    assert reading.parse_drop(local) == reading.parse_drop(hub)


@pytest.mark.needs_data
def test_four_shots_of_squad_come_from_four_articles_and_are_not_scored(data_dir):
    data = load("squad2", data_dir, shots=4)
    titles = [part.split("\n")[0] for part in data.prefix.split("Title: ")[1:]]
    assert len(set(titles)) == len(titles) == 4
    assert len({document.source for document in data.documents}) == 642
    assert len({document.group for document in data.documents}) == 16
    assert not any(f"Background: {document.source}" in data.prefix for document in data.documents)


# ---- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES["squad2"])
def test_squads_right_answer_to_an_unanswerable_question_is_none(case):
    found = score("squad2", Document("0", "", references=tuple(case["references"])), case["text"])
    expected = {"f1": pytest.approx(case["f1"]), "em": float(case["f1"] == 1), "answer_rate": case["answered"]}
    rate = {} if case["references"] else {"answered_unanswerable": case["answered"]}
    assert found == expected | rate | {"words": case["words"]}


def test_declining_in_a_conversation_is_quacs_cannotanswer():
    nothing = Document("0", "", references=("CANNOTANSWER",) * 2)
    something = Document("1", "", references=("in the barn",))
    for text in ("I don't know.", "I don’t know", "CANNOTANSWER"):
        assert score("quac", nothing, text)["f1"] == 1.0
        found = score("quac", something, text)
        assert (found["f1"], found["f1_agreed"], found["answer_rate"]) == (0.0, 0.0, 0.0)
    assert score("quac", something, "They don't know him")["answer_rate"] == 1.0
    disputed = Document("2", "", references=("in the old barn", "milk and eggs", "nobody knows"))
    found = score("quac", disputed, "milk and eggs")
    assert found["f1"] > 0
    assert "f1_agreed" not in found


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["squad2", "drop", "canard"])
def test_the_authors_answers_score_one(data_dir, name):
    for document in load(name, data_dir).documents[:400]:
        answer = document.references[0] if document.references else reading.SQUAD2_DECLINE
        assert score(name, document, " " + ("I don't know." if answer == "CANNOTANSWER" else answer))["f1"] == 1.0


@pytest.mark.parametrize(
    ("text", "yes"),
    [("farmer", True), ("The old farmer, of course", True), ("the farm", False), ("Ben", False), ("farmers", False)],
)
def test_wsc_is_affirmed_if_the_answer_or_the_noun_contains_the_other(text, yes):
    for meant in (True, False):
        document = Document("0", "", references=("the old farmer",), target={"meant": meant})
        assert score("wsc", document, text)["acc"] == float(yes == meant)
        assert score("wsc", document, "")["acc"] == 0.0


def test_wsc_marks_the_pronoun_also_if_its_index_is_wrong():
    text = "He said he, the miller, knew his cow."
    assert glue.mark(text, "he", 2) == "He said *he*, the miller, knew his cow."
    assert glue.mark(text, "he", 1) == "*He* said he, the miller, knew his cow."
    assert glue.mark(text, "his", 5) == "He said he, the miller, knew *his* cow."
    with pytest.raises(ValueError, match="no word 'she'"):
        glue.mark(text, "she", 0)
    spans = {"span1_text": "the miller", "span2_text": "his", "span2_index": 6}
    row = {"text": text, "label": True, "idx": 0}
    assert glue.parse_wsc(row | spans) == glue.parse_wsc(row | {"target": spans})


# ---- hallucination -------------------------------------------------------------------------------------------------


def test_a_flagged_answer_is_a_hallucination_and_declining_is_not():
    document = Document("0", "", source="Ann keeps 3 cows in the barn.", category="unanswerable")

    def found(text: str, flagged: float, document: Document = document) -> dict[str, float]:
        return score("hallucination_qa", document, text, entailment={"flagged": flagged})

    invented = found("Ann has 7 pigs called Otto.", 1.0)
    assert invented["hallucination_rate"] == invented["extractive_rate"] == invented["novel_numbers"] == 1.0
    assert invented["novel_names"] == invented["answer_rate"] == invented["answered_unanswerable"] == 1.0
    for text in ("Not in the passage.", "The passage doesn't say.", ""):
        declined = found(text, 1.0)
        assert declined["hallucination_rate"] == declined["answer_rate"] == declined["answered_unanswerable"] == 0.0
        assert "rouge2_precision" not in declined
    copied = found("Ann keeps 3 cows.", 0.0)
    assert (copied["hallucination_rate"], copied["rouge2_precision"], copied["extractive_rate"]) == (0.0, 1.0, 0.0)
    assert "rouge2_precision" not in found("Ann", 0.0)
    assert math.isnan(score("hallucination_summary", document, "Ann keeps cows.")["hallucination_rate"])
    answerable = Document("1", "", source="Ann keeps 3 cows.", category="answerable")
    assert "answered_unanswerable" not in found("3", 0.0, answerable)


def test_declining_is_at_the_beginning_of_an_answer_or_names_the_passage_at_its_end():
    assert [text for text in CASES["declined"] if not hallucination.declines(text)] == []
    assert [text for text in CASES["answered"] if hallucination.declines(text)] == []


def test_a_summary_is_flagged_even_if_it_quotes_somebody_who_declines():
    document = Document("0", "", source="Ann keeps 3 cows. Ben asked why.")
    for text in ('Ben asked Ann, who said "I don\'t know".', "I don't know, said Ann.", "The text does not say why."):
        found = score("hallucination_summary", document, text, entailment={"flagged": 1.0})
        assert (found["hallucination_rate"], found["answer_rate"]) == (1.0, 1.0)
    silent = score("hallucination_summary", document, " \nI don't know.", entailment={"flagged": 1.0})
    assert silent["hallucination_rate"] == silent["answer_rate"] == 0.0


def test_each_paragraph_gives_an_answerable_and_an_unanswerable_question(world):
    data = load("hallucination_qa", world)
    for passage in {document.source for document in data.documents}:
        own = [document.category for document in data.documents if document.source == passage]
        assert own == ["answerable", "unanswerable"]
    assert len(data.documents) == 16
    assert load("hallucination_qa", world, seed=1).documents != data.documents
