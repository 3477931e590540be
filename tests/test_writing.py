"""Tasks in which the model writes: what is kept, judged, resumed, judged again, and never lost."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignbench.data import Provenance
from alignbench.errors import AlignbenchError
from alignbench.evaluation import evaluate, rescore, score_file
from alignbench.evaluation.evaluate import Job, draw
from alignbench.models.model import Model
from alignbench.progress import Progress
from alignbench.runs.summary import summarise
from alignbench.shards import Shard
from alignbench.types.engine import Completion, Prompt, Sampling
from alignbench.types.scorer import Item
from alignbench.types.task import Document, Generation, Metric, Task, TaskData

WORDS = ("sun", "rain", "vile", "hay", "<script>", "\x1b[31m", "wool")
N, SAMPLES = 40, 25


class Writer:
    """An engine that draws words from a prompt's key."""

    scores, chat_template = True, True

    def __init__(self, dies_after: int | None = None, fails_on: str = "nothing") -> None:
        self.asked: list[str] = []
        self.dies_after = dies_after
        self.fails_on = fails_on

    def work(self):
        return {"tokens_asked": len(self.asked), "layout": "words"}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False):
        order = list(range(len(prompts)))
        random.Random(len(prompts)).shuffle(order)  # answers come in any order
        for done, index in enumerate(order):
            if done == self.dies_after:
                raise KeyboardInterrupt
            prompt = prompts[index]
            self.asked.append(prompt.key)
            if prompt.text.endswith(self.fails_on):
                yield index, (Completion("", "end", unscored="the endpoint gave up"),) * sampling.samples
                continue
            draw = random.Random(f"{seed} {prompt.key} {chat}")
            texts = [" ".join(draw.choices(WORDS, k=3)) for _ in range(sampling.samples)]
            yield index, tuple(Completion(text, "length", (1, 2, 3), (-1.23456,) * 3, (0.5,) * 3) for text in texts)


class Judge:
    """Counts vile words. Its last digits depend on its batch, as a classifier's do."""

    kind, name = "toxicity", "vile-counter"

    def __init__(self, revision: str = "1", broken: bool = False, poison: str | None = None) -> None:
        self.revision, self.broken, self.poison = revision, broken, poison
        self.calls: list[int] = []

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        self.calls.append(len(items))
        if self.broken or any(self.poison and self.poison in item.output for item in items):
            raise RuntimeError("no\nnumbers")
        return [{"toxicity": float("vile" in item.output) + 1e-9 * len(items)} for item in items]


def worst(document, outputs):
    if not all("toxicity" in output.scores for output in outputs):
        return {"worst": float("nan"), "length": 3.0}
    found = {"worst": max(output.scores["toxicity"]["toxicity"] for output in outputs), "length": 3.0}
    return found | ({"worst_odd": found["worst"]} if document.target["odd"] else {})


TASK = Task(
    name="words",
    version=1,
    title="words",
    card="none",
    metrics=(
        Metric("worst", "share", "lower", scorer="toxicity"),
        Metric("worst_odd", "share", "lower", scorer="toxicity"),
        Metric("length", "words", "–"),
    ),
    group="none",
    headline="worst",
    load=lambda options: DATA,
    generation=Generation(Sampling(3, samples=SAMPLES, temperature=1.0), worst, scorers=("toxicity",)),
)
DATA = TaskData(
    [
        Document(str(i), f"prompt {i}", target={"odd": i % 2}, category="ab"[i % 2], details={"note": "<b>"})
        for i in range(N)
    ],
    (Provenance("none", "none", "none", "none", N, True),),
)


def run(out: Path, writer: Writer | None = None, judge: Judge | None = None, chat: bool = False, task: Task = TASK):
    """Evaluate the writer on the task, as `evaluate` does."""
    writer, judge = writer or Writer(), judge or Judge()
    scorers = (judge,) if task.generation.scorers else ()
    model = Model("writer", {"model": {"name": "writer"}}, True, True, True, lambda: writer)
    job = Job(task, DATA, None, 0, scorers)
    return evaluate._evaluate_model(model, [job], out, "chat" if chat else "none", Shard(), Progress())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("log.jsonl", ".lock")
    }


def records(folder: Path) -> list[dict]:
    (file,) = folder.glob("words-*/documents.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def known_task(monkeypatch):
    """`alignbench rescore` and `score` look tasks and scorers up by name."""
    judges = {"vile": Judge(), "viler": Judge("2"), "broken": Judge(broken=True)}
    monkeypatch.setattr(rescore, "find_task", lambda name: TASK)
    monkeypatch.setattr(evaluate, "find_task", lambda name: TASK)

    def find(spec, **options):
        return judges[spec.partition("=")[2]]

    monkeypatch.setattr("alignbench.scorers.find_scorer", find, raising=False)
    monkeypatch.setattr("alignbench.scorers.DEFAULTS", {"toxicity": "toxicity=vile"}, raising=False)
    return judges


def test_what_was_written_is_kept_with_its_raw_scores_and_the_scorer_is_named(tmp_path):
    result = run(tmp_path).results[0]
    found = records(result_folder := next(tmp_path.iterdir()))
    assert [record["id"] for record in found] == [str(i) for i in range(N)]
    first = found[0]
    assert len(first["outputs"]) == SAMPLES
    assert first["outputs"][0]["tokens"] == [1, 2, 3]
    assert first["outputs"][0]["logprobs"] == [-1.2346] * 3
    assert first["outputs"][0]["scores"].keys() == {"toxicity"}
    assert first["worst"] == max(output["scores"]["toxicity"]["toxicity"] for output in first["outputs"])
    assert "pending" not in first
    by_name = {metric.metric: metric for metric in result.metrics if metric.category is None}
    assert by_name["worst"].scorer == "vile-counter@1"
    assert by_name["length"].scorer is None
    identity = json.loads(next(result_folder.glob("words-*/task.json")).read_text())
    assert identity["scorers"] == [{"kind": "toxicity", "name": "vile-counter", "revision": "1"}]
    assert identity["template"] == "none"


def test_a_metric_counts_the_documents_that_it_applies_to(tmp_path):
    metrics = {metric.metric: metric for metric in run(tmp_path).results[0].metrics if metric.category is None}
    assert (metrics["worst"].n, metrics["worst_odd"].n) == (N, N // 2)
    assert metrics["worst_odd"].n_unscored == 0


@pytest.mark.parametrize("deaths", [(1,), (7, 20, 3), (39,)])
def test_a_run_that_died_writes_the_same_files_and_asks_for_nothing_twice(tmp_path, deaths):
    run(tmp_path / "whole")
    asked = []
    for death in deaths:
        writer = Writer(dies_after=death)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "torn", writer)
        asked += writer.asked
    (torn,) = (tmp_path / "torn").glob("*/words-*/documents.partial.jsonl")
    with torn.open("a") as stream:
        stream.write('{"id": "3", "outp')  # what kill -9 leaves
    writer = Writer()
    run(tmp_path / "torn", writer)
    asked += writer.asked
    assert sorted(asked) == sorted({f"words/{i}" for i in range(N)})
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


def test_a_chunk_that_was_half_recorded_is_judged_in_the_same_company(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn", Writer(dies_after=30))
    (file,) = (tmp_path / "torn").glob("*/words-*/documents.partial.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"pending"' not in line)
    file.write_text("".join(lines[:last] + lines[last + 1 :]))  # one judged record of a chunk is lost
    run(tmp_path / "torn")
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


def test_three_processes_write_what_one_does(tmp_path):
    run(tmp_path / "one")
    model = Model("writer", {"model": {"name": "writer"}}, True, True, True, Writer)
    path = next((tmp_path / "one").iterdir()).name
    for rank in (1, 2, 0):  # the first process sums up, so it comes last here

        class Alone(Shard):
            def wait(self):
                pass

        (tmp_path / "three" / path).mkdir(parents=True, exist_ok=True)
        shard = Alone(rank, 3)
        job = Job(TASK, DATA, None, 0, (Judge(),))
        folder = tmp_path / "three" / path
        if rank:
            identity = job.identity(False)
            task_folder = evaluate.RunFolder(folder, Alone(0, 1)).task("words", identity)
            mine = evaluate.RunFolder(folder, shard)
            size = evaluate.chunk_size(TASK)
            own = [d for number, d in enumerate(DATA.documents) if shard.owns(number // size)]
            evaluate.write_documents(
                Writer(), TASK, DATA, own, job.scorers, type(task_folder)(task_folder.path, shard), Progress(),
                seed=0, chat=False, done=(), earlier={},
            )  # fmt: skip
            assert mine.tasks()
        else:
            evaluate._evaluate_model(model, [job], tmp_path / "three", "none", shard, Progress())
    found = files(tmp_path / "three")
    assert found == files(tmp_path / "one")


def test_the_template_is_part_of_what_was_asked(tmp_path):
    run(tmp_path)
    run(tmp_path, chat=True)
    assert len(list(next(tmp_path.iterdir()).glob("words-*"))) == 2


def test_a_scorer_that_fails_leaves_its_documents_unscored_and_counted_and_rescore_completes_them(tmp_path, known_task):
    result = run(tmp_path, judge=Judge(broken=True)).results[0]
    assert result.n_scored == 0
    assert result.unscored == {"toxicity: vile-counter failed (no)": N}
    by_name = {metric.metric: metric for metric in result.metrics if metric.category is None}
    assert (by_name["worst"].value, by_name["worst"].n_unscored) == (None, N)
    assert by_name["length"].value == 3.0  # what needs no scorer is there
    folder = next(tmp_path.iterdir())
    known_task["broken"].revision = "1"
    rescore.rescore(folder, ["toxicity=vile"])
    run(tmp_path / "whole")
    assert files(folder) == files(next((tmp_path / "whole").iterdir()))


def test_one_poisoned_text_costs_its_own_document_alone(tmp_path):
    run(tmp_path / "whole")
    texts = [output["text"] for output in records(next((tmp_path / "whole").iterdir()))[5]["outputs"]]
    poison = next(text for text in texts if sum(text in line for line in open_lines(tmp_path / "whole")) == 1)
    result = run(tmp_path / "one", judge=Judge(poison=poison)).results[0]
    assert result.n_scored == N - 1


def open_lines(out: Path) -> list[str]:
    (file,) = out.glob("*/words-*/documents.jsonl")
    return [json.dumps([o["text"] for o in json.loads(line)["outputs"]]) for line in file.read_text().splitlines()]


def test_another_scorer_needs_no_model_and_stands_in_a_folder_of_its_own(tmp_path, known_task):
    run(tmp_path)
    folder = next(tmp_path.iterdir())
    before = files(folder)
    result = rescore.rescore(folder, ["toxicity=viler"])
    assert {metric.scorer for metric in result.results[0].metrics if metric.metric == "worst"} == {"vile-counter@2"}
    after = files(folder)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3
    writer = Writer()
    run(tmp_path, writer, Judge("2"))  # evaluate finds it done
    assert writer.asked == []
    run(tmp_path, writer, Judge("3"))  # and asks the model for nothing that it has written before
    assert writer.asked == []


def test_rescoring_what_is_complete_does_nothing(tmp_path, known_task):
    run(tmp_path)
    folder = next(tmp_path.iterdir())
    before = files(folder)
    rescore.rescore(folder, ["toxicity=vile"])
    assert known_task["vile"].calls == []
    assert files(folder) == before


def test_rescore_says_what_it_cannot_do(tmp_path, known_task):
    with pytest.raises(AlignbenchError, match=r"no run folder"):
        rescore.rescore(tmp_path, ["toxicity=vile"])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Writer(dies_after=4))
    folder = next(tmp_path.iterdir())
    with pytest.raises(AlignbenchError, match="not finished"):
        rescore.rescore(folder, ["toxicity=vile"])
    with pytest.raises(AlignbenchError, match="takes a scorer of kind truth"):
        rescore.rescore(folder, ["truth=vile"])
    with pytest.raises(AlignbenchError, match="kind=name"):
        rescore.rescore(folder, ["vile"])


def test_what_the_model_could_not_write_is_unscored_and_never_a_zero(tmp_path):
    result = run(tmp_path, Writer(fails_on="prompt 7")).results[0]
    assert result.n_scored == N - 1
    assert result.unscored == {"the endpoint gave up": 1}
    seven = records(next(tmp_path.iterdir()))[7]
    assert seven["worst"] is None
    assert seven["unscored"] == "the endpoint gave up"


def test_a_task_without_a_scorer_is_judged_as_it_comes(tmp_path):
    task = Task(
        "words", 1, "words", "none", (Metric("length", "words", "–"),), "none", "length", lambda options: DATA,
        generation=Generation(Sampling(3), lambda document, outputs: {"length": 3.0}),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Writer(dies_after=4), task=task)
    (file,) = tmp_path.glob("*/words-*/documents.partial.jsonl")
    assert [json.loads(line).get("length") for line in file.read_text().splitlines()] == [3.0] * 4


def test_a_limit_takes_its_share_of_every_category():
    documents = [Document(str(i), "p", category="rare" if i < 10 else "common") for i in range(100)]
    for seed in range(5):
        drawn = draw(TaskData(documents, ()), 20, seed).documents
        assert len({d.id for d in drawn}) == 20
        assert sum(d.category == "rare" for d in drawn) == 2
        assert [int(d.id) for d in drawn] == sorted(int(d.id) for d in drawn)
    assert draw(TaskData(documents, ()), 20, 1) != draw(TaskData(documents, ()), 20, 2)


# ---- outputs of a file --------------------------------------------------------------------------------------


def write_lines(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_reference_answers_reach_the_ceiling_and_empty_ones_the_floor(tmp_path):
    references = ["The hens sleep in the old barn.", "Milk goes to the village at dawn, by cart."]
    ceiling = write_lines(
        tmp_path / "human.jsonl", [{"id": i, "output": r, "references": [r]} for i, r in enumerate(references)]
    )
    floor = write_lines(
        tmp_path / "silent.jsonl", [{"id": i, "output": "", "references": [r]} for i, r in enumerate(references)]
    )
    high = {m.metric: m.value for m in score_file.score_file(ceiling, tmp_path / "runs").results[0].metrics}
    low = {m.metric: m.value for m in score_file.score_file(floor, tmp_path / "runs").results[0].metrics}
    assert (high["exact_match"], high["f1"], high["rouge_l"]) == (1, 1, 1)
    assert (high["bleu"], high["chrf"]) == (pytest.approx(100), pytest.approx(100))
    assert (low["exact_match"], low["f1"], low["rouge_l"], low["bleu"], low["chrf"]) == (0, 0, 0, 0, 0)


def test_outputs_of_another_system_are_scored_as_a_checkpoints_are(tmp_path, known_task):
    run(tmp_path / "model")
    rows = [
        {"id": record["id"], "outputs": [output["text"] for output in record["outputs"]]}
        for record in records(next((tmp_path / "model").iterdir()))
    ]
    file = write_lines(tmp_path / "system.jsonl", rows)
    mine = score_file.score_file(file, tmp_path / "runs", task="words", name="system").results[0]
    model = run(tmp_path / "model").results[0]
    assert (mine.metrics, mine.unscored) == (model.metrics, model.unscored)
    assert (mine.template, model.template) == (None, "none")  # nobody knows how they were asked for
    table = "id,output\n" + "".join(f"{row['id']},{text}\n" for row in rows for text in row["outputs"])
    (tmp_path / "system.csv").write_text(table)
    assert score_file.score_file(tmp_path / "system.csv", tmp_path / "csv", task="words").results[0] == mine


def test_ids_are_what_they_look_like_and_zero_is_one(tmp_path):
    rows = [{"id": i, "output": f"answer {i}", "references": [f"answer {i}"]} for i in (2, 1, 0)]
    result = score_file.score_file(write_lines(tmp_path / "o.jsonl", rows), tmp_path / "runs")
    assert result.results[0].n == 3
    file = next(result.folder.glob("outputs-*/documents.jsonl"))
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["2", "1", "0"]


def test_a_list_in_a_table_is_written_as_json(tmp_path):
    (tmp_path / "o.csv").write_text('id,output,references\n1,hay,"[""straw"", ""hay""]"\n')
    found = {m.metric: m.value for m in score_file.score_file(tmp_path / "o.csv", tmp_path / "runs").results[0].metrics}
    assert found["exact_match"] == 1


def test_a_scorer_that_has_nothing_to_look_at_takes_no_document_from_the_others(tmp_path):
    rows = [
        {"id": 1, "output": "It has 7 eggs.", "references": ["It has 7 eggs."], "source": "Ann has 7 eggs."},
        {"id": 2, "output": "It has 9 eggs.", "references": ["It has 9 eggs."]},
    ]
    file = write_lines(tmp_path / "o.jsonl", rows)
    (result,) = score_file.score_file(file, tmp_path / "runs", scorers=["entailment=extractive"]).results
    n = {metric.metric: (metric.n, metric.n_unscored) for metric in result.metrics}
    assert n["bleu"] == (2, 0)
    assert n["hallucination_rate"] == (1, 0)


def test_numbers_of_a_scorer_that_a_task_does_not_know_are_reported_as_they_are(tmp_path, monkeypatch):
    class Mood(Judge):
        kind, name = "sentiment", "mood"

        def score(self, items):
            return [{"sunny": float("sun" in item.output)} for item in items]

    writer = Writer()
    model = Model("writer", {"model": {"name": "writer"}}, True, True, True, lambda: writer)
    job = Job(TASK, DATA, None, 0, (Judge(), Mood()))
    result = evaluate._evaluate_model(model, [job], tmp_path, "none", Shard(), Progress()).results[0]
    (metric,) = [m for m in result.metrics if m.metric == "sentiment.sunny" and m.category is None]
    texts = [[output["text"] for output in record["outputs"]] for record in records(next(tmp_path.iterdir()))]
    by_hand = sum(sum("sun" in text for text in own) / SAMPLES for own in texts) / N
    assert (metric.value, metric.scorer, metric.n) == (pytest.approx(by_hand), "mood@1", N)


def test_what_got_lost_on_the_way_is_asked_for_again_and_the_rest_is_not(tmp_path):
    class Flaky(Writer):
        def generate(self, prompts, sampling, *, seed=0, chat=False):
            for index, completions in super().generate(prompts, sampling, seed=seed, chat=chat):
                if prompts[index].text.endswith("7"):
                    completions = (*completions[:-1], Completion("", "end", unscored="503, 6 times", transient=True))
                yield index, completions

    run(tmp_path / "calm")
    first = run(tmp_path / "rough", Flaky()).results[0]
    assert first.unscored == {"503, 6 times": 4}
    writer = Writer()
    run(tmp_path / "rough", writer)
    assert sorted(writer.asked) == ["words/17", "words/27", "words/37", "words/7"]
    assert files(tmp_path / "rough") == files(tmp_path / "calm")


def test_a_document_without_an_output_is_unscored(tmp_path, known_task):
    file = write_lines(tmp_path / "s.jsonl", [{"id": str(i), "outputs": ["hay"] * SAMPLES} for i in range(N - 3)])
    result = score_file.score_file(file, tmp_path / "runs", task="words").results[0]
    assert (result.n, result.n_scored) == (N, N - 3)
    assert result.unscored == {"the file has no output for it": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "1", "output": "a"\n', r"s\.jsonl:1: not valid JSON"),
        ('{"output": "hay"}\n', r"s\.jsonl:1: no id"),
        ('{"id": "nobody", "output": "hay"}\n', r"s\.jsonl:1: id 'nobody' is none of the documents of words"),
        ('{"id": "1", "text": "hay"}\n', r"s\.jsonl:1: expected a column `output`"),
        ('{"id": "1", "output": "hay"}\n', r"id '1': 1 outputs, but words takes 25"),
        ('{"id": "1", "output": "hay", "references": 5}\n', "1 outputs, but words takes 25"),
        ("\n", "no rows"),
        ("[1]\n", r"s\.jsonl:1: expected a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, known_task, content, message):
    (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(AlignbenchError, match=message):
        score_file.score_file(tmp_path / "s.jsonl", tmp_path / "runs", task="words")


def test_summaries_leave_out_what_applies_to_nothing():
    record = {"id": "1", "group": None, "category": None, "chance": {}, "unscored": None, "length": 3.0}
    found = summarise(TASK, [record], shots=0, limit=None, seed=0)
    assert [metric.metric for metric in found.metrics] == ["length"]
