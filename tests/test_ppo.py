"""PPO: the identities of its first step, its gradient, its rewards, and what it learns."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import stages
import torch
from cases import read_lines
from tiny import SENTENCES, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignbench.models.checkpoint import find_checkpoint
from trainers import loop, ppo
from trainers.models import Policy, load
from trainers.reward import load_reward
from trainers.rollouts import penalised
from trainers.run import identity
from trainers.sampler import Sampler

folder = pytest.fixture(scope="module")(stages.prepare)


optimise = stages.runner("ppo")


@pytest.fixture
def seen(monkeypatch):
    """What passes through PPO: rollouts after their advantages; gradients, rates and weights of each step."""
    found = {"rollouts": [], "gradients": [], "rates": [], "weights": []}
    compute, step = ppo.compute_advantages, loop.take_step

    def compute_advantages(config, rollouts):
        compute(config, rollouts)
        found["rollouts"].append(rollouts)

    def take_step(module, optimizer, max_norm):
        name = "policy" if isinstance(module, Policy) else "value"
        gradients = {f"{name}.{key}": gradient for key, gradient in stages.gradients_of(module).items()}
        rate = [group["lr"] for group in optimizer.param_groups]
        norm = step(module, optimizer, max_norm)
        if name == "policy":  # its gradients are freed before those of the value are computed
            assert all(p.grad is None for p in module.parameters())
            found["gradients"].append(gradients)
            found["rates"].append(rate)
            found["weights"].append({n: p.detach().clone() for n, p in module.model.named_parameters()})
        else:
            found["gradients"][-1] |= gradients
            found["rates"][-1] += rate
        return norm

    monkeypatch.setattr(ppo, "compute_advantages", compute_advantages)
    monkeypatch.setattr(loop, "take_step", take_step)
    return found


@pytest.mark.parametrize("how", [{"lora": 2}, {"temperature": 0.7, "micro_tokens": 50}, {"mixed_precision": "bf16"}])
def test_on_the_first_minibatch_the_ratio_is_1_and_kl_and_policy_loss_are_0(optimise, monkeypatch, how):
    """Detail 7. A training step needs no fp64, which Apple's GPUs do not have."""
    accumulate = loop.accumulate

    def without_fp64(*arguments):
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "double", None)
            return accumulate(*arguments)

    monkeypatch.setattr(loop, "accumulate", without_fp64)
    (first,) = stages.steps_of(optimise(**how))
    tolerance = 2e-2 if "mixed_precision" in how else 2e-5
    assert first["ratio"] == pytest.approx(1, abs=tolerance)
    for name in ("approximate_kl", "policy_loss", "kl", "kl_k3"):
        assert first[name] == pytest.approx(0, abs=tolerance), name
    assert first["clip_fraction"] == 0


def test_log_probabilities_are_the_stock_models_at_the_sampling_temperature(folder, optimise, seen):
    """Detail 5."""
    optimise(temperature=0.5)
    model = stages.exact(AutoModelForCausalLM.from_pretrained(folder / "model"))
    for r in seen["rollouts"][0]:
        logits = model(torch.tensor([r.prompt.ids + r.response_ids])).logits[0, len(r.prompt.ids) - 1 : -1].detach()
        table = torch.log_softmax(logits / 0.5, -1)
        expected = table.gather(-1, torch.tensor(r.response_ids)[:, None])[:, 0]
        entropies = -(table.exp() * table).sum(-1)
        found = np.stack([r.logprobs, r.reference, r.entropies])
        np.testing.assert_allclose(found, torch.stack([expected, expected, entropies]), rtol=0, atol=5e-5)


def norm_of(gradients) -> float:
    return math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))


@pytest.mark.parametrize(("mean", "micro_tokens"), [("token", 8192), ("example", 40)])
def test_the_accumulated_gradient_is_that_of_the_summed_loss(folder, optimise, seen, tmp_path, mean, micro_tokens):
    """L = L_policy + L_value − γ E_pretraining[log π], in one graph over the stock models in float64."""
    text, gamma = tmp_path / "text.txt", 2.5
    text.write_text("\n\n".join(SENTENCES[:4]))
    out = optimise(
        reward="judge", pretraining=str(text), ptx=gamma, ptx_examples=1, batch=4, minibatch=4, episodes=4,
        ptx_tokens=512, ptx_mean=mean, micro_tokens=micro_tokens,
    )  # fmt: skip
    policy = stages.exact(AutoModelForCausalLM.from_pretrained(folder / "model"))
    value = stages.exact(load(str(folder / "judge"), "reward")[0])
    policy_losses, value_losses = [], []
    for r in seen["rollouts"][0]:
        ratio = torch.exp(stages.logprobs_alone(policy, r.prompt.ids, r.response_ids) - torch.tensor(r.logprobs))
        advantages = torch.tensor(r.advantages)
        policy_losses.append(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)))
        states = value.model(torch.tensor([r.prompt.ids + r.response_ids])).last_hidden_state[0]
        values = value.score(states[len(r.prompt.ids) - 1 : -1])[:, 0]
        value_losses.append((values - torch.tensor(r.returns)) ** 2 / 2)  # values have not moved
    policy_loss, value_loss = torch.cat(policy_losses).mean(), torch.cat(value_losses).mean()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    pieces = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES[:4]]  # 4 episodes, 1 example each: all
    learned = torch.cat([stages.logprobs_alone(policy, ids[:1], ids[1:]) for ids in pieces])
    pretraining = -learned.mean() if mean == "token" else -learned.sum() / 4
    parts = [torch.autograd.grad(p, list(policy.parameters()), retain_graph=True) for p in (policy_loss, pretraining)]
    (policy_loss + value_loss + gamma * pretraining).backward()
    expected = stages.gradients_of(torch.nn.ModuleDict({"policy": policy, "value": value}))
    expected = {name.replace(".", ".model.", 1): gradient for name, gradient in expected.items()}
    stages.assert_same_gradients(seen["gradients"][0], expected, 1e-5)
    (line,) = stages.steps_of(out)
    both = [a + gamma * b for a, b in zip(*parts, strict=True)]
    assert line["policy_gradient_norm"] == pytest.approx(norm_of(both), rel=1e-3)
    assert line["ptx_gradient_norm"] == pytest.approx(gamma * norm_of(parts[1]), rel=1e-3)
    assert line["gradient_norm"] == pytest.approx(norm_of(expected.values()), rel=1e-3)
    assert line["ptx_loss"] == pytest.approx(-learned.mean().item(), rel=1e-4)
    assert line["value_loss"] == pytest.approx(value_loss.item(), rel=1e-4)


def test_the_sampled_ids_are_trained_on_and_each_pass_over_the_prompts_has_a_new_order(optimise, seen, monkeypatch):
    """Details 17, 19."""
    sampled, sample = [], Sampler.sample

    def keep(self, *arguments):
        sampled.extend(completions := sample(self, *arguments))
        return completions

    monkeypatch.setattr(Sampler, "sample", keep)
    optimise(episodes=20, batch=5, minibatch=5)
    rollouts = [rollout for batch in seen["rollouts"] for rollout in batch]
    assert [tuple(r.response_ids) for r in rollouts] == [completion.tokens for completion in sampled[:20]]
    tokenizer = tiny_tokenizer()  # the text of a random model's tokens seldom has these tokens
    again = [tuple(tokenizer(c.text, add_special_tokens=False)["input_ids"]) for c in sampled]
    assert again != [completion.tokens for completion in sampled]
    asked = [rollout.prompt.text for rollout in rollouts]
    assert sorted(asked[:10]) == sorted(asked[10:]) == sorted(stages.QUESTIONS)
    assert asked[:10] != asked[10:]
    assert len({rollout.response for rollout in rollouts}) == 20


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_the_score_is_added_once_at_the_last_token(folder, optimise, seen, tmp_path, pad_is_eos):
    """Details 1, 2, 8, 9."""
    tokenizer = tiny_tokenizer()
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    policy = stages.checkpoint(tmp_path / "ends", tokenizer=tokenizer, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(policy)
    model.lm_head.weight.data.zero_()  # all tokens are equally likely, also the end token
    model.save_pretrained(policy)
    batch = {"batch": 32, "minibatch": 32, "episodes": 32, "max_tokens": 96}
    optimise(model=policy, reward="judge", no_end_score=-7.0, **batch)
    (rollouts,) = seen["rollouts"]
    ended = [r for r in rollouts if r.ended]
    assert 0 < len(ended) < len(rollouts)
    for r in rollouts:
        assert r.ended == (r.response_ids[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in r.response_ids[:-1]
        np.testing.assert_allclose(r.rewards, [0] * (len(r.rewards) - 1) + [r.score], atol=2e-5)
        assert r.score == -7 or r.ended
    classifier = stages.exact(AutoModelForSequenceClassification.from_pretrained(folder / "judge"))
    own = AutoTokenizer.from_pretrained(folder / "judge")
    bias = classifier.config.alignbench_reward_bias
    for r in ended:
        ids = torch.tensor([[*own(r.prompt.text + r.response)["input_ids"], own.eos_token_id]])
        assert r.score == pytest.approx(classifier(ids).logits.item() + bias, abs=1e-4)


def test_a_response_is_cut_at_its_stop_string_before_it_is_scored_and_rewards_may_be_whitened(optimise, seen):
    """Details 10, 11."""
    settings = {"stop": tuple("eaon"), "max_tokens": 32, "no_end_score": -3.0}
    out = optimise(batch=16, minibatch=16, episodes=16, **settings)
    optimise(batch=16, minibatch=16, episodes=16, whiten_rewards=True, **settings)
    rollouts, _ = seen["rollouts"]
    tokenizer = tiny_tokenizer()
    stopped = [r for r in rollouts if r.ended and r.response_ids[-1] != tokenizer.eos_token_id]
    assert len(stopped) > 4
    for r in stopped:
        assert not set(r.response) & set("eaon")
        assert set(tokenizer.decode(r.response_ids)) & set("eaon")  # these tokens are trained on
        assert r.score == len(r.response) / 10
    (line,) = stages.steps_of(out)
    assert line["ended"] == np.mean([r.ended for r in rollouts])
    assert line["response_tokens"] == np.mean([len(r.response_ids) for r in rollouts])
    assert line["score"] == pytest.approx(np.mean([r.score for r in rollouts]))
    raw, white = (
        [np.concatenate([getattr(r, name) for r in batch]) for name in ("rewards", "advantages")]
        for batch in seen["rollouts"]
    )
    assert (white[0].mean(), white[0].var()) == pytest.approx((raw[0].mean(), 1))
    for advantages in (white[1], raw[1]):
        assert (advantages.mean(), advantages.var()) == pytest.approx((0, 1), abs=1e-6)


def test_the_value_starts_from_the_reward_model_or_from_the_policy_or_as_set(
    folder, optimise, tmp_path, tmp_path_factory
):
    """Detail 20: a reward model with other tokens scores strings, and the value starts from the policy."""
    spells = tiny_tokenizer(bos=False, pad=False)
    model = stages.checkpoint(tmp_path / "other", tokenizer=spells, seed=3)
    foreign = str(stages.train(folder, "reward", tmp_path / "foreign", model=model) / "final")
    out = optimise(reward=foreign, lr=0.0, value_lr=0.0, sample_rows=8)
    value, start = stages.weights_of(out / "final" / "value"), stages.weights_of(folder / "model")
    assert all(torch.equal(value[name], start[name]) for name in value if name != "score.weight")
    samples = read_lines(out / "samples.jsonl")
    scorer = load_reward(foreign, stages.an_accelerator(tmp_path_factory), 8192)
    scores = scorer([row["prompt"] for row in samples], [row["response"] for row in samples])
    assert [row["score"] for row in samples] == pytest.approx(scores, abs=5e-5)
    out = optimise(reward="judge", lr=0.0, value_lr=0.0)
    assert stages.same_weights(out / "final" / "value", folder / "judge")
    trained = optimise(reward="judge", lr=0.0, value_lr=1e-2) / "final" / "value"
    second = optimise(value=str(trained), lr=0.0, value_lr=0.0)
    assert stages.same_weights(second / "final" / "value", trained)
    assert not stages.same_weights(trained, folder / "judge")


def test_no_response_without_an_end_has_a_better_score_than_one_that_ended(optimise, seen):
    """Detail 9."""
    raw, ended = [3.0, 5.0, -2.0, 4.0, -9.0], [True, False, True, False, False]
    assert penalised(raw, ended, None, 0.0) == [3, -2, -2, -2, -9]
    assert penalised(raw, ended, -1.0, 0.5) == [3, -2.5, -2, -2.5, -2.5]
    assert penalised(raw, ended, -7.0, 0.0) == [3, -7, -2, -7, -7]
    assert penalised(raw[:2], [False] * 2, None, 1.0) == [2, 4]
    optimise(stop=("e",), no_end_penalty=0.5, max_tokens=4)
    (rollouts,) = seen["rollouts"]
    raw, ended = [len(r.response) / 10 for r in rollouts], [r.ended for r in rollouts]
    assert [r.raw_score for r in rollouts] == raw
    assert [r.score for r in rollouts] == pytest.approx(penalised(raw, ended, None, 0.5))
    assert set(ended) == {True, False}


def test_prompts_are_held_out_where_there_are_enough_and_the_result_is_measured_on_them(folder, optimise, tmp_path):
    rows = [{"prompt": f"{i} {question}"} for i in range(20) for question in stages.QUESTIONS]
    many = stages.write_rows(tmp_path / "many.jsonl", rows)
    default, few = {"max_tokens": 1}, {"validation_share": 0.04}
    given = {"validation": str(folder / "sft.jsonl"), "lr": 0.0}
    runs = (optimise(prompts=many, **changed) for changed in (default, few, given))
    counts = [stages.recipe_of(out)["metrics"]["held_out"] for out in runs]
    assert counts == [10, 0, len(stages.QUESTIONS)]  # a twentieth of 200


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ppo", "rloo"])
@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_a_constant_reward_does_not_change_the_length_of_responses(folder, tmp_path, stage, reward):
    def constant(prompts, responses):
        return [reward] * len(responses)

    stop = {"stop": ("e", "a", "o"), "max_tokens": 64, "batch": 256, "episodes": 12 * 256}
    large = {"minibatch": 64, "value_lr": 1e-2} if stage == "ppo" else {}
    out = stages.train(folder, stage, tmp_path / "run", reward=constant, lr=1e-2, warmup=0, **stop, **large)
    first, *others = [line["response_tokens"] for line in stages.steps_of(out)]
    assert others == pytest.approx([first] * 11, rel=0.25)


def test_the_reward_model_reads_texts_in_its_own_chat_template(folder, optimise, tmp_path, monkeypatch):
    stages.check_templates(folder, optimise, tmp_path, monkeypatch, sample_rows=8)


def test_the_metrics_of_a_checkpoint_are_those_of_its_own_weights(folder, optimise):
    settings = {"lr": 3e-2, "warmup": 0, "ema": 0.9, "checkpoint_every": 1}
    out = optimise(episodes=24, **settings)
    lines = stages.steps_of(out)
    for path, iteration in ((out / "checkpoints/iteration-1", 1), (out / "final", 3)):
        metrics = json.loads((path / "recipe.json").read_text())["metrics"]
        again = optimise(model=str(path), reference=str(folder / "model"), lr=0.0, episodes=8 * (iteration + 1))
        expected = stages.steps_of(again)[iteration]  # the same prompts and seeds, by the saved weights
        names = ("raw_score", "score", "score_std", "kl", "kl_k3", "entropy", "response_tokens", "ended")
        assert {n: metrics[n] for n in names} == pytest.approx({n: expected[n] for n in names}, abs=1e-5)
        assert metrics["iterations"] == iteration
    assert metrics["kl"] != pytest.approx(lines[-1]["kl"], abs=1e-3)


def learned(out: Path) -> tuple[float, float, list[dict]]:
    """The mean score of the first and of the last three iterations, and the metrics of all."""
    lines = stages.steps_of(out)
    return *(float(np.mean([line["score"] for line in part])) for part in (lines[:3], lines[-3:])), lines


def test_a_reward_of_letters_rises_at_bounded_kl(optimise):
    settings = {"episodes": 32 * 25, "batch": 32, "minibatch": 16, "lr": 5e-3, "value_lr": 1e-2, "warmup": 2}
    first, last, lines = learned(optimise(reward="training_rewards:letters", ema=0.0, **settings))
    assert last > first + 5 * lines[0]["score_std"] / math.sqrt(3 * 32)  # 5 standard errors of each
    assert 0 < max(line["kl"] for line in lines) < 15


@pytest.mark.slow
@pytest.mark.needs_models
@pytest.mark.parametrize(("lora", "lr"), [(0, 3e-4), (8, 1e-3)])
def test_a_pretrained_model_learns_to_end_its_sentences(tinystories, optimise, tmp_path, lora, lr):
    stories = [{"prompt": f"Once upon a time, there was a {who} who"} for who in ("dog", "girl", "king", "bird")]
    prompts = stages.write_rows(tmp_path / "stories.jsonl", stories)
    out = optimise(
        model=str(tinystories), reward="training_rewards:sentences", prompts=prompts,
        episodes=32 * 12, batch=32, minibatch=16, max_tokens=24, lr=lr, lora=lora, value_lr=1e-3, warmup=2, ema=0.0,
        whiten_rewards=True,
    )  # fmt: skip
    first, last, lines = learned(out)
    assert last > 1.2 * first
    assert 0 < lines[-1]["kl"] < 20


def test_the_averaged_weights_are_the_result(folder, optimise, seen):
    """One update per minibatch: w̄ ← decay · w̄ + (1 − decay) · w, from the initial weights; the decay warms up."""
    out = optimise(ema=0.25, episodes=16, minibatch=4, warmup=0)
    average, moved = stages.weights_of(folder / "model"), list(seen["weights"])
    assert len(moved) == 4
    for weights, decay in zip(moved, (1 / 10, 2 / 11, 0.25, 0.25), strict=True):
        average = {name: decay * w + (1 - decay) * weights[name] for name, w in average.items()}
    without = stages.weights_of(optimise(ema=0.0, episodes=16, minibatch=4, warmup=0) / "final")
    torch.testing.assert_close(stages.weights_of(out / "final"), average, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(without, moved[3], rtol=1e-5, atol=1e-6)


def test_the_learning_rate_warms_up_from_a_tenth_in_ten_iterations(optimise, seen):
    optimise(episodes=12, batch=1, minibatch=1, max_tokens=2, lr=1e-3, value_lr=1e-2)
    factors = [min(1, 0.1 + 0.09 * t) for t in range(12)]
    assert np.array(seen["rates"]) == pytest.approx(np.outer(factors, [1e-3, 1e-2]))


@pytest.mark.parametrize("lora", [0, 2])
def test_the_checkpoint_loads_without_peft_and_has_its_lineage(folder, optimise, monkeypatch, lora):
    final = optimise(reward="judge", lora=lora, pretraining="text.txt", ptx=1.0, ptx_examples=1) / "final"
    monkeypatch.setitem(sys.modules, "peft", None)
    for kind, path in ((AutoModelForCausalLM, final), (AutoModelForSequenceClassification, final / "value")):
        _, info = kind.from_pretrained(path, output_loading_info=True)
        assert info["missing_keys"] == info["unexpected_keys"] == set()
    assert stages.weights_of(final).keys() == stages.weights_of(folder / "model").keys()
    assert not stages.same_weights(final, folder / "model")
    recipe = stages.recipe_of(final.parent)
    assert recipe["stage"] == "ppo-ptx"
    assert recipe["parent"] == identity(find_checkpoint(str(folder / "model")))
    assert recipe["models"] == {"reward": identity(find_checkpoint(str(folder / "judge")))}
    assert len(recipe["data"]) == 2
    assert [ancestor["stage"] for ancestor in recipe["lineage"]] == ["base"]
    assert (recipe["metrics"]["iterations"], recipe["config"]["lora"]) == (1, lora)


def test_intermediate_checkpoints_are_those_of_a_run_that_ended_there(optimise):
    out = optimise(episodes=24, checkpoint_every=1, warmup=0)
    kept = sorted(folder.name for folder in (out / "checkpoints").iterdir())
    assert kept == ["iteration-1", "iteration-2"]  # the third is final/
    assert stages.same_weights(out / "checkpoints" / "iteration-2", optimise(episodes=16, warmup=0) / "final")
    training = [find_checkpoint(str(path)).training for path in (out / "checkpoints/iteration-2", out / "final")]
    assert [(t["episodes"], t["beta"], t["gamma"]) for t in training] == [(16, 0.02, 0.0), (24, 0.02, 0.0)]
