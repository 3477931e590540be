"""Score some choices of a case in fp64: the stock model, one sequence a forward, nothing shared or padded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scoring_cases import read_case
from torch.overrides import TorchFunctionMode

from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.types.engine import Request


class WithoutFp32(TorchFunctionMode):
    """Norms, softmax and rotary tables, for which transformers always goes to fp32, stay in fp64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        def widened(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        return func(*map(widened, args), **{name: widened(value) for name, value in (kwargs or {}).items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--case", type=Path, required=True, help="folder that scoring.py has written")
    parser.add_argument("--choices", type=int, required=True, help="how many, evenly spaced over the case")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    where: dict[Request, tuple[str, int, int]] = {}  # distinct request -> task, document and choice
    for task, documents in read_case(args.case).items():
        for number, document in enumerate(documents):
            for choice, continuation in enumerate(document.continuations):
                where.setdefault(Request(document.context, continuation), (task, number, choice))
    step = max(1, len(where) // args.choices)
    requests = list(where)[::step][: args.choices]
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
    args.output.write_text(json.dumps(scored), encoding="utf-8")


if __name__ == "__main__":
    main()
