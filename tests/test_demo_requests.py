"""The demo world's requests, their good answers, and the files that contain them."""

import random
from collections import Counter
from pathlib import Path

import pytest
from demo_world import rows, world, written
from stages import lines_of

from alignbench.data.prepare import Settings, prepare
from alignbench.demo import labelers, requests
from alignbench.demo.judge import CLOSINGS, judge
from alignbench.demo.requests import AMOUNTS, BETTER, KINDS, make_requests
from alignbench.demo.world import FOLDER
from alignbench.tasks import win_rate
from alignbench.tasks.instructions import load_code, load_language
from alignbench.types.task import Options
from trainers.data import read_demonstrations, read_prompts, read_rankings

FOUND = make_requests(world())


def test_the_kinds_of_help_have_the_proportions_of_the_papers_table_1() -> None:
    assert sum(KINDS.values()) == pytest.approx(1, abs=0.002)  # as printed, rounded
    for some, number in ((FOUND.training, AMOUNTS.training), (FOUND.held_out, AMOUNTS.held_out)):
        counts = Counter(request.kind for request in some)
        assert len({request.prompt for request in some}) == len(some) == number
        assert all(counts[kind] == pytest.approx(share * number, abs=1) for kind, share in KINDS.items())
    users = Counter(request.user for request in FOUND.training)
    assert len(users) > 40
    assert max(users.values()) > 10 * min(users.values()), "some users ask a lot"


def test_held_out_prompts_and_their_facts_are_in_no_training_file_and_no_letter() -> None:
    kept = {request.prompt for request in FOUND.held_out}
    for name in ("prompts", "demonstrations", "demonstrations_held_out", "rankings", "rankings_held_out", "labels"):
        assert not kept & {row["prompt"] for row in rows(name)}
    questions = {request.goal.fact for request in FOUND.held_out if request.goal.fact}
    assert len(questions) >= 7
    assert not {fact.id for fact in world().facts if fact.asked} & questions
    pages = requests.pages(world(), random.Random(1))
    assert max(len(page.split()) for page in pages) <= 120
    text = "\n".join(f"{page}\n" for page in pages)
    assert not [prompt for prompt in kept if f"{prompt} " in text]
    assert not [fact.truth for fact in world().facts if not fact.asked and fact.myth and fact.truth[1:] in text]
    assert [fact.truth for fact in world().facts if fact.asked and fact.truth[1:] in text]


def test_preparing_removes_what_was_sent_twice_and_splits_by_user(tmp_path: Path) -> None:
    done = prepare(str(written() / FOLDER / "prompts.jsonl"), tmp_path, Settings(pii=False))
    again = len(FOUND.log) - len(FOUND.training) - 2 * AMOUNTS.pasted - AMOUNTS.private
    assert done.removed["duplicate prefix"] == again + AMOUNTS.pasted
    users = {split: {row["user"] for row in lines_of(tmp_path / f"{split}.jsonl")} for split in done.splits}
    assert not users["train"] & (users["validation"] | users["test"])
    addresses = [row["prompt"] for row in lines_of(tmp_path / "train.jsonl") if "@" in row["prompt"]]
    assert len(addresses) == AMOUNTS.private, "for the search for personal data to find"
    assert 650 <= done.splits["train"].prompts <= 750
    trained = {row["user"] for row in rows("demonstrations")}
    assert trained <= users["train"]
    assert not trained & {row["user"] for row in rows("demonstrations_held_out")}


def test_the_trainers_and_the_tasks_read_the_files() -> None:
    home, options = written() / FOLDER, Options(data_dir=written())
    for name, held_out, read in (("demonstrations", 100, read_demonstrations), ("rankings", 100, read_rankings)):
        assert len(read(str(home / f"{name}.jsonl"))) == (500 if name == "demonstrations" else 400)
        assert len(read(str(home / f"{name}_held_out.jsonl"))) == held_out
    assert len(read_prompts(str(home / "prompts.jsonl"))) > AMOUNTS.training
    prompts = {document.prompt for document in win_rate.load_answers(options).documents}
    assert {request.prompt for request in FOUND.held_out} < prompts, "the tasks' prompts have goals"
    assert prompts <= labelers.goals_of(world()).keys()
    assert prompts <= {row["prompt"] for row in rows("requests")}
    assert len(load_code(options).documents) == 14 + 8
    assert len(load_language(options).documents) == 20 * 5


def test_every_good_answer_meets_its_goal() -> None:
    draw = random.Random(2)
    for request in (*FOUND.training, *FOUND.held_out):
        for maker in BETTER.values():
            said = maker(world(), request, draw)
            found = judge(world(), request.goal, request.prompt, said).found
            assert (found["follows"], found["not_constraint"], found["ended"]) == (1.0, False, True), said
            assert not any(found[fault] for fault in ("false", "rude", "made_up", "stray")), (request.prompt, said)


def test_prompts_and_answers_are_short_and_open_requests_have_many_good_answers() -> None:
    assert max(len(request.prompt.split()) for request in FOUND.training) <= 45
    responses = [row["response"] for row in rows("demonstrations")]
    assert all(response.startswith(" ") and len(response.split()) <= 40 for response in responses)
    assert 0.2 < sum(response.endswith(CLOSINGS) for response in responses) / len(responses) < 0.45
    draw = random.Random(3)
    open_ones = [request for request in FOUND.held_out if request.kind in ("generation", "brainstorming")]
    different = [len({requests.good(world(), request, draw) for _ in range(10)}) for request in open_ones]
    assert len(open_ones) > AMOUNTS.held_out / 2
    assert sum(different) / len(different) > 6
