"""Supervised fine-tuning: what is learnt from, which epoch is the result, and what a checkpoint says of itself."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from stages import (
    HERE,
    QUESTIONS,
    checkpoint,
    lines_of,
    plain_logprobs,
    refusal,
    reward_module,
    same_weights,
    steps_of,
    weights_of,
    write_rows,
)
from tiny import SENTENCES
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.models.checkpoint import find_checkpoint
from trainers import supervised
from trainers.sft import SFTConfig, train

ANSWERS = [" honey, and wax for the hive.", " No.", " It is smaller than the Earth.", " toxic", " maybe"]
DEMONSTRATIONS = [{"prompt": q, "response": ANSWERS[i % 5]} for i, q in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return checkpoint(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def fine_tune(tmp_path, base):
    """Runs SFT with quick settings; every call has a folder of its own."""
    data = write_rows(tmp_path / "demonstrations.jsonl", DEMONSTRATIONS)
    runs = iter(range(100))

    def run(**changed) -> Path:
        quick = {"epochs": 1, "batch": 4, "lr": 1e-2, "dropout": 0.0, "out": str(tmp_path / f"run-{next(runs)}")}
        config = SFTConfig(**(HERE | {"model": base, "data": data} | quick | changed))
        final, _ = train(config)
        assert final == Path(config.out) / "final"
        return Path(config.out)

    return run


def plain_losses(folder: str, rows=DEMONSTRATIONS) -> list[torch.Tensor]:
    """−log p of each response token and of the end, by the stock model, one example at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        prompt, whole = (tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + row["response"]))
        assert whole[: len(prompt)] == prompt
        found.append(-plain_logprobs(model, prompt, [*whole[len(prompt) :], tokenizer.eos_token_id]))
    return found


def test_the_loss_falls(fine_tune, tmp_path):
    data = write_rows(tmp_path / "many.jsonl", DEMONSTRATIONS * 24)
    losses = [line["loss"] for line in steps_of(fine_tune(data=data, batch=10, lr=2e-2))]
    assert losses[-1] < 1 < 4 < losses[0]


@pytest.mark.parametrize("micro_tokens", [8192, 60, 1])
def test_the_gradient_is_that_of_the_response_tokens_alone_each_example_by_itself(
    base, fine_tune, monkeypatch, micro_tokens
):
    gradients = {}

    def keep(module, optimizer, largest_norm):
        gradients.update({n.removeprefix("model."): p.grad.clone() for n, p in module.named_parameters()})
        return take_step(module, optimizer, largest_norm)

    take_step = supervised.take_step
    monkeypatch.setattr(supervised, "take_step", keep)
    out = fine_tune(batch=len(DEMONSTRATIONS), micro_tokens=micro_tokens)
    model = AutoModelForCausalLM.from_pretrained(base)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda folder: model)
    loss = torch.cat(plain_losses(base)).mean()
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    (line,) = steps_of(out)
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_the_validation_loss_is_the_token_mean_without_dropout(base, fine_tune, tmp_path):
    held_out = write_rows(tmp_path / "held-out.jsonl", DEMONSTRATIONS[3:6])
    out = fine_tune(lr=0.0, dropout=0.5, epochs=2, validation=held_out)
    found = [line["validation_loss"] for line in lines_of(out / "metrics.jsonl") if "epoch" in line]
    expected = torch.cat(plain_losses(base, DEMONSTRATIONS[3:6])).mean().item()
    assert found == pytest.approx([expected] * 2, rel=1e-5)
    # while training itself does drop out
    losses = [line["loss"] for line in steps_of(out)]
    assert sorted(losses[:3]) != pytest.approx(sorted(losses[3:]), rel=1e-3)


def test_the_learning_rate_falls_along_a_cosine_to_a_tenth_without_warm_up(fine_tune):
    rates = [line["lr"] for line in steps_of(fine_tune(epochs=3, batch=4))]
    expected = [0.01 * (0.1 + 0.9 * (1 + math.cos(math.pi * t / 8)) / 2) for t in range(9)]
    assert rates == pytest.approx(expected)
    assert (rates[0], rates[-1]) == pytest.approx((0.01, 0.001))


def test_every_epochs_checkpoint_loads_and_the_last_is_the_result(fine_tune):
    out = fine_tune(epochs=3)
    names = sorted(folder.name for folder in (out / "checkpoints").iterdir())
    assert names == ["epoch-1", "epoch-2", "epoch-3"]
    for name in names:
        model = AutoModelForCausalLM.from_pretrained(out / "checkpoints" / name)
        tokenizer = AutoTokenizer.from_pretrained(out / "checkpoints" / name)
        assert model(**tokenizer("Is it safe?", return_tensors="pt")).logits.isfinite().all()
    assert same_weights(out / "final", out / "checkpoints" / "epoch-3")
    assert not same_weights(out / "checkpoints" / "epoch-1", out / "checkpoints" / "epoch-2")


def test_the_epoch_with_the_highest_reward_is_the_result(fine_tune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reward = reward_module(
        tmp_path,
        "likes_the_second",
        "calls = []\n"
        "def score(prompts, responses):\n"
        "    calls.append(list(prompts))\n"
        "    return [(0, 1.0, 9.0, 4.0)[len(calls)] for _ in responses]\n",
    )
    validation = write_rows(tmp_path / "validation.jsonl", DEMONSTRATIONS[:6])
    out = fine_tune(epochs=3, validation=validation, reward=reward, selection_prompts=5, selection_tokens=4)
    assert [line["reward"] for line in lines_of(out / "metrics.jsonl") if "epoch" in line] == [1, 9, 4]
    assert same_weights(out / "final", out / "checkpoints" / "epoch-2")
    recipe = json.loads((out / "final" / "recipe.json").read_text())
    assert recipe["metrics"]["reward"] == 9
    # one answer to each of the first validation prompts, after each epoch
    samples = lines_of(out / "samples.jsonl")
    assert [sample["prompt"] for sample in samples] == [row["prompt"] for row in DEMONSTRATIONS[:5]] * 3
    assert [sample["step"] for sample in samples] == [3] * 5 + [6] * 5 + [9] * 5


def test_a_reward_model_can_select_the_epoch(fine_tune, tmp_path):
    from trainers.reward import RewardConfig
    from trainers.reward import train as train_reward

    rankings = [{"prompt": q, "chosen": " honey", "rejected": " toxic"} for q in QUESTIONS]
    judge, _ = train_reward(
        RewardConfig(
            model=checkpoint(tmp_path / "other", seed=1), data=write_rows(tmp_path / "r.jsonl", rankings),
            out=str(tmp_path / "judge"), batch=4, **HERE,
        )
    )  # fmt: skip
    validation = write_rows(tmp_path / "validation.jsonl", DEMONSTRATIONS[:4])
    out = fine_tune(epochs=3, validation=validation, reward=str(judge), selection_tokens=4)
    rewards = [line["reward"] for line in lines_of(out / "metrics.jsonl") if "epoch" in line]
    assert len(set(rewards)) == 3
    best = rewards.index(max(rewards)) + 1
    assert same_weights(out / "final", out / "checkpoints" / f"epoch-{best}")
    recipe = json.loads((out / "final" / "recipe.json").read_text())
    assert recipe["models"]["reward"]["weights_sha256"] == find_checkpoint(str(judge)).weights_sha256


def test_pretraining_text_is_mixed_in_at_its_share_and_all_of_it_comes_before_any_again(fine_tune, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES[:4]))
    data = write_rows(tmp_path / "twelve.jsonl", [*DEMONSTRATIONS, *DEMONSTRATIONS[:2]])
    # lr 0: a row's loss tells which row it is
    out = fine_tune(data=data, batch=1, lr=0.0, epochs=2, pretraining=str(text), pretraining_share=0.14)
    plain = fine_tune(data=data, batch=1, lr=0.0)
    losses, demonstrations = ([round(line["loss"], 5) for line in steps_of(run)] for run in (out, plain))
    assert len(losses) == 2 * 14  # 12 of 14 are demonstrations, 2 text
    assert set(demonstrations) < set(losses)
    epochs = [[loss for loss in part if loss not in set(demonstrations)] for part in (losses[:14], losses[14:])]
    assert [len(epoch) for epoch in epochs] == [2, 2]
    assert len(set(epochs[0] + epochs[1])) == 4


def test_a_checkpoint_says_what_it_was_made_from(fine_tune, base, tmp_path):
    out = fine_tune()
    recipe = json.loads((out / "final" / "recipe.json").read_text())
    parent = find_checkpoint(base)
    assert recipe["stage"] == "sft"
    assert recipe["parent"] == {
        "name": "base",
        "path": str(Path(base).resolve()),
        "weights_sha256": parent.weights_sha256,
    }
    (data,) = recipe["data"]
    assert len(data["sha256"]) == 64
    config = SFTConfig(model=base, data=str(tmp_path / "demonstrations.jsonl"), out=str(out))
    assert recipe["config"].keys() == asdict(config).keys()
    assert recipe["config"]["lr"] == 1e-2
    assert recipe["metrics"] == {"epoch": 1}
    assert recipe["versions"].keys() >= {"alignbench", "torch", "transformers", "accelerate"}
    second = fine_tune(model=str(out / "final"), epochs=2)
    lineage = find_checkpoint(str(second / "final")).lineage
    assert [ancestor.stage for ancestor in lineage] == ["base", "sft", "sft"]
    assert lineage[0].weights_sha256 == parent.weights_sha256


def test_a_finished_run_is_not_trained_again(fine_tune, tmp_path):
    out = fine_tune(epochs=2)
    before, lines = (out / "final" / "model.safetensors").stat().st_mtime_ns, lines_of(out / "metrics.jsonl")
    assert train(SFTConfig(**json.loads((out / "final" / "recipe.json").read_text())["config"])) == (
        out / "final",
        {"epoch": 2},
    )
    assert (out / "final" / "model.safetensors").stat().st_mtime_ns == before
    assert lines_of(out / "metrics.jsonl") == lines


def test_half_precision_trains_weights_that_stay_in_fp32(fine_tune, tmp_path):
    data = write_rows(tmp_path / "many.jsonl", DEMONSTRATIONS * 8)
    out = fine_tune(data=data, mixed_precision="bf16", batch=10)
    losses = [line["loss"] for line in steps_of(out)]
    assert losses[-1] < losses[0] - 1
    assert {weight.dtype for weight in weights_of(out / "final").values()} == {torch.float32}


def test_mistakes_are_one_line(fine_tune, tmp_path):
    assert "validation=FILE" in refusal(lambda: fine_tune(reward="a:b"))
    short = checkpoint(tmp_path / "short", max_position_embeddings=24)
    assert "demonstration 1 has" in (line := refusal(lambda: fine_tune(model=short)))
    assert "window 24" in line
    held_out = write_rows(tmp_path / "held-out.jsonl", DEMONSTRATIONS[:2])
    selection = {"validation": held_out, "reward": "math:fsum", "selection_tokens": 500}
    line = refusal(lambda: fine_tune(model=checkpoint(tmp_path / "512", max_position_embeddings=512), **selection))
    assert "held-out.jsonl: prompt + selection_tokens of row 1 has" in line
    assert "the gradient is not finite" in refusal(lambda: fine_tune(lr=1e30, epochs=4))
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
    messages = write_rows(tmp_path / "chat.jsonl", [{"messages": turns}])
    assert "chat.jsonl:1: chat messages need" in refusal(lambda: fine_tune(data=messages))


def test_a_token_without_an_embedding_is_one_line_and_others_do_no_harm(fine_tune, tmp_path):
    """A tokenizer may have more tokens than the model has embeddings: those that occur are what counts."""
    model = checkpoint(tmp_path / "small", vocab_size=300)
    line = refusal(lambda: fine_tune(model=model))
    assert "the model has embeddings for 300" in line
    data = write_rows(tmp_path / "plain.jsonl", [{"prompt": "q", "response": "zz"}] * 4)
    fine_tune(model=model, data=data)
    text = tmp_path / "text.txt"
    text.write_text(SENTENCES[0])
    assert "embeddings for 300" in refusal(lambda: fine_tune(model=model, data=data, pretraining=str(text)))


SCRIPT = """
import faulthandler
import sys
from pathlib import Path
import training_runs
faulthandler.dump_traceback_later(200, exit=True)  # processes that wait for each other end, and the test fails
folder = Path(sys.argv[1])
for stage in ("sft", "reward"):
    training_runs.train(folder, stage, f"two-{stage}", validation=str(folder / f"one-{stage}.jsonl"), epochs=1)
"""


def test_a_validation_row_for_two_processes_is_looked_at_by_both(tmp_path):
    """With fewer rows than processes, none may wait for another's forward pass: each has all weights."""
    import training_runs

    training_runs.prepare(tmp_path)
    write_rows(tmp_path / "one-sft.jsonl", DEMONSTRATIONS[:1])
    write_rows(tmp_path / "one-reward.jsonl", [{"prompt": QUESTIONS[0], "chosen": " honey", "rejected": " toxic"}])
    (tmp_path / "script.py").write_text(SCRIPT)
    here = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}:{here.parent}"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    final = tmp_path / "two-sft" / "final"
    recipe = json.loads((final / "recipe.json").read_text())
    expected = torch.cat(plain_losses(str(final), DEMONSTRATIONS[:1])).mean().item()
    assert recipe["metrics"]["validation_loss"] == pytest.approx(expected, rel=1e-4)
    assert json.loads((tmp_path / "two-reward" / "final" / "recipe.json").read_text())["metrics"]["pairs"] == 1
