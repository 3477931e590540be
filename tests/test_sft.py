"""Supervised fine-tuning: what is learned from, which epoch is the result, and what a checkpoint records."""

import math
from pathlib import Path

import pytest
import stages
import torch
from cases import read_lines
from commands import refusal
from tiny import SENTENCES
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.template import find_template
from trainers.run import identity
from trainers.sft import train

folder = pytest.fixture(scope="module")(stages.prepare)


fine_tune = stages.runner("sft")


def stock_loss(folder: Path, rows=stages.DEMONSTRATIONS):
    """The stock model in float64, and its loss: −log p per token of responses and ends, one example at a time."""
    model, losses = stages.exact(AutoModelForCausalLM.from_pretrained(folder / "model")), []
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for row in rows:
        prompt, whole = (tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + row["response"]))
        assert whole[: len(prompt)] == prompt
        losses.append(-stages.logprobs_alone(model, prompt, [*whole[len(prompt) :], tokenizer.eos_token_id]))
    return model, torch.cat(losses).mean()


def epochs_of(out: Path, name: str) -> list[float]:
    return [line[name] for line in read_lines(out / "metrics.jsonl") if "epoch" in line]


@pytest.mark.parametrize("micro_tokens", [8192, 60, 1])
def test_the_gradient_is_that_of_the_response_tokens_of_each_example_alone(
    folder, fine_tune, monkeypatch, micro_tokens
):
    found = stages.keep_gradients(monkeypatch)
    out = fine_tune(batch=len(stages.DEMONSTRATIONS), micro_tokens=micro_tokens)
    model, loss = stock_loss(folder)
    loss.backward()
    expected = {f"model.{name}": gradient for name, gradient in stages.gradients_of(model).items()}
    stages.assert_same_gradients(found[0], expected, 1e-5)
    (line,) = stages.steps_of(out)
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_in_mixed_precision_the_loss_falls_and_the_weights_stay_in_fp32(fine_tune, tmp_path):
    data = stages.write_rows(tmp_path / "many.jsonl", stages.DEMONSTRATIONS * 24)
    out = fine_tune(data=data, mixed_precision="bf16", batch=10, lr=2e-2)
    losses = [line["loss"] for line in stages.steps_of(out)]
    assert losses[-1] < 1 < 4 < losses[0]
    assert {weight.dtype for weight in stages.weights_of(out / "final").values()} == {torch.float32}


def test_the_validation_loss_is_the_token_mean_without_dropout(folder, fine_tune, tmp_path):
    held_out = stages.write_rows(tmp_path / "held-out.jsonl", stages.DEMONSTRATIONS[3:6])
    out = fine_tune(lr=0.0, dropout=0.5, epochs=2, validation=held_out)
    expected = stock_loss(folder, stages.DEMONSTRATIONS[3:6])[1].item()
    assert epochs_of(out, "validation_loss") == pytest.approx([expected] * 2, rel=1e-5)
    losses = [line["loss"] for line in stages.steps_of(out)]  # of training, with dropout
    assert sorted(losses[:3]) != pytest.approx(sorted(losses[3:]), rel=1e-3)


def test_every_epochs_checkpoint_loads_and_the_last_is_the_result(fine_tune):
    out = fine_tune(epochs=3)
    expected = [0.01 * (0.1 + 0.9 * (1 + math.cos(math.pi * t / 8)) / 2) for t in range(9)]
    assert [line["lr"] for line in stages.steps_of(out)] == pytest.approx(expected)
    folders = sorted((out / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["epoch-1", "epoch-2", "epoch-3"]
    for each in folders:
        model, tokenizer = (kind.from_pretrained(each) for kind in (AutoModelForCausalLM, AutoTokenizer))
        assert model(**tokenizer("Is it safe?", return_tensors="pt")).logits.isfinite().all()
    assert [stages.same_weights(out / "final", each) for each in folders] == [False, False, True]


def test_the_epoch_with_the_highest_reward_is_the_result(folder, fine_tune, tmp_path):
    validation = stages.write_rows(tmp_path / "validation.jsonl", stages.DEMONSTRATIONS[:6])
    settings = {"epochs": 3, "validation": validation, "selection_prompts": 5, "selection_tokens": 4}
    out = fine_tune(reward="training_rewards:second", **settings)
    assert epochs_of(out, "reward") == [1, 9, 4]
    assert stages.same_weights(out / "final", out / "checkpoints" / "epoch-2")
    assert stages.recipe_of(out)["metrics"]["reward"] == 9
    # one response to each of the first validation prompts, after each epoch
    samples = [(row["step"], row["prompt"]) for row in read_lines(out / "samples.jsonl")]
    assert samples == [(step, row["prompt"]) for step in (3, 6, 9) for row in stages.DEMONSTRATIONS[:5]]
    out = fine_tune(reward="judge", **settings)
    rewards = epochs_of(out, "reward")
    assert len(set(rewards)) == 3
    assert stages.same_weights(out / "final", out / "checkpoints" / f"epoch-{rewards.index(max(rewards)) + 1}")
    assert stages.recipe_of(out)["models"] == {"reward": identity(find_checkpoint(str(folder / "judge")))}


def test_the_selection_shows_the_reward_model_texts_in_its_own_chat_template(folder, fine_tune, tmp_path, monkeypatch):
    validation = stages.write_rows(tmp_path / "validation.jsonl", stages.DEMONSTRATIONS[:3])
    settings = {"validation": validation, "selection_tokens": 4}
    stages.check_templates(folder, fine_tune, tmp_path, monkeypatch, **settings)


def test_pretraining_text_is_mixed_in_at_its_proportion_and_used_up_before_it_repeats(fine_tune, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES[:4]))
    rows = [{"prompt": row["prompt"], "response": f" {i}"} for i, row in enumerate(stages.DEMONSTRATIONS * 2)][:12]
    data = stages.write_rows(tmp_path / "twelve.jsonl", rows)
    settings = {"data": data, "batch": 1, "lr": 0.0}  # lr 0: a loss identifies a row
    runs = fine_tune(epochs=2, pretraining=str(text), pretraining_share=0.14, **settings), fine_tune(**settings)
    losses, demonstrations = ([round(line["loss"], 5) for line in stages.steps_of(run)] for run in runs)
    assert len(losses) == 2 * 14  # 12 of 14 are demonstrations
    assert set(demonstrations) < set(losses)
    epochs = [[loss for loss in part if loss not in set(demonstrations)] for part in (losses[:14], losses[14:])]
    assert [len(epoch) for epoch in epochs] == [2, 2]
    assert len(set(epochs[0] + epochs[1])) == 4


def test_long_rows_are_truncated_and_a_named_template_is_saved_for_the_next_stages(folder, fine_tune, tmp_path, capsys):
    long = {"prompt": "Who?", "response": " bees and honey" * 400}
    data = stages.write_rows(
        tmp_path / "long.jsonl", [*stages.DEMONSTRATIONS, long, {"prompt": "a " * 4000, "response": "b"}]
    )
    settings = {"template": True, "chat_template": "plain", "long": "truncate", "micro_tokens": 512}
    out = fine_tune(data=data, **settings)
    assert (len(stages.steps_of(out)), stages.recipe_of(out)["data"][0]["rows"]) == (3, 11)  # 11 rows in batches of 4
    template = AutoTokenizer.from_pretrained(out / "final").chat_template
    assert template == find_template("plain")
    ranked = stages.write_rows(
        tmp_path / "r.jsonl", [*stages.RANKINGS, {**long, "chosen": long["response"], "rejected": "b"}]
    )
    next_ones = {"model": str(out / "final"), "template": True, "long": "truncate"}
    judged = stages.train(folder, "reward", tmp_path / "judged", **next_ones)
    assert AutoTokenizer.from_pretrained(judged / "final").chat_template == template
    assert "split the file" in refusal(stages.train, folder, "reward", tmp_path / "mixed", **next_ones, data=ranked)
    asked = stages.write_rows(
        tmp_path / "p.jsonl", [{"prompt": row["prompt"]} for row in stages.DEMONSTRATIONS] + [{"prompt": "a " * 4000}]
    )
    reward = str(judged / "final")
    tuned = stages.train(
        folder, "ppo", tmp_path / "ppo", **next_ones, reward=reward, prompts=asked, batch=16, minibatch=16, episodes=16
    )
    assert any(row["prompt"].startswith("\n\nHuman: ") for row in read_lines(tuned / "samples.jsonl"))


def test_a_template_that_changed_is_another_run(fine_tune, tmp_path, monkeypatch):
    file, settings = tmp_path / "t.jinja", {"template": True, "chat_template": str(tmp_path / "t.jinja")}
    file.write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    out = fine_tune(**settings)
    file.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    config = stages.config_of(Path.cwd(), "sft", out, **settings)
    assert "config.chat_template was <" in refusal(train, config).replace("{% for m in messages %}", "")
