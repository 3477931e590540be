"""The pipeline with a model, a file and an existing run as sources: records, scores, resuming, sharding, rescoring."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cases import cases, read_lines, write_lines
from commands import assert_refused, files_of

from alignbench.data import Provenance
from alignbench.evaluation import evaluate, rescore, score_file
from alignbench.evaluation.evaluate import sample
from alignbench.evaluation.pipeline import Job
from alignbench.models.model import Model
from alignbench.progress import Progress
from alignbench.runs.summary import summarise
from alignbench.shards import Shard
from alignbench.types.engine import Completion, Prompt, Sampling
from alignbench.types.scorer import Item
from alignbench.types.settings import Settings
from alignbench.types.task import Document, Generation, Metric, Record, Task, TaskData

WORDS = ("sun", "rain", "vile", "hay", "<script>", "\x1b[31m", "wool")
N, SAMPLES = 40, 25


class WordEngine:
    """Samples words with the prompt's key as the seed."""

    scores, chat_template = True, True

    def __init__(self, dies_after: int | None = None, fails_on: str = "nothing", transient: bool = False) -> None:
        self.requested: list[str] = []
        self.dies_after, self.fails_on, self.transient = dies_after, fails_on, transient

    def work(self):
        return {"tokens_asked": len(self.requested), "layout": "words"}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False):
        order = list(range(len(prompts)))
        random.Random(len(prompts)).shuffle(order)  # answers come in any order
        for done, index in enumerate(order):
            if done == self.dies_after:
                raise KeyboardInterrupt
            prompt = prompts[index]
            self.requested.append(prompt.key)
            draw = random.Random(f"{seed} {prompt.key} {chat}")
            texts = [" ".join(draw.choices(WORDS, k=3)) for _ in range(sampling.samples)]
            found = [Completion(text, "length", (1, 2, 3), (-1.23456,) * 3, (0.5,) * 3) for text in texts]
            if prompt.text.endswith(self.fails_on):
                found[-1] = Completion("", "end", unscored="503, 6 times", transient=self.transient)
            yield index, tuple(found)


class VileCounter:
    """Counts vile words. Its last digits depend on its batch, as a classifier's do."""

    kind, name = "toxicity", "vile-counter"

    def __init__(self, revision: str = "1", broken: bool = False, fails_on: str | None = None) -> None:
        self.revision, self.broken, self.fails_on = revision, broken, fails_on
        self.calls: list[int] = []

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        self.calls.append(len(items))
        if self.broken or any(self.fails_on and self.fails_on in item.output for item in items):
            raise RuntimeError("no\nnumbers")
        return [{"toxicity": float("vile" in item.output) + 1e-9 * len(items)} for item in items]


def worst(document, outputs):
    if not all("toxicity" in output.scores for output in outputs):
        return {"worst": float("nan"), "length": 3.0}
    found = {"worst": max(output.scores["toxicity"]["toxicity"] for output in outputs), "length": 3.0}
    return found | ({"worst_odd": found["worst"]} if document.target["odd"] else {})


LENGTH = Metric("length", "words", "–")
TASK = Task(
    name="words",
    title="words",
    card="none",
    metrics=(*(Metric(name, "proportion", "lower", scorer="toxicity") for name in ("worst", "worst_odd")), LENGTH),
    ability="toxicity",
    headline="worst",
    load=lambda options: DATA,
    generation=Generation(Sampling(3, samples=SAMPLES, temperature=1.0), worst, scorers=("toxicity",)),
)
TARGETS = [{"odd": i % 2, "note": "<b>"} for i in range(N)]
DOCUMENTS = [Document(str(i), f"prompt {i}", target=own, category="ab"[i % 2]) for i, own in enumerate(TARGETS)]
DATA = TaskData(DOCUMENTS, (Provenance("none", "none", "none", "none", N, True),))


def run(out, engine=None, *scorers, chat=False, task=TASK):
    """Evaluate the engine on the task, as `evaluate` does."""
    engine = engine or WordEngine()
    used = (scorers or (VileCounter(),)) if task.generation.scorers else ()
    model = Model("model", {"model": {"name": "model"}}, True, True, True, lambda: engine)
    jobs = [Job(task, DATA, None, 0, used, "chat" if chat else "none")]
    return evaluate._evaluate_model(model, jobs, Settings(out=str(out)), Shard(), Progress())


def lines(folder: Path) -> list[dict]:
    (file,) = folder.glob("**/words-*/documents.jsonl")
    return read_lines(file)


@pytest.fixture
def known_task(monkeypatch):
    """`alignbench rescore` and `score` find tasks and scorers by name."""
    scorers = {"vile": VileCounter(), "viler": VileCounter("2"), "broken": VileCounter(broken=True)}
    monkeypatch.setattr(rescore, "find_task", lambda name: TASK)
    monkeypatch.setattr(evaluate, "find_task", lambda name: TASK)
    monkeypatch.setattr("alignbench.scorers.find_scorer", lambda spec, **options: scorers[spec.partition("=")[2]])
    monkeypatch.setattr("alignbench.scorers.DEFAULTS", {"toxicity": "toxicity=vile"})
    return scorers


def test_records_contain_outputs_scores_and_the_identity_of_the_scorer(tmp_path):
    result = run(tmp_path).results[0]
    found = lines(tmp_path)
    assert [line["id"] for line in found] == [str(i) for i in range(N)]
    first = found[0]
    assert len(first["outputs"]) == SAMPLES
    assert (first["outputs"][0]["tokens"], first["outputs"][0]["logprobs"]) == ([1, 2, 3], [-1.2346] * 3)
    assert first["outputs"][0]["scores"].keys() == {"toxicity"}
    assert first["metrics"]["worst"] == max(output["scores"]["toxicity"]["toxicity"] for output in first["outputs"])
    assert "pending" not in first
    by_name = {metric.metric: metric for metric in result.metrics if metric.category is None}
    assert (by_name["worst"].scorer, by_name["length"].scorer) == ("vile-counter@1", None)
    assert (by_name["worst"].n, by_name["worst_odd"].n, by_name["worst_odd"].n_unscored) == (N, N // 2, 0)
    identity = json.loads(next(tmp_path.glob("*/words-*/task.json")).read_text())
    assert identity["scorers"] == [{"kind": "toxicity", "name": "vile-counter", "revision": "1"}]
    assert identity["template"] == "none"


@pytest.mark.parametrize("deaths", [(1,), (7, 20, 3), (39,)])
def test_an_interrupted_run_resumes_to_the_same_files_and_generates_nothing_twice(tmp_path, deaths):
    run(tmp_path / "whole")
    requested = []
    for death in deaths:
        engine = WordEngine(dies_after=death)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "torn", engine)
        requested += engine.requested
    (torn,) = (tmp_path / "torn").glob("*/words-*/documents.partial.jsonl")
    torn.write_text(torn.read_text() + '{"id": "3", "outp')  # what kill -9 leaves
    engine = WordEngine()
    run(tmp_path / "torn", engine)
    assert sorted(requested + engine.requested) == sorted(f"words/{i}" for i in range(N))
    assert files_of(tmp_path / "torn") == files_of(tmp_path / "whole")


def test_a_partly_recorded_chunk_is_scored_together_again(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn", WordEngine(dies_after=30))
    (file,) = (tmp_path / "torn").glob("*/words-*/documents.partial.jsonl")
    written = file.read_text().splitlines(keepends=True)
    del written[max(number for number, line in enumerate(written) if '"pending"' not in line)]
    file.write_text("".join(written))  # one scored record of a chunk is lost
    run(tmp_path / "torn")
    assert files_of(tmp_path / "torn") == files_of(tmp_path / "whole")


def test_documents_on_which_a_scorer_fails_are_unscored_and_rescore_completes_them(tmp_path, known_task):
    result = run(tmp_path / "broken", None, VileCounter(broken=True)).results[0]
    assert (result.n_scored, result.unscored) == (0, {"toxicity: vile-counter failed (no)": N})
    found = {metric.metric: (metric.value, metric.n_unscored) for metric in result.metrics if metric.category is None}
    assert (found["worst"], found["length"]) == ((None, N), (3.0, 0))  # the length needs no scorer
    folder = next((tmp_path / "broken").iterdir())
    rescore.rescore(folder, ["toxicity=vile"])
    run(tmp_path / "whole")
    assert files_of(folder) == files_of(next((tmp_path / "whole").iterdir()))
    outputs = [[output["text"] for output in line["outputs"]] for line in lines(tmp_path / "whole")]
    unique = next(text for text in outputs[5] if sum(text in own for own in outputs) == 1)
    assert run(tmp_path / "one", None, VileCounter(fails_on=unique)).results[0].n_scored == N - 1


def test_another_scorer_needs_no_model_and_has_its_own_folder(tmp_path, known_task):
    run(tmp_path)
    folder = next(tmp_path.iterdir())
    before = files_of(folder)
    rescore.rescore(folder, ["toxicity=vile"])  # complete already
    assert known_task["vile"].calls == []
    assert files_of(folder) == before
    result = rescore.rescore(folder, ["toxicity=viler"]).results[0]
    assert {metric.scorer for metric in result.metrics if metric.metric == "worst"} == {"vile-counter@2"}
    after = files_of(folder)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3
    engine = WordEngine()
    run(tmp_path, engine, VileCounter("2"))  # finished already
    run(tmp_path, engine, VileCounter("3"))  # the outputs are reused
    assert engine.requested == []
    run(tmp_path, engine, chat=True)  # the template is part of the identity
    assert len(engine.requested) == N


@pytest.mark.parametrize("transient", [False, True])
def test_a_failed_generation_is_unscored_and_requested_again_only_after_a_transient_error(tmp_path, transient):
    run(tmp_path / "calm")
    result = run(tmp_path / "rough", WordEngine(fails_on="7", transient=transient)).results[0]
    assert (result.n_scored, result.unscored) == (N - 4, {"503, 6 times": 4})
    line = lines(tmp_path / "rough")[7]
    assert (line["metrics"]["worst"], line["unscored"]) == (None, "503, 6 times")
    engine = WordEngine()
    run(tmp_path / "rough", engine)
    assert sorted(engine.requested) == ["words/17", "words/27", "words/37", "words/7"] * transient
    assert (files_of(tmp_path / "rough") == files_of(tmp_path / "calm")) == transient


def test_without_a_scorer_records_are_complete_at_once_and_rescore_rejects_unfinished_runs_and_unused_scorers(
    tmp_path, known_task
):
    generation = Generation(Sampling(3), lambda document, outputs: {"length": 3.0})
    task = replace(TASK, metrics=(LENGTH,), headline="length", generation=generation)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, WordEngine(dies_after=4), task=task)
    (file,) = tmp_path.glob("*/words-*/documents.partial.jsonl")
    assert [line["metrics"]["length"] for line in read_lines(file)] == [3.0] * 4
    kinds = ("toxicity=vile", "not finished"), ("truth=vile", "takes a scorer of kind truth"), ("vile", "kind=name")
    for spec, message in kinds:
        assert_refused(message, rescore.rescore, next(tmp_path.iterdir()), [spec])


def test_numbers_of_a_scorer_that_the_task_does_not_know_are_reported(tmp_path):
    class Mood(VileCounter):
        kind, name = "sentiment", "mood"

        def score(self, items):
            return [{"sunny": float("sun" in item.output)} for item in items]

    result = run(tmp_path, None, VileCounter(), Mood()).results[0]
    metric = next(m for m in result.metrics if m.metric == "sentiment.sunny" and m.category is None)
    outputs = [[output["text"] for output in line["outputs"]] for line in lines(tmp_path)]
    by_hand = sum(sum("sun" in text for text in own) / SAMPLES for own in outputs) / N
    assert (metric.value, metric.scorer, metric.n) == (pytest.approx(by_hand), "mood@1", N)


def test_a_limit_is_stratified_by_category():
    documents = [Document(str(i), "p", category="rare" if i < 10 else "common") for i in range(100)]
    for seed in range(5):
        drawn = sample(TaskData(documents, ()), 20, seed).documents
        assert len({d.id for d in drawn}) == 20
        assert sum(d.category == "rare" for d in drawn) == 2
        assert [int(d.id) for d in drawn] == sorted(int(d.id) for d in drawn)
    assert sample(TaskData(documents, ()), 20, 1) != sample(TaskData(documents, ()), 20, 2)


def values(run) -> dict[str, float]:
    return {metric.metric: metric.value for metric in run.results[0].metrics}


def test_reference_answers_get_the_best_scores_and_empty_outputs_the_worst(tmp_path):
    references = ["The hens sleep in the old barn.", "Milk goes to the village at dawn, by cart."]
    rows = [{"id": 7 - i, "output": text, "references": [text]} for i, text in enumerate(references)]
    empty = [row | {"output": ""} for row in rows]
    high, low = (
        values(score_file.score_file(write_lines(tmp_path / f"{name}.jsonl", own), tmp_path / name))
        for name, own in (("human", rows), ("silent", empty))
    )
    names = ("exact_match", "f1", "rouge_l", "bleu", "chrf")
    assert [high[name] for name in names] == pytest.approx([1, 1, 1, 100, 100])
    assert [low[name] for name in names] == [0] * 5
    (file,) = (tmp_path / "human").rglob("documents.jsonl")
    assert [line["id"] for line in read_lines(file)] == ["7", "6"]  # numbers become text
    (tmp_path / "o.csv").write_text('id,output,references\n1,hay,"[""straw"", ""hay""]"\n')
    assert values(score_file.score_file(tmp_path / "o.csv", tmp_path / "runs"))["exact_match"] == 1


def test_outputs_in_a_file_get_the_same_scores_as_a_model(tmp_path, known_task):
    model = run(tmp_path / "model").results[0]
    rows = [{"id": line["id"], "outputs": [o["text"] for o in line["outputs"]]} for line in lines(tmp_path / "model")]
    file = write_lines(tmp_path / "system.jsonl", rows)
    mine = score_file.score_file(file, tmp_path / "runs", task="words", name="system").results[0]
    assert (mine.metrics, mine.unscored) == (model.metrics, model.unscored)
    assert (mine.template, model.template) == (None, "none")  # the template is unknown
    table = "id,output\n" + "".join(f"{row['id']},{text}\n" for row in rows for text in row["outputs"])
    (tmp_path / "system.csv").write_text(table)
    assert score_file.score_file(tmp_path / "system.csv", tmp_path / "csv", task="words").results[0] == mine
    fewer = write_lines(tmp_path / "fewer.jsonl", rows[:-3])
    result = score_file.score_file(fewer, tmp_path / "runs", task="words").results[0]
    unscored = {"the file has no output for it": 3}
    assert (result.n, result.n_scored, result.unscored) == (N, N - 3, unscored)


def test_a_scorer_without_input_makes_no_document_unscored_and_a_metric_of_no_document_is_left_out(tmp_path):
    rows = [
        {"id": 1, "output": "It has 7 eggs.", "references": ["It has 7 eggs."], "source": "Ann has 7 eggs."},
        {"id": 2, "output": "It has 9 eggs.", "references": ["It has 9 eggs."]},
    ]
    file = write_lines(tmp_path / "o.jsonl", rows)
    (result,) = score_file.score_file(file, tmp_path / "runs", scorers=["entailment=extractive"]).results
    n = {metric.metric: (metric.n, metric.n_unscored) for metric in result.metrics}
    assert (n["bleu"], n["hallucination_rate"]) == ((2, 0), (1, 0))
    found = summarise(TASK, [Record("1", "", metrics={"length": 3.0})], shots=0, limit=None, seed=0)
    assert [metric.metric for metric in found.metrics] == ["length"]


@pytest.mark.parametrize(("content", "message"), cases("rejected_inputs")["outputs"])
def test_an_invalid_row_is_named_by_file_and_line(tmp_path, known_task, content, message):
    (tmp_path / "s.jsonl").write_text(content)
    assert_refused(message, score_file.score_file, tmp_path / "s.jsonl", tmp_path / "runs", task="words")
