"""One run in several processes: each evaluates its share of the documents and writes its own file.

Started by `accelerate launch -m alignbench evaluate …` (or torchrun). Only the main process creates folders, holds the
run's lock and merges the files.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

from alignbench.errors import AlignbenchError


@dataclass(frozen=True)
class Shard:
    """Process `rank` of `world`; `local_rank` is its rank on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether piece `number` of the work belongs to this process."""
        return number % self.world == self.rank

    def wait_for_everyone(self) -> None:
        """Continue when every process has reached this point."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


SINGLE_PROCESS = Shard()


def find_shard(device: str) -> Shard:
    """This process's shard, from the launcher's environment variables. Raises AlignbenchError for too few GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS
    import torch
    from accelerate import PartialState

    # without a GPU, accelerate ignores the other processes unless it is set to use the CPU; and one process may finish
    # hours before another, while the default timeout of ten minutes would end the run
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.accelerator.device_count()
    if not on_cpu and processes > gpus:
        raise AlignbenchError(f"{processes} processes on a machine with {gpus} GPUs: start at most one for each GPU")
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=30))
    return Shard(state.process_index, state.num_processes, state.local_process_index)


def is_first_process() -> bool:
    """True in the one process of several that prints, and without a launcher."""
    return int(os.environ.get("RANK", "0")) == 0


def require_single_process(command: str) -> None:
    """Raise AlignbenchError under a launcher of several processes, for a command that runs in one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise AlignbenchError(f"alignbench {command} runs in a single process; start it without a launcher")
