"""GSM8K equals lm-eval's task, and `--samples` with tasks of lm-eval that check answers."""

import json
import sys
from pathlib import Path
from unittest import mock

import pytest
from cases import cases, read_lines, write_lines
from commands import assert_refused
from hypothesis import given
from hypothesis import strategies as st
from task_helpers import load
from tiny import save_tiny_checkpoint

from alignbench.audit.compare import compare
from alignbench.evaluation.config import with_sampling
from alignbench.evaluation.evaluate import evaluate
from alignbench.stats.samples import pass_at_k
from alignbench.tasks import find_task, gsm8k
from alignbench.tasks.common import take_examples
from alignbench.types.record import Document, Output
from alignbench.types.task import Options

SHOTS, TOKENS = 2, 24
PIECES = ("#### ", "18", "1,800", "$5", "-3", ".", ",", " ", "\n", "x", "0.5", "$")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9)


@pytest.fixture(scope="module")
def task(world, tmp_path_factory) -> str:
    """lm-eval's gsm8k with the farm's problems, and the examples that our task draws from them."""
    lm_eval = pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    train = read_lines(world / "gsm8k" / "train.jsonl")
    examples, _ = take_examples(train, Options(shots=SHOTS), "gsm8k")
    files = {"train": write_lines(folder / "train.jsonl", examples), "test": world / "gsm8k" / "test.jsonl"}
    own = (Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text()
    stop = '  until: ["Question:", "</s>", "<|im_end|>"]\n'
    data = json.dumps({name: str(file) for name, file in files.items()})
    lines = own.replace("task: gsm8k\n", "task: farm_gsm8k\n").replace("dataset_name: main\n", "")
    lines = lines.replace("dataset_path: openai/gsm8k", f"dataset_path: json\ndataset_kwargs: {{data_files: {data}}}")
    lines = lines.replace("num_fewshot: 5", f"num_fewshot: {SHOTS}\nfewshot_config: {{sampler: first_n}}")
    before, _, after = lines.partition("generation_kwargs:\n")
    after = after[after.index("  do_sample") :]
    file = folder / "farm_gsm8k.yaml"
    file.write_text(f"{before}generation_kwargs:\n{stop}  max_gen_toks: {TOKENS}\n{after}")
    return f"lm_eval:{file}"


def test_greedy_outputs_and_both_accuracies_equal_those_of_lm_eval(task, farm_model, world, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    settings = {"limit": 4, "device": "cpu", "dtype": "float32", "gen_kwargs": {"max_tokens": TOKENS}}
    (run,) = evaluate([str(farm_model)], ["gsm8k"], tmp_path, shots=SHOTS, data_dir=world, **settings)
    theirs = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": str(farm_model), "dtype": "float32"}, device="cpu", bootstrap_iters=0,
        tasks=[task.removeprefix("lm_eval:")], task_manager=TaskManager(include_defaults=False),
    )  # fmt: skip
    samples = {(own["doc_id"], own["filter"]): own for own in theirs["samples"]["farm_gsm8k"]}
    prefix = load("gsm8k", world, shots=SHOTS).prefix
    for record in read_lines(run.folder / run.folders[0] / "documents.jsonl"):
        for name, ours in (("strict-match", "strict_match"), ("flexible-extract", "flexible_extract")):
            own = samples[int(record["id"]), name]
            assert prefix + record["prompt"] == own["arguments"][0][0]
            assert record["outputs"][0]["text"] == own["resps"][0][0]
            assert record["metrics"][ours] == own["exact_match"]


@pytest.fixture(scope="module")
def of_lm_eval(task):
    """lm-eval's task as one of ours."""
    return find_task(task).generation.score.__self__


@given(TEXTS, TEXTS)
def test_both_extractions_equal_lm_evals(of_lm_eval, pieces, right):
    text, answer = "".join(pieces), f"So.\n#### {''.join(right)}"
    with mock.patch.dict(of_lm_eval.docs[0], {"answer": answer}):
        theirs = of_lm_eval.score(Document("0", ""), [Output(text)])
    ours = gsm8k.score(Document("0", "", references=(answer,)), [Output(text)])
    assert theirs["exact_match,strict-match"] == ours["strict_match"]
    assert theirs["exact_match,flexible-extract"] == ours["flexible_extract"]


def test_tasks_of_lm_eval_take_several_samples(tmp_path, one_thread):
    pytest.importorskip("lm_eval")
    write_lines(tmp_path / "test.jsonl", [{"text": f"The cow is in barn {n}"} for n in range(6)])
    data = json.dumps({"test": str(tmp_path / "test.jsonl")})
    vowels = f"task: vowels\ndataset_path: json\ndataset_kwargs: {{data_files: {data}}}\n" + cases("lm_eval")["vowels"]
    (tmp_path / "vowels.yaml").write_text(vowels)
    task, models = (
        f"lm_eval:{tmp_path / 'vowels.yaml'}",
        [str(save_tiny_checkpoint(tmp_path / str(seed), seed=seed)) for seed in (1, 2)],
    )
    settings = {"device": "cpu", "dtype": "float32", "gen_kwargs": {"temperature": 1.0}, "samples": 4}
    runs = evaluate(models, [task], tmp_path / "runs", **settings)
    folder = runs[0].folder / runs[0].folders[0]
    assert json.loads((folder / "task.json").read_text())["sampling"]["samples"] == 4
    numbers = set()
    for record in read_lines(folder / "documents.jsonl"):
        found = [next((c for c in own["text"].lower() if c in "aeiou"), "[invalid]") for own in record["outputs"]]
        assert record["statistics"]["filtered:first"] == found
        right, metrics = found.count("a"), record["metrics"]
        assert metrics["exact_match,first"] == metrics["pass_at_1"] == right / 4
        assert metrics["pass_at_2"] == pytest.approx(pass_at_k(4, right, 2))
        assert metrics["distinct_answers"] == len(set(found) - {"[invalid]"})
        numbers.add(right)
    assert len(numbers) > 1
    with mock.patch.dict(sys.modules, {"lm_eval": None}):
        (contrast,) = compare([str(run.folder) for run in runs], resamples=100).contrasts
    rows = {row.metric: row for row in contrast.rows}
    assert rows["exact_match,first"].primary
    assert rows["pass_at_4"].low <= rows["pass_at_4"].delta <= rows["pass_at_4"].high


def test_a_task_without_an_exact_metric_takes_none(tmp_path):
    pytest.importorskip("lm_eval")
    write_lines(tmp_path / "test.jsonl", [{"place": "barn", "text": "hay"}])
    data = json.dumps({"test": str(tmp_path / "test.jsonl")})
    files = f"dataset_path: json\ndataset_kwargs: {{data_files: {data}}}\ntest_split: test\n"
    for name, takes in (("translation", False), ("filters", True)):
        text = cases("lm_eval")["tasks"][name].replace("fewshot_split: train\nnum_fewshot: 1\n", "")
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"task: own_{name}\n{files}{text}")
        found = find_task(f"lm_eval:{file}")
        assert found.takes("samples") == takes
        repeated = with_sampling(found, {"temperature": 1.0}, 4)
        assert repeated.generation.sampling.samples == (4 if takes else 1)
        assert ("maj_at_4" in {metric.name for metric in repeated.metrics}) == takes
        if takes:
            assert found.generation.check.metric == "exact_match,first"
            answer = found.generation.check.answer
            assert [answer(Document("0", ""), Output(text)) for text in ("  B!", "!")] == ["b", None]
            assert_refused("4 samples at temperature 0 are equal", with_sampling, found, {}, 4)
