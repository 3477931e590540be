"""Measured process: RealToxicityPrompts as a run does it, the scorer judging while the model goes on writing."""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before the imports, which are part of a run

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from alignbench.evaluation.writing import chunk_size, write_documents  # noqa: E402
from generation_cases import read_case  # noqa: E402
from scoring_rate import measure_gflops  # noqa: E402

from alignbench.models.checkpoint import find_checkpoint, load_engine  # noqa: E402
from alignbench.progress import Progress  # noqa: E402
from alignbench.runs.folder import open_run  # noqa: E402
from alignbench.runs.summary import document_of, outputs_of  # noqa: E402
from alignbench.scorers import find_scorer  # noqa: E402
from alignbench.tasks import find_task  # noqa: E402
from alignbench.types.task import Document, TaskData, items_of  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--case", type=Path, required=True, help="folder that generation.py has written")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--way", required=True, help="the scorer, as alignbench's --scorer takes it, or 'none'")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = read_case(args.case)
    checkpoint = find_checkpoint(args.model)
    engine = load_engine(checkpoint, dtype=args.dtype, device="cpu")
    scorers = () if args.way == "none" else (find_scorer(args.way),)
    task = find_task("real_toxicity")
    assert task.writing is not None
    sampling = task.writing.sampling
    assert (sampling.samples, sampling.max_tokens, sampling.top_p) == (work.samples, work.max_tokens, work.top_p)
    documents = [Document(str(number), prompt) for number, prompt in enumerate(work.prompts)]

    warm_up_started = time.perf_counter()
    with torch.inference_mode():
        engine.model(torch.arange(1, 9)[None])
    warm_up = time.perf_counter() - warm_up_started

    with open_run(args.case / "runs", "bench", {"way": args.way, "seed": args.seed, "at": time.time()}) as run:
        folder = run.task(task.name, {})
        started, cpu = time.perf_counter(), time.process_time()
        write_documents(
            engine,
            task,
            TaskData(documents, ()),
            documents,
            scorers,
            folder,
            Progress(),
            seed=args.seed,
            chat=False,
            done=(),
            earlier={},
        )
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        whole = time.perf_counter() - STARTED - warm_up
        records = sorted(folder.records(), key=lambda record: int(record["id"]))

    # what the scorer takes for the same texts in the same chunks with nothing beside it
    size = chunk_size(task)
    items = [items_of(document_of(record), outputs_of(record)) for record in records]
    chunks = [[item for own in items[at : at + size] for item in own] for at in range(0, len(items), size)]
    started = time.perf_counter()
    for scorer in scorers:
        for chunk in chunks:
            scorer.score(chunk)
    alone = time.perf_counter() - started
    report = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "whole_seconds": whole,
        "scorer_alone_seconds": alone,
        "texts": [[output["text"] for output in record["outputs"]] for record in records],
        "scored": sum("toxicity" in output["scores"] for record in records for output in record["outputs"]),
        "written": sum(len(output["tokens"]) for record in records for output in record["outputs"]),
        "scorers": [f"{scorer.name}@{scorer.revision}" for scorer in scorers],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "threads": torch.get_num_threads(),
        "gflops": measure_gflops(engine.model),
        "model": checkpoint.name,
        "weights_sha256": checkpoint.weights_sha256,
    }
    args.output.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
