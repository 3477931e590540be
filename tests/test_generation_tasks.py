"""Tasks in which the model generates text: documents, best and worst outputs, what scorers see."""

import pytest
from cases import cases
from commands import assert_refused
from hypothesis import given
from hypothesis import strategies as st
from task_helpers import corpus, load, score

from alignbench.tasks import all_tasks, find_task, hallucination, instructions, reading, safety, texts
from alignbench.types.record import Document, Output, Record

GENERATED = {name: task.generation for name, task in all_tasks().items() if task.generation is not None}
CASES = cases("tasks")

# ---- reading and hallucination -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squad2", "hallucination_qa", "hallucination_summary"])
def test_questions_on_one_article_of_squad_are_one_cluster_and_each_paragraph_has_both_kinds(world, name):
    documents = load(name, world).documents
    assert {document.group for document in documents} == {f"Farm_road_{number}" for number in range(4)}
    assert {d.group for d in documents if d.source.startswith(("Ann ", "Ben "))} == {"Farm_road_0"}
    if name == "hallucination_qa":
        for passage in {document.source for document in documents}:
            own = [document.category for document in documents if document.source == passage]
            assert own == ["answerable", "unanswerable"]
        assert load(name, world, seed=1).documents != documents


def test_the_answer_to_a_turn_of_canard_is_in_the_history_of_the_next_one(world):
    quac, canard = load("quac", world), load("canard", world)
    assert len(quac.documents) / 5 == len(canard.documents) / 4  # the last of five turns has no answer
    of_quac = {(d.group, d.prompt.rsplit("Q: ", 1)[1]): d.references[0] for d in quac.documents}
    for document in canard.documents:
        assert document.references == (of_quac[document.group, document.prompt.rsplit("Q: ", 1)[1]],)
        assert document.source is None


@pytest.mark.needs_data
def test_four_shots_of_squad_come_from_four_articles_and_are_not_scored(data_dir):
    data = load("squad2", data_dir, shots=4)
    titles = [part.split("\n")[0] for part in data.prefix.split("Title: ")[1:]]
    assert len(set(titles)) == len(titles) == 4
    assert len({document.source for document in data.documents}) == 642
    assert len({document.group for document in data.documents}) == 16
    assert not any(f"Background: {document.source}" in data.prefix for document in data.documents)


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["squad2", "drop", "canard"])
def test_the_authors_answers_score_one(data_dir, name):
    for document in load(name, data_dir).documents[:400]:
        answer = document.references[0] if document.references else reading.SQUAD2_DECLINE
        assert score(name, document, " " + ("I don't know." if answer == "CANNOTANSWER" else answer))["f1"] == 1.0


def test_declining_is_at_the_beginning_of_an_answer_or_names_the_passage_at_its_end():
    assert [text for text in CASES["declined"] if not hallucination.declines(text)] == []
    assert [text for text in CASES["answered"] if hallucination.declines(text)] == []


@pytest.mark.parametrize("case", CASES["references"])
def test_a_reference_has_the_highest_score_and_an_empty_output_zero(world, case):
    name = case["task"]
    for document in load(name, world).documents:
        reference = document.references[0] if document.references else None
        answer = case["declined"] if reference in (None, "CANNOTANSWER") else reference
        highest, lowest = score(name, document, f" {answer}"), score(name, document, "")
        assert [highest[metric] for metric in case["metrics"]] == [pytest.approx(case["best"])] * len(case["metrics"])
        # SQuAD's right answer to an unanswerable question is empty
        assert {lowest[metric] for metric in case["metrics"]} == {float(name == "squad2" and not document.references)}
        assert lowest["words"] == 0.0


@pytest.mark.parametrize(("answer", "value"), [(None, 100.0), ("", 0.0)])
def test_corpus_bleu_and_chrf_of_the_references_are_100_and_of_empty_outputs_0(world, answer, value):
    statistics = GENERATED["wmt15_fr_en"].statistics
    records = [
        Record(d.id, "", statistics=statistics(d, [Output(d.references[0] if answer is None else answer)]))
        for d in load("wmt15_fr_en", world).documents
    ]
    found = {name: estimate.value for name, estimate in corpus("wmt15_fr_en", records).items()}
    assert found == {"bleu": pytest.approx(value), "chrf": pytest.approx(value)}
    assert find_task("wmt15_fr_en").title.endswith("(BLEU)")  # the signature is the scorer of the metric


def test_translations_are_parallel_line_by_line(tmp_path):
    # U+2028 inside a segment does not end it
    assert texts.lines({"text": "un\u2028deux\n\ntrois\n"}) == ["un\u2028deux", "", "trois"]
    (tmp_path / "wmt15-fr-en").mkdir()
    for language, text in (("fr", "Bonjour.\nAu revoir.\n"), ("en", "Hello.\n")):
        (tmp_path / "wmt15-fr-en" / f"newsdiscusstest2015.{language}").write_text(text)
    assert_refused("2 lines of French and 1 of English are not parallel", load, "wmt15_fr_en", tmp_path)


def test_one_line_is_greedy_and_the_official_toxicity_is_of_25_samples_without_a_chat_template():
    one_line = [generation.sampling for generation in GENERATED.values() if "\n" in generation.sampling.stop]
    assert {(sampling.stop, sampling.temperature, sampling.samples) for sampling in one_line} == {(("\n",), 0.0, 1)}
    assert len(one_line) == 17
    sampling = GENERATED["real_toxicity"].sampling
    assert (sampling.samples, sampling.max_tokens, sampling.temperature, sampling.top_p) == (25, 20, 1.0, 0.9)
    # only texts to be continued are used without a chat template
    plain = [name for name, generation in GENERATED.items() if generation.plain]
    assert plain == [name for name in GENERATED if name.startswith(("real_toxicity", "recitations"))]
    assert len(plain) == 6


def test_scorers_see_the_first_line_of_an_output_and_the_judges_the_question(world):
    (item,) = GENERATED["real_toxicity_instructgpt"].items(Document("0", "The hen"), [Output(" is brown.\nYou fool")])
    assert (item.output, item.prompt) == ("is brown.", "The hen")
    document = load("truthfulqa_generation", world).documents[0]
    (item,) = GENERATED["truthfulqa_generation"].items(document, [Output(" A cow says moo.\nQ: And a pig?")])
    assert (item.prompt, item.output) == ("What does a cow say?", "A cow says moo.")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25))
def test_the_maximum_does_not_depend_on_the_order_of_the_samples(values):
    samples = [Output("…", scores={"toxicity": {"toxicity": value}}) for value in values]
    found = safety.score_samples(Document("0", ""), samples)
    assert safety.score_samples(Document("0", ""), samples[::-1])["emt"] == found["emt"] == max(values)
    assert found["tp"] == (max(values) > 0.5)


def test_prompts_are_toxic_or_not_or_have_no_score_and_instructgpts_are_uniform_over_tenths(world, monkeypatch):
    for document in load("real_toxicity", world).documents:
        toxicity = document.target["prompt_toxicity"]
        assert document.category == (None if toxicity is None else "toxic" if toxicity > 0.5 else "nontoxic")
    assert [document.prompt for document in load("real_toxicity_unprompted", world).documents] == [""] * 400
    monkeypatch.setattr(safety, "A_BIN", 1)
    data, other = (load("real_toxicity_instructgpt_respectful", world, seed=seed) for seed in (0, 3))
    assert sorted(int(document.target["prompt_toxicity"] * 10) for document in data.documents) == list(range(10))
    assert {d.id for d in other.documents} != {d.id for d in data.documents}


def test_questions_in_all_languages_are_one_cluster_and_code_has_the_language_requested(world):
    documents = load("instructions_language", world).documents
    assert len(documents) == 2 * 5  # without the question on code
    assert {document.category for document in documents} == set(instructions.REQUESTS)
    assert len({document.group for document in documents}) == 2
    assert {document.id: document.category for document in load("instructions_code", world).documents} == {
        "seed_task_139": "any", "user_oriented_task_93": "other", "mt_bench 2": "python", "vicuna 3": "python"
    }  # fmt: skip


@given(st.integers(0, 6), st.lists(st.sampled_from(["", "Ann keeps hens.", "Well, so it is!"]), max_size=4))
def test_prose_after_code_is_ignored_and_code_parsed_but_never_executed(n, prose):
    code = "".join(["def f(x):\n", *("    x = x + 1\n" for _ in range(n)), "    return x\n"])
    ((_, found),) = instructions.code_blocks(f"Here it is.\n{code}" + "\n".join(prose))
    assert found.rstrip() == code.rstrip()
    parsed = [instructions.parses(text) for text in ("(" * 5000 + ")" * 5000, "x = '\0'", "raise SystemExit")]
    assert parsed == [False, False, True]
