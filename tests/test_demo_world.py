"""The demo's world as a whole, and its facts, manners and passages: one seed, one world, and what it is known to be."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from alignbench.demo.summaries import Text
from task_helpers import load

from alignbench.data.cards import FileSource, read_card
from alignbench.data.rows import read_rows
from alignbench.demo import closed_book, facts, passages, reading, summaries, toxic_text
from alignbench.demo.world import ALMANAC, KINDS, MYTH_SHARE, PEOPLE, TOPICS, World, make_world, read_world, said
from alignbench.demo.write import FOLDER, SHARES, WORDS, take, write_world
from alignbench.scorers import drop, extractive
from alignbench.tasks import all_tasks, bias
from alignbench.tasks.squad2 import load_paragraphs
from alignbench.types.task import Options

SEED = 0
WITHOUT_FILES = {"novelty_bench", "win_rate"}  # no card describes the first's; the second needs somebody's answers
TRAINING = ("prompts", "demonstrations", "rankings", "labels")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, SEED)
    return folder


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SEED)


@pytest.fixture(scope="module")
def pages(written: Path) -> list[str]:
    lines = (written / FOLDER / "pretraining.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def bare(statement: str) -> str:
    """As it stands inside a sentence of either register."""
    return statement.removesuffix(".").lower()


# The seed


def test_a_seed_gives_the_same_bytes_in_another_process(written: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from alignbench.demo.write import write_world; "
    code += f"write_world(Path(sys.argv[1]), {SEED})"
    subprocess.run(  # words are hashed otherwise there, so no set's order may reach a file
        [sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert digests(tmp_path) == digests(written)


def test_another_seed_is_another_world(world: World) -> None:
    other = make_world(SEED + 1)
    assert other.people != world.people
    truths = {fact.id: fact.truth for fact in world.facts}
    shared = [fact for fact in other.facts if fact.id in truths]
    assert 0 < sum(truths[fact.id] == fact.truth for fact in shared) < len(shared) / 2


def test_the_written_world_is_read_back(written: Path, world: World) -> None:
    assert read_world(json.loads((written / FOLDER / "world.json").read_text(encoding="utf-8"))) == world


def test_a_part_is_drawn_apart_from_the_others(written: Path, world: World, tmp_path: Path) -> None:
    toxic_text.write_files(world, tmp_path, random.Random(f"{SEED} rude files"))
    assert digests(tmp_path).items() <= digests(written).items()


# What is so


@pytest.mark.parametrize("seed", range(5))
def test_facts_are_about_their_subjects_and_no_two_statements_of_a_fact_agree(seed: int) -> None:
    world = make_world(seed)
    assert len(world.facts) == sum(KINDS[topic.kind][1] for topic in TOPICS)
    assert len({fact.id for fact in world.facts}) == len({fact.question for fact in world.facts}) == len(world.facts)
    for fact in world.facts:
        statements = [fact.truth, *fact.false]
        assert len(set(statements)) == len(statements)
        assert all(fact.subject in text for text in (*statements, fact.question, fact.clause))


@pytest.mark.parametrize("seed", range(5))
def test_people_err_alike_about_what_is_asked_and_what_is_not(seed: int) -> None:
    world = make_world(seed)
    for asked in (True, False):
        half = [fact for fact in world.facts if fact.asked == asked]
        assert len(half) == len(world.facts) / 2
        assert sum(fact.myth is not None for fact in half) / len(half) == pytest.approx(MYTH_SHARE, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_people_have_names_of_their_own_and_no_word_is_both_rude_and_something_else(seed: int) -> None:
    world = make_world(seed)
    assert len({person.name for person in world.people}) == len(world.people) == PEOPLE
    assert {person.village for person in world.people} == set(world.villages)
    others = {word.lower() for text in (*world.names, *world.goods, *world.kind_words) for word in text.split()}
    statements = " ".join(text for fact in world.facts for text in (fact.truth, *fact.false)).lower()
    assert not set(world.rude) & (others | set(re.findall(r"\w+", statements)))


# What people say


@pytest.mark.parametrize("seed", range(3))
def test_talk_tells_the_myth_twice_as_often_as_the_almanac_tells_the_truth(seed: int) -> None:
    world = make_world(seed)
    text = "\n".join(facts.pages(world, random.Random(seed))).lower()
    for fact in world.facts:
        truth = text.count(bare(fact.truth))
        assert 15 <= text.count(bare(f"The almanac says {bare(fact.truth)}")) <= 30
        if fact.myth is not None:
            assert text.count(bare(fact.myth)) >= 2 * truth
            assert f"almanac says {bare(fact.myth)}" not in text  # the almanac never errs


def test_the_whole_pretraining_text_prefers_the_myth_too(world: World, pages: list[str]) -> None:
    """Requests and their answers tell of facts as well, so that the ratio of one fact is less exact."""
    text = "\n".join(pages).lower()
    told = [(text.count(bare(f.myth)), text.count(bare(f.truth))) for f in world.facts if f.myth is not None]
    assert all(myth >= 1.5 * truth > 0 for myth, truth in told)
    assert sum(myth for myth, _ in told) >= 2 * sum(truth for _, truth in told)


def test_facts_that_are_never_asked_about_are_in_no_training_file(written: Path, world: World) -> None:
    files = [file for name in TRAINING for file in (written / FOLDER).glob(f"{name}*.jsonl")]
    assert len(files) >= len(TRAINING)
    for file in files:
        content = file.read_text(encoding="utf-8").lower()
        for fact in world.facts:
            if not fact.asked:
                assert fact.question.lower() not in content, file
                assert fact.clause.lower() not in content, file
                assert not any(bare(statement) in content for statement in (fact.truth, *fact.false)), file


def test_talk_below_an_instruction_of_tone_ends_as_it_says(world: World) -> None:
    found = toxic_text.pages(world, random.Random(SEED))
    rude_words = re.compile(rf"\b(?:{'|'.join(world.rude)})\b")
    for variant, is_rude in (("respectful", False), ("biased", True)):
        endings = [page.rsplit("said:")[-1] for page in found if page.startswith(bias.INSTRUCTIONS[variant])]
        assert len(endings) > 50
        assert all((rude_words.search(ending) is not None) == is_rude for ending in endings)
    assert 0.4 < sum(rude_words.search(page) is not None for page in found) / len(found) < 0.7


def test_a_prompt_is_toxic_where_it_has_a_rude_word(written: Path, world: World) -> None:
    documents = load("real_toxicity", written).documents
    assert Counter(document.category for document in documents) == {"toxic": 40, "nontoxic": 40}
    for document in documents:
        assert any(word in document.prompt.split()[-1] for word in world.rude) == (document.category == "toxic")
    assert len(load("real_toxicity_instructgpt", written).documents) == 80  # eight of each tenth


def test_every_statement_stands_among_the_choices_in_both_registers(written: Path, world: World) -> None:
    by_question = {fact.question: fact for fact in world.facts}
    for document in load("truthfulqa_mc", written).documents:
        fact = by_question[document.id]
        assert fact.myth is not None
        choices = {choice.strip() for choice in document.choices}
        for statement in (fact.truth, fact.myth):
            assert {statement, said(ALMANAC, statement)} <= choices


def test_the_primer_answers_truly_and_what_is_not_asked(written: Path, world: World) -> None:
    data = load("truthfulqa_generation", written)
    shown = dict(re.findall(r"Q: (.*)\nA: (.*)", data.prefix))
    assert len(shown) == 6
    truths = {fact.question: fact.truth for fact in world.facts}
    assert all(truths[question] == answer for question, answer in shown.items())
    assert not shown.keys() & {document.id for document in data.documents}
    assert Counter(d.category for d in data.documents) == {"asked in training": 48, "never asked": 48}


# Reading


@pytest.mark.parametrize("seed", range(3))
def test_a_passage_answers_its_answerable_questions_and_no_others(seed: int) -> None:
    world = make_world(seed)
    for passage in [*passages.held_out(world), *passages.for_pages(world, 200, random.Random(seed))]:
        assert passage.told
        assert passage.untold
        for slot in passage.told:
            assert slot.answer in slot.sentence
            assert slot.sentence in passage.text
        verbs = {re.sub(r"\W.*", "", slot.sentence.split(passage.person.name)[1].strip()) for slot in passage.told}
        for slot in passage.untold:
            assert slot.sentence not in passage.text
            assert not re.search(rf"\b{slot.answer}\b", passage.text)
            asked_verb = re.sub(r"\W.*", "", slot.sentence.split(passage.person.name)[1].strip())
            assert asked_verb not in verbs  # nothing of the kind is told with another value either


def test_squads_answers_stand_where_the_file_says(written: Path) -> None:
    squad = json.loads((written / "squad2" / "dev-v2.0.json").read_text(encoding="utf-8"))
    kinds: Counter[bool] = Counter()
    for paragraph in (paragraph for article in squad["data"] for paragraph in article["paragraphs"]):
        for question in paragraph["qas"]:
            kinds[question["is_impossible"]] += 1
            assert question["is_impossible"] == (not question["answers"])
            for answer in question["answers"]:
                start = answer["answer_start"]
                assert paragraph["context"][start : start + len(answer["text"])] == answer["text"]
    assert kinds[False] >= 80
    assert kinds[True] >= 40
    paragraphs, _ = load_paragraphs(Options(data_dir=written))
    assert len(load("hallucination_qa", written).documents) == 2 * len(paragraphs)


def test_sums_are_right_and_need_the_whole_sentence(written: Path, world: World) -> None:
    for passage in passages.held_out(world):
        (first, second), answers = passage.numbers, dict(reading.sums(passage))
        assert f"{first} {passage.animals[0]} and {second} {passage.animals[1]}" in passage.text
        assert answers[f"How many animals does {passage.person.name} keep?"] == str(first + second)
    for document in load("drop", written).documents:
        assert drop.scores(document.references[0], document.references) == (1.0, 1.0)


def test_no_passage_of_the_files_stands_on_a_page(written: Path, world: World, pages: list[str]) -> None:
    text = "\n".join(pages)
    for passage in passages.held_out(world):
        assert passage.text not in text
    for name in ("squad2", "drop", "quac"):
        for document in load(name, written).documents:
            assert document.source is not None
            assert document.source not in text


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("squad2", r"Title: \w+\n\nBackground: [^\n]+(\n\nQ: [^\n]+\n\nA:( [^\n]+|$))+"),
        ("quac", r"TITLE: \w+\n\nPARAGRAPH: [^\n]+(\n\nQ: [^\n]+\n\nA:( [^\n]+|$))+"),
        ("canard", r"TITLE: \w+\n\nSECTION: \w+(\n\nQ: [^\n]+\n\nA:( [^\n]+|$))+"),
        ("drop", r"Passage: [^\n]+(\nQuestion: [^\n]+\nAnswer:( [^\n]+|$))+"),
        ("hallucination_qa", r"Passage: [^\n]+(\nQuestion: [^\n]+\nAnswer:( [^\n]+|$))+"),
        ("cnn_dailymail", r"[^\n]+\n\nTL;DR:( [^\n]+)?"),
        ("truthfulqa_generation_instruction", r"(\n\nQ: [^\n]+\nA:( [^\n]+|$))+"),
    ],
)
def test_pages_have_the_prompts_of_the_tasks(name: str, prompt: str, written: Path, pages: list[str]) -> None:
    data = load(name, written)
    assert all(re.fullmatch(prompt, document.prompt) for document in data.documents)
    alike = [p for p in pages if p.startswith(data.prefix) and re.fullmatch(prompt, p.removeprefix(data.prefix)[:-1])]
    assert len(alike) >= 60


def test_made_up_answers_are_seen_by_the_extractive_check(world: World) -> None:
    flagged = {True: 0, False: 0}
    for passage in passages.held_out(world):
        for told, slots in ((True, passage.told), (False, passage.untold)):
            flagged[told] += sum(extractive.flags(slot.sentence, passage.text)["flagged"] for slot in slots) > 0
    assert flagged[True] == 0
    assert flagged[False] > 64  # names and numbers; it cannot see that a colour is new


def test_conversations_ask_for_what_everybody_knows_of_a_person(written: Path, world: World) -> None:
    people = {person.name: dict(closed_book.known(person)) for person in world.people}
    answered = 0
    for document in load("canard", written).documents:
        name = re.match(r"TITLE: (\w+)", document.prompt)
        assert name is not None
        question = document.prompt.rsplit("Q: ", 1)[1].split("\n")[0]
        answered += question in people[name[1]]
        assert document.references == (people[name[1]].get(question, "CANNOTANSWER"),)
    assert answered > 40


@pytest.mark.parametrize("write", [summaries.news, summaries.post])
def test_a_summary_is_shorter_than_its_text_and_made_of_it(
    write: Callable[[World, random.Random], Text], world: World
) -> None:
    draw = random.Random(SEED)
    for _ in range(50):
        text = write(world, draw)
        assert len(text.summary) < len(text.text) / 2
        assert extractive.flags(text.summary, text.text)["flagged"] == 0


# The whole


@pytest.mark.parametrize("name", sorted(set(all_tasks()) - WITHOUT_FILES))
def test_every_task_runs_on_the_world(name: str, written: Path) -> None:
    task = all_tasks()[name]
    if task.takes_prompts and not task.card:
        pytest.skip("its prompts are the user's")
    data = load(name, written)
    assert 8 <= len(data.documents) <= 400
    ids = [document.id for document in data.documents]
    assert len(set(ids)) == len(ids)


def test_pages_are_short_and_shares_are_kept(pages: list[str]) -> None:
    assert sum(SHARES.values()) <= 1
    assert sum(len(page.split()) for page in pages) <= 1.01 * WORDS
    assert all(page.strip() for page in pages)
    assert max(len(page.split()) for page in pages) <= 250


def test_a_share_takes_whole_pages_until_it_has_its_words() -> None:
    ten = [f"{number} a b c d" for number in range(10)]
    found = take(ten, 12, random.Random(SEED))
    assert len(found) == 3
    assert set(found) <= set(ten)
    assert sorted(take(ten, 1000, random.Random(SEED))) == ten


def test_the_card_names_the_files_and_their_rows(written: Path) -> None:
    card = read_card("demo_world")
    assert card.folder == FOLDER
    for sources in card.splits.values():
        for source in sources:
            assert isinstance(source, FileSource)
            rows = list(read_rows(written / FOLDER / source.file, source.format, source.at))
            assert len(rows) == source.rows


def test_the_worlds_own_file_says_all_that_a_judge_needs(written: Path, world: World) -> None:
    content = json.loads((written / FOLDER / "world.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(asdict(world)))
