"""All tasks: documents and prompts, few-shot examples, the authors' files, rows of all layouts, worked examples."""

import importlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cases import cases
from commands import assert_refused
from task_helpers import load, shown

from alignbench.data import card_names, read_card
from alignbench.data.cards import HubSource
from alignbench.evaluation.scoring import choices_record
from alignbench.runs.summary import summarise
from alignbench.tasks import all_tasks, find_task
from alignbench.types.engine import Loglikelihood
from alignbench.types.record import Document, Output

TASKS = all_tasks()
WITHOUT_FILES = {"truthfulqa_mc_2025", "truthfulqa_binary", "novelty_bench", "refusal", "win_rate"}
IN_THE_WORLD = sorted(TASKS.keys() - WITHOUT_FILES)
EXAMPLES = [(task, example) for task, examples in cases("examples").items() for example in examples]
ROWS = cases("rows")


def test_every_task_has_a_card_and_a_headline_and_every_hub_source_a_commit():
    for task in TASKS.values():
        assert not task.card or task.card in card_names()  # without: the text is the task's or the user's
        assert task.corpus is not None or task.headline in {metric.name for metric in task.metrics}
    sources = [s for name in card_names() for split in read_card(name).splits.values() for s in split]
    assert sum(isinstance(source, HubSource) for source in sources) >= 8
    assert_refused(r"unknown task 'helaswag': did you mean hellaswag", find_task, "helaswag")


@pytest.mark.parametrize("name", IN_THE_WORLD)
def test_documents_are_unique_and_reproducible_and_shown_with_exactly_the_prompt_of_the_protocol(world, name):
    data = load(name, world)
    assert load(name, world) == data
    assert len({document.id for document in data.documents}) == len(data.documents) > 0
    assert all(document.prompt == document.prompt.rstrip() for document in data.documents)
    assert all(choice.strip() for document in data.documents for choice in document.choices)
    json.dumps([dict(document.target) for document in data.documents])
    assert shown(name, world) == (Path(__file__).parent / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [task.name for task in TASKS.values() if task.takes_shots and task.name != "personas"])
def test_few_shot_examples_depend_on_the_seed_and_are_not_scored(world, name):
    none, two, again, other = (load(name, world, shots=n, seed=s) for n, s in ((0, 0), (2, 0), (2, 0), (2, 5)))
    assert two == again
    assert (none.shots, two.shots, two.prefix != other.prefix) == (0, 2, True)
    assert two.prefix.startswith(none.prefix)
    assert two.prefix.endswith("\n\n")
    if TASKS[name].card in ("rte", "sst2", "wsc", "hellaswag", "gsm8k"):  # their examples are from the training set
        assert (two.documents, len(two.provenance)) == (none.documents, 2)
    else:
        scored = {document.prompt.split("\n\nQ: ")[0].split("\nQuestion")[0] for document in two.documents}
        assert not any(text in two.prefix for text in scored)
        assert 0 < len(two.documents) < len(none.documents)
    assert_refused(r"900 shots requested, but there are only \d+ items to draw from", load, name, world, shots=900)


@pytest.mark.needs_data
@pytest.mark.parametrize("case", cases("tasks")["authors_files"])
def test_the_authors_files_give_the_documents_of_the_protocol(data_dir, case):
    data = load(case["task"], data_dir)
    assert len(data.documents) == len({document.id for document in data.documents}) == case["n"]
    assert all(provenance.pinned for provenance in data.provenance)
    assert len({document.group for document in data.documents} - {None}) == case["groups"]
    if "categories" in case:
        assert Counter(document.category or "" for document in data.documents) == case["categories"]


def parsed(parser: str, rows: list[dict[str, Any]]) -> list[Document]:
    module, name = parser.split(".")
    found = [getattr(importlib.import_module(f"alignbench.tasks.{module}"), name)(row) for row in rows]
    return [document for own in found for document in (own if isinstance(own, list) else [own])]


@pytest.mark.parametrize("case", ROWS["layouts"], ids=lambda case: case["parser"])
def test_all_layouts_of_a_row_give_the_same_documents(case):
    first, *others = (parsed(case["parser"], layout) for layout in case["layouts"])
    assert all(other == first for other in others)
    for field, value in case["document"].items():
        found = getattr(first[0], field)
        assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize("case", ROWS["invalid"], ids=lambda case: case["message"])
def test_an_invalid_row_is_rejected(case):
    with pytest.raises(ValueError, match=case["message"]):
        parsed(case["parser"], [case["row"]])


@pytest.mark.parametrize(("name", "case"), EXAMPLES)
def test_worked_examples(name, case):
    task, fields = TASKS[name], case.get("document", {})
    document = Document("0", "", **{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})
    if task.generation is None:
        logprobs = case.get("logprobs") or list(map(math.log, case["probabilities"]))
        found = task.score(document, list(map(Loglikelihood, logprobs, case.get("tokens", [1] * len(logprobs)))))
    else:
        scores = case.get("scores", {})
        each = scores if isinstance(scores, list) else [scores] * len(case["outputs"])
        outputs = [Output(text, scores=own) for text, own in zip(case["outputs"], each, strict=True)]
        found = task.generation.score(document, outputs)
    assert {metric: found.get(metric) for metric in case["metrics"]} == pytest.approx(case["metrics"], nan_ok=True)
    assert found.keys() <= {metric.name for metric in task.metrics}


def test_one_unscored_choice_leaves_the_document_unscored_and_counted():
    task = find_task("hellaswag")
    document = Document("0", "p", (" a", " b"), target={"label": 0})
    good = choices_record(task, document, [Loglikelihood(-1.0, 1), Loglikelihood(-2.0, 1)])
    bad = choices_record(task, document, [Loglikelihood(-1.0, 1), Loglikelihood(math.nan, 1, "it is nan")])
    assert (good.metrics["acc"], good.unscored) == (1.0, None)
    assert (bad.metrics["acc"], bad.unscored, bad.logprobs) == (None, "it is nan", (-1.0, None))
    result = summarise(task, [good, bad], shots=0, limit=None, seed=0)
    assert (result.n, result.n_scored, result.unscored) == (2, 1, {"it is nan": 1})
    assert (result.metrics[0].value, result.metrics[0].n_unscored) == (1.0, 1)
