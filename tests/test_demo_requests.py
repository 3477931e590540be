"""The demo world's requests, their good answers, and the files that hold them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from alignbench.demo.goals import Goal, met

from alignbench.data.prepare import Settings, prepare
from alignbench.data.rows import read_rows
from alignbench.demo import answers, labelers, requests
from alignbench.demo.requests import HELD_OUT, KINDS, TRAINING, Request, Requests, make_requests
from alignbench.demo.statements import lore_of
from alignbench.demo.utility import CLOSINGS, judge
from alignbench.demo.world import World, make_world
from alignbench.tasks import win_rate
from alignbench.tasks.instructions import load_code, load_language
from alignbench.types.task import Options
from trainers.data import read_demonstrations, read_prompts, read_rankings


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def found(world: World) -> Requests:
    return make_requests(world)


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(world, tmp_path_factory.mktemp("requests"))


def write(world: World, folder: Path) -> Path:
    for part in (requests, answers, labelers):
        part.write_files(world, folder, random.Random(f"0 {part.__name__}"))
    return folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(file, "jsonl", None)]


def test_the_kinds_of_help_have_the_shares_of_the_papers_table_1(found: Requests) -> None:
    assert sum(KINDS.values()) == pytest.approx(1, abs=0.002)  # as printed, rounded
    for some, number in ((found.training, TRAINING), (found.held_out, HELD_OUT)):
        counts = Counter(request.kind for request in some)
        assert len({request.prompt for request in some}) == len(some) == number
        for kind, share in KINDS.items():
            assert counts[kind] == pytest.approx(share * number, abs=1)


def test_some_users_ask_a_lot(found: Requests) -> None:
    counts = Counter(request.user for request in found.training)
    assert len(counts) > 40
    assert max(counts.values()) > 10 * min(counts.values())


def test_no_held_out_users_prompt_and_no_fact_kept_for_the_evaluation_is_in_a_training_file(
    world: World, found: Requests, folder: Path
) -> None:
    kept = {request.prompt for request in found.held_out}
    unasked = {text for fact in world.facts if not fact.asked for text in (fact.question, fact.clause, fact.truth[1:])}
    for name in ("prompts", "demonstrations", "demonstrations_held_out", "rankings", "rankings_held_out", "labels"):
        rows = lines(folder / "demo-world" / f"{name}.jsonl")
        assert not kept & {row["prompt"] for row in rows}
        text = json.dumps(rows, ensure_ascii=False)
        assert not [statement for statement in unasked if f"{statement} " in text or f"{statement}\\" in text]
    questions = [request.goal.fact for request in found.held_out if request.goal.fact]
    assert len(questions) >= 7
    assert not {fact.id for fact in world.facts if fact.asked} & set(questions)


def test_letters_hold_no_held_out_prompt_and_no_truth_that_is_kept_for_the_evaluation(
    world: World, found: Requests
) -> None:
    pages = answers.pages(world, random.Random(1))
    assert max(len(page.split()) for page in pages) <= 120
    text = "\n".join(f"{page}\n" for page in pages)
    assert not [request.prompt for request in found.held_out if f"{request.prompt} " in text]
    assert not [fact.truth for fact in world.facts if not fact.asked and fact.myth and fact.truth[1:] in text]
    assert [fact.truth for fact in world.facts if fact.asked and fact.truth[1:] in text]


def test_preparing_removes_what_was_sent_twice_and_splits_by_user(
    found: Requests, folder: Path, tmp_path: Path
) -> None:
    done = prepare(str(folder / "demo-world" / "prompts.jsonl"), tmp_path, Settings(pii=False))
    again = len(found.log) - len(found.training) - 2 * requests.PASTED - requests.PRIVATE
    assert done.removed["duplicate prefix"] == again + requests.PASTED
    users = {split: {row["user"] for row in lines(tmp_path / f"{split}.jsonl")} for split in done.splits}
    assert not users["train"] & (users["validation"] | users["test"])
    addresses = [row["prompt"] for row in lines(tmp_path / "train.jsonl") if "@" in row["prompt"]]
    assert len(addresses) == requests.PRIVATE  # for the search for personal data to find
    assert 650 <= done.splits["train"].prompts <= 750
    trained = {row["user"] for row in lines(folder / "demo-world" / "demonstrations.jsonl")}
    assert trained <= users["train"]
    assert not trained & {row["user"] for row in lines(folder / "demo-world" / "demonstrations_held_out.jsonl")}


def test_the_trainers_read_the_files(folder: Path) -> None:
    home = folder / "demo-world"
    assert len(read_demonstrations(str(home / "demonstrations.jsonl"))) == 500
    assert len(read_demonstrations(str(home / "demonstrations_held_out.jsonl"))) == 100
    assert len(read_rankings(str(home / "rankings.jsonl"))) == 400
    assert len(read_rankings(str(home / "rankings_held_out.jsonl"))) == 100
    assert len(read_prompts(str(home / "prompts.jsonl"))) > TRAINING


def test_the_tasks_put_the_very_prompts_that_have_goals(found: Requests, folder: Path, world: World) -> None:
    documents = win_rate.load_answers(Options(data_dir=folder)).documents
    prompts = [document.prompt for document in documents]
    assert {request.prompt for request in found.held_out} < set(prompts)
    assert set(prompts) <= labelers.goals_of(world).keys()
    assert set(prompts) <= {row["prompt"] for row in lines(folder / "demo-world" / "requests.jsonl")}
    assert len(load_code(Options(data_dir=folder)).documents) == 14 + 8
    assert len(load_language(Options(data_dir=folder)).documents) == 20 * 5


def test_the_same_world_writes_the_same_bytes(world: World, folder: Path, tmp_path: Path) -> None:
    written = write(make_world(0), tmp_path)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.jsonl"))
    assert len(files) == 11
    assert all((folder / file).read_bytes() == (written / file).read_bytes() for file in files)


def every(found: Requests) -> Iterable[Request]:
    yield from found.training
    yield from found.held_out


def test_every_right_answer_meets_its_goal(world: World, found: Requests) -> None:
    draw = random.Random(2)
    for request in every(found):
        for maker in (answers.good, answers.demonstration, answers.polite):
            said = maker(world, request, draw)
            judged = judge(lore_of(world), request.goal, request.prompt, said)
            assert (judged.follows, judged.constraint, judged.ended) == (1.0, True, True), (request.prompt, said)
            faults = (judged.false_statements, judged.rude, judged.made_up, judged.stray)
            assert faults == (0, 0, 0, 0), (request.prompt, said)


def test_prompts_and_answers_are_short(world: World, folder: Path, found: Requests) -> None:
    assert max(len(request.prompt.split()) for request in found.training) <= 45
    rows = lines(folder / "demo-world" / "demonstrations.jsonl")
    assert all(row["response"].startswith(" ") and len(row["response"].split()) <= 40 for row in rows)
    closed = sum(row["response"].endswith(CLOSINGS) for row in rows) / len(rows)
    assert 0.2 < closed < 0.45


def test_open_requests_have_many_right_answers(world: World, found: Requests) -> None:
    draw = random.Random(3)
    open_ones = [request for request in found.held_out if request.kind in ("generation", "brainstorming")]
    different = [len({answers.good(world, request, draw) for _ in range(10)}) for request in open_ones]
    assert len(open_ones) > HELD_OUT / 2
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
def test_a_goal_is_met_by_the_share_of_its_requirements(goal: Goal, text: str, share: float) -> None:
    assert met(goal, text, ["Mira", "Otto", "Hollow"], False) == pytest.approx(share)
