"""PPO: the identities of its first step, its gradient, its rewards, what it learns, and what stops it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
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
    weights_of,
    write_rows,
)
from tiny import SENTENCES, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignbench.models.checkpoint import find_checkpoint
from trainers import ppo
from trainers.models import Texts, load
from trainers.ppo import PPOConfig, train
from trainers.recipe import identify
from trainers.reward import RewardConfig
from trainers.reward import train as train_reward
from trainers.rewards import RewardModel
from trainers.rollout import Sampler
from trainers.run import Run

LENGTH = "def score(prompts, responses):\n    return [len(response) / 10 for response in responses]\n"
RANKINGS = [{"prompt": q, "responses": [" honey", " wax", " no no"], "ranks": [1, 2, 3]} for q in QUESTIONS]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return checkpoint(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def judge(base, tmp_path_factory) -> str:
    """A reward model over the same tokens as the policy."""
    folder = tmp_path_factory.mktemp("judge")
    data = write_rows(folder / "rankings.jsonl", RANKINGS)
    final, _ = train_reward(RewardConfig(model=base, data=data, out=str(folder / "run"), batch=5, lr=1e-2, **HERE))
    return str(final)


@pytest.fixture
def optimise(tmp_path, base, monkeypatch):
    """Runs PPO with quick settings on a reward of length; every call has a folder of its own."""
    monkeypatch.chdir(tmp_path)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": question} for question in QUESTIONS])
    module = f"length_{abs(hash(str(tmp_path)))}"
    quick = HERE | {"model": base, "reward": reward_module(tmp_path, module, LENGTH), "prompts": prompts}
    quick |= {"episodes": 8, "batch": 8, "minibatch": 8, "max_tokens": 8, "lr": 1e-3, "value_lr": 1e-3}
    quick |= {"no_end_score": None, "out": str(tmp_path / "run-0")}
    runs = iter(range(1, 100))

    def run(**changed) -> Path:
        config = PPOConfig(**(quick | {"out": str(tmp_path / f"run-{next(runs)}")} | changed))
        final, _ = train(config)
        assert final == Path(config.out) / "final"
        return Path(config.out)

    run.settings = quick  # for the command line
    return run


@pytest.fixture
def seen(monkeypatch):
    """What passes through PPO: rollouts after their advantages, and gradients before each step."""
    found = {"rollouts": [], "gradients": [], "beta": []}
    estimate, step = ppo.estimate_advantages, ppo.take_step

    def estimate_advantages(config, beta, rollouts):
        estimate(config, beta, rollouts)
        found["rollouts"].append(rollouts)
        found["beta"].append(beta)

    def take_step(module, *arguments):
        found["gradients"].append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
        return step(module, *arguments)

    monkeypatch.setattr(ppo, "estimate_advantages", estimate_advantages)
    monkeypatch.setattr(ppo, "take_step", take_step)
    return found


def metrics_of(out: Path) -> list[dict]:
    return lines_of(out / "metrics.jsonl")


# The first step


@pytest.mark.parametrize(
    "how", [{}, {"lora": 2}, {"temperature": 0.7}, {"micro_tokens": 50}, {"mixed_precision": "bf16"}]
)
def test_on_the_first_minibatch_the_ratio_is_1_and_both_kls_and_the_policy_loss_are_0(optimise, how):
    (first,) = metrics_of(optimise(**how))
    near = {"abs": 1e-5} if "mixed_precision" not in how else {"abs": 2e-2}
    assert first["ratio"] == pytest.approx(1, **near)
    assert first["approximate_kl"] == pytest.approx(0, **near)
    assert first["policy_loss"] == pytest.approx(0, **near)
    assert first["kl"] == pytest.approx(0, **near)
    assert first["kl_k3"] == pytest.approx(0, **near)
    assert first["clip_fraction"] == 0


def test_log_probabilities_are_the_stock_models_at_the_sampling_temperature(base, optimise, seen):
    optimise(temperature=0.5)
    model = AutoModelForCausalLM.from_pretrained(base)
    for rollout in seen["rollouts"][0]:
        ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
        table = torch.log_softmax(model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1] / 0.5, -1).detach().double()
        expected = table.gather(-1, torch.tensor(rollout.response_ids)[:, None])[:, 0].numpy()
        np.testing.assert_allclose(rollout.logprobs, expected, atol=1e-5)
        np.testing.assert_allclose(rollout.reference, expected, atol=1e-5)
        np.testing.assert_allclose(rollout.entropies, -(table.exp() * table).sum(-1).numpy(), atol=1e-5)


def stock_policy_loss(model, rollouts, clip: float) -> torch.Tensor:
    losses = []
    for r in rollouts:
        ratio = torch.exp(plain_logprobs(model, r.prompt_ids, r.response_ids) - torch.tensor(r.logprobs).float())
        advantages = torch.tensor(r.advantages).float()
        losses.append(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)))
    return torch.cat(losses).mean()


def stock_value_loss(model, rollouts) -> torch.Tensor:
    """Of the first step, where no value has moved yet: ½ the mean squared error."""
    losses = []
    for r in rollouts:
        states = model.model(torch.tensor([r.prompt_ids + r.response_ids])).last_hidden_state[0]
        values = model.score(states[len(r.prompt_ids) - 1 : -1])[:, 0]
        losses.append((values - torch.tensor(r.returns).float()) ** 2 / 2)
    return torch.cat(losses).mean()


def norm_of(gradients) -> float:
    return math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))


@pytest.mark.parametrize("micro_tokens", [8192, 40])
@pytest.mark.parametrize("mean", ["token", "example"])
def test_the_accumulated_gradient_is_that_of_the_summed_loss(base, judge, optimise, seen, tmp_path, mean, micro_tokens):
    """L = L_policy + L_value − γ E_pretraining[log π], in one graph over the stock models."""
    text, gamma = tmp_path / "text.txt", 2.5
    text.write_text("\n\n".join(SENTENCES[:4]))
    out = optimise(
        reward=judge, pretraining=str(text), ptx=gamma, ptx_examples=1, batch=4, minibatch=4, episodes=4,
        ptx_tokens=512, ptx_mean=mean, micro_tokens=micro_tokens,
    )  # fmt: skip
    (found,), (rollouts,) = seen["gradients"], seen["rollouts"]
    policy, value = AutoModelForCausalLM.from_pretrained(base), load(judge, "reward")[0]
    tokenizer = AutoTokenizer.from_pretrained(base)
    pieces = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES[:4]]  # 4 episodes, 1 example each: all of them
    learnt = torch.cat([plain_logprobs(policy, ids[:1], ids[1:]) for ids in pieces])
    pretraining = -learnt.mean() if mean == "token" else -learnt.sum() / 4
    ppo_loss, value_loss = stock_policy_loss(policy, rollouts, 0.2), stock_value_loss(value, rollouts)
    loss = ppo_loss + value_loss + gamma * pretraining
    parts = [
        torch.autograd.grad(part, list(policy.parameters()), retain_graph=True) for part in (ppo_loss, pretraining)
    ]
    loss.backward()
    for prefix, model in (("policy.model.", policy), ("value.model.", value)):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found.pop(prefix + name), parameter.grad, rtol=2e-4, atol=2e-6)
    assert not found
    (line,) = metrics_of(out)
    assert line["ppo_gradient_norm"] == pytest.approx(norm_of(parts[0]), rel=1e-3)
    assert line["ptx_gradient_norm"] == pytest.approx(gamma * norm_of(parts[1]), rel=1e-3)
    whole = [p.grad for model in (policy, value) for p in model.parameters()]
    assert line["gradient_norm"] == pytest.approx(norm_of(whole), rel=1e-3)
    assert line["ptx_loss"] == pytest.approx(-learnt.mean().item(), rel=1e-5)
    assert line["value_loss"] == pytest.approx(value_loss.item(), rel=1e-4)


def test_the_loss_does_not_depend_on_how_a_minibatch_is_cut(optimise):
    one, many = (optimise(micro_tokens=tokens, episodes=16, minibatch=4) for tokens in (8192, 60))
    for a, b in zip(metrics_of(one), metrics_of(many), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


# Rollouts and rewards


def test_the_sampled_ids_are_what_is_trained_on(optimise, seen, monkeypatch):
    wrote, prompts = [], []
    sample = Sampler.sample

    def keep(self, keys, asked, sampling, seed):
        wrote.extend(sample(self, keys, asked, sampling, seed))
        prompts.extend(asked)
        return wrote

    monkeypatch.setattr(Sampler, "sample", keep)
    optimise()
    (rollouts,) = seen["rollouts"]
    assert [tuple(r.response_ids) for r in rollouts] == [completion.tokens for completion in wrote]
    assert [r.prompt for r in rollouts] == prompts
    assert sorted(prompts) != prompts  # in a new order
    # a random model's tokens are seldom what their text would be cut into
    tokenizer = tiny_tokenizer()
    again = [tuple(tokenizer(c.text, add_special_tokens=False)["input_ids"]) for c in wrote]
    assert again != [completion.tokens for completion in wrote]


def test_every_prompt_comes_once_before_any_comes_again(optimise, seen):
    optimise(episodes=20, batch=5, minibatch=5)
    asked = [rollout.prompt for rollouts in seen["rollouts"] for rollout in rollouts]
    assert sorted(asked[:10]) == sorted(asked[10:]) == sorted(QUESTIONS)
    assert asked[:10] != asked[10:]
    answers = [rollout.response for rollouts in seen["rollouts"] for rollout in rollouts]
    assert len(set(answers)) == 20  # and is not answered as before


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_the_score_counts_once_at_the_last_token_also_when_pad_is_the_end_token(
    optimise, seen, tmp_path, pad_is_eos, judge
):
    tokenizer = tiny_tokenizer()
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    folder = checkpoint(tmp_path / "ends", tokenizer=tokenizer, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data.zero_()  # every token is as likely, the end among them
    model.save_pretrained(folder)
    batch = {"batch": 32, "minibatch": 32, "episodes": 32, "max_tokens": 96}
    optimise(model=folder, reward=judge, whiten_rewards=False, no_end_score=-7.0, **batch)
    (rollouts,) = seen["rollouts"]
    ended = [r for r in rollouts if r.ended]
    assert ended
    assert len(ended) < len(rollouts)
    for r in rollouts:
        assert r.ended == (r.response_ids[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in r.response_ids[:-1]
        np.testing.assert_allclose(r.rewards, [0] * (len(r.rewards) - 1) + [r.score], atol=1e-5)
        assert r.score == -7 or r.ended
    # what the stock classifier says of the same text at its end token
    classifier = AutoModelForSequenceClassification.from_pretrained(judge)
    its = AutoTokenizer.from_pretrained(judge)
    for r in ended:
        ids = torch.tensor([[*its(r.prompt + r.response)["input_ids"], its.eos_token_id]])
        assert r.score == pytest.approx(classifier(ids).logits.item(), abs=1e-4)


def test_a_response_that_does_not_end_gets_a_fixed_score_or_its_own_less_a_penalty(optimise, seen):
    optimise(no_end_score=-3.0)
    optimise(no_end_score=None)
    optimise(no_end_score=None, no_end_penalty=0.5)
    for r in seen["rollouts"][0]:
        assert r.score == (len(r.response) / 10 if r.ended else -3)
    for own, penalised in zip(*seen["rollouts"][1:], strict=True):
        assert own.response == penalised.response
        assert penalised.score == pytest.approx(own.score - (0 if own.ended else 0.5))
    assert not all(r.ended for r in seen["rollouts"][0])


def test_a_response_is_cut_at_its_stop_string_before_it_is_scored(optimise, seen):
    out = optimise(stop=("e", "a", "o", "n"), max_tokens=32, batch=16, minibatch=16, episodes=16, no_end_score=-3.0)
    (rollouts,) = seen["rollouts"]
    tokenizer = tiny_tokenizer()
    stopped = [r for r in rollouts if r.ended and r.response_ids[-1] != tokenizer.eos_token_id]
    assert len(stopped) > 4
    for r in stopped:
        assert not set(r.response) & set("eaon")
        assert set(tokenizer.decode(r.response_ids)) & set("eaon")  # whose tokens are trained on
        assert r.score == len(r.response) / 10
    (line,) = metrics_of(out)
    assert line["ended"] == np.mean([r.ended for r in rollouts])
    assert line["response_tokens"] == np.mean([len(r.response_ids) for r in rollouts])
    assert line["score"] == pytest.approx(np.mean([r.score for r in rollouts]))


def test_rewards_are_whitened_keeping_their_mean_and_advantages_without_over_real_tokens(optimise, seen):
    optimise(stop=("e", "a"), whiten_rewards=True)
    optimise(stop=("e", "a"), whiten_rewards=False)
    white, raw = ([np.concatenate([getattr(r, name) for r in batch]) for name in ("rewards", "advantages")]
                  for batch in seen["rollouts"])  # fmt: skip
    assert len({len(r.response_ids) for r in seen["rollouts"][0]}) > 1
    assert white[0].mean() == pytest.approx(raw[0].mean())
    assert white[0].var() == pytest.approx(1)
    for advantages in (white[1], raw[1]):
        assert (advantages.mean(), advantages.var()) == pytest.approx((0, 1), abs=1e-6)


def test_the_reward_model_may_have_another_tokenizer_and_the_value_then_starts_from_the_policy(
    optimise, tmp_path, base
):
    spells = tiny_tokenizer(bos=False, pad=False)
    other = checkpoint(tmp_path / "other", tokenizer=spells, seed=3)
    data = write_rows(tmp_path / "rankings.jsonl", RANKINGS)
    judge, _ = train_reward(RewardConfig(model=other, data=data, out=str(tmp_path / "rm"), batch=5, **HERE))
    out = optimise(reward=str(judge), lr=0.0, value_lr=0.0, sample_rows=8)
    value, start = weights_of(out / "final" / "value"), weights_of(Path(base))
    assert all(torch.equal(value[name], start[name]) for name in value if name != "score.weight")
    model, its, checkpoint_ = load(str(judge), "reward")
    from trainers.models import Scalar

    samples = lines_of(out / "samples.jsonl")
    scores = RewardModel(Scalar(model), its, checkpoint_.window, 8192)(
        [row["prompt"] for row in samples], [row["response"] for row in samples]
    )
    assert [row["score"] for row in samples] == pytest.approx(scores, abs=1e-5)


def test_the_value_starts_from_the_reward_model_and_may_start_from_another_checkpoint(optimise, judge, tmp_path):
    out = optimise(reward=judge, lr=0.0, value_lr=0.0)
    assert same_weights(out / "final" / "value", Path(judge))
    # the critic of one run goes on in the next
    trained = optimise(reward=judge, lr=0.0, value_lr=1e-2)
    second = optimise(value=str(trained / "final" / "value"), lr=0.0, value_lr=0.0)
    assert same_weights(second / "final" / "value", trained / "final" / "value")
    assert not same_weights(second / "final" / "value", Path(judge))


# What it learns and what it leaves


def test_a_reward_of_letters_rises_at_bounded_kl(optimise, tmp_path):
    letters = "def score(prompts, responses):\n    return [sum(c.isalpha() for c in r) / 4 for r in responses]\n"
    reward = reward_module(tmp_path, f"letters_{abs(hash(str(tmp_path)))}", letters)
    out = optimise(reward=reward, episodes=32 * 25, batch=32, minibatch=16, lr=5e-3, value_lr=1e-2, warmup=2, ema=0.0)
    lines = metrics_of(out)
    first, last = (np.mean([line["score"] for line in part]) for part in (lines[:3], lines[-3:]))
    assert last > first + 5 * lines[0]["score_std"] / math.sqrt(3 * 32)  # the standard error of each
    assert 0 < max(line["kl"] for line in lines) < 15


@pytest.mark.needs_models
@pytest.mark.parametrize(("lora", "lr"), [(0, 3e-4), (8, 1e-3)])
def test_a_pretrained_model_learns_to_end_its_sentences(tinystories, optimise, tmp_path, lora, lr):
    reward = reward_module(
        tmp_path, f"stops_{abs(hash(str(tmp_path)))}",
        "def score(prompts, responses):\n    return [float(r.count('.')) for r in responses]\n",
    )  # fmt: skip
    stories = [{"prompt": f"Once upon a time, there was a {who} who"} for who in ("dog", "girl", "king", "bird")]
    out = optimise(
        model=str(tinystories), reward=reward, prompts=write_rows(tmp_path / "stories.jsonl", stories),
        episodes=32 * 12, batch=32, minibatch=16, max_tokens=24, lr=lr, lora=lora, value_lr=1e-3, warmup=2, ema=0.0,
    )  # fmt: skip
    lines = metrics_of(out)
    assert np.mean([line["score"] for line in lines[-3:]]) > 1.2 * np.mean([line["score"] for line in lines[:3]])
    assert 0 < lines[-1]["kl"] < 20


def test_an_adaptive_beta_follows_the_kl(optimise, seen):
    settings = {"episodes": 32, "beta": 0.1, "horizon": 40, "lr": 1e-2, "warmup": 0}
    lines = metrics_of(optimise(target_kl=6.0, **settings))
    assert [line["beta"] for line in lines] == seen["beta"]
    beta = 0.1
    for line in lines:
        assert line["beta"] == pytest.approx(beta)
        beta *= 1 + min(0.2, max(-0.2, line["kl"] / 6 - 1)) * 8 / 40
    assert lines[1]["beta"] == pytest.approx(0.1 * (1 - 0.2 * 8 / 40))  # no KL yet: it falls by the most it may
    assert {line["beta"] for line in metrics_of(optimise(**settings))} == {0.1}


def test_the_averaged_weights_are_the_result(base, optimise, monkeypatch):
    """One EMA step a minibatch: w̄ ← decay · w̄ + (1 − decay) · w, from the weights at the start."""
    moved = [weights_of(Path(base))]
    step = ppo.take_step

    def take_step(module, *arguments):
        norm = step(module, *arguments)
        moved.append({n: p.detach().clone() for n, p in module.policy.model.named_parameters()})
        return norm

    monkeypatch.setattr(ppo, "take_step", take_step)
    out = optimise(ema=0.75, episodes=16, minibatch=4, warmup=0)
    average = moved[0]
    assert len(moved) == 5
    for weights in moved[1:]:
        average = {name: 0.75 * w + 0.25 * weights[name] for name, w in average.items()}
    found = weights_of(out / "final")
    for name, weight in average.items():
        torch.testing.assert_close(found[name], weight)
    without = weights_of(optimise(ema=0.0, episodes=16, minibatch=4, warmup=0) / "final")
    for name, weight in moved[4].items():
        torch.testing.assert_close(without[name], weight)


def test_the_learning_rate_warms_up_from_a_tenth_in_ten_iterations(optimise, monkeypatch):
    rates = []
    step = ppo.take_step

    def take_step(module, optimizer, *arguments):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return step(module, optimizer, *arguments)

    monkeypatch.setattr(ppo, "take_step", take_step)
    optimise(episodes=2 * 12, batch=2, minibatch=2, max_tokens=2, lr=1e-3, value_lr=1e-2)
    factors = [min(1, 0.1 + 0.09 * t) for t in range(12)]
    assert np.array(rates) == pytest.approx(np.outer(factors, [1e-3, 1e-2]))


@pytest.mark.parametrize("lora", [0, 2])
def test_the_checkpoint_loads_without_us_and_knows_its_lineage(base, judge, optimise, tmp_path, lora):
    text = tmp_path / "text.txt"
    text.write_text(SENTENCES[0])
    out = optimise(reward=judge, lora=lora, pretraining=str(text), ptx=1.0, ptx_examples=1)
    # in a process of its own, where nothing of peft is loaded
    code = (
        "import sys; from transformers import AutoModelForCausalLM as C, AutoModelForSequenceClassification as S\n"
        "sys.modules['peft'] = None\n"
        f"for kind, folder in ((C, {str(out / 'final')!r}), (S, {str(out / 'final' / 'value')!r})):\n"
        "    _, info = kind.from_pretrained(folder, output_loading_info=True)\n"
        "    assert not info['missing_keys'] and not info['unexpected_keys'], info\n"
    )
    if lora:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert found.returncode == 0, found.stderr[-2000:]
    else:
        exec(code.replace("sys.modules['peft'] = None\n", ""))
    assert weights_of(out / "final").keys() == weights_of(Path(base)).keys()
    assert not same_weights(out / "final", Path(base))
    recipe = json.loads((out / "final" / "recipe.json").read_text())
    assert recipe["stage"] == "ppo-ptx"
    assert recipe["parent"] == identify(base)
    assert recipe["models"] == {"reward": identify(judge)}
    assert len(recipe["data"]) == 2
    assert [ancestor["stage"] for ancestor in recipe["lineage"]] == ["base"]
    assert recipe["metrics"]["iterations"] == 1
    assert recipe["config"]["lora"] == lora


def test_checkpoints_on_the_way_are_those_of_a_training_that_ended_there(optimise):
    out = optimise(episodes=24, checkpoint_every=1, warmup=0)
    kept = sorted(folder.name for folder in (out / "checkpoints").iterdir())
    assert kept == ["iteration-1", "iteration-2"]  # the third is final/
    assert same_weights(out / "checkpoints" / "iteration-2", optimise(episodes=16, warmup=0) / "final")
    training = [
        find_checkpoint(str(folder)).training for folder in (out / "checkpoints" / "iteration-2", out / "final")
    ]
    assert [(told.episodes, told.beta, told.gamma) for told in training] == [(16, 0.02, 0.0), (24, 0.02, 0.0)]


# What stops it


def stop_of(out: Path) -> dict:
    return next(line for line in lines_of(out / "log.jsonl") if line["event"] == "stopped")


def test_too_much_kl_ends_with_the_last_good_checkpoint(base, optimise):
    settings = {"episodes": 80, "lr": 3e-2, "warmup": 0, "ema": 0.0, "save_every": 1}
    free = [line["kl"] for line in metrics_of(optimise(**settings))]
    limit = free[3] * 0.9
    good = next(i for i, kl in enumerate(free) if kl > limit)  # iterations before the first that exceeds it
    assert 0 < good < 10
    out = optimise(stop_kl=limit, **settings)
    lines = metrics_of(out)
    assert max(line["kl"] for line in lines) <= limit
    assert "exceeds" in stop_of(out)["reason"]
    assert stop_of(out)["kept"] == good - 1  # the weights that sampled the last good batch
    shorter = optimise(**(settings | {"episodes": 8 * (good - 1)})) if good > 1 else None
    assert same_weights(out / "final", shorter / "final" if shorter else Path(base))
    assert json.loads((out / "final" / "recipe.json").read_text())["metrics"]["iterations"] == good - 1


def test_a_stop_leaves_no_checkpoint_of_an_iteration_that_it_took_back(optimise, monkeypatch):
    from trainers import losses

    calls = iter(range(100))
    value_loss = losses.value_loss
    monkeypatch.setattr(
        losses, "value_loss", lambda *arguments: value_loss(*arguments) * (math.nan if next(calls) == 3 else 1)
    )
    out = optimise(episodes=48, save_every=2, checkpoint_every=1, ema=0.0)
    assert stop_of(out)["kept"] == 2
    assert sorted(folder.name for folder in (out / "checkpoints").iterdir()) == ["iteration-1", "iteration-2"]


def test_a_gradient_that_is_not_finite_ends_with_the_last_good_checkpoint(base, optimise, monkeypatch):
    from trainers import losses

    calls = iter(range(100))
    value_loss = losses.value_loss
    monkeypatch.setattr(
        losses, "value_loss", lambda *arguments: value_loss(*arguments) * (math.nan if next(calls) == 2 else 1)
    )
    out = optimise(episodes=40, save_every=1, ema=0.0)
    assert json.loads((out / "final" / "recipe.json").read_text())["metrics"]["iterations"] == 2
    assert all(weight.isfinite().all() for weight in weights_of(out / "final").values())
    assert not same_weights(out / "final", Path(base))
    assert stop_of(out)["reason"] == "iteration 3: the gradient is not finite"


def test_a_learning_rate_beyond_all_bounds_does_not_leave_broken_weights(optimise):
    out = optimise(episodes=40, value_lr=1e30, warmup=0, save_every=1)
    for folder in (out / "final", out / "final" / "value"):
        assert all(weight.isfinite().all() for weight in weights_of(folder).values())


def test_a_policy_that_can_no_longer_write_ends_with_the_last_good_checkpoint(base, optimise):
    out = optimise(episodes=40, lr=1e25, warmup=0, save_every=1, ema=0.0)  # finite weights, and logits that are not
    assert "no response (the logits are not finite)" in stop_of(out)["reason"]
    assert same_weights(out / "final", Path(base))


def test_log_probabilities_that_are_not_finite_end_with_the_last_good_checkpoint(base, optimise, monkeypatch):
    calls, look = iter(range(100)), ppo.look
    monkeypatch.setattr(
        ppo, "look", lambda *arguments: [a * (math.nan if next(calls) == 12 else 1) for a in look(*arguments)]
    )
    out = optimise(episodes=40, save_every=1, ema=0.0)
    assert stop_of(out)["reason"] == "iteration 2: log-probabilities or values are not finite"
    assert stop_of(out)["kept"] == 0  # what the first step left cannot be trusted
    assert same_weights(out / "final", Path(base))


@pytest.mark.parametrize("broken", ["lr", "value_lr"])
def test_weights_that_the_last_step_broke_are_not_the_result(base, judge, optimise, broken):
    out = optimise(reward=judge, warmup=0, **{broken: 1e39})  # more than fp32 holds
    assert stop_of(out)["reason"] == "iteration 1: the step left weights that are not finite"
    assert same_weights(out / "final", Path(base))
    assert same_weights(out / "final" / "value", Path(judge))


# A finished run


@pytest.mark.parametrize("killed", [False, True])
def test_a_finished_run_is_not_trained_again_and_keeps_its_lines(optimise, monkeypatch, killed):
    save = Run.save_checkpoint

    def save_and_die(self, name, write):
        save(self, name, write)
        raise KeyboardInterrupt

    settings = optimise.settings | {"episodes": 24, "save_every": 10}  # its last state is older than its last line
    out = Path(settings["out"])
    if killed:  # between the renaming of final/ and the end
        with monkeypatch.context() as patched:
            patched.setattr(Run, "save_checkpoint", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                train(PPOConfig(**settings))
    first = None if killed else train(PPOConfig(**settings))
    names = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "final/recipe.json")
    before = [(out / name).read_bytes() for name in names]
    assert [line["step"] for line in metrics_of(out)] == [1, 2, 3]
    monkeypatch.setattr(Sampler, "sample", None)
    folder, metrics = train(PPOConfig(**settings))
    assert (folder, metrics["iterations"]) == (out / "final", 3)
    assert first in (None, (folder, metrics))
    assert {"step": 3, **metrics} == metrics_of(out)[-1] | {"iterations": 3}
    assert [(out / name).read_bytes() for name in names] == before


# Mistakes


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def score(p, r): return [float('nan')] * len(r)", "nan for the response"),
        ("def score(p, r): return [1.0]", "1 scores for 8 responses"),
        ("def score(p, r): raise KeyError('tone')", "it raised KeyError ('tone')"),
        ("def score(p, r): return ['good'] * len(r)", "a score is no number"),
        ("def score(p, r): return None", "it raised TypeError"),
        ("points = 1", "no such function"),
    ],
)
def test_a_broken_reward_is_one_line(optimise, tmp_path, body, words):
    name = reward_module(tmp_path, f"broken_{abs(hash(body + str(tmp_path)))}", body)
    assert words in (line := refusal(lambda: optimise(reward=name)))
    assert f"reward {name}" in line


def test_mistakes_in_the_settings_are_one_line(optimise, judge, tmp_path):
    prompts = write_rows(tmp_path / "long.jsonl", [{"prompt": "Mars?"}, {"prompt": "bees " * 3000}])
    line = refusal(lambda: optimise(prompts=prompts))
    assert "prompt 2 has" in line
    assert "window 2048" in line
    assert "batch 8 is no multiple of minibatch 3" in refusal(lambda: optimise(minibatch=3))
    assert "less than one batch" in refusal(lambda: optimise(episodes=4))
    assert "pretraining=FILE" in refusal(lambda: optimise(ptx=1.0))
    assert "temperature: 0.0 is not above 0" in refusal(lambda: optimise(temperature=0.0))
    other = checkpoint(tmp_path / "other", tokenizer=tiny_tokenizer(bos=False))
    data = write_rows(tmp_path / "rankings.jsonl", RANKINGS)
    foreign, _ = train_reward(RewardConfig(model=other, data=data, out=str(tmp_path / "rm"), batch=5, **HERE))
    assert "its tokenizer is not the policy's" in refusal(lambda: optimise(value=str(foreign)))


def with_window(source: str, folder: Path, window: int) -> str:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": window}))
    return str(folder)


def test_the_longest_episode_fits_the_smallest_window(base, judge, optimise, tmp_path, monkeypatch):
    longest = max(map(len, Texts(tiny_tokenizer()).prompts(list(QUESTIONS)))) + 8
    policies = [with_window(base, tmp_path / f"policy-{n}", n) for n in (longest - 1, longest)]
    judges = [with_window(judge, tmp_path / f"judge-{n}", n) for n in (longest - 1, longest, longest + 1)]
    assert f"reference's window {longest - 1}; drop it" in refusal(lambda: optimise(reference=policies[0]))
    assert f"value model's window {longest - 1}; drop it" in refusal(lambda: optimise(value=judges[0]))
    assert f"reward model's window {longest}; drop it" in refusal(lambda: optimise(reward=judges[1]))
    # half a letter that the policy writes may be several tokens when it is read
    monkeypatch.setattr(ppo, "score_all", lambda *arguments: [0.0] * len(arguments[-1]))
    optimise(reference=policies[1], value=judges[1], reward=judges[2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batch", 0), ("minibatch", 0), ("inner_epochs", 0), ("max_tokens", 0), ("horizon", 0), ("target_kl", 0.0)),
        *(("ptx_examples", 0), ("ptx_tokens", 1), ("ptx_mean", "text"), ("ema", 1.0), ("warmup", -1), ("lora", -1)),
        *(("clip", 0.0), ("lam", 1.1), ("discount", -0.1), ("temperature", math.inf), ("stop", ("", "\n"))),
    ],
)
def test_a_setting_outside_its_range_is_named(optimise, name, value):
    assert refusal(lambda: optimise(**{name: value})).startswith(f"{name}: ")


def test_the_presets_are_the_papers_numbers():
    for name, preset in ppo.PRESETS.items():
        config = PPOConfig(model="sft", reward="rm", prompts="p.jsonl", out="o", **preset)
        assert (config.episodes, config.batch, config.minibatch, config.inner_epochs) == (256_000, 512, 64, 1)
        assert (config.beta, config.clip, config.ema, config.value_lr) == (0.02, 0.2, 0.992, 9e-6)
        assert (config.ptx, config.ptx_examples) == (0 if name.endswith("no-ptx") else 27.8, 8)


def test_a_training_step_needs_no_fp64(optimise, monkeypatch):
    """Apple's GPUs have none."""
    accumulate = ppo.accumulate

    def without(*arguments):
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "double", None)
            return accumulate(*arguments)

    monkeypatch.setattr(ppo, "accumulate", without)
    optimise()


def test_tokens_that_the_model_does_not_know_are_one_line(optimise, tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model("llama", tokenizer, vocab_size=len(tokenizer) - 60).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    assert "embeddings for" in refusal(lambda: optimise(model=str(tmp_path / "small")))


def test_on_the_command_line_a_mistake_is_one_line_and_code_2(optimise, tmp_path):
    reward_module(tmp_path, "nothing_good", "def score(p, r): return [float('nan')] * len(r)")
    settings = optimise.settings | {"reward": "nothing_good:score", "no_end_score": "null", "trackers": "[]"}
    settings["out"] = str(tmp_path / "command")
    arguments = [f"{name}={value}" for name, value in settings.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(ppo.__file__).parent.parent)}
    found = subprocess.run(
        [sys.executable, "-m", "alignbench", "train", "ppo", *arguments],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert "nothing_good" in line
    assert "Traceback" not in found.stderr
