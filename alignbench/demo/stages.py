"""The demo from top to bottom: its stages in their order, each the very command that a user would type.

A stage begins when all that it reads is made and enough cores are free; earlier stages go first. So the list below is
the order of work on one core, and on two cores a stage that does not need its neighbour runs beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from alignbench.demo.write import FOLDER

JUDGES = ("truth", "info", "toxicity", "entailment", "preference")  # the kinds of scorer that the world has
TAX = ("squad2", "drop", "hellaswag", "wmt15_fr_en")  # of which PPO's checkpoints on the way are asked
APART = ("win_rate", "novelty_bench")  # needs all models' answers; needs a file that nobody has
# Hundreds of long samples: fewer of them are asked for
LONG = ("personas", "personas_verbalised", "real_toxicity_unprompted", "recitations")
REVIEWS = ("personas", "personas_verbalised")  # which have a sentiment
CODE = Path(__file__).parent  # what makes the world: a demo of other code is another demo
HASH = "[0-9a-f]" * 8  # ends the name of each folder of a run, and of a task in it


@dataclass(frozen=True)
class Sizes:
    """How much of everything, as settings of each stage's command."""

    pretraining: tuple[str, ...] = ()
    # no pretraining text here: with a tenth of it the model goes back to the talk's answers
    sft: tuple[str, ...] = ("epochs=3", "batch=16", "lr=7e-4", "dropout=0.0")
    rankings: tuple[str, ...] = ("--number", "600")
    reward: tuple[str, ...] = ("epochs=2", "batch=16", "lr=5e-4")
    ppo: tuple[str, ...] = (
        "episodes=1920", "batch=64", "minibatch=32", "max_tokens=40", "lr=4e-4", "value_lr=1e-3", "warmup=3",
        "ema=0.9", "beta=0.05", "checkpoint_every=10",
    )  # fmt: skip
    ptx: tuple[str, ...] = ("ptx=0.3", "ptx_examples=1", "ptx_tokens=128")
    tasks: tuple[str, ...] | None = None  # None: every one
    limit: int | None = None  # documents of a task
    limit_of_long: int | None = 60
    iterations: tuple[int, ...] = (10, 20)  # of PPO, whose checkpoints are asked


@dataclass(frozen=True)
class Stage:
    """A command of alignbench, and what it needs and leaves.

    reads: files and folders that it depends on; makes: those that it leaves, besides its stamp
    fills: patterns of the folders that it leaves below runs/, which it shares with other stages
    cores: how many it can use; seconds: about how long it takes, on a core of 2025
    """

    name: str
    command: tuple[str, ...]
    reads: tuple[Path, ...] = ()
    makes: tuple[Path, ...] = ()
    fills: tuple[str, ...] = ()
    cores: int = 1
    seconds: float = 10.0


def plan(out: Path, seed: int = 0, sizes: Sizes | None = None) -> tuple[Stage, ...]:
    """All stages of a demo below `out`, each after those that make what it reads."""
    sizes, of_seed = sizes or Sizes(), ("--seed", str(seed))
    world, runs, labels, report = out / "world", out / "runs", out / "labels.jsonl", out / "report"
    texts, prompts, rankings = world / FOLDER, out / "prompts", out / "rankings"
    base, sft, reward, ppo, ptx = (out / name for name in ("base", "sft", "reward", "ppo", "ppo-ptx"))
    trained = {"base": base, "sft": sft / "final", "ppo": ppo / "final", "ppo-ptx": ptx / "final"}
    on_the_way = [ppo / "checkpoints" / f"iteration-{number}" for number in sizes.iterations]
    kinds_of, tasks, long = _tasks(sizes.tasks)
    every = [str(folder) for folder in trained.values()]
    tables = (out / "audit.md", out / "audit.csv")
    evaluated = [stamp(out, f"evaluate-{model}") for model in trained]
    sampled = [stamp(out, "samples")] if long else []

    def training(stage: str, **paths: Path) -> tuple[str, ...]:
        return ("train", stage, *(f"{name}={path}" for name, path in paths.items()), f"seed={seed}", "cpu=true")

    def evaluation(
        models: Sequence[str | Path], tasks: Sequence[str], *scorers: str, limit: int | None = sizes.limit
    ) -> tuple[str, ...]:
        judges = [f"{kind}=demo-world:{world}" for kind in sorted({k for task in tasks for k in kinds_of[task]})]
        named = [part for scorer in (*judges, *scorers) for part in ("--scorer", scorer)]
        few = () if limit is None else ("--limit", str(limit))
        where = ("--data-dir", str(world), "--out", str(runs), "--template", "none", *of_seed)
        return ("evaluate", *map(str, models), "--tasks", ",".join(tasks), *named, *few, *where)

    policy = {"model": sft / "final", "reward": reward / "final", "prompts": prompts / "train.jsonl"}
    pages = texts / "pretraining.jsonl"
    return (
        Stage("world", ("demo", "world", str(world), *of_seed), reads=(CODE,), makes=(world,), seconds=3),
        Stage(
            "base",
            (
                "demo", "pretrain", f"text={pages}", f"first={texts / 'lessons.jsonl'}", f"out={base}",
                *sizes.pretraining, f"seed={seed}",
            ),
            reads=(pages, texts / "lessons.jsonl", CODE / "pretrain.py"), makes=(base,), cores=2, seconds=175,
        ),
        Stage(
            "prompts",
            ("data", "prepare", str(texts / "prompts.jsonl"), "--out", str(prompts), *of_seed),
            reads=(texts / "prompts.jsonl",), makes=(prompts,), seconds=7,
        ),
        Stage(
            "sft",
            (
                *training(
                    "sft", model=base, out=sft, data=texts / "demonstrations.jsonl",
                    validation=texts / "demonstrations_held_out.jsonl",
                ),
                *sizes.sft,
            ),
            reads=(base, texts), makes=(sft,), seconds=15,
        ),
        Stage(
            "rankings",
            (
                "demo", "rank", str(sft / "final"), "--world", str(world), "--out", str(rankings), *sizes.rankings,
                *of_seed,
            ),
            reads=(sft / "final", texts, CODE), makes=(rankings,), seconds=11,
        ),
        Stage(
            "reward",
            (
                *training(
                    "reward", model=sft / "final", out=reward, data=rankings / "rankings.jsonl",
                    validation=rankings / "rankings_held_out.jsonl", demonstrations=texts / "demonstrations.jsonl",
                ),
                *sizes.reward,
            ),
            reads=(sft / "final", rankings, texts), makes=(reward,), seconds=16,
        ),
        Stage(
            "ppo", (*training("ppo", **policy, out=ppo), *sizes.ppo),
            reads=tuple(policy.values()), makes=(ppo,), seconds=54,
        ),
        Stage(
            "ppo-ptx", (*training("ppo", **policy, out=ptx, pretraining=pages), *sizes.ppo, *sizes.ptx),
            reads=(*policy.values(), pages), makes=(ptx,), seconds=89,
        ),
        *(
            Stage(
                f"evaluate-{model}", evaluation([folder], tasks),
                reads=(folder, world), fills=(f"{model}-{HASH}",), seconds=25,
            )
            for model, folder in trained.items()
        ),
        Stage(
            "on-the-way", evaluation(on_the_way, [task for task in TAX if task in tasks]),
            reads=(ppo / "checkpoints", world),
            fills=tuple(f"ppo-iteration-{number}-{HASH}" for number in sizes.iterations), seconds=10,
        ),
        *(
            Stage(
                "samples", evaluation(every, long, *_sentiment(long), limit=sizes.limit_of_long),
                # the evaluations write to the same runs: one after the other
                reads=(*trained.values(), world, *evaluated),
                fills=tuple(f"{model}-{HASH}/{task}-{HASH}" for model in trained for task in long), seconds=40,
            )
            for _ in long[:1]
        ),
        Stage(
            "win-rates",
            (*evaluation([trained[m] for m in trained if m != "sft"], ["win_rate"]), "--baseline", str(sft / "final")),
            reads=(*evaluated, *sampled),
            fills=tuple(f"{model}-{HASH}/win_rate-{HASH}" for model in trained if model != "sft"), seconds=10,
        ),
        Stage(
            "labels", ("demo", "label", str(runs), "--world", str(world), "--out", str(labels), *of_seed),
            reads=(*evaluated, CODE), makes=(labels,), seconds=5,
        ),
        Stage(
            "audit",
            ("compare", *every, "--runs", str(runs), "--markdown", str(tables[0]), "--csv", str(tables[1])),
            reads=(*evaluated, stamp(out, "win-rates")), makes=tables, seconds=15,
        ),
        Stage(
            "report",
            ("report", *map(str, (runs, sft, reward, ppo, ptx, labels)), "--out", str(report)),
            reads=(stamp(out, "audit"), stamp(out, "on-the-way"), labels), makes=(report,), seconds=40,
        ),
    )  # fmt: skip


def stamp(out: Path, stage: str) -> Path:
    """The file that says that a stage is done, and with what."""
    return out / "logs" / f"{stage}.done"


def _tasks(chosen: Sequence[str] | None) -> tuple[dict[str, tuple[str, ...]], list[str], list[str]]:
    """Task -> the kinds of its scorers that know the world; the tasks of the evaluation; those that sample long."""
    from alignbench.tasks import all_tasks

    kinds: dict[str, tuple[str, ...]] = {}
    for name, task in all_tasks().items():
        takes = () if task.generation is None else (*task.generation.scorers, *task.generation.optional_scorers)
        kinds[name] = tuple(kind for kind in takes if kind in JUDGES)
    names = [name for name in kinds if name not in APART and (chosen is None or name in chosen)]
    return kinds, [n for n in names if n not in LONG], [n for n in names if n in LONG]


def _sentiment(tasks: Sequence[str]) -> tuple[str, ...]:
    return ("sentiment=textblob",) if find_spec("textblob") and set(REVIEWS) & set(tasks) else ()
