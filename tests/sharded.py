"""What two processes do under FSDP2, see test_fsdp.py.

accelerate shards on GPUs only; here it is made to shard on a CPU (gloo).
"""

import faulthandler
import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from stages import long
from torch.distributed.tensor import DTensor

from trainers import loop, models
from trainers.config import StageConfig
from trainers.models import Policy, Scalar, load, place


def shard_on_a_cpu() -> None:
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    create = AcceleratorState.__init__

    def forced(self: Any, *arguments: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        self.fsdp_plugin = options.get("fsdp_plugin") or self.fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = forced  # type: ignore[method-assign]


def shards_of(folder: Path, precision: str, **options: Any) -> dict[str, Any]:
    """What a process holds of the models of a folder after `load`, and after `place`, and whether they are whole."""
    accelerator = loop.make_accelerator(
        StageConfig(out=str(folder), trackers=(), cpu=True, mixed_precision=precision), lambda line: None
    )
    found = {}
    kinds = {"model": "causal", "tied": "causal", "bare": "causal", "judge": "reward", "other": "causal"}
    for name, kind in kinds.items():
        if name == "other":  # as if its files had other names than the model
            models.load_empty = lambda *arguments, **options: None
        model, _, _ = load(str(folder / name), kind, accelerator)
        meta = [parameter.is_meta for parameter in model.parameters()]
        module = place((Policy if kind == "causal" else Scalar)(model), accelerator, **options)
        own = {key: p for key, p in model.named_parameters() if isinstance(p, DTensor)}
        assert len(own) == len(meta)
        whole = {key: p.full_tensor().float() for key, p in own.items()}
        held = sum(p.to_local().numel() for p in own.values()) / sum(p.numel() for p in own.values())
        torch.save(whole, folder / f"{name}-{accelerator.process_index}.pt")
        found[name] = {"meta": all(meta), "held": held, "trained": any(p.requires_grad for p in module.parameters())}
    return found


def main(folder: Path, *stages: str) -> None:
    faulthandler.dump_traceback_later(300, exit=True)  # processes that wait for each other end, and the test fails
    shard_on_a_cpu()
    os.chdir(folder)  # of the reward functions
    for stage in stages:
        settings = json.loads((folder / f"{stage}.json").read_text())
        for changed in settings["parts"]:  # each continues the one before
            long(folder, settings["stage"], folder / "two" / stage, **settings["settings"] | changed)
    if not stages:
        found = shards_of(folder, "no") | {"frozen": shards_of(folder, "bf16", frozen=True)}
        (folder / f"shards-{os.environ['RANK']}.json").write_text(json.dumps(found))
