"""vLLM gets our tokens and its answers become ours, tried with a stand-in that has vLLM's documented interface.

The stand-in computes with a tiny model, one sequence at a time, so that its numbers are real ones.
"""

import dataclasses
import math
import sys
import types
from typing import Any, ClassVar

import pytest
import torch
from alignbench.models.vllm import load_vllm, prompt_seed
from tiny import save_tiny_checkpoint, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.errors import AlignbenchError
from alignbench.models import vllm as engine_module
from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.types.engine import Prompt, Request, Sampling

CHAT = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[model]"
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["The doctor", "Question: Is it safe?", "What do bees"])]
REQUESTS = [
    Request("The doctor told the nurse that", " she would be late"),
    Request("The doctor told the nurse that", " he would be late"),
    Request("Answer: ", "yes"),
    Request("", "Never mix them."),
    Request("Größe", " 🐝🍯"),
    Request("The hive", ""),
]


@dataclasses.dataclass
class SamplingParams:
    """The fields of vLLM 0.32 that are documented and used here, with its own refusals."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        if self.n > 1 and self.temperature == 0:
            raise ValueError("n must be 1 when using greedy sampling")
        if not 0 < self.top_p <= 1 or self.top_k < -1 or self.max_tokens < 1 or not 0 <= self.temperature <= 2:
            raise ValueError("a sampling parameter is out of its range")
        if "" in (self.stop or []) or (self.stop and not self.detokenize):
            raise ValueError("stop strings cannot be empty, and need detokenize")


@dataclasses.dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclasses.dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclasses.dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True
    num_cached_tokens: int | None = None


class LLM:
    made: ClassVar[list["LLM"]] = []
    break_with: Exception | None = None  # at loading
    refuse: Any = None  # of a prompt's token ids: whether vLLM refuses it
    spoil: Any = None  # changes the outputs

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        trust_remote_code: bool,
        load_format: str,
        enable_prefix_caching: bool,
        tensor_parallel_size: int,
        max_model_len: int | None,
        generation_config: str,
        logprobs_mode: str,
        seed: int,
    ) -> None:
        if LLM.break_with:
            raise LLM.break_with
        self.settings = dict(locals())
        self.calls: list[tuple[list[dict[str, Any]], list[SamplingParams]]] = []
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        LLM.made.append(self)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert len(prompts) == len(sampling_params)
        self.calls.append((prompts, sampling_params))
        limit = self.settings["max_model_len"]
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            if (limit and len(ids) >= limit) or (LLM.refuse and LLM.refuse(ids)):
                raise ValueError("The decoder prompt is too long\nand more lines")
        outputs = [
            RequestOutput(
                request_id=str(i),
                prompt=None,
                prompt_token_ids=prompt["prompt_token_ids"],
                prompt_logprobs=None if params.prompt_logprobs is None else self._read(prompt["prompt_token_ids"]),
                # vLLM finishes them in any order
                outputs=[self._write(prompt["prompt_token_ids"], params, k) for k in reversed(range(params.n))],
                num_cached_tokens=3,
            )
            for i, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True))
        ]
        if LLM.spoil:
            for output in outputs:
                LLM.spoil(output)
        return outputs

    @torch.no_grad()
    def _logprobs(self, ids):
        return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)

    def _read(self, ids):
        rows = self._logprobs(ids)
        return [None] + [{ids[i]: Logprob(float(rows[i - 1, ids[i]]), 1)} for i in range(1, len(ids))]

    def _write(self, ids, params, index):
        random = torch.Generator().manual_seed((params.seed or 0) + index)
        tokens: list[int] = []
        logprobs = []
        finish, stopped_by, text = "length", None, ""
        while len(tokens) < params.max_tokens:
            row = self._logprobs(ids + tokens)[-1]
            if params.temperature:
                token = int(torch.multinomial((row / params.temperature).softmax(-1), 1, generator=random))
            else:
                token = int(row.argmax())
            tokens.append(token)
            logprobs.append({token: Logprob(float(row[token]))})
            if token == self.tokenizer.eos_token_id:
                finish = "stop"
                break
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            found = [string for string in params.stop or [] if string in text]
            if found:
                finish, stopped_by, text = "stop", found[0], text[: text.find(found[0])]
                break
        kept = logprobs if params.logprobs is not None else None
        return CompletionOutput(index, text if params.detokenize else "", tokens, None, kept, finish, stopped_by)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def _vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in ("break_with", "refuse", "spoil"):
        monkeypatch.setattr(LLM, name, None)
    monkeypatch.setattr(LLM, "made", [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(_vllm, folder):
    return load_vllm(find_checkpoint(str(folder)), dtype="float32", window=64)


def steps(engine, prompt_ids, count):
    """Greedy tokens of the stand-in's model, one at a time."""
    tokens = []
    for _ in range(count):
        tokens.append(int(engine.llm._logprobs(prompt_ids + tokens)[-1].argmax()))
    return tokens


# ---- scores --------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_local_engine(engine, folder):
    local = load_engine(find_checkpoint(str(folder)), dtype="float32", device="cpu")
    theirs, ours = dict(engine.loglikelihood(REQUESTS)), dict(local.loglikelihood(REQUESTS))
    assert theirs.keys() == ours.keys()
    for index, expected in ours.items():
        assert (theirs[index].tokens, theirs[index].unscored) == (expected.tokens, expected.unscored)
        if expected.unscored is None:
            assert theirs[index].logprob == pytest.approx(expected.logprob, abs=1e-4)
    assert theirs[5].unscored == "the continuation has no tokens"


def test_scoring_asks_for_the_prompts_own_log_probabilities_alone(engine):
    list(engine.loglikelihood(REQUESTS[:2]))
    ((_, params),) = engine.llm.calls
    assert {(p.prompt_logprobs, p.max_tokens, p.logprobs) for p in params} == {(0, 1, None)}


def test_only_what_is_wanted_is_scored(engine):
    assert [index for index, _ in engine.loglikelihood(REQUESTS, wanted={1, 3})] == [1, 3]
    ((prompts, _),) = engine.llm.calls
    assert len(prompts) == 2


def test_a_sequence_that_does_not_fit_is_unscored_and_never_handed_over(engine):
    answers = dict(engine.loglikelihood([Request("bees " * 40, "hum"), REQUESTS[0]]))
    assert "window of 64" in answers[0].unscored
    assert math.isnan(answers[0].logprob)
    assert answers[1].unscored is None


@pytest.mark.parametrize("value", [math.nan, -math.inf, None])
def test_a_log_probability_that_is_none_leaves_the_request_unscored(engine, monkeypatch, value):
    def spoil(output):
        token = output.prompt_token_ids[-1]
        output.prompt_logprobs[-1] = {} if value is None else {token: Logprob(value)}

    monkeypatch.setattr(LLM, "spoil", spoil)
    ((_, answer),) = engine.loglikelihood(REQUESTS[:1])
    assert math.isnan(answer.logprob)
    assert "not a number" in answer.unscored


def test_a_prompt_that_vllm_refuses_spoils_no_other(engine, monkeypatch):
    bad = engine.encoder.pairs([REQUESTS[1]])[0].tokens.tolist()
    expected = dict(engine.loglikelihood(REQUESTS))
    monkeypatch.setattr(LLM, "refuse", lambda ids: ids == bad)
    answers = dict(engine.loglikelihood(REQUESTS))
    assert answers[1].unscored == "vLLM refuses it: The decoder prompt is too long"
    assert {i: a for i, a in answers.items() if i not in (1, 5)} == {
        i: a for i, a in expected.items() if i not in (1, 5)
    }


def test_answers_to_other_prompts_are_noticed(engine, monkeypatch):
    monkeypatch.setattr(LLM, "spoil", lambda output: setattr(output, "prompt_token_ids", [*output.prompt_token_ids, 5]))
    with pytest.raises(RuntimeError, match="another prompt"):
        list(engine.loglikelihood(REQUESTS[:1]))


# ---- what it writes ------------------------------------------------------------------------------------------------


def test_greedy_is_the_most_likely_token_at_each_step(engine):
    answers = dict(engine.generate(PROMPTS, Sampling(max_tokens=6)))
    for index, (completion,) in answers.items():
        ids = engine.encoder.contexts([PROMPTS[index].text])[0].tolist()
        tokens = steps(engine, ids, 6)
        assert list(completion.tokens) == tokens[: len(completion.tokens)]
        rows = engine.llm._logprobs(ids + tokens)[len(ids) - 1 :]
        assert completion.logprobs == pytest.approx(
            [float(rows[i, token]) for i, token in enumerate(completion.tokens)], abs=1e-4
        )
        assert completion.entropies == ()


def test_samples_follow_the_seed_and_the_prompts_key_and_not_the_order(engine):
    drawn = Sampling(max_tokens=8, samples=4, temperature=1.0, top_p=0.9)
    forwards = dict(engine.generate(PROMPTS, drawn, seed=3))
    backwards = dict(engine.generate(PROMPTS[::-1], drawn, seed=3))
    assert forwards == {2 - index: found for index, found in backwards.items()}
    assert forwards != dict(engine.generate(PROMPTS, drawn, seed=4))
    assert all(len({c.tokens for c in completions}) > 1 for completions in forwards.values())
    params = engine.llm.calls[0][1]
    assert [p.seed for p in params] == [prompt_seed(3, prompt.key) for prompt in PROMPTS]
    assert {(p.n, p.temperature, p.top_p, p.top_k, p.max_tokens, p.logprobs) for p in params} == {(4, 1, 0.9, -1, 8, 0)}


def test_samples_come_in_their_own_order(engine):
    ((_, completions),) = engine.generate(PROMPTS[:1], Sampling(5, samples=3, temperature=1.0))
    (single,) = [
        engine.llm._write(engine.encoder.contexts([PROMPTS[0].text])[0].tolist(), params, 0)
        for params in engine.llm.calls[0][1]
    ]
    assert list(completions[0].tokens) == single.token_ids


def test_a_greedy_prompt_is_answered_once(engine):
    ((_, completions),) = engine.generate(PROMPTS[:1], Sampling(4, samples=5))
    assert len(completions) == 1


@pytest.mark.parametrize(
    ("ended", "finish", "text"),
    [
        ({"finish_reason": "stop", "stop_reason": "\n", "text": "a b"}, "stop", "a b"),
        ({"finish_reason": "stop", "stop_reason": None, "text": "a b"}, "end", "a b"),
        ({"finish_reason": "stop", "stop_reason": 7, "text": "a b"}, "end", "a b"),
        ({"finish_reason": "length", "text": "a b"}, "length", "a b"),
        # one token completed two stop strings, and vLLM stopped at the later one
        ({"finish_reason": "stop", "stop_reason": "\n", "text": "a##b"}, "stop", "a"),
    ],
)
def test_why_a_text_ended(engine, monkeypatch, ended, finish, text):
    monkeypatch.setattr(LLM, "spoil", lambda output: vars(output.outputs[0]).update(ended))
    ((_, (completion,)),) = engine.generate(PROMPTS[:1], Sampling(4, stop=("\n", "##")))
    assert (completion.finish, completion.text) == (finish, text)


def test_an_answer_that_was_aborted_or_is_missing_is_unscored(engine, monkeypatch):
    monkeypatch.setattr(LLM, "spoil", lambda output: vars(output.outputs[0]).update(finish_reason="abort"))
    ((_, (completion,)),) = engine.generate(PROMPTS[:1], Sampling(4))
    assert "abort" in completion.unscored
    monkeypatch.setattr(LLM, "spoil", lambda output: output.outputs.pop())
    ((_, completions),) = engine.generate(PROMPTS[:1], Sampling(4, samples=3, temperature=1.0))
    assert [c.unscored is None for c in completions] == [True, True, False]


def test_a_prompt_without_room_is_unscored(engine):
    long = [Prompt("long", "bees " * 40), PROMPTS[0]]
    answers = dict(engine.generate(long, Sampling(4, samples=2, temperature=1.0)))
    assert ["window of 64" in c.unscored for c in answers[0]] == [True, True]
    assert [c.unscored for c in answers[1]] == [None, None]


def test_a_chat_is_in_the_tokenizers_template(engine):
    assert engine.chat_template
    list(engine.generate(PROMPTS[:1], Sampling(2), chat=True))
    (((prompt,), _),) = engine.llm.calls
    wanted = engine.encoder.tokenizer("[user] The doctor\n[model]", add_special_tokens=False)["input_ids"]
    assert prompt["prompt_token_ids"] == wanted


def test_many_prompts_are_handed_over_in_chunks(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "CHUNK", 2)
    answers = engine.generate(PROMPTS, Sampling(2))
    next(answers)
    assert len(engine.llm.calls) == 1  # what a killed run would lose
    assert sorted(index for index, _ in answers) == [1, 2]
    assert engine.work()["tokens_written"] == 6
    assert engine.work()["tokens_cached"] == 9


# ---- loading -------------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_loaded_safely_and_as_it_is(engine, folder):
    settings = engine.llm.settings
    assert settings["model"] == str(folder)
    assert settings["trust_remote_code"] is False
    assert settings["load_format"] == "safetensors"
    assert settings["enable_prefix_caching"] is True
    assert settings["generation_config"] == "vllm"
    assert (settings["dtype"], settings["max_model_len"]) == ("float32", 64)


def test_without_vllm_the_extra_is_named(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(AlignbenchError, match=r"alignbench\[vllm\].*GPU") as error:
        load_vllm(find_checkpoint(str(folder)), dtype="float32")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_vllm")
def test_what_vllm_cannot_load_is_told_in_one_line(monkeypatch, folder):
    monkeypatch.setattr(LLM, "break_with", RuntimeError("Engine core initialization failed.\nSee above."))
    with pytest.raises(AlignbenchError, match="Engine core initialization failed") as error:
        load_vllm(find_checkpoint(str(folder)), dtype="bfloat16")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_vllm")
def test_custom_code_and_float64_are_refused(folder):
    checkpoint = find_checkpoint(str(folder))
    with pytest.raises(AlignbenchError, match="custom code"):
        load_vllm(dataclasses.replace(checkpoint, custom_code=True), dtype="float32")
    with pytest.raises(AlignbenchError, match="no float64"):
        load_vllm(checkpoint, dtype="float64")
    assert LLM.made == []
