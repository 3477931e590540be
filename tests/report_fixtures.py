"""Fixtures that build the evidence of a report and draw its figures once per session."""

import pytest
from figure_checks import draw_all
from report_runs import BASE, NASTY, SFT, contest, every_task, gather_once, iterations, labels, model, ppo, training
from report_runs import tax_tasks as tax
from report_runs import write_nasty_texts as write_texts

from reports.evidence import gather


@pytest.fixture(scope="session")
def report_paths(tmp_path_factory):
    """Arguments of `alignbench report` for all figures: five systems, an intermediate checkpoint, labels, trainings."""
    out = tmp_path_factory.mktemp("world")
    runs, size = out / "runs", {"parameters": 10**6}
    runs.mkdir()
    model(runs, "base", *every_task(0), **size)
    model(runs, "sft", *every_task(1), lineage=BASE, stage="sft", **size)
    model(runs, "ppo", *every_task(2, diversity=False), lineage=SFT, training=ppo(), **size)
    swept = [*tax(0.2), contest(0.65)]
    model(runs, "ptx", *swept, lineage=SFT, stage="ppo-ptx", training=ppo(gamma=20.0), **size)
    model(runs, "beta-2", *tax(0.1), lineage=SFT, training=ppo(beta=2.0), **size)
    model(runs, "ppo-iteration-2", *tax(0.0), lineage=SFT, training=ppo(episodes=128))
    (out / "labels.jsonl").write_text(labels(["base", "sft", "ppo"]))
    steps = [{"step": n, "loss": 1 / n} for n in range(1, 5)]
    held_out = {"step": 4, "accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8}
    trainings = [
        training(out / "trained" / "ppo", "ppo", [*iterations(2), iterations(3)[2] | {"kl": "nan"}]),
        training(out / "trained" / "sft", "sft", [*steps, {"step": 4, "validation_loss": 0.4}]),
        training(out / "trained" / "reward", "reward", [*steps, held_out]),
    ]
    return [runs, out / "labels.jsonl", *trainings]


@pytest.fixture(scope="session")
def evidence(report_paths):
    return gather_once(*report_paths)


@pytest.fixture(scope="session")
def drawings(evidence):
    return {drawing.name: drawing for drawing in draw_all(evidence)[0]}


@pytest.fixture(scope="session")
def nasty_texts(tmp_path_factory):
    return gather(write_texts(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="session")
def nasty(tmp_path_factory):
    """Evidence of six systems of two sizes and four stages, with names that no figure expects, 22 labelers."""
    out = tmp_path_factory.mktemp("nasty")
    stages = ("base", "sft", "ppo", "ppo-ptx")
    for number, name in enumerate(NASTY):
        lineage = [(stage, stage) for stage in stages[: number % 4]]
        sizes = {"parameters": 10 ** (6 + number // 4), "training": ppo(gamma=float(number), episodes=64)}
        model(out / "runs", name, *every_task(number), lineage=lineage, stage=stages[number % 4], **sizes)
    flags = ("fails_instruction", "inappropriate_for_customer_assistant", "$x_y$", "a" * 70)
    (out / "labels.jsonl").write_text(labels(NASTY, labelers=22, prompts=3, flags=flags))
    runs = [training(out / name.replace("/", "") / "ppo", "ppo", iterations(3)) for name in NASTY]
    return gather_once(out / "runs", out / "labels.jsonl", *runs)
