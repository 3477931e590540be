"""Supervised fine-tuning: what is learned from, which epoch is the result, and what a checkpoint records."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import training_runs
from stages import checkpoint, lines_of, plain_logprobs, refusal, same_weights, steps_of, weights_of, write_rows
from tiny import SENTENCES
from training_models import exact
from training_runs import DEMONSTRATIONS
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.models.checkpoint import find_checkpoint
from trainers import loop
from trainers.run import identity
from trainers.sft import SFTConfig, train

folder = pytest.fixture(scope="module")(training_runs.prepare)


@pytest.fixture
def fine_tune(folder, tmp_path, monkeypatch):
    """Runs SFT with quick settings."""
    monkeypatch.chdir(folder)
    return training_runs.runner("sft", folder, tmp_path)


@pytest.fixture(scope="module")
def stock(folder):
    """The stock model in float64, and its loss: −log p per token of responses and ends, one example at a time."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder / "model"),
        AutoTokenizer.from_pretrained(folder / "model"),
    )
    model = exact(model)

    def losses(rows=DEMONSTRATIONS):
        for row in rows:
            prompt, whole = (tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + row["response"]))
            assert whole[: len(prompt)] == prompt
            yield -plain_logprobs(model, prompt, [*whole[len(prompt) :], tokenizer.eos_token_id])

    return model, lambda rows=DEMONSTRATIONS: torch.cat(list(losses(rows))).mean()


def epochs_of(out: Path, name: str) -> list[float]:
    return [line[name] for line in lines_of(out / "metrics.jsonl") if "epoch" in line]


def recipe_of(out: Path) -> dict:
    return json.loads((out / "final" / "recipe.json").read_text())


def test_the_loss_falls(fine_tune, tmp_path):
    data = write_rows(tmp_path / "many.jsonl", DEMONSTRATIONS * 24)
    losses = [line["loss"] for line in steps_of(fine_tune(data=data, batch=10, lr=2e-2))]
    assert losses[-1] < 1 < 4 < losses[0]


@pytest.mark.parametrize("micro_tokens", [8192, 60, 1])
def test_the_gradient_is_that_of_the_response_tokens_of_each_example_alone(fine_tune, stock, monkeypatch, micro_tokens):
    gradients, take_step = {}, loop.take_step

    def keep(module, *arguments):
        gradients.update({n.removeprefix("model."): p.grad.double() for n, p in module.named_parameters()})
        return take_step(module, *arguments)

    monkeypatch.setattr(loop, "take_step", keep)
    out = fine_tune(batch=len(DEMONSTRATIONS), micro_tokens=micro_tokens)
    model, loss_of = stock
    model.zero_grad()
    loss = loss_of()
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=5e-4, atol=5e-6)
    (line,) = steps_of(out)
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_the_validation_loss_is_the_token_mean_without_dropout(fine_tune, stock, tmp_path):
    held_out = write_rows(tmp_path / "held-out.jsonl", DEMONSTRATIONS[3:6])
    out = fine_tune(lr=0.0, dropout=0.5, epochs=2, validation=held_out)
    assert epochs_of(out, "validation_loss") == pytest.approx([stock[1](DEMONSTRATIONS[3:6]).item()] * 2, rel=1e-5)
    losses = [line["loss"] for line in steps_of(out)]  # of training, with dropout
    assert sorted(losses[:3]) != pytest.approx(sorted(losses[3:]), rel=1e-3)


def test_every_epochs_checkpoint_loads_and_the_last_is_the_result(fine_tune):
    out = fine_tune(epochs=3)
    expected = [0.01 * (0.1 + 0.9 * (1 + math.cos(math.pi * t / 8)) / 2) for t in range(9)]
    assert [line["lr"] for line in steps_of(out)] == pytest.approx(expected)
    names = sorted(folder.name for folder in (out / "checkpoints").iterdir())
    assert names == ["epoch-1", "epoch-2", "epoch-3"]
    for name in names:
        model = AutoModelForCausalLM.from_pretrained(out / "checkpoints" / name)
        tokenizer = AutoTokenizer.from_pretrained(out / "checkpoints" / name)
        assert model(**tokenizer("Is it safe?", return_tensors="pt")).logits.isfinite().all()
    assert same_weights(out / "final", out / "checkpoints" / "epoch-3")
    assert not same_weights(out / "checkpoints" / "epoch-1", out / "checkpoints" / "epoch-2")


def test_the_epoch_with_the_highest_reward_is_the_result(fine_tune, tmp_path):
    validation = write_rows(tmp_path / "validation.jsonl", DEMONSTRATIONS[:6])
    settings = {"epochs": 3, "validation": validation, "selection_prompts": 5, "selection_tokens": 4}
    out = fine_tune(reward="training_rewards:second", **settings)
    assert epochs_of(out, "reward") == [1, 9, 4]
    assert same_weights(out / "final", out / "checkpoints" / "epoch-2")
    assert recipe_of(out)["metrics"]["reward"] == 9
    # one response to each of the first validation prompts, after each epoch
    samples = lines_of(out / "samples.jsonl")
    assert [sample["prompt"] for sample in samples] == [row["prompt"] for row in DEMONSTRATIONS[:5]] * 3
    assert [sample["step"] for sample in samples] == [3] * 5 + [6] * 5 + [9] * 5


def test_a_reward_model_can_select_the_epoch(folder, fine_tune):
    out = fine_tune(epochs=3, validation="sft.jsonl", reward="judge", selection_prompts=4, selection_tokens=4)
    rewards = epochs_of(out, "reward")
    assert len(set(rewards)) == 3
    assert same_weights(out / "final", out / "checkpoints" / f"epoch-{rewards.index(max(rewards)) + 1}")
    assert recipe_of(out)["models"] == {"reward": identity(find_checkpoint(str(folder / "judge")))}


def test_pretraining_text_is_mixed_in_at_its_proportion_and_used_up_before_it_repeats(fine_tune, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES[:4]))
    rows = [{"prompt": row["prompt"], "response": f" {i}"} for i, row in enumerate(DEMONSTRATIONS * 2)][:12]
    settings = {
        "data": write_rows(tmp_path / "twelve.jsonl", rows),
        "batch": 1,
        "lr": 0.0,
    }  # lr 0: a loss identifies a row
    out = fine_tune(epochs=2, pretraining=str(text), pretraining_share=0.14, **settings)
    losses, demonstrations = (
        [round(line["loss"], 5) for line in steps_of(run)] for run in (out, fine_tune(**settings))
    )
    assert len(losses) == 2 * 14  # 12 of 14 are demonstrations
    assert set(demonstrations) < set(losses)
    epochs = [[loss for loss in part if loss not in set(demonstrations)] for part in (losses[:14], losses[14:])]
    assert [len(epoch) for epoch in epochs] == [2, 2]
    assert len(set(epochs[0] + epochs[1])) == 4


def test_a_checkpoint_records_its_origin_and_a_finished_run_is_not_trained_again(folder, fine_tune):
    out = fine_tune()
    recipe, parent = recipe_of(out), find_checkpoint(str(folder / "model"))
    assert (recipe["stage"], recipe["parent"], recipe["metrics"]) == ("sft", identity(parent), {"epoch": 1})
    (data,) = recipe["data"]
    assert len(data["sha256"]) == 64
    config = SFTConfig(**recipe["config"])
    assert recipe["config"].keys() == asdict(config).keys()
    assert recipe["config"]["lr"] == 1e-2
    assert recipe["versions"].keys() >= {"alignbench", "torch", "transformers", "accelerate"}
    before, lines = (out / "final" / "model.safetensors").stat().st_mtime_ns, lines_of(out / "metrics.jsonl")
    assert train(config) == (out / "final", {"epoch": 1})
    assert (out / "final" / "model.safetensors").stat().st_mtime_ns == before
    assert lines_of(out / "metrics.jsonl") == lines
    second = fine_tune(model=str(out / "final"))
    lineage = find_checkpoint(str(second / "final")).lineage
    assert [ancestor.stage for ancestor in lineage] == ["base", "sft", "sft"]
    assert lineage[0].weights_sha256 == parent.weights_sha256


def test_mixed_precision_trains_weights_that_stay_in_fp32(fine_tune, tmp_path):
    data = write_rows(tmp_path / "many.jsonl", DEMONSTRATIONS * 8)
    out = fine_tune(data=data, mixed_precision="bf16", batch=10)
    losses = [line["loss"] for line in steps_of(out)]
    assert losses[-1] < losses[0] - 1
    assert {weight.dtype for weight in weights_of(out / "final").values()} == {torch.float32}


def test_mistakes_are_one_line(fine_tune, tmp_path):
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
    write_rows(tmp_path / "chat.jsonl", [{"messages": turns}])
    short = checkpoint(tmp_path / "short", max_position_embeddings=24)
    medium = checkpoint(tmp_path / "512", max_position_embeddings=512)
    small = checkpoint(tmp_path / "small", vocab_size=300)
    plain = write_rows(tmp_path / "plain.jsonl", [{"prompt": "q", "response": "zz"}] * 4)
    selection = {"validation": "sft.jsonl", "reward": "math:fsum", "selection_tokens": 500}
    for settings, words in (
        ({"reward": "a:b"}, ["validation=FILE"]),
        ({"model": short}, ["sft.jsonl: demonstration 3 has 28 tokens", "window 24"]),
        ({"model": medium, **selection}, ["sft.jsonl: prompt + selection_tokens of row 1 has"]),
        ({"lr": 1e30, "epochs": 4}, ["the gradient is not finite"]),
        ({"data": str(tmp_path / "chat.jsonl")}, ["chat.jsonl:1: chat messages need"]),
        ({"model": small}, ["the model has embeddings for 300"]),
        ({"model": small, "data": plain, "pretraining": "text.txt"}, ["embeddings for 300"]),
    ):
        line = refusal(lambda settings=settings: fine_tune(**settings))
        assert all(word in line for word in words), line
    fine_tune(model=small, data=plain)  # only tokens that occur need an embedding
