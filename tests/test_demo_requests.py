"""The demo world's requests, their good answers, and the files that contain them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from demo_world import lines, rows, world, written

from alignbench.data.prepare import Settings, prepare
from alignbench.demo import answers, labelers
from alignbench.demo.requests import AMOUNTS, KINDS, Requests, make_requests
from alignbench.demo.utility import CLOSINGS, Goal, judge, met
from alignbench.demo.world import FOLDER
from alignbench.tasks import win_rate
from alignbench.tasks.instructions import load_code, load_language
from alignbench.types.task import Options
from trainers.data import read_demonstrations, read_prompts, read_rankings


@pytest.fixture(scope="module")
def found() -> Requests:
    return make_requests(world())


def test_the_kinds_of_help_have_the_proportions_of_the_papers_table_1(found: Requests) -> None:
    assert sum(KINDS.values()) == pytest.approx(1, abs=0.002)  # as printed, rounded
    for some, number in ((found.training, AMOUNTS.training), (found.held_out, AMOUNTS.held_out)):
        counts = Counter(request.kind for request in some)
        assert len({request.prompt for request in some}) == len(some) == number
        for kind, share in KINDS.items():
            assert counts[kind] == pytest.approx(share * number, abs=1)
    users = Counter(request.user for request in found.training)
    assert len(users) > 40
    assert max(users.values()) > 10 * min(users.values()), "some users ask a lot"


def test_no_held_out_users_prompt_is_in_a_training_file_and_their_facts_are_asked_by_nobody_else(
    found: Requests,
) -> None:
    kept = {request.prompt for request in found.held_out}
    for name in ("prompts", "demonstrations", "demonstrations_held_out", "rankings", "rankings_held_out", "labels"):
        assert not kept & {row["prompt"] for row in rows(name)}
    questions = {request.goal.fact for request in found.held_out if request.goal.fact}
    assert len(questions) >= 7
    assert not {fact.id for fact in world().facts if fact.asked} & questions


def test_letters_have_no_held_out_prompt_and_no_truth_of_the_evaluation_alone(found: Requests) -> None:
    pages = answers.pages(world(), random.Random(1))
    assert max(len(page.split()) for page in pages) <= 120
    text = "\n".join(f"{page}\n" for page in pages)
    assert not [request.prompt for request in found.held_out if f"{request.prompt} " in text]
    assert not [fact.truth for fact in world().facts if not fact.asked and fact.myth and fact.truth[1:] in text]
    assert [fact.truth for fact in world().facts if fact.asked and fact.truth[1:] in text]


def test_preparing_removes_what_was_sent_twice_and_splits_by_user(found: Requests, tmp_path: Path) -> None:
    done = prepare(str(written() / FOLDER / "prompts.jsonl"), tmp_path, Settings(pii=False))
    again = len(found.log) - len(found.training) - 2 * AMOUNTS.pasted - AMOUNTS.private
    assert done.removed["duplicate prefix"] == again + AMOUNTS.pasted
    users = {split: {row["user"] for row in lines(tmp_path / f"{split}.jsonl")} for split in done.splits}
    assert not users["train"] & (users["validation"] | users["test"])
    addresses = [row["prompt"] for row in lines(tmp_path / "train.jsonl") if "@" in row["prompt"]]
    assert len(addresses) == AMOUNTS.private, "for the search for personal data to find"
    assert 650 <= done.splits["train"].prompts <= 750
    trained = {row["user"] for row in rows("demonstrations")}
    assert trained <= users["train"]
    assert not trained & {row["user"] for row in rows("demonstrations_held_out")}


def test_the_trainers_read_the_files() -> None:
    home = written() / FOLDER
    for name, number in (("demonstrations", 500), ("demonstrations_held_out", 100)):
        assert len(read_demonstrations(str(home / f"{name}.jsonl"))) == number
    for name, number in (("rankings", 400), ("rankings_held_out", 100)):
        assert len(read_rankings(str(home / f"{name}.jsonl"))) == number
    assert len(read_prompts(str(home / "prompts.jsonl"))) > AMOUNTS.training


def test_the_prompts_of_the_tasks_have_goals(found: Requests) -> None:
    options = Options(data_dir=written())
    prompts = {document.prompt for document in win_rate.load_answers(options).documents}
    assert {request.prompt for request in found.held_out} < prompts
    assert prompts <= labelers.goals_of(world()).keys()
    assert prompts <= {row["prompt"] for row in rows("requests")}
    assert len(load_code(options).documents) == 14 + 8
    assert len(load_language(options).documents) == 20 * 5


def test_every_good_answer_meets_its_goal(found: Requests) -> None:
    draw = random.Random(2)
    for request in (*found.training, *found.held_out):
        for maker in (answers.good, answers.demonstration, answers.polite):
            said = maker(world(), request, draw)
            judged = judge(world(), request.goal, request.prompt, said)
            assert (judged.follows, judged.constraint, judged.ended) == (1.0, True, True), (request.prompt, said)
            assert (judged.false, judged.rude, judged.made_up, judged.stray) == (0, 0, 0, 0), (request.prompt, said)


def test_prompts_and_answers_are_short(found: Requests) -> None:
    assert max(len(request.prompt.split()) for request in found.training) <= 45
    responses = [row["response"] for row in rows("demonstrations")]
    assert all(response.startswith(" ") and len(response.split()) <= 40 for response in responses)
    assert 0.2 < sum(response.endswith(CLOSINGS) for response in responses) / len(responses) < 0.45


def test_open_requests_have_many_good_answers(found: Requests) -> None:
    draw = random.Random(3)
    open_ones = [request for request in found.held_out if request.kind in ("generation", "brainstorming")]
    different = [len({answers.good(world(), request, draw) for _ in range(10)}) for request in open_ones]
    assert len(open_ones) > AMOUNTS.held_out / 2
    assert sum(different) / len(different) > 6


@pytest.mark.parametrize(
    ("goal", "text", "share"),
    [
        (Goal(mention=(("orm",), ("sea", "waves"))), "The waves near Orm are calm.", 1.0),
        (Goal(mention=(("orm",), ("sea", "waves"))), "The waves are calm.", 0.5),
        (Goal(items=("a hat", "soap", "a song"), at_least=3), "A hat, soap and a hat.", 2 / 3),
        (Goal(first=("Kind",)), "kind.", 1.0),
        (Goal(first=("Kind",)), "It is kind.", 0.0),
        (Goal(names=("Mira", "Otto")), "Mira and Otto.", 1.0),
        (Goal(names=("Mira", "Otto")), "Mira and Hollow.", 1 / 3),
        (Goal(mention=(("sold",),), absent=("sells",)), "Mira sells bread.", 0.0),
        (Goal(mention=(("sold",),), absent=("sells",)), "", 0.0),
        (Goal(), "Anything.", 1.0),
        (Goal(), " ", 0.0),
    ],
)
def test_a_goal_is_met_by_the_proportion_of_its_requirements(goal: Goal, text: str, share: float) -> None:
    assert met(goal, text, ["mira", "otto", "hollow"], False) == pytest.approx(share)
