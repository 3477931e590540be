"""What the engine does on a GPU, on a CPU: the same numbers, no copies, few operations, one device, memory."""

import functools
import math
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from test_engine import DESCRIBED, QUESTIONS, answers, assert_each_as_alone
from test_generate import QUESTIONS as PROMPTS
from test_generate import SAMPLED, TEXTS, assert_greedy, completions
from tiny import PLAIN, SOME, TREE, WITHOUT_BOS, Calls, engine_of, save_tiny_checkpoint, tiny_model, tiny_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, DynamicCache

from alignbench.models import causal_lm, distributions
from alignbench.models.attention import tree_attention, tree_mask
from alignbench.models.causal_lm import find_budget, free_memory
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.distributions import Drawn, Stream, draw, entropies, target_logprobs
from alignbench.models.generate.samples import Run
from alignbench.models.load import load_engine
from alignbench.models.local.tree import attention_mask, grow_trees, padded_ends
from alignbench.models.model import choose_engine
from alignbench.types.engine import Sampling
from alignbench.types.settings import EngineSettings

pytestmark = pytest.mark.usefixtures("one_thread")


class Operations(TorchDispatchMode):
    """Counts operations that launch a kernel, and the bytes of the tensors that live at once."""

    VIEWS = ("view", "expand", "transpose", "slice", "select", "unsqueeze", "squeeze", "permute", "detach", "split")
    HOST = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")  # they wait for the device
    supports_higher_order_operators = True  # FlexAttention is one

    def __init__(self):
        super().__init__()
        self.count, self.live, self.most, self.kinds = Counter(), 0, 0, set()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        name = function.overloadpacket.__name__ if hasattr(function, "overloadpacket") else str(function)
        if not any(name.strip("_").startswith(view) for view in self.VIEWS):
            self.count[name] += 1
        for tensor in torch.utils._pytree.tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self.kinds.add((tensor.device.type, tensor.dtype))
                self._follow(tensor.untyped_storage())
        return found

    def _follow(self, storage):
        if (key := storage._cdata) not in self.seen:
            size = storage.nbytes()
            self.seen.add(key)
            self.live += size
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key, size):
        self.seen.discard(key)
        self.live -= size

    @property
    def total(self):
        return sum(self.count.values())


class OneDevice(TorchDispatchMode):
    """Refuses an operation on tensors of several devices, except a copy."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        tensors = torch.utils._pytree.tree_leaves((arguments, options))
        devices = {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.ndim}
        assert len(devices) < 2 or "copy" in str(function), function
        return function(*arguments, **(options or {}))


class Module:
    layer_idx = 0


def states(*shape):
    return torch.randn(shape)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("heads", [4, 2])
def test_attention_merged_with_a_shared_prefix_is_that_to_a_copy_of_it(heads, softcap):
    torch.manual_seed(0)
    lists = {i: np.array(tokens) for i, tokens in enumerate([[1, 2, 3], [1, 2, 4, 5], [1, 6], [7, 8, 9, 9, 9]])}
    trees = grow_trees(lists, largest=5)
    rows, width, prefix = len(trees), 7, 11
    query, (key, value) = states(rows, 4, width, 8), (states(rows, heads, width, 8) for _ in range(2))
    shared = [tuple(states(1, heads, prefix, 8) for _ in range(2))]
    seen = torch.from_numpy(attention_mask(trees, width))[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    k, v = (
        torch.cat([a.expand(rows, -1, -1, -1), own], 2).repeat_interleave(4 // heads, 1)
        for a, own in zip(shared[0], (key, value), strict=True)
    )
    scores = query @ k.transpose(-1, -2) * 0.3
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    expected = ((scores + torch.nn.functional.pad(mask, (prefix, 0))).softmax(-1) @ v).transpose(1, 2)
    own = {"scaling": 0.3, "softcap": softcap, "shared": shared}
    tree = tree_mask(torch.from_numpy(padded_ends(trees, width)))
    engine_of(tiny_model("llama", tiny_tokenizer()), tiny_tokenizer(), gpu=True)
    found = tree_attention(Module, query, key, value, None, tree=tree, **own)[0]
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("architecture", TREE)
def test_trees_by_flex_attention_score_as_each_sequence_alone(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model, notes = tiny_model(architecture, tokenizer), []
    for requests, budget in ((DESCRIBED, 64), (QUESTIONS, 48)):  # without and with a shared prefix
        engine = engine_of(model, tokenizer, notes, token_budget=budget, gpu=True)
        calls = Calls(model)
        found = answers(engine, requests)
        last = calls.arguments[-1]
        assert_each_as_alone(found, model, tokenizer, requests)
        assert (engine.forward.flex, engine.layout, notes) == (True, "prefix tree", [])
        assert not last.keys() & {"attention_mask", "past_key_values"}
        assert bool(last["shared"]) == (requests is QUESTIONS)


def test_a_model_without_replaceable_attention_is_scored_with_a_mask(tokenizer):
    model, notes = tiny_model("gpt_neo", tokenizer), []
    engine = engine_of(model, tokenizer, notes, gpu=True)
    assert_each_as_alone(answers(engine, QUESTIONS), model, tokenizer, QUESTIONS)
    assert (engine.forward.flex, engine.layout, notes) == (False, "prefix tree", [])


@pytest.mark.parametrize("architecture", SOME)
def test_padded_batches_continue_as_transformers_token_for_token(architecture):
    tokenizer, notes = tiny_tokenizer(bos=architecture not in WITHOUT_BOS), []
    engine = engine_of(tiny_model(architecture, tokenizer), tokenizer, notes, most_rows=4, gpu=True)
    assert_greedy(engine, TEXTS, 12)
    assert engine.layout == ("padded batch" if architecture in TREE else "one prompt at a time")
    assert len(notes) == (architecture in PLAIN)


@pytest.mark.parametrize("most_rows", [None, 2, 5])
def test_padded_batches_draw_the_samples_of_packed_rows(most_rows, tokenizer, llama):
    sampling = Sampling(max_tokens=8, samples=3, temperature=1.0, top_p=0.95, stop=("e",), top_entropies=True)
    for texts in (TEXTS, PROMPTS):
        expected = completions(engine_of(llama, tokenizer), texts, sampling)
        engine = engine_of(llama, tokenizer, gpu=True, most_rows=most_rows)
        found = completions(engine, texts, sampling)
        assert engine.layout == "padded batch"
        for pair in ((a, b) for i in expected for a, b in zip(expected[i], found[i], strict=True)):
            assert pair[0].tokens == pair[1].tokens
            for name in ("logprobs", "entropies", "top_entropies"):
                assert getattr(pair[0], name) == pytest.approx(getattr(pair[1], name), abs=1e-4)
    assert engine.tokens_computed < engine.tokens_asked


def peak_of(engine, prefix, flex):
    """Bytes of the largest set of tensors that live at once, for ten sequences after a prefix."""
    engine.forward.flex, engine.forward.cached = flex, None
    sequences = {n: np.array([*[3] * prefix, 9 + n, 5]) for n in range(10)}
    trees = [grow_trees({n: own}, prefix)[0] for n, own in sequences.items()]
    kept = engine.forward.prefix(sequences[0][:prefix].astype(np.int32))
    with Operations() as operations:
        engine.forward.logits(trees, [(row, 1) for row in range(10)], kept)
    return operations.most


def test_the_keys_and_values_of_a_prefix_are_not_copied_for_each_row(tokenizer):
    """In bytes for each token of the prefix: 10 rows have copies of it in 12 layers, or none."""
    model = tiny_model("llama", tokenizer, num_hidden_layers=12)
    engine = engine_of(model, tokenizer, gpu=True)
    copied, shared = ((peak_of(engine, 300, flex) - peak_of(engine, 100, flex)) / 200 for flex in (False, True))
    one_copy = 2 * 2 * 8 * 4  # keys and values, heads, size, bytes
    assert copied > 10 * 12 * one_copy
    assert shared < copied / 4


def deep(tokenizer, **options):
    return tiny_model("llama", tokenizer, num_hidden_layers=30, **options)


def forward_operations(model, rows, length, before=0):
    """Of transformers' own forward, with a padded batch of prompts or (before > 0) a new token of each row."""
    cache = DynamicCache()
    with torch.inference_mode():
        if before:
            model(input_ids=torch.ones((rows, before), dtype=torch.long), past_key_values=cache)
        mask = torch.ones((rows, before + length), dtype=torch.long)
        mask[0, 0] = 0
        positions = torch.arange(before, before + length).expand(rows, -1)
        with Operations() as operations:
            model(
                input_ids=torch.ones((rows, length), dtype=torch.long),
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
            )
    return operations.total


def steps_of(engine, texts, sampling):
    """The operations of each step of a call."""
    counts = []
    original = Run.step

    def counted(run):
        with Operations() as operations:
            done = original(run)
        counts.append(operations)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", counted)
        completions(engine, texts, sampling)
    return counts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_step_of_generation_has_few_operations_more_than_transformers_forward(temperature, tokenizer):
    """A prompt's 2,000 tokens are one step, and a step waits for the device once."""
    model = deep(tokenizer)
    engine = engine_of(model, tokenizer, gpu=True, packs=True)
    prefill, *decode = steps_of(engine, ["yes", "no, never", "honey bees"], Sampling(5, temperature=temperature))
    plain = forward_operations(model, 3, 1, before=20)
    assert max(step.total for step in decode[:3]) <= 1.4 * plain
    assert prefill.total <= 1.3 * forward_operations(model, 3, 20)
    long = [" ".join(["bees"] * n) for n in range(400, 408)]
    engine = engine_of(model, tokenizer, gpu=True, packs=True, token_budget=10**6)
    prefill, *_ = steps_of(engine, long, Sampling(1, temperature=temperature))
    assert prefill.total <= 1.5 * forward_operations(model, 8, 20)


@pytest.mark.parametrize("double", [True, False])
def test_scores_and_draws_stay_on_the_device_which_may_have_no_double_precision(double, monkeypatch):
    """On "meta", up to where the numbers are read, which it does not have."""

    class ReadError(Exception):
        pass

    def read(*_):
        raise ReadError

    for name in ("tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, read)
    if not double:
        monkeypatch.setattr(distributions, "NO_DOUBLE", ("meta",))
    streams = [Stream(0, "a", n) for n in range(6)]
    with OneDevice(), Operations() as operations:
        logits = torch.randn((6, 700), device="meta")
        entropies_of = torch.no_grad()(entropies)
        for compute in (
            lambda: draw(logits, range(6), streams, Sampling(1, temperature=0.7, top_entropies=True)),
            lambda: draw(logits, range(6), streams, Sampling(1)),
            lambda: entropies_of(logits, range(6)),
            lambda: target_logprobs(logits.clone(), [0, 1], [5, 6]),
        ):
            with pytest.raises(ReadError):
                compute()
    assert operations.count["searchsorted"] == 2
    assert {found for found, _ in operations.kinds} <= {"meta", "cpu"}
    assert not operations.count.keys() & set(operations.HOST)
    assert (("meta", torch.float64) in operations.kinds) == double


def test_the_budget_has_what_the_allocator_does_not_use_and_is_that_of_the_first_model_of_a_size(monkeypatch):
    memory = {"mem_get_info": (3 * 2**30, 80 * 2**30), "memory_reserved": 9 * 2**30, "memory_allocated": 4 * 2**30}
    for name in memory:
        monkeypatch.setattr(torch.cuda, name, lambda _, name=name: memory[name])
    monkeypatch.setattr(causal_lm, "_found", {})
    device = torch.device("cuda", 0)
    assert free_memory(device) == 8 * 2**30
    tokenizer = tiny_tokenizer()
    models = [tiny_model("llama", tokenizer, seed=seed) for seed in range(2)]
    for model in models:
        monkeypatch.setattr(type(model), "device", device)
    first = find_budget(models[0])
    assert first.positions == 2 * 2**30 // (2 * 2 * 2 * 8 * 4)
    assert first.tokens == 16_384
    first.tokens //= 2  # it ran out of memory
    memory["mem_get_info"] = (2**20, 80 * 2**30)
    second = find_budget(models[1])
    assert (second.positions, second.tokens) == (first.positions, 16_384)
    assert find_budget(tiny_model("llama", tokenizer, num_hidden_layers=3)).positions < first.positions


def test_a_model_is_loaded_after_the_memory_of_the_one_before_is_released(tmp_path, monkeypatch):
    checkpoint, released = find_checkpoint(str(save_tiny_checkpoint(tmp_path))), []
    monkeypatch.setattr(causal_lm, "release_cached_memory", released.append)
    load_weights = AutoModelForCausalLM.from_pretrained

    def loading(*arguments, **options):
        assert released == [torch.device("cpu")]
        return load_weights(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loading)
    engine = load_engine(checkpoint, dtype="float32", device="cpu")
    other = {"tokens_a_batch": 96, "cached_positions": 640, "products": "torch"}
    engine.restore(other)  # as a run to resume
    assert engine.settings() == {"tokens_a_batch": 96, "products": "torch"}
    assert engine.budget.rows(64) == 10


@pytest.mark.parametrize("task", ["score", "generate"])
def test_the_tensors_of_a_failed_step_are_freed_before_memory_is_made_free(task, tokenizer, llama, monkeypatch):
    """And the results are those of a device that has more memory."""

    def compute(engine):
        if task == "score":
            return {
                index: (answer.tokens, round(answer.logprob, 3)) for index, answer in answers(engine, QUESTIONS).items()
            }
        found = completions(engine, TEXTS, SAMPLED)
        return {index: [completion.tokens for completion in own] for index, own in found.items()}

    alive, released, forward, calls = [], [], llama.forward, Calls(llama)
    expected = compute(engine_of(llama, tokenizer, gpu=True, packs=True, trees=True))
    largest = max(map(math.prod, calls.sizes))
    engine = engine_of(llama, tokenizer, gpu=True, packs=True, trees=True)

    @functools.wraps(forward)
    def failing(**arguments):
        if arguments["input_ids"].numel() >= largest:
            activation = torch.ones(10)
            alive.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return forward(**arguments)

    def release(device):
        released.append([reference() for reference in alive])

    llama.forward = failing
    for module in ("local.engine", "generate.batched"):
        monkeypatch.setattr(f"alignbench.models.{module}.release_cached_memory", release)
    assert compute(engine) == expected
    assert released
    assert all(tensor is None for tensors in released for tensor in tensors)


def test_off_the_cpu_no_operation_mixes_devices(tokenizer, monkeypatch):
    """With tensors on "meta", which have no data."""

    def draw_one(logits, sources, streams, sampling):
        assert logits.device.type == "meta"
        return [Drawn(5, -1.0, 1.0, math.nan) for _ in streams]

    monkeypatch.setattr("alignbench.models.generate.samples.draw", draw_one)
    monkeypatch.setattr(causal_lm, "free_memory", lambda _: 2**33)
    model = tiny_model("llama", tokenizer).to("meta")
    with pytest.raises(AssertionError), OneDevice():
        model(input_ids=torch.ones((1, 2), dtype=torch.long))
    engine = engine_of(model, tokenizer, gpu=True, trees=True, packs=True)
    assert (engine.forward.device.type, engine.budget.most_rows) == ("meta", causal_lm.MAX_ROWS)
    with OneDevice():
        found = completions(engine, TEXTS, Sampling(3, samples=2))
    assert {completion.tokens for own in found.values() for completion in own} == {(5, 5, 5)}
    sequences = {n: np.array([*[3] * 20, 9 + n, 5]) for n in range(4)}
    engine.forward.flex = False
    with OneDevice():
        kept = engine.forward.prefix(sequences[0][:20].astype(np.int32))
        logits = engine.forward.logits([grow_trees(sequences, 20)[0]], [(0, 1), (0, 3)], kept)
    assert (logits.device.type, logits.shape[0]) == ("meta", 2)


@pytest.mark.parametrize(
    ("installed", "device", "text_only", "settings", "expected"),
    [
        (True, "cuda", True, {"gpus": 2}, "vllm"),
        (True, "cuda", True, {"device_map": "auto"}, "local"),
        (True, "cuda", True, {"dtype": "float64"}, "local"),
        (True, "cuda", False, {}, "local"),
        (True, "cpu", True, {}, "local"),
        (False, "cuda", True, {}, "local"),
    ],
)
def test_auto_is_vllm_for_generated_text_on_a_gpu_where_it_is_installed(
    installed, device, text_only, settings, expected, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "vllm" if installed and name == "vllm" else None)
    monkeypatch.setattr("alignbench.models.model.resolve_device", lambda name: device)
    assert choose_engine(EngineSettings(**settings), text_only) == expected
