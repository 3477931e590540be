"""lm-evaluation-harness: its tasks on our engine, and our engine as its model, equal its own `hf` model."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from cases import cases, write_lines
from commands import assert_one_line_error, assert_refused, files_of, run
from tiny import engine_of, save_tiny_checkpoint, tiny_model

from alignbench.audit.compare import compare
from alignbench.audit.references import task_of
from alignbench.evaluation.evaluate import evaluate
from alignbench.runs.read import read_run
from alignbench.tasks import find_task
from alignbench.tasks.lm_eval import recorded_task
from alignbench.types.engine import Loglikelihood, Request
from alignbench.types.record import Document, Record

CASES = cases("lm_eval")
NAMES = tuple(CASES["tasks"])
PLACES, ANIMALS = (
    ("barn", "old mill", "hay loft", "yard", "pond"),
    ("cow", "hens", "two geese", "a goat", "sheep", "fox"),
)
OWN = """
def process_results(doc, results):
    return {"length": len(results[0]), "letters": list(results[0])}

def letters(items):
    return sum(map(len, items)) / 100

def none(docs):
    return docs.select([])
"""


def rows(n: int) -> list[dict]:
    return [
        {
            "place": f"The {PLACES[i % 5]} {i}",
            "animals": [ANIMALS[(i + k * (1 + i % 2)) % 6] for k in range(3)],
            "label": i % 2,
            "text": f"There is {ANIMALS[i % 6]} in the {PLACES[(i * 3) % 5]} and the sun is out",
        }
        for i in range(n)
    ]


def write_task(folder: Path, name: str, text: str, data: str = "") -> str:
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    data = data or f"dataset_path: json\ndataset_kwargs: {{data_files: {json.dumps(files)}}}"
    file = folder / f"{name}.yaml"
    file.write_text(f"task: {name}\n{data}\ntraining_split: train\ntest_split: test\n{text}")
    return f"lm_eval:{file}"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> list[str]:
    """Names for --tasks."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    write_lines(folder / "train.jsonl", rows(30)[20:])
    write_lines(folder / "test.jsonl", rows(20))
    (folder / "own.py").write_text(OWN)
    return [write_task(folder, name, text) for name, text in CASES["tasks"].items()]


@pytest.fixture(scope="module")
def models(tmp_path_factory, one_thread) -> list[str]:
    folder, options = tmp_path_factory.mktemp("models"), {"max_position_embeddings": 160}
    return [str(save_tiny_checkpoint(folder / name, seed=seed, **options)) for name, seed in (("one", 1), ("two", 2))]


@pytest.fixture(scope="module")
def runs(tasks, models, tmp_path_factory):
    return evaluate(models, tasks, tmp_path_factory.mktemp("runs"), device="cpu")


@pytest.fixture(scope="module")
def of_lm_eval(tasks, models) -> dict[str, dict]:
    """lm-eval's results, with its own model of transformers and with ours."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    import alignbench.lm_eval_model  # noqa: F401

    settings = {"tasks": [name.removeprefix("lm_eval:") for name in tasks], "bootstrap_iters": 0}
    arguments = {"hf": {"max_length": 160, "dtype": "float32"}, "alignbench": {"dtype": "float32"}}
    return {
        kind: lm_eval.simple_evaluate(
            model=kind,
            model_args={"pretrained": models[0], **own},
            device="cpu",
            batch_size=4,
            task_manager=TaskManager(include_defaults=False),
            **settings,
        )
        for kind, own in arguments.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_our_engine_as_a_model_of_lm_eval_equals_its_own(of_lm_eval, name):
    expected, found = (of_lm_eval[kind]["samples"][name] for kind in ("hf", "alignbench"))
    assert [sample["doc_id"] for sample in found] == [sample["doc_id"] for sample in expected]
    for own, other in zip(found, expected, strict=True):
        assert own["metrics"] == other["metrics"]
        for mine, theirs in zip(own["resps"], other["resps"], strict=True):
            if isinstance(theirs[0], tuple | list):
                assert mine[0][0] == pytest.approx(theirs[0][0], abs=1e-4)
                assert mine[0][1] == theirs[0][1]
            else:
                assert mine[0] == (theirs[0] if isinstance(theirs[0], str) else pytest.approx(theirs[0], abs=1e-3))
    results, others = (of_lm_eval[kind]["results"][name] for kind in ("alignbench", "hf"))
    numbers = {key: value for key, value in others.items() if isinstance(value, float)}
    assert numbers
    assert {key: results[key] for key in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-6)


def test_model_args_take_precedence_and_unknown_ones_are_refused(tasks, models):
    from alignbench.lm_eval_model import AlignbenchLM

    model = AlignbenchLM.create_from_arg_obj(
        {"pretrained": models[0], "device": "cpu"}, {"device": "cuda:0", "batch_size": 1, "max_batch_size": None}
    )
    assert model.engine.model.device.type == "cpu"
    assert_refused("--model_args.*'shots'", AlignbenchLM, models[0], shots=3)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_of_lm_eval_give_its_metrics_and_keep_its_responses(of_lm_eval, runs, name):
    result = next(result for result in runs[0].results if result.task == f"lm_eval:{name}")
    metrics = {metric.metric: metric for metric in result.metrics}
    filters = {sample["filter"] for sample in of_lm_eval["hf"]["samples"][name]}
    for key, value in of_lm_eval["hf"]["results"][name].items():
        if isinstance(value, float):
            found = metrics[key if len(filters) > 1 else key.partition(",")[0]]
            assert found.value == pytest.approx(value, rel=1e-5, abs=1e-6)
            assert found.n == 20
            assert found.low <= found.value <= found.high
    assert not result.unscored
    assert next(iter(metrics)).partition(",")[0] in of_lm_eval["hf"]["higher_is_better"][name]
    higher = of_lm_eval["hf"]["higher_is_better"][name]
    assert {name: own.better == "higher" for name, own in metrics.items()} == {
        key: higher[key.partition(",")[0]] for key in metrics
    }
    records = {record["id"]: record for record in map(json.loads, _file(runs[0], name).read_text().splitlines())}
    for sample in of_lm_eval["hf"]["samples"][name]:
        record, response = records[str(sample["doc_id"])], sample["resps"][0][0]
        if isinstance(response, str):
            assert record["outputs"][0]["text"] == response
            if sample["filter"] != "none":
                assert record["statistics"][f"filtered:{sample['filter']}"] == sample["filtered_resps"]
        else:
            expected = [own[0] if isinstance(own[0], float) else own[0][0] for own in sample["resps"]]
            assert record["logprobs"] == pytest.approx(expected, abs=1e-3)


def _file(run, name: str) -> Path:
    return run.folder / run.folder_of(f"lm_eval:{name}") / "documents.jsonl"


def test_audits_compare_these_tasks_without_lm_eval(runs):
    with mock.patch.dict(sys.modules, {"lm_eval": None}):
        audit = compare([str(run.folder) for run in runs], resamples=200)
    found = {f"{row.task}.{row.metric}": row for row in audit.contrasts[0].rows}
    accuracy, perplexity = found["lm_eval:choices.acc"], found["lm_eval:documents.word_perplexity"]
    assert accuracy.headline
    assert accuracy.ability == "capability"
    assert accuracy.p_holm is not None
    for row, name in ((accuracy, "acc"), (perplexity, "word_perplexity")):
        results = [next(own for own in run.results if own.task == row.task) for run in runs]
        before, after = (own.value for result in results for own in result.metrics if own.metric == name)
        assert row.delta == pytest.approx(after - before)
        assert row.low <= row.delta <= row.high
    assert found["lm_eval:translation.bleu"].unit == "points"
    assert "lm_eval:filters.exact_match,first" in found


def test_the_same_settings_resume_and_others_do_not(tasks, models, tmp_path):
    def files(**settings):
        (run,) = evaluate(models[:1], tasks[:1], tmp_path, device="cpu", **settings)
        return read_run(run.folder), run.folders[0], run

    table, folder, run_ = files(limit=6)
    before = files_of(tmp_path)
    again = files(limit=6)
    assert (again[1], files_of(tmp_path)) == (folder, before)
    whole = evaluate(models[:1], tasks[:1], tmp_path / "whole", device="cpu")
    of_all = read_run(whole[0].folder).set_index("id")
    assert len(table) == 6
    for row in table.itertuples():
        assert row.prompt == of_all.loc[row.id].prompt  # the examples do not depend on the limit
    assert {prompt.count(" has") for prompt in table.prompt} == {3}
    shots = [files(limit=6, shots=0), files(limit=6, seed=1), files(limit=6)]
    assert len({own[1] for own in shots}) == 3
    identity = json.loads((run_.folder / folder / "task.json").read_text())
    assert identity["declared"]["lm_eval"]["version"] == identity["data"][0]["source"].split()[1].rstrip(":")
    assert identity["declared"]["headline"] == "acc"
    assert identity["data"][0]["revision"] == identity["declared"]["lm_eval"]["config_sha256"]
    assert str(tmp_path.parent) not in json.dumps(identity)


def test_what_the_engine_does_not_know_is_unscored(tasks):
    task = find_task(tasks[NAMES.index("last_word")])
    document = Document("0", "")
    assert task.score(document, [Loglikelihood(-1.0, 1, greedy=True)]) == {"acc": 1.0}
    assert math.isnan(task.score(document, [Loglikelihood(-1.0, 1)])["acc"])  # an endpoint


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["name"])
def test_tasks_that_cannot_be_evaluated_are_refused_in_one_line(tasks, models, tmp_path, case):
    folder = Path(tasks[0].removeprefix("lm_eval:")).parent
    name = write_task(folder, case["name"], case["text"], case.get("data", ""))
    done = run("evaluate", models[0], "--tasks", name, "--out", tmp_path)
    assert_one_line_error(done, *case["words"])


def test_names_that_lm_eval_does_not_have(tasks, models, tmp_path):
    from lm_eval.tasks import TaskManager

    folder = Path(tasks[0].removeprefix("lm_eval:")).parent
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    with mock.patch("alignbench.tasks.lm_eval._manager", return_value=manager):
        done = run("evaluate", models[0], "--tasks", "lm_eval:choises", "--out", tmp_path)
        assert_one_line_error(done, "lm_eval:choises", "did you mean choices")
        (found,) = evaluate(models[:1], ["lm_eval:s*s", "lm_eval:choices"], tmp_path, limit=2, device="cpu")
    assert [own.task for own in found.results] == ["lm_eval:sentences", "lm_eval:several_contexts", "lm_eval:choices"]
    shown = run("tasks", tasks[NAMES.index("documents")])
    assert shown.returncode == 0
    assert "lm_eval:documents" in shown.stdout
    assert_one_line_error(run("evaluate", models[0], "--tasks", "lm_eval:no.yaml", "--out", tmp_path), "no such file")


def test_without_lm_eval_the_error_names_the_extra():
    with mock.patch.dict(sys.modules, {"lm_eval": None, "lm_eval.tasks": None}):
        assert_refused(r"pip install 'alignbench\[lm-eval\]'", find_task, "lm_eval:gsm8k")


def test_greedy_continuations_and_texts_longer_than_the_window(tokenizer, one_thread):
    model = tiny_model("llama", tokenizer, max_position_embeddings=64)
    engine = engine_of(model, tokenizer, window=16)
    context = tokenizer("the sun", return_tensors="pt").input_ids
    best = tokenizer.decode(model(context).logits[0, -1].argmax())
    texts = ["A barn is old. " * 6, "hay " * 40, "the sun"]
    requests = [Request("the sun", best, greedy=True), Request("the sun", " zzz", greedy=True)]
    requests += [Request("", text, rolling=True) for text in texts]
    found = dict(engine.loglikelihood(requests))
    joined = tokenizer("the sun" + best, return_tensors="pt").input_ids
    assert found[0].greedy is (joined.shape[1] == context.shape[1] + 1)
    assert found[1].greedy is False
    for index, text in enumerate(texts, start=2):
        tokens = [tokenizer.bos_token_id, *tokenizer(text).input_ids]
        expected = 0.0
        for begin in range(1, len(tokens), 16):  # each token once, after as many tokens as fit
            end = min(begin + 16, len(tokens))
            window = torch.tensor([tokens[max(0, end - 17) : end]])
            logprobs = model(window[:, :-1]).logits[0].double().log_softmax(-1)
            expected += sum(logprobs[at - end, tokens[at]].item() for at in range(begin, end))
        assert found[index].logprob == pytest.approx(expected, abs=1e-4)
        assert found[index].tokens == len(tokens) - 1


def test_sums_are_recomputed_from_records_and_other_aggregations_need_lm_eval():
    fields = {"unit": "number", "better": "lower"}
    corpus = {
        "perplexity": {"name": "perplexity", **fields, "aggregation": "weighted_perplexity"},
        "own": {"name": "own", **fields, "aggregation": ""},
    }
    declared = {"title": "t", "ability": "capability", "headline": "perplexity", "group": "", "metrics": []}
    task = recorded_task("lm_eval:x", {**declared, "corpus": corpus, "lm_eval": {}})
    counts = [(-3.0, 2.0), (-8.0, 3.0), (-1.0, 1.0)]
    records = [Record(str(i), "", statistics={"perplexity": own, "own": [i]}) for i, own in enumerate(counts)]
    ((metric, estimate),) = task.corpus.compute(records, True)
    assert (metric.name, estimate.value) == ("perplexity", pytest.approx(math.exp(12 / 6)))
    assert estimate.low < estimate.value < estimate.high
    alone = recorded_task("lm_eval:x", {**declared, "corpus": {"perplexity": corpus["perplexity"]}, "lm_eval": {}})
    drawn = alone.corpus.resample(records)(np.array([[1.0, 1, 1], [2, 0, 1], [0, 0, 0]]))
    assert drawn["perplexity"] == pytest.approx([math.exp(12 / 6), math.exp(7 / 5), math.nan], nan_ok=True)
    folder = SimpleNamespace(task="lm_eval:x", identity={"declared": {"lm_eval": {}, "metrics": 3}})
    assert task_of(folder) is None
