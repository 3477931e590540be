"""Bytes per policy parameter of PPO's weights, gradients and states: counted in an update, beside the plan of
`alignbench train ppo --plan`. Random Llamas of two sizes on a CPU; policy, value, reference and reward model are equal.

Counted after each optimizer step, while its gradients still exist; the largest sum of two iterations is shown. What is
offloaded is not counted. `all tensors` are those that Python reaches then, with the offloaded ones.
"""

import gc
import tempfile
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from harness import arguments, print_table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from trainers import plan, ppo
from trainers.record import Setup

SIZES = {"5M": (256, 6), "30M": (512, 9)}  # width, layers
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {}, "bf16": {"mixed_precision": "bf16"},
    "bf16, offload, adam-8bit": {"mixed_precision": "bf16", "offload": True, "optimizer": "adam-8bit"},
    "bf16, lora 16": {"mixed_precision": "bf16", "lora": 16},
}  # fmt: skip
NAMES = ("trained models", "gradients, of one model at a time", "optimizer", "averaged weights", "frozen models")


def size(tensors: Iterable[Any]) -> int:
    """Bytes of tensors, also of those that consist of others; 0 for offloaded ones."""
    return sum(
        size(getattr(t, name) for name in t.__tensor_flatten__()[0]) if hasattr(t, "__tensor_flatten__") else t.nbytes
        for t in tensors
        if t is not None and t.device.type != "meta"
    )


def count(s: Setup) -> dict[str, int]:
    trained = [s.policy, s.value]
    states = [state for model in trained for state in model.optimizer.optimizer.state.values()]
    moments = [value for state in states for name, value in state.items() if name != "step"]
    average = list(s.ema.weights.values()) if s.ema and not s.config.offload else []
    frozen = [model for model in (s.reference, s.reward.scalar) if model is not None]  # type: ignore[union-attr]
    weights = [p for model in trained for p in model.model.parameters()]
    values = (weights, [p.grad for p in weights], moments, average, [p for m in frozen for p in m.parameters()])
    return dict(zip(NAMES, map(size, values), strict=True))


def reachable() -> int:
    """Bytes of all tensors, each storage once."""
    plain = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter) and t.device.type == "cpu"]
    plain += [t.grad for t in plain if t.is_leaf and t.grad is not None]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in plain}.values())


def measure(config: ppo.Config) -> dict[str, int]:
    gc.collect()
    before = reachable()
    s, found = ppo.setup(config), list[dict[str, int]]()

    def look(*arguments: Any) -> None:
        found.append(count(s) | {"all tensors": reachable() - before})

    for model in (s.policy, s.value):
        model.optimizer.optimizer.register_step_post_hook(look)
    ppo.optimise(s, ppo.compute_advantages, ppo.update, None)
    return max(found, key=lambda own: sum(own[name] for name in NAMES))


def save_model(folder: Path, tokenizer: Any, width: int, layers: int) -> None:
    config = LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, intermediate_size=3 * width, num_attention_heads=8,
        vocab_size=len(tokenizer), num_labels=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        tokenizer.save_pretrained(folder / name)


def rows(args: Namespace, folder: Path) -> Iterable[dict[str, object]]:
    (folder / "prompts.jsonl").write_text('{"prompt": "Once there was"}\n' * 8, encoding="utf-8")
    for name, (width, layers) in SIZES.items():
        save_model(folder / name, AutoTokenizer.from_pretrained(args.tokenizer), width, layers)
        base = ppo.Config(
            model=str(folder / name / "policy"), reward=str(folder / name / "reward"), out="", cpu=True,
            prompts=str(folder / "prompts.jsonl"), validation_share=0.0, trackers=(),
            episodes=16, batch=8, minibatch=8, max_tokens=8,
        )  # fmt: skip
        parameters = plan.sizes(base.model)["parameters"]
        for number, (setting, changes) in enumerate(SETTINGS.items()):
            config = replace(base, out=str(folder / name / str(number)), **changes)
            planned, found = plan.plan("ppo", config), measure(config)
            row: dict[str, object] = {"size": f"{parameters / 1e6:.1f}M", "settings": setting}
            row |= {n: f"{planned[n] / parameters:.2f}, {found[n] / parameters:.2f}" for n in NAMES}
            sums = (sum(of[n] for n in NAMES) / parameters for of in (planned, found))
            yield row | {
                "sum": "{:.2f}, {:.2f}".format(*sums),
                "all tensors": f"{found['all tensors'] / parameters:.2f}",
            }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokenizer", required=True, help="checkpoint with a small vocabulary, as tinystories-260k")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        print_table(rows(args, Path(folder)))


if __name__ == "__main__":
    main()
