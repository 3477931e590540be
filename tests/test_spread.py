"""Models that do not fit one device: spread over GPUs, memory and disk, and refused where there is no room."""

from types import SimpleNamespace

import pytest
import torch
from test_engine import QUESTIONS, answers
from tiny import save_tiny_checkpoint

from alignbench.errors import AlignbenchError
from alignbench.models import load as module
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine, spread
from alignbench.models.model import find_model
from alignbench.shards import Shard, find_shard
from alignbench.types.engine import Prompt, Sampling

GIB = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", num_hidden_layers=4)


@pytest.mark.parametrize("share", [0.5, 1e-9])
def test_a_model_partly_or_wholly_on_disk_scores_and_continues_as_in_memory(folder, monkeypatch, share):
    checkpoint = find_checkpoint(str(folder))
    engine = load_engine(checkpoint, dtype="float32", device="cpu")
    size = sum(parameter.nbytes for parameter in engine.model.parameters())
    memory = SimpleNamespace(available=int(share * size / module.FOR_WEIGHTS))
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    notes = []
    spreads = load_engine(
        checkpoint, dtype="float32", device="cpu", placement=spread("cpu"), notify=notes.append, token_budget=64
    )
    monkeypatch.undo()
    places = {str(place) for place in spreads.model.hf_device_map.values()}
    assert places == ({"cpu", "disk"} if share == 0.5 else {"disk"})
    expected = answers(engine, QUESTIONS)
    for index, found in answers(spreads, QUESTIONS).items():
        assert found.logprob == pytest.approx(expected[index].logprob, abs=1e-4)
    prompts = [Prompt("a", "The doctor"), Prompt("b", "What do bees")]
    own, theirs = (dict(e.generate(prompts, Sampling(8))) for e in (engine, spreads))
    assert {i: found[0].tokens for i, found in theirs.items()} == {i: found[0].tokens for i, found in own.items()}


@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_is_applied_to_a_model_that_fits_and_refused_where_a_part_is_offloaded(
    folder, tmp_path, monkeypatch, merge
):
    pytest.importorskip("peft", reason="the extra `adapters` is not installed")
    from test_adapters import save_adapter

    checkpoint = find_checkpoint(str(save_adapter(folder, tmp_path / "tuned")))
    options = {"dtype": "float32", "device": "cpu", "merge": merge}
    expected = answers(load_engine(checkpoint, **options), QUESTIONS)
    found = answers(load_engine(checkpoint, placement=spread("cpu"), **options), QUESTIONS)
    assert {i: own.logprob for i, own in found.items()} == pytest.approx(
        {i: own.logprob for i, own in expected.items()}, abs=1e-4
    )
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10_000))
    with pytest.raises(AlignbenchError, match=r"tuned: its base does not fit into the memory.*merge it into its model"):
        load_engine(checkpoint, placement=spread("cpu"), **options)


def two_of_four_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: ((gpu + 1) * GIB, 80 * GIB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


def test_each_process_of_a_launcher_has_its_own_gpus_and_its_share_of_the_memory(monkeypatch):
    two_of_four_gpus(monkeypatch)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100 * GIB))
    alone = spread("cuda")["max_memory"]
    assert alone == {gpu: int((gpu + 1) * GIB * 0.8) for gpu in range(4)} | {"cpu": 80 * GIB}
    second = spread("cuda", Shard(rank=3, world=4, local_rank=1))["max_memory"]
    assert second == {2: alone[2], 3: alone[3], "cpu": 40 * GIB}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(AlignbenchError, match="3 processes cannot share 4 GPUs equally"):
        spread("cuda", Shard(world=3))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    with pytest.raises(AlignbenchError, match="4 processes on a machine with 2 GPUs"):
        find_shard("auto")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device_map": "balanced"}, "device map 'balanced': the only one is auto"),
        ({"device_map": "auto", "device": "cuda:0"}, "not cuda:0: omit --device"),
        ({"device_map": "auto", "engine": "vllm"}, "--engine vllm: --device-map has no effect"),
        ({"gpus": 2}, "--engine local: --gpus has no effect"),
        ({"max_model_len": 9}, "--engine local: --max-model-len has no effect"),
        ({"engine": "vllm", "gpus": 9}, "--gpus 9: this machine has 0 GPUs"),
        ({"engine": "vllm", "gpus": 0}, "--gpus 0: this machine has 0 GPUs"),
        ({"engine": "vllm", "max_model_len": 1}, "--max-model-len 1: it must be at least 2 tokens"),
        ({"engine": "vllm", "gpu_memory_utilization": 1.5}, "--gpu-memory-utilization 1.5: it is a share"),
        ({"engine": "vllm", "shard": Shard(0, 2)}, "--engine vllm runs in a single process: use --gpus N"),
        ({"merge_adapter": True}, "it has no adapter for --merge-adapter"),
    ],
)
def test_options_that_cannot_be_fulfilled_are_refused_before_anything_is_loaded(folder, monkeypatch, settings, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("alignbench.models.model.resolve_device", lambda device: device)
    with pytest.raises(AlignbenchError) as caught:
        find_model(str(folder), **({"device": "cpu"} | settings))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_endpoint_takes_none_of_these_options():
    with pytest.raises(AlignbenchError, match="--gpus has no effect"):
        find_model("https://localhost/v1#m", gpus=2)
