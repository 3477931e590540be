"""The vLLM engine, with a fake `vllm` module that has its documented interface.

The fake computes with a tiny model, one sequence at a time, so that its numbers are real ones.
"""

import dataclasses
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tiny import save_tiny_checkpoint, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.models.remote import vllm as engine_module
from alignbench.models.remote.vllm import load_vllm, prompt_seed
from alignbench.types.engine import Prompt, Request, Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

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
    """The fields of vLLM 0.32 that are used here, with its own checks."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
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


class LLM:
    """vllm.LLM. loaded: all instances; break_with: raised when loading; refuse: of a prompt's ids; spoil: an output"""

    loaded, break_with, refuse, spoil = (), None, None, None

    def __init__(
        self, model, *, dtype, trust_remote_code, load_format, enable_prefix_caching, max_model_len, generation_config,
        logprobs_mode, seed,
    ):  # fmt: skip
        if LLM.break_with:
            raise LLM.break_with
        self.settings = dict(locals())
        self.calls = []
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        LLM.loaded += (self,)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert len(prompts) == len(sampling_params)
        self.calls.append((prompts, sampling_params))
        outputs = []
        for prompt in prompts:
            ids, limit = prompt["prompt_token_ids"], self.settings["max_model_len"]
            if (limit and len(ids) >= limit) or (LLM.refuse and LLM.refuse(ids)):
                raise ValueError("The decoder prompt is too long\nand more lines")
        for prompt, params in zip(prompts, sampling_params, strict=True):
            ids = prompt["prompt_token_ids"]
            read = None if params.prompt_logprobs is None else self._read(ids)
            written = [self._write(ids, params, k) for k in reversed(range(params.n))]  # they finish in any order
            outputs.append(
                SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=read, outputs=written, num_cached_tokens=3)
            )
        for output in outputs if LLM.spoil else ():
            LLM.spoil(output)
        return outputs

    @torch.no_grad()
    def _logprobs(self, ids):
        return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)

    def _read(self, ids):
        rows = self._logprobs(ids)
        return [None] + [{ids[i]: SimpleNamespace(logprob=float(rows[i - 1, ids[i]]))} for i in range(1, len(ids))]

    def _write(self, ids, params, index):
        random = torch.Generator().manual_seed((params.seed or 0) + index)
        choice = SimpleNamespace(
            index=index, text="", token_ids=[], logprobs=[], finish_reason="length", stop_reason=None
        )
        while len(choice.token_ids) < params.max_tokens and choice.finish_reason != "stop":
            row = self._logprobs(ids + choice.token_ids)[-1]
            if params.temperature:
                token = int(torch.multinomial((row / params.temperature).softmax(-1), 1, generator=random))
            else:
                token = int(row.argmax())
            choice.token_ids.append(token)
            choice.logprobs.append({token: SimpleNamespace(logprob=float(row[token]))})
            if token == self.tokenizer.eos_token_id:
                choice.finish_reason = "stop"
            elif params.detokenize:
                choice.text = self.tokenizer.decode(choice.token_ids, skip_special_tokens=True)
                for string in params.stop or ():
                    if string in choice.text:
                        choice.finish_reason, choice.stop_reason = "stop", string
                        choice.text = choice.text[: choice.text.find(string)]
        if params.logprobs is None:
            choice.logprobs = None
        return choice


@pytest.fixture(autouse=True)
def _vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "loaded", ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(_vllm, folder):
    return load_vllm(dataclasses.replace(find_checkpoint(str(folder)), window=64), dtype="float32")


def ids_of(engine, prompt):
    return engine.encoder.contexts([prompt.text])[0].tolist()


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


def test_only_log_probabilities_of_the_prompts_own_tokens_are_requested(engine):
    assert [index for index, _ in engine.loglikelihood(REQUESTS, only={1, 3})] == [1, 3]
    ((prompts, params),) = engine.llm.calls
    assert len(prompts) == 2
    assert {(p.prompt_logprobs, p.max_tokens, p.logprobs) for p in params} == {(0, 1, None)}


@pytest.mark.parametrize("value", [math.nan, -math.inf, None])
def test_a_log_probability_that_is_not_finite_leaves_the_request_unscored(engine, monkeypatch, value):
    def spoil(output):
        token = output.prompt_token_ids[-1]
        output.prompt_logprobs[-1] = {} if value is None else {token: SimpleNamespace(logprob=value)}

    monkeypatch.setattr(LLM, "spoil", spoil)
    ((_, answer),) = engine.loglikelihood(REQUESTS[:1])
    assert math.isnan(answer.logprob)
    assert "not a number" in answer.unscored


def test_a_prompt_that_vllm_refuses_affects_no_other(engine, monkeypatch):
    bad = engine.encoder.pairs([REQUESTS[1]])[0].tokens.tolist()
    expected = dict(engine.loglikelihood(REQUESTS[:5]))
    monkeypatch.setattr(LLM, "refuse", lambda ids: ids == bad)
    answers = dict(engine.loglikelihood(REQUESTS[:5]))
    assert answers.pop(1).unscored == "vLLM refuses it: The decoder prompt is too long"
    assert answers == {i: answer for i, answer in expected.items() if i != 1}


def test_the_output_of_another_prompt_is_an_error(engine, monkeypatch):
    monkeypatch.setattr(LLM, "spoil", lambda output: setattr(output, "prompt_token_ids", [*output.prompt_token_ids, 5]))
    with pytest.raises(RuntimeError, match="another prompt"):
        list(engine.loglikelihood(REQUESTS[:1]))


# ---- generation ----------------------------------------------------------------------------------------------------


def test_greedy_decoding_takes_the_most_likely_token_once(engine):
    for index, (found,) in engine.generate(PROMPTS, Sampling(max_tokens=6, samples=5)):
        ids = ids_of(engine, PROMPTS[index])
        rows = engine.llm._logprobs([*ids, *found.tokens])[len(ids) - 1 : -1]
        assert list(found.tokens) == rows.argmax(-1).tolist()
        assert found.logprobs == pytest.approx(rows.amax(-1).tolist(), abs=1e-4)
        assert found.entropies == ()


def test_samples_depend_on_the_seed_and_the_key_and_not_on_the_order(engine):
    drawn = Sampling(max_tokens=8, samples=4, temperature=1.0, top_p=0.9)
    forwards = dict(engine.generate(PROMPTS, drawn, seed=3))
    backwards = dict(engine.generate(PROMPTS[::-1], drawn, seed=3))
    assert forwards == {2 - index: found for index, found in backwards.items()}
    assert forwards != dict(engine.generate(PROMPTS, drawn, seed=4))
    assert all(len({c.tokens for c in completions}) > 1 for completions in forwards.values())
    params = engine.llm.calls[0][1]
    assert [p.seed for p in params] == [prompt_seed(3, prompt.key) for prompt in PROMPTS]
    assert {(p.n, p.temperature, p.top_p, p.top_k, p.max_tokens, p.logprobs) for p in params} == {(4, 1, 0.9, -1, 8, 0)}
    first = engine.llm._write(ids_of(engine, PROMPTS[0]), params[0], 0)
    assert list(forwards[0][0].tokens) == first.token_ids, "samples are in their own order"


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
    ((_, (found,)),) = engine.generate(PROMPTS[:1], Sampling(4, stop=("\n", "##")))
    assert (found.finish, found.text) == (finish, text)


def test_an_aborted_or_missing_sample_is_unscored(engine, monkeypatch):
    monkeypatch.setattr(LLM, "spoil", lambda output: vars(output.outputs[0]).update(finish_reason="abort"))
    ((_, (found,)),) = engine.generate(PROMPTS[:1], Sampling(4))
    assert "abort" in found.unscored
    monkeypatch.setattr(LLM, "spoil", lambda output: output.outputs.pop())
    ((_, completions),) = engine.generate(PROMPTS[:1], Sampling(4, samples=3, temperature=1.0))
    assert [c.unscored is None for c in completions] == [True, True, False]


def test_what_does_not_fit_the_window_is_unscored_and_not_sent(engine):
    answers = dict(engine.loglikelihood([Request("bees " * 40, "hum"), REQUESTS[0]]))
    written = dict(engine.generate([Prompt("long", "bees " * 40), PROMPTS[0]], Sampling(4, 2, 1.0)))
    assert ["window of 64" in found.unscored for found in (answers[0], *written[0])] == [True] * 3
    assert math.isnan(answers[0].logprob)
    assert [found.unscored for found in (answers[1], *written[1])] == [None] * 3
    assert [len(prompts) for prompts, _ in engine.llm.calls] == [1, 1]


def test_a_chat_is_in_the_tokenizers_template(engine):
    assert engine.chat_template
    list(engine.generate(PROMPTS[:1], Sampling(2), chat=True))
    (((prompt,), _),) = engine.llm.calls
    expected = engine.encoder.tokenizer("[user] The doctor\n[model]", add_special_tokens=False)["input_ids"]
    assert prompt["prompt_token_ids"] == expected


def test_prompts_are_sent_in_chunks(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "CHUNK", 2)
    answers = engine.generate(PROMPTS, Sampling(2))
    next(answers)
    assert len(engine.llm.calls) == 1  # what a killed run would lose
    assert sorted(index for index, _ in answers) == [1, 2]
    assert engine.work()["tokens_generated"] == 6
    assert engine.work()["tokens_cached"] == 9


# ---- loading -------------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_loaded_safely_and_unchanged(engine, folder):
    expected = {"trust_remote_code": False, "load_format": "safetensors", "enable_prefix_caching": True}
    expected |= {"model": str(folder), "generation_config": "vllm", "dtype": "float32", "max_model_len": 64}
    assert expected.items() <= engine.llm.settings.items()


@pytest.mark.parametrize(
    ("installed", "changes", "dtype", "message"),
    [
        (False, {}, "float32", r"alignbench\[vllm\].*GPU"),
        (True, {}, "bfloat16", "Engine core initialization failed"),
        (True, {"custom_code": True}, "float32", "custom code"),
        (True, {}, "float64", "no float64"),
    ],
)
def test_what_vllm_cannot_load_is_reported_in_one_line(monkeypatch, folder, installed, changes, dtype, message):
    if not installed:
        monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(LLM, "break_with", RuntimeError("Engine core initialization failed.\nSee above."))
    checkpoint = dataclasses.replace(find_checkpoint(str(folder)), **changes)
    with pytest.raises(AlignbenchError, match=message) as error:
        load_vllm(checkpoint, dtype=dtype)
    assert "\n" not in str(error.value)
    assert LLM.loaded == ()
