"""PPO on a sentiment reward over seeds, and the effect of ptx and β on the pretraining loss (InstructGPT's Figures 33
and 34 in small), on a small pretrained model that writes stories.

    python benchmarks/learning.py world --model DIR --out WORLD
    python benchmarks/learning.py seeds|sweep --model DIR --world WORLD --out FILE.json

The pretraining text is sampled from the model, so its loss is as low as it can be, and an increase is the tax.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from harness import HERE, arguments
from textblob import TextBlob

from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine
from alignbench.types.engine import Prompt, Sampling
from trainers.data import pretraining_examples
from trainers.loop import micro_batches
from trainers.models import Policy, Texts, load
from trainers.packing import pack
from trainers.ppo import Config, train

STORIES, HELD_OUT, PROMPTS = 1200, 200, 512
GAMMAS = (0.0, 1.0, 3.0, 10.0, 27.8, 100.0)
BETAS = (0.0, 0.1, 0.5, 2.0)  # .02 is the first of the gammas
SETTINGS = {
    "episodes": 40 * 64, "batch": 64, "minibatch": 16, "max_tokens": 32, "lr": 1e-4, "value_lr": 3e-4, "warmup": 5,
    "no_end_score": None, "ema": 0.0, "save_every": 1000, "trackers": (), "ptx_examples": 2, "ptx_tokens": 96,
}  # fmt: skip


def sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Polarity of each response by TextBlob's lexicon, from −1 to 1."""
    return [float(TextBlob(response).sentiment.polarity) for response in responses]


def make_world(model: str, out: Path) -> None:
    """Sampled stories: pretraining text, held-out text, and openings as prompts."""
    out.mkdir(parents=True, exist_ok=True)
    engine = load_engine(find_checkpoint(model), dtype="float32", device="cpu")
    asked = [Prompt(str(i), "") for i in range(STORIES + HELD_OUT + PROMPTS)]
    answers = dict(engine.generate(asked, Sampling(max_tokens=120, temperature=1.0), seed=7))
    stories = [" ".join(answers[i][0].text.split()) for i in range(len(asked))]
    (out / "text.txt").write_text("\n\n".join(stories[:STORIES]), encoding="utf-8")
    (out / "held_out.txt").write_text("\n\n".join(stories[STORIES : STORIES + HELD_OUT]), encoding="utf-8")
    openings = sorted({" ".join(story.split()[:8]) for story in stories[STORIES + HELD_OUT :]} - {""})
    rows = "".join(json.dumps({"prompt": opening}) + "\n" for opening in openings)
    (out / "prompts.jsonl").write_text(rows, encoding="utf-8")


@torch.no_grad()
def held_out_loss(model: str | Path, world: Path) -> float:
    """Nats per token on text that no run is trained on."""
    loaded, tokenizer, _ = load(str(model), "causal")
    policy = Policy(loaded)
    examples = pretraining_examples(str(world / "held_out.txt"), Texts(tokenizer), 96)
    (batches,) = micro_batches([len(e) for e in examples], 1, 8192)
    logprobs = [policy(pack([examples[i] for i in batch]))[0] for batch in batches]
    return -float(torch.cat(logprobs).mean())


def run(model: str, world: Path, **settings: Any) -> dict[str, float]:
    """One PPO run: the means of its first and last five iterations, and the final held-out loss."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            model=model, reward="learning:sentiment", prompts=str(world / "prompts.jsonl"), out=folder,
            pretraining=str(world / "text.txt"), **(SETTINGS | settings),
        )  # fmt: skip
        final, _ = train(config)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        found = {}
        for when, part in (("first", lines[:5]), ("last", lines[-5:])):
            found |= {f"{name}_{when}": mean(line[name] for line in part) for name in ("score", "kl", "entropy")}
        if settings.get("ptx"):
            found |= {
                name: mean(line[name] for line in lines) for name in ("ptx_gradient_norm", "policy_gradient_norm")
            }
        return found | {"held_out_loss": held_out_loss(final, world)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("what", choices=("world", "seeds", "sweep"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--world", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(HERE))
    if args.what == "world":
        make_world(args.model, args.out)
        return
    found: dict[str, Any] = {"settings": SETTINGS, "base_held_out_loss": held_out_loss(args.model, args.world)}
    arms = {"ppo": {"ptx": 0.0}}
    if args.what == "sweep":
        arms = {f"gamma {g:g}": {"ptx": g} for g in GAMMAS} | {f"beta {b:g}": {"beta": b} for b in BETAS}
    for name, settings in arms.items():
        runs = [run(args.model, args.world, seed=seed, **settings) for seed in range(args.seeds)]
        values = {key: [run[key] for run in runs] for key in runs[0]}
        summary = {k: {"mean": mean(v), "sd": stdev(v) if len(v) > 1 else 0.0} for k, v in values.items()}
        found[name] = {"settings": settings, "runs": runs, **summary}
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: " + ", ".join(f"{k} {v['mean']:.3f} ± {v['sd']:.3f}" for k, v in summary.items()), flush=True)


if __name__ == "__main__":
    main()
