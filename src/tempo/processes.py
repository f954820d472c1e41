"""The processes that `accelerate launch` or `torchrun` started together; one alone where nobody did.

The first one runs every stage. The others take part in training, and wait until they are called to it.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

#: How long processes wait for one another: the first may decode and caption for days before it calls.
PATIENCE = timedelta(days=30)


def process_rank() -> int:
    """This process's number among all that were started together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_accelerator(device: str, *, find_unused_parameters: bool = False) -> Any:
    """accelerate's view of the processes, which it joins first.

    Raises ValueError for what its launcher can be told and tempo does not do.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    handlers = [
        InitProcessGroupKwargs(timeout=PATIENCE),
        # Some towers have layers that their features do not come from.
        DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters),
    ]
    accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=handlers)
    kind = accelerator.distributed_type.name
    told = {
        f"distributed_type {kind}": kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"),
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps != 1,
        "mixed_precision": accelerator.mixed_precision != "no",
    }
    if refused := [name for name, is_set in told.items() if is_set]:
        raise ValueError(
            f"accelerate launch: {', '.join(refused)} cannot be used; tempo copies the weights to each "
            "process (configs/accelerate/ddp.yaml), and batch_size and model.dtype say the rest"
        )
    return accelerator


def call_to_training(device: str, *, is_wanted: bool) -> bool:
    """The first process's answer, in all of them: whether there is training now, or no more work."""
    if num_processes() == 1:
        return is_wanted
    from accelerate.utils import broadcast_object_list

    make_accelerator(device)
    return bool(broadcast_object_list([is_wanted])[0])


def wait_for_all() -> None:
    """Returns when every process is here."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
