"""DPO: its loss and gradient by definition and beside TRL's, what it learns, and what a resumed run needs."""

import math

import pytest
import stages
import torch
from commands import assert_one_line_error, run
from hypothesis import given
from hypothesis import strategies as st
from tiny import save_tiny_checkpoint, tiny_tokenizer
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainers import dpo
from trainers.data import Ranking
from trainers.models import Texts
from trainers.packing import Example

folder = pytest.fixture(scope="module")(stages.prepare)
fit = stages.runner("dpo")
numbers = st.lists(st.floats(-50, 50), min_size=2, max_size=5)


@given(numbers, st.floats(0.01, 2), st.data())
def test_the_loss_is_the_mean_of_all_pairs_that_are_not_ties(logprobs, beta, data):
    count = len(logprobs)
    reference = data.draw(st.lists(st.floats(-50, 50), min_size=count, max_size=count))
    ranks = [1, *data.draw(st.lists(st.integers(1, 3), min_size=count - 2, max_size=count - 2)), 4]
    row = dpo.Row(
        Ranking("p", ("r",) * count, tuple(ranks), None), Example([1], [[1]] * count), torch.tensor(reference)
    )
    rewards = [beta * (own - other) for own, other in zip(logprobs, reference, strict=True)]
    pairs = [(i, j) for i in range(count) for j in range(count) if ranks[i] < ranks[j]]
    expected = sum(math.log1p(math.exp(rewards[j] - rewards[i])) for i, j in pairs) / len(pairs)
    assert dpo.dpo_loss(torch.tensor(logprobs), row, beta).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("micro_tokens", [8192, 1])
def test_the_gradient_is_the_definitions_with_one_stock_forward_per_response(folder, fit, monkeypatch, micro_tokens):
    """At the second step, where policy and reference differ."""
    found = stages.keep_gradients(monkeypatch)
    rows = stages.RANKINGS
    settings = {"batch": len(rows), "validation": "one-reward.jsonl", "beta": 0.5, "save_every": 1, "epochs": 2}
    out = fit(micro_tokens=micro_tokens, **settings)
    first = fit(micro_tokens=micro_tokens, **settings | {"epochs": 1})
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = Texts(tokenizer)
    policy, reference = (
        stages.exact(AutoModelForCausalLM.from_pretrained(path)) for path in (first / "final", folder / "model")
    )
    losses = []
    for row in rows:
        example = texts.example(row["prompt"], row["responses"])
        with torch.no_grad():
            base = [stages.logprobs_alone(reference, example.prompt, r).sum() for r in example.responses]
        own = [stages.logprobs_alone(policy, example.prompt, r).sum() for r in example.responses]
        rewards = [0.5 * (a - b) for a, b in zip(own, base, strict=True)]
        ranks = row["ranks"]
        pairs = [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
        losses.append(-torch.stack([logsigmoid(rewards[i] - rewards[j]) for i, j in pairs]).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    steps = stages.steps_of(out)
    assert steps[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)  # the policy is the reference
    assert steps[1]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    stages.assert_same_gradients(found[1], {f"model.{n}": g for n, g in stages.gradients_of(policy).items()}, 2e-4)


def test_training_prefers_the_better_responses_and_the_checkpoint_is_a_stock_model_with_its_lineage(folder, fit):
    out = fit(epochs=4, lr=3e-2)
    found = stages.recipe_of(out)
    assert found["stage"] == "dpo"
    assert found["metrics"]["accuracy"] > 0.9
    assert found["metrics"]["margin"] > 0.5
    assert found["metrics"]["margin"] == pytest.approx(
        found["metrics"]["best_reward"] - found["metrics"]["worst_reward"], rel=1e-6
    )
    assert not stages.same_weights(out / "final", folder / "model")
    AutoModelForCausalLM.from_pretrained(out / "final")
    frozen = fit(lora=2, epochs=2, lr=3e-2)
    assert (frozen / "final" / "adapter" / "adapter_config.json").is_file()
    assert stages.recipe_of(frozen)["metrics"]["margin"] > 0.1


def test_the_loss_is_that_of_trl(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    tokenizer = tiny_tokenizer(bos=False)
    save_tiny_checkpoint(tmp_path / "model", tokenizer=tokenizer)
    save_tiny_checkpoint(tmp_path / "other", tokenizer=tokenizer, seed=1)
    pairs = [
        {"prompt": q, "chosen": stages.ANSWERS[i % 3], "rejected": stages.ANSWERS[(i + 1) % 3]}
        for i, q in enumerate(stages.QUESTIONS)
    ]
    policy, reference = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("other", "model"))
    arguments = trl.DPOConfig(
        str(tmp_path / "trl"), beta=0.1, per_device_train_batch_size=len(pairs), use_cpu=True, report_to=[],
        gradient_checkpointing=False, max_length=None, bf16=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        policy, reference, arguments, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    expected = {name.removeprefix("module."): p.grad.double() for name, p in trainer.model.named_parameters()}
    own = stages.exact(AutoModelForCausalLM.from_pretrained(tmp_path / "other"))
    base, losses = stages.exact(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), []
    texts = Texts(tokenizer)
    for pair in pairs:
        example = texts.example(pair["prompt"], [pair["chosen"], pair["rejected"]])
        sums = [[stages.logprobs_alone(m, example.prompt, r).sum() for r in example.responses] for m in (own, base)]
        row = dpo.Row(Ranking("", ("", ""), (1.0, 2.0), None), example, torch.stack(sums[1]).detach())
        losses.append(dpo.dpo_loss(torch.stack(sums[0]), row, 0.1))
    loss = torch.stack(losses).mean()
    loss.backward()
    assert theirs.item() == pytest.approx(loss.item(), rel=1e-5)
    stages.assert_same_gradients(expected, stages.gradients_of(own), 1e-5)


def test_bad_input_is_one_line(folder, tmp_path):
    model, data = folder / "model", folder / "rankings.jsonl"
    dpo_command = ["train", "dpo", f"model={model}", f"out={tmp_path / 'out'}"]
    assert_one_line_error(run(*dpo_command), "data must be given")
    assert_one_line_error(run(*dpo_command, f"data={data}", "beta=0"), "beta: 0.0 is not finite and above 0")
    assert_one_line_error(run(*dpo_command, f"data={folder / 'sft.jsonl'}"), "sft.jsonl:1", "are not rankings")
    assert_one_line_error(run(*dpo_command, f"data={data}", "leave_out=ANN"), "no ranking by 'ANN'")
