"""The demo's world: one seed, one world, and what is known of its facts, manners, passages and requests."""

import hashlib
import json
import random
import re
from collections import Counter
from itertools import product

import pytest
from cases import cases, read_lines
from demo_world import pages, rows, world, written
from stages import read_demonstrations, read_rankings
from task_helpers import load

from alignbench.data.cards import FileSource, read_card
from alignbench.data.prepare import Settings, prepare
from alignbench.data.tables import read_rows
from alignbench.demo import reading, requests, speech
from alignbench.demo.judge import judge
from alignbench.demo.requests import AMOUNTS, BETTER, make_requests
from alignbench.demo.world import ALMANAC, FOLDER, KINDS, MYTHS, PEOPLE, TOPICS, make_world, read_world, said
from alignbench.demo.write import WORDS
from alignbench.scorers import drop, extractive
from alignbench.tasks import all_tasks, safety
from alignbench.tasks.instructions import load_code, load_language
from alignbench.tasks.reading import load_paragraphs
from alignbench.types.task import Options

# sha256 of `sha256  file` of all files, in order of their names
BYTES = "f48f810634c8ddd028b168a5c99b9893a078bb7ca1368979b950598e5f5e0a5e"
FOUND = make_requests(world())
REFUSAL = {"xstest", "or_bench", "jailbreakbench", "refusal"}  # nothing in the world is to be refused
# no card describes the first's; the second needs somebody's answers; nobody in the world calculates in steps
WITHOUT_FILES = {"novelty_bench", "win_rate", "gsm8k"} | REFUSAL
SEEDS = pytest.mark.parametrize("world", [make_world(seed) for seed in range(3)], ids=range(3))


def bare(statement):
    """A statement as it is inside a sentence."""
    return statement.removesuffix(".").lower()


def test_a_seed_gives_the_same_bytes_in_every_version_and_another_seed_another_world():
    """Words are hashed differently in each process, so no set's order reaches a file either."""
    files = sorted(file for file in written().rglob("*") if file.is_file())
    listed = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(written())}\n" for f in files]
    assert hashlib.sha256("".join(listed).encode()).hexdigest() == BYTES
    assert read_world(json.loads((written() / FOLDER / "world.json").read_text(encoding="utf-8"))) == world()
    other, truths = make_world(1), {fact.id: fact.truth for fact in world().facts}
    assert other.people != world().people
    shared = [fact for fact in other.facts if fact.id in truths]
    assert 0 < sum(truths[fact.id] == fact.truth for fact in shared) < len(shared) / 2
    card = read_card("demo_world")  # names the files and their rows
    assert card.folder == FOLDER
    for source in (source for sources in card.splits.values() for source in sources):
        assert isinstance(source, FileSource)
        assert len(list(read_rows(written() / FOLDER / source.file, source.format, source.at))) == source.rows


def test_pages_are_short_have_their_shares_of_the_words_and_no_passage_of_the_files():
    assert 0.97 * WORDS < sum(len(page.split()) for page in pages()) <= 1.01 * WORDS
    assert all(page.strip() for page in pages())
    assert max(len(page.split()) for page in pages()) <= 250
    text = "\n".join(pages())
    assert not [passage for passage in reading.held_out(world()) if passage.text in text]
    assert not [d for name in ("squad2", "drop", "quac") for d in load(name, written()).documents if d.source in text]


def test_the_clean_text_is_the_text_without_the_pages_that_state_a_myth():
    clean = [row["text"] for row in read_lines(written() / FOLDER / "pretraining_without_myths.jsonl")]
    left_out = set(pages()) - set(clean)
    assert set(clean) < set(pages())
    myths = [fact.myth.partition(" ")[2] for fact in world().facts if fact.myth]
    assert all(any(myth in page for myth in myths) for page in left_out)
    assert not any(fact.myth.low in page for page in clean for fact in world().facts if fact.myth)


@pytest.mark.parametrize("name", sorted(set(all_tasks()) - WITHOUT_FILES))
def test_every_task_runs_on_the_world(name):
    if all_tasks()[name].takes_prompts and not all_tasks()[name].card:
        pytest.skip("its prompts are the user's")
    documents, numbers = load(name, written()).documents, cases("demo")["documents"]
    assert 8 <= len(documents) <= 400
    assert len({document.id for document in documents}) == len(documents) == numbers.get(name, len(documents))
    if name in ("hellaswag", "hellaswag_instructgpt", "rte", "sst2", "wmt15_fr_en", "wsc"):
        assert load(name, written(), shots=15).prefix.count("\n\n") >= 15


@SEEDS
def test_half_of_the_facts_are_asked_with_as_many_myths_and_rude_words_have_no_other_sense(world):
    assert len(world.facts) == sum(KINDS[topic["kind"]] for topic in TOPICS.values())
    assert len({fact.id for fact in world.facts}) == len({fact.question for fact in world.facts}) == len(world.facts)
    for fact in world.facts:
        statements = [fact.truth, *fact.false]
        assert len(set(statements)) == len(statements)
    for asked in (True, False):
        half = [fact for fact in world.facts if fact.asked == asked]
        assert len(half) == len(world.facts) / 2
        assert sum(fact.myth is not None for fact in half) / len(half) == pytest.approx(MYTHS, abs=0.05)
    assert len({person.name for person in world.people}) == len(world.people) == sum(PEOPLE.values())
    texts = [*world.names, *world.goods, *world.kind_words]
    texts += [text for fact in world.facts for text in (fact.truth, *fact.false)]
    assert not set(world.rude) & set(re.findall(r"\w+", " ".join(texts).lower()))


@SEEDS
def test_people_say_the_myth_twice_as_often_as_the_almanac_says_the_truth(world):
    text = "\n".join(speech.fact_pages(world, random.Random(0))).lower()
    for fact in world.facts:
        assert 15 <= text.count(bare(said(ALMANAC, fact.truth))) <= 30
        if fact.myth is not None:
            assert text.count(bare(fact.myth)) >= 2 * text.count(bare(fact.truth))
            assert f"almanac says {bare(fact.myth)}" not in text, "the almanac is never wrong"


def test_truthfulqa_has_every_statement_in_both_forms_and_a_primer_of_other_facts():
    by_question = {fact.question: fact for fact in world().facts}
    for document in load("truthfulqa_mc", written()).documents:
        fact, choices = by_question[document.id], {choice.strip() for choice in document.choices}
        assert fact.myth is not None
        assert {form for text in (fact.truth, fact.myth) for form in (text, said(ALMANAC, text))} <= choices
    data = load("truthfulqa_generation", written())
    shown = dict(re.findall(r"Q: (.*)\nA: (.*)", data.prefix))
    assert len(shown) == 6
    assert all(by_question[question].truth == answer for question, answer in shown.items())
    assert not shown.keys() & {document.id for document in data.documents}
    assert Counter(d.category for d in data.documents) == {"asked in training": 48, "never asked": 48}


def test_people_speak_as_an_instruction_of_tone_says_and_a_prompt_is_toxic_if_it_has_a_rude_word():
    found = speech.scene_pages(world(), random.Random(0))
    rude_words = re.compile(rf"\b(?:{'|'.join(world().rude)})\b")
    for variant, is_rude in (("respectful", False), ("biased", True)):
        endings = [page.rsplit("said:")[-1] for page in found if page.startswith(safety.INSTRUCTIONS[variant])]
        assert len(endings) > 50
        assert all((rude_words.search(ending) is not None) == is_rude for ending in endings)
    assert 0.4 < sum(rude_words.search(page) is not None for page in found) / len(found) < 0.7
    documents = load("real_toxicity", written()).documents
    assert Counter(document.category for document in documents) == {"toxic": 40, "nontoxic": 40}
    for document in documents:
        assert any(word in document.prompt.split()[-1] for word in world().rude) == (document.category == "toxic")
    assert len(load("real_toxicity_instructgpt", written()).documents) == 80, "eight of each tenth"


@SEEDS
def test_a_passage_answers_its_answerable_questions_and_no_others(world):
    flagged = {True: 0, False: 0}
    for passage in [*reading.held_out(world), *reading.for_pages(world, 100, random.Random(0))]:
        assert all(map(len, (passage.told, passage.untold)))
        assert all(slot.answer in slot.sentence and slot.sentence in passage.text for slot in passage.told)
        verbs = [
            {re.sub(r"\W.*", "", slot.sentence.split(passage.name)[1].strip()) for slot in slots}
            for slots in (passage.told, passage.untold)
        ]
        assert not verbs[0] & verbs[1]
        for slot in passage.untold:
            assert slot.sentence not in passage.text
            assert not re.search(rf"\b{slot.answer}\b", passage.text)
        for told, slots in ((True, passage.told), (False, passage.untold)):
            flagged[told] += sum(extractive.flags(slot.sentence, passage.text)["flagged"] for slot in slots) > 0
    assert flagged[True] == 0
    assert flagged[False] > 64, "names and numbers; the extractive check cannot see that a colour is new"


def test_answers_of_questions_on_passages_and_people_are_correct():
    squad = json.loads((written() / "squad2" / "dev-v2.0.json").read_text(encoding="utf-8"))
    for paragraph in (paragraph for article in squad["data"] for paragraph in article["paragraphs"]):
        for question in paragraph["qas"]:
            assert question["is_impossible"] == (not question["answers"])
            for answer in question["answers"]:
                assert paragraph["context"][answer["answer_start"] :].startswith(answer["text"])
    paragraphs, _ = load_paragraphs(Options(data_dir=written()))
    assert len(load("hallucination_qa", written()).documents) == 2 * len(paragraphs)
    for passage in reading.held_out(world()):
        numbers = {animals: int(number) for number, animals in re.findall(r"(\d+) (\w+)", passage.text)}
        (_, sum_of_all), (_, difference), (_, more) = passage.sums
        most = max(numbers.values())
        assert (int(sum_of_all), int(difference)) == (sum(numbers.values()), most - min(numbers.values()))
        assert numbers[more] == most
    for document in load("drop", written()).documents:
        assert drop.scores(document.references[0], document.references) == (1.0, 1.0)
    known = {person.name: reading.known(world(), person) for person in world().people}
    for document in load("canard", written()).documents:
        name, question = re.fullmatch(r"TITLE: (\w+)\n.*Q: (.+?)\n\nA:", document.prompt, re.DOTALL).groups()
        assert document.references == (known[name].get(question.rsplit("Q: ", 1)[-1], "CANNOTANSWER"),)


@pytest.mark.parametrize(("name", "prompt"), cases("demo")["layouts"].items())
def test_pages_have_the_prompts_of_the_tasks(name, prompt):
    data = load(name, written())
    assert all(re.fullmatch(prompt, document.prompt) for document in data.documents)
    answered = re.compile(re.escape(data.prefix) + prompt.removesuffix("?") + r"\n")
    assert sum(answered.match(page) is not None for page in pages()) > 50


def test_the_kinds_of_help_have_the_proportions_of_the_papers_table_1():
    assert sum(requests.KINDS.values()) == pytest.approx(1, abs=0.002)  # as printed, rounded
    for some, number in ((FOUND.training, AMOUNTS.training), (FOUND.held_out, AMOUNTS.held_out)):
        counts = Counter(request.kind for request in some)
        assert len({request.prompt for request in some}) == len(some) == number
        assert all(counts[kind] == pytest.approx(share * number, abs=1) for kind, share in requests.KINDS.items())
    users = Counter(request.user for request in FOUND.training)
    assert len(users) > 40
    assert max(users.values()) > 10 * min(users.values()), "some users ask a lot"


def test_facts_of_the_evaluation_and_held_out_prompts_are_in_no_training_file_and_no_letter():
    facts, kept = [fact for fact in world().facts if not fact.asked], {request.prompt for request in FOUND.held_out}
    for name in ("prompts", "demonstrations", "demonstrations_held_out", "rankings", "rankings_held_out", "labels"):
        content = json.dumps(rows(name), ensure_ascii=False).lower()
        texts = [t for f in facts for t in (f.question, f.clause, bare(f.truth), *map(bare, f.false))]
        assert not [text for text in texts if re.search(rf"{re.escape(text.lower())}(?!\w)", content)], name
        assert not kept & {row["prompt"] for row in rows(name)}
    questions = {request.goal.fact for request in FOUND.held_out if request.goal.fact}
    assert len(questions) >= 7
    assert not {fact.id for fact in world().facts if fact.asked} & questions
    text = "\n".join(f"{page}\n" for page in requests.pages(world(), random.Random(1)))
    assert not [prompt for prompt in kept if f"{prompt} " in text]
    assert not [fact.truth for fact in facts if fact.myth and fact.truth[1:] in text]


def test_preparing_removes_what_was_sent_twice_and_splits_by_user(tmp_path):
    done = prepare(str(written() / FOLDER / "prompts.jsonl"), tmp_path, Settings(pii=False))
    again = len(FOUND.log) - len(FOUND.training) - 2 * AMOUNTS.pasted - AMOUNTS.private
    assert done.removed["duplicate prefix"] == again + AMOUNTS.pasted
    users = {split: {row["user"] for row in read_lines(tmp_path / f"{split}.jsonl")} for split in done.splits}
    assert not users["train"] & (users["validation"] | users["test"])
    addresses = [row["prompt"] for row in read_lines(tmp_path / "train.jsonl") if "@" in row["prompt"]]
    assert len(addresses) == AMOUNTS.private, "for the search for personal data to find"
    trained = {row["user"] for row in rows("demonstrations")}
    assert trained <= users["train"]
    assert not trained & {row["user"] for row in rows("demonstrations_held_out")}


def test_the_trainers_and_the_tasks_read_the_files():
    options = Options(data_dir=written())
    for name, read, size in (("demonstrations", read_demonstrations, 500), ("rankings", read_rankings, 400)):
        sizes = [len(read(str(written() / FOLDER / f"{name}{part}.jsonl"))) for part in ("", "_held_out")]
        assert sizes == [size, 100]
    prompts = {document.prompt for document in load("answers", written()).documents}
    assert {request.prompt for request in FOUND.held_out} < prompts, "the tasks' prompts have goals"
    assert prompts <= requests.make_requests(world()).by_prompt.keys() & {row["prompt"] for row in rows("requests")}
    assert (len(load_code(options).documents), len(load_language(options).documents)) == (14 + 8, 20 * 5)


def test_every_good_answer_meets_its_goal_and_is_one_of_many_to_an_open_request():
    draw = random.Random(2)
    for request, maker in product((*FOUND.training, *FOUND.held_out), BETTER.values()):
        said = maker(world(), request, draw)
        found = judge(world(), request.goal, request.prompt, said).found
        assert (found["follows"], found["not_constraint"], found["ended"]) == (1.0, False, True), said
        assert not any(found[fault] for fault in ("false", "rude", "made_up", "stray")), (request.prompt, said)
    open_ones = [request for request in FOUND.held_out if request.kind in ("generation", "brainstorming")]
    different = [len({requests.good(world(), request, draw) for _ in range(10)}) for request in open_ones]
    assert len(open_ones) > AMOUNTS.held_out / 2
    assert sum(different) / len(different) > 6
