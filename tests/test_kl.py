"""The task kl: divergence from a base model on own samples, beside transformers' own logits in double precision."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from cases import write_lines
from commands import assert_one_line_error, assert_refused, run
from hypothesis import given, settings
from hypothesis import strategies as st
from task_helpers import load
from tiny import save_tiny_checkpoint, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.evaluation.evaluate import evaluate
from alignbench.models.distributions import divergences
from alignbench.tasks.kl import score_samples
from alignbench.types.record import Output

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 700, 4_099]), st.floats(0.01, 12))
def test_divergences_are_the_definition_in_double_precision(seed, vocabulary, scale):
    random = torch.Generator().manual_seed(seed)
    one, other = (scale * torch.randn((3, vocabulary), generator=random) for _ in range(2))
    tokens = torch.randint(vocabulary, (3,), generator=random).tolist()
    p, q = (logits.double().log_softmax(-1) for logits in (one, other))
    exact, sampled = divergences(one, other, tokens)
    assert exact == pytest.approx((p.exp() * (p - q)).sum(-1).numpy(), rel=1e-4, abs=1e-6)
    assert sampled == pytest.approx((p - q)[range(3), tokens].numpy(), rel=1e-4, abs=2e-5)
    assert divergences(one, one, tokens).tolist() == np.zeros((2, 3)).tolist()


def test_a_token_that_the_model_excludes_adds_nothing():
    one, other = torch.tensor([[0.0, 0.0, -torch.inf]]), torch.zeros(1, 3)
    assert divergences(one, other, [0])[:, 0] == pytest.approx(np.log([1.5, 1.5]))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "aligned")):
        save_tiny_checkpoint(folder / name, seed=seed)
    write_lines(folder / "prompts.jsonl", [{"id": str(n), "prompt": f"hen {n} says"} for n in range(5)])
    return folder


def kl_run(models, out, *checkpoints, **options):
    given = {"prompts": str(models / "prompts.jsonl"), "gen_kwargs": {"max_tokens": 12}, "samples": 2} | options
    baseline = str(models / "base")
    return evaluate([str(models / own) for own in checkpoints], ["kl"], out, baseline=baseline, **given)


def records(result):
    lines = (result.folder / result.folders[0] / "documents.jsonl").read_text("utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda record: record["id"])


def test_every_sample_has_the_divergence_of_transformers_distributions_and_that_from_itself_is_zero(models, tmp_path):
    aligned, base = kl_run(models, tmp_path, "aligned", "base")
    tokenizer = AutoTokenizer.from_pretrained(models / "base")
    own, other = (AutoModelForCausalLM.from_pretrained(models / name).double() for name in ("aligned", "base"))
    for record in records(aligned):
        prompt = tokenizer(record["prompt"])["input_ids"]
        sums = []
        for output in record["outputs"]:
            ids = torch.tensor([prompt + output["tokens"]])
            with torch.no_grad():
                p, q = (m(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for m in (own, other))
            by_position = (p.exp() * (p - q)).sum(-1)
            sums.append(float(by_position.sum()))
            assert output["divergences"] == pytest.approx(by_position.tolist(), rel=1e-4, abs=1e-6)
            drawn = (p - q)[range(len(output["tokens"])), output["tokens"]]
            assert output["log_ratios"] == pytest.approx(drawn.tolist(), rel=1e-4, abs=1e-4)
        tokens = sum(len(output["tokens"]) for output in record["outputs"])
        assert record["metrics"]["kl"] == pytest.approx(np.mean(sums), rel=1e-4)
        assert record["metrics"]["kl_per_token"] == pytest.approx(sum(sums) / tokens, rel=1e-4)
    assert {record["metrics"]["kl"] for record in records(base)} == {0.0}
    assert aligned.results[0].overall["kl"].value > 0.1


def test_the_exact_and_the_sampled_divergence_agree_over_many_samples(models, tmp_path):
    (own,) = kl_run(models, tmp_path, "aligned", samples=60)
    found = own.results[0].overall
    difference = [r["metrics"]["kl"] - r["metrics"]["kl_sampled"] for r in records(own)]
    error = np.std(difference, ddof=1) / len(difference) ** 0.5
    assert abs(found["kl"].value - found["kl_sampled"].value) < 5 * error + 1e-3


def test_an_interrupted_run_resumes_to_the_same_records_and_another_baseline_is_another_folder(models, tmp_path):
    (whole,) = kl_run(models, tmp_path / "a", "aligned")
    (part,) = kl_run(models, tmp_path / "b", "aligned")
    folder = part.folder / part.folders[0]
    lines = (folder / "documents.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "documents.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    (folder / "result.json").unlink()
    (again,) = kl_run(models, tmp_path / "b", "aligned")
    assert records(again) == records(whole)
    save_tiny_checkpoint(tmp_path / "other", seed=7)
    (other,) = evaluate(
        [str(models / "aligned")], ["kl"], tmp_path / "a", baseline=str(tmp_path / "other"),
        prompts=str(models / "prompts.jsonl"), gen_kwargs={"max_tokens": 12}, samples=2,
    )  # fmt: skip
    assert other.folders != whole.folders
    assert records(other) != records(whole)


def test_a_sample_that_the_baseline_cannot_read_is_unscored(models, tmp_path):
    save_tiny_checkpoint(tmp_path / "short", seed=3, max_position_embeddings=10)
    (own,) = evaluate(
        [str(models / "aligned")], ["kl"], tmp_path / "runs", baseline=str(tmp_path / "short"),
        prompts=str(models / "prompts.jsonl"), gen_kwargs={"max_tokens": 30},
    )  # fmt: skip
    assert own.results[0].overall["kl"].n < 5
    assert any("baseline" in reason and "window of 10" in reason for reason in own.results[0].unscored)


def test_prompts_have_categories(tmp_path):
    questions = [{"question_id": 81, "category": "writing", "turns": ["Compose a post.", "Rewrite it."]}]
    (found,) = load("kl", prompts=write_lines(tmp_path / "q.jsonl", questions)).documents
    assert (found.id, found.prompt, found.category) == ("81", "Compose a post.", "writing")
    for turns, message in (([], "turns is empty"), ([1], "turns is int, not text"), ("x", "not a JSON list")):
        file = write_lines(tmp_path / "q.jsonl", [{"turns": turns}])
        assert_refused(rf"^task kl, {file}:1: .*{message}", load, "kl", prompts=file)


@pytest.mark.needs_data
def test_instructions_are_in_two_categories(data_dir):
    documents = load("kl", data_dir).documents
    assert Counter(own.category for own in documents) == {"with an input": 83, "without an input": 17}


def test_metrics_by_category_and_resuming_with_another_scorer(models, tmp_path):
    rows = [{"id": str(n), "prompt": f"hen {n} says", "category": "ab"[n % 2]} for n in range(4)]
    options = {"prompts": str(write_lines(tmp_path / "p.jsonl", rows)), "baseline": str(models / "base")}
    options |= {"gen_kwargs": {"max_tokens": 12}, "samples": 2}
    (own,) = evaluate([str(models / "aligned")], ["kl"], tmp_path / "runs", **options)
    values = {m.category: m.value for m in own.results[0].metrics if m.metric == "kl"}
    by_id = {record["id"]: record["metrics"]["kl"] for record in records(own)}
    assert values["a"] == pytest.approx((by_id["0"] + by_id["2"]) / 2)
    assert values[None] == pytest.approx(np.mean(list(by_id.values())))
    # the samples of the first run are scored again, without losing their divergences
    (again,) = evaluate([str(models / "aligned")], ["kl"], tmp_path / "runs", scorers=["sentiment=textblob"], **options)
    assert again.results[0].overall["kl"].value == own.results[0].overall["kl"].value
    assert "sentiment.sentiment" in again.results[0].overall


def test_bad_input_is_one_line(models, tmp_path):
    base, aligned, out = str(models / "base"), str(models / "aligned"), ["--out", str(tmp_path / "runs")]
    kl = ["evaluate", aligned, "--tasks", "kl", "--prompts", str(models / "prompts.jsonl"), *out]
    assert_one_line_error(run(*kl), "task kl: name the model to compare with, as --baseline")
    hot = run(*kl, "--baseline", base, "--gen-kwargs", "temperature=0.7")
    assert_one_line_error(hot, "task kl: samples are of temperature 1")
    without = run("evaluate", aligned, "--tasks", "hellaswag", "--baseline", base, *out)
    assert_one_line_error(without, "it requires --tasks win_rate or kl")
    save_tiny_checkpoint(tmp_path / "other", tokenizer=tiny_tokenizer(bos=False))
    other = run(*kl, "--baseline", str(tmp_path / "other"))
    assert_one_line_error(other, "its vocabulary differs from that of the baseline")


def test_a_document_is_unscored_if_one_of_its_samples_was_not_compared():
    good = Output("x", divergences=(1.0,) * 10, log_ratios=(0.5,) * 10)
    assert score_samples(None, [good, good])["kl"] == 10
    found = score_samples(None, [good, Output("y")])
    assert {"kl", "kl_per_token", "kl_9_16"} <= found.keys()
    assert all(map(np.isnan, found.values()))
