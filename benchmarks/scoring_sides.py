"""Measured processes of scoring.py: alignbench's engine (ours), lm-evaluation-harness (lm_eval), fp64 (reference).

lm_eval runs in another environment, which has lm-eval and not alignbench.
"""

import time

STARTED = time.perf_counter()  # before the imports, which are part of a run

from argparse import Namespace  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from harness import side_arguments, warm_up, write_report  # noqa: E402
from scoring_cases import LM_EVAL_METRICS, Document, mean_metrics, read_case  # noqa: E402

Case = dict[str, list[Document]]


def ours(args: Namespace, case: Case) -> None:
    from alignbench.models.checkpoint import find_checkpoint, load_engine
    from alignbench.types.engine import Request

    notes: list[str] = []
    checkpoint = find_checkpoint(args.model)
    engine = load_engine(checkpoint, dtype=args.dtype, device="cpu", notify=notes.append)
    warm = warm_up(engine.model)
    started = time.perf_counter()
    requests = {
        task: [[Request(d.context, continuation) for continuation in d.continuations] for d in documents]
        for task, documents in case.items()
    }
    unique = list(dict.fromkeys(r for documents in requests.values() for rs in documents for r in rs))
    answers = {unique[index]: answer for index, answer in engine.loglikelihood(unique)}
    seconds = time.perf_counter() - started
    logprobs = {
        task: [[answers[request].logprob for request in rs] for rs in documents] for task, documents in requests.items()
    }
    metrics = mean_metrics(case, logprobs)
    report = {
        "seconds": seconds,
        "whole_seconds": time.perf_counter() - STARTED - warm,
        "logprobs": logprobs,
        "metrics": metrics,
        "tokens": {
            "asked": engine.tokens_asked,
            "computed": engine.tokens_computed,
            "longest": max(len(e.tokens) for e in engine.encoder.pairs(unique) if not isinstance(e, str)),
        },
        "unique_requests": len(unique),
        "layout": engine.layout,
        "notes": notes,
        "parameters": engine.model.num_parameters(),
        "vocabulary": engine.model.config.vocab_size,
        "model": checkpoint.name,
        "weights_sha256": checkpoint.weights_sha256,
    }
    write_report(args, report, engine.model)


def lm_eval(args: Namespace, case: Case) -> None:
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

    lm = TimedHFLM(pretrained=args.model, dtype=args.dtype, batch_size=args.batch_size, device="cpu")
    warm = warm_up(lm.model)
    manager = TaskManager(include_path=str(args.case))
    tasks = [f"bench_{task}" for task in case]
    results = simple_evaluate(model=lm, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0)
    whole = time.perf_counter() - STARTED - warm
    samples = {task: sorted(results["samples"][f"bench_{task}"], key=lambda s: s["doc_id"]) for task in case}
    logprobs = {
        task: [[logprob for logprob, _ in sample["filtered_resps"]] for sample in of_task]
        for task, of_task in samples.items()
    }
    metrics, reported = mean_metrics(case, logprobs), {}
    for task, means in metrics.items():
        found = results["results"][f"bench_{task}"]
        reported[task] = {name: found[LM_EVAL_METRICS.get(name, name) + ",none"] for name in means}
    report = {
        "seconds": lm.seconds,
        "whole_seconds": whole,
        "logprobs": logprobs,
        "requests": {task: [sample["arguments"] for sample in of_task] for task, of_task in samples.items()},
        "metrics": metrics,
        "reported": reported,
        "tokens": {"computed": lm.tokens_computed},
        "all_requests": lm.requests,
        "batch_size": args.batch_size,
    }
    write_report(args, report, lm.model)


def reference(args: Namespace, case: Case) -> None:
    """`--choices` choices, evenly spaced over the case, in fp64: the stock model, one sequence per forward."""
    from torch.overrides import TorchFunctionMode

    from alignbench.models.checkpoint import find_checkpoint, load_engine
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
    for task, documents in case.items():
        for number, document in enumerate(documents):
            for choice, continuation in enumerate(document.continuations):
                where.setdefault(Request(document.context, continuation), (task, number, choice))
    requests = list(where)[:: max(1, len(where) // args.choices)][: args.choices]
    engine = load_engine(find_checkpoint(args.model), dtype="float64", device="cpu")
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


def main() -> None:
    sides = {"ours": ours, "lm_eval": lm_eval, "reference": reference}
    parser = side_arguments(__doc__, sides)
    parser.add_argument("--batch-size", type=int, help="lm_eval")
    parser.add_argument("--choices", type=int, help="reference")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sides[args.side](args, read_case(args.case))


if __name__ == "__main__":
    main()
