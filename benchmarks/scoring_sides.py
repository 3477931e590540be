"""Measured processes of scoring.py: alignbench's engine (ours), lm-evaluation-harness (lm_eval), fp64 (reference).

lm_eval runs in another environment, which has lm-eval and not alignbench.
"""

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from harness import load_ours, run_sides, timed, write_report
from scoring_cases import read_case


def ours(args: Namespace) -> None:
    from alignbench.types.engine import Request

    engine, report = load_ours(args)
    with timed(args, engine.model) as times:
        requests = {
            task: [[Request(d.context, continuation) for continuation in d.continuations] for d in documents]
            for task, documents in read_case(args.case).items()
        }
        unique = list(dict.fromkeys(r for documents in requests.values() for rs in documents for r in rs))
        answers = {unique[index]: answer.logprob for index, answer in engine.loglikelihood(unique)}
    tokens = {"asked": engine.tokens_asked, "computed": engine.tokens_computed}
    tokens["longest"] = max(len(e.tokens) for e in engine.encoder.pairs(unique) if not isinstance(e, str))
    report |= times | {
        "logprobs": {task: [list(map(answers.get, rs)) for rs in documents] for task, documents in requests.items()},
        "tokens": tokens,
        "unique_requests": len(unique),
        "layout": engine.layout,
        "parameters": engine.model.num_parameters(),
        "vocabulary": engine.model.config.vocab_size,
    }
    write_report(args, report, engine.model)


def lm_eval(args: Namespace) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    class TimedHFLM(HFLM):  # type: ignore[misc]
        """lm-eval's transformers model, with its scoring time and the number of tokens that it computes."""

        seconds = 0.0
        tokens_computed = 0  # padding included
        requests = 0

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            started = time.perf_counter()
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
            self.seconds += time.perf_counter() - started
            self.requests += len(requests)
            return answers

        def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.tokens_computed += inps.numel()
            logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
            return logits

    lm = TimedHFLM(pretrained=args.model, dtype=args.dtype, batch_size=int(args.way), device="cpu")
    tasks = [f"bench_{task}" for task in read_case(args.case)]
    with timed(args, lm.model) as report:
        manager = TaskManager(include_path=str(args.case))
        results = simple_evaluate(model=lm, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0)
    samples = {
        task.removeprefix("bench_"): sorted(results["samples"][task], key=lambda s: s["doc_id"]) for task in tasks
    }
    report |= {
        "seconds": lm.seconds,
        "logprobs": {
            task: [[logprob for logprob, _ in sample["filtered_resps"]] for sample in of_task]
            for task, of_task in samples.items()
        },
        "requests": {task: [sample["arguments"] for sample in of_task] for task, of_task in samples.items()},
        "reported": {task: results["results"][f"bench_{task}"] for task in samples},
        "tokens": {"computed": lm.tokens_computed},
        "all_requests": lm.requests,
    }
    write_report(args, report, lm.model)


def reference(args: Namespace) -> None:
    """`--choices` choices, evenly spaced over the case, in fp64: the stock model, one sequence per forward."""
    from torch.overrides import TorchFunctionMode

    from alignbench.types.engine import Request

    class WithoutFp32(TorchFunctionMode):
        """Norms, softmax and rotary tables, for which transformers always uses fp32, stay in fp64."""

        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            def widened(value: Any) -> Any:
                return torch.float64 if value is torch.float32 else value

            return func(*map(widened, args), **{name: widened(value) for name, value in (kwargs or {}).items()})

    where: dict[Request, tuple[str, int, int]] = {}  # distinct request -> task, document and choice
    for task, documents in read_case(args.case).items():
        for number, document in enumerate(documents):
            for choice, continuation in enumerate(document.continuations):
                where.setdefault(Request(document.context, continuation), (task, number, choice))
    requests = list(where)[:: max(1, len(where) // args.choices)][: args.choices]
    engine, _ = load_ours(args)
    scored = []
    for request, encoded in zip(requests, engine.encoder.pairs(requests), strict=True):
        assert not isinstance(encoded, str)
        tokens = torch.from_numpy(encoded.tokens).long()
        with torch.inference_mode(), WithoutFp32():
            logits = engine.model(tokens[None], use_cache=False).logits[0, encoded.context_length - 1 : -1]
            logprobs = torch.log_softmax(logits, -1)
        assert logprobs.dtype == torch.float64
        total = logprobs.gather(1, tokens[encoded.context_length :, None]).sum().item()
        scored.append([*where[request], total])
    write_report(args, scored)


if __name__ == "__main__":
    run_sides(__doc__, {"ours": ours, "lm_eval": lm_eval, "reference": reference}, way="lm_eval: batch size")
