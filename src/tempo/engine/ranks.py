"""The processes that `accelerate launch` or `torchrun` started together, or a single process.

The first process runs all stages. The others wait for training and take part only in it.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def process_rank() -> int:
    """The rank of this process among those that were started together; 0 for a single process."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """The number of processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shards_weights() -> bool:
    """Whether each process holds a shard of the weights (FSDP2) instead of a copy."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def pick_device(name: str) -> torch.device:
    """The device for the value of `model.device`; `auto` is a GPU if there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_accelerator(device: str, *, find_unused_parameters: bool = False) -> Any:
    """The `accelerate.Accelerator` of this process, connected to the other processes.

    `find_unused_parameters` is an option of DDP, for vision towers with layers that do not contribute to the
    features. Raises ValueError that lists all launcher settings that would give wrong results or a deadlock.
    """
    from accelerate import Accelerator, utils

    handlers = [
        # The first process may decode and caption for days before training starts.
        utils.InitProcessGroupKwargs(timeout=timedelta(days=30)),
        utils.DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters),
    ]
    accelerator = Accelerator(cpu=pick_device(device).type == "cpu", kwargs_handlers=handlers)
    if shards_weights() and accelerator.distributed_type.name == "MULTI_CPU":
        # accelerate applies its FSDP settings only on GPUs; without this, tests of FSDP would need GPUs.
        accelerator.state.distributed_type = utils.DistributedType.FSDP
        accelerator.state.fsdp_plugin = utils.FullyShardedDataParallelPlugin()
    kind = accelerator.distributed_type.name
    given = {
        f"distributed_type {kind}": kind in ("DEEPSPEED", "MEGATRON_LM"),
        # accelerate would divide the loss, but tempo already weights its rows.
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps != 1,
        "mixed_precision": accelerator.mixed_precision != "no",
        # Processes that split a model's tensors among them would need the same examples.
        "parallelism_config": accelerator.parallelism_config is not None,
    }
    if kind == "FSDP":
        plugin = accelerator.state.fsdp_plugin
        given |= {
            "fsdp_version 1": plugin.fsdp_version == 1,
            # tempo shards only the layers of the language model: each process runs the vision tower a
            # different number of times, which would deadlock if its layers were sharded too.
            "fsdp_auto_wrap_policy": "SIZE" in os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper(),
            "fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP" in os.environ,
            # Only the first process would have the weights.
            "fsdp_cpu_ram_efficient_loading": plugin.cpu_ram_efficient_loading,
            # It renames layers, so the trained weights could not be merged at the end.
            "fsdp_activation_checkpointing": plugin.activation_checkpointing,
        }
    if refused := [name for name, is_set in given.items() if is_set]:
        raise ValueError(
            f"accelerate launch: settings that are not supported: {', '.join(refused)}. Start from a file in "
            "configs/accelerate, and set batch_size, gradient_checkpointing and model.dtype in tempo's"
            " configuration"
        )
    return accelerator


def call_to_training(device: str, *, is_needed: bool) -> bool:
    """In every process, the first one's `is_needed`: True to train now, False at the end of the run."""
    if num_processes() == 1:
        return is_needed
    from accelerate.utils import broadcast_object_list

    make_accelerator(device)
    return bool(broadcast_object_list([is_needed])[0])


def wait_for_all() -> None:
    """Waits until every process has called it."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
