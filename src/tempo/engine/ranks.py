"""The processes that `accelerate launch` or `torchrun` started together; one alone where nobody did.

The first one runs every stage. The others take part in training, and wait until they are called to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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


def shards_weights() -> bool:
    """Whether each process is to hold a part of the weights (FSDP), not a copy of them."""
    return _is_true("ACCELERATE_USE_FSDP")


def make_accelerator(device: str, *, find_unused_parameters: bool = False) -> Any:
    """accelerate's view of the processes, which it joins first.

    Raises ValueError for what its launcher can be told and tempo does not do.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    from tempo.engine.devices import pick_device

    handlers = [
        InitProcessGroupKwargs(timeout=PATIENCE),
        # Some towers have layers that their features do not come from.
        DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters),
    ]
    accelerator = Accelerator(cpu=pick_device(device).type == "cpu", kwargs_handlers=handlers)
    _share_on_cpus(accelerator)
    _refuse(accelerator)
    return accelerator


def _share_on_cpus(accelerator: Any) -> None:
    """accelerate forgets on CPUs what it was told to share out; how it does so is the same there."""
    from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin

    if accelerator.distributed_type != DistributedType.MULTI_CPU:
        return
    if shards_weights():
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    elif _is_true("ACCELERATE_USE_DEEPSPEED"):
        accelerator.state.distributed_type = DistributedType.DEEPSPEED
        accelerator.state.deepspeed_plugins = DeepSpeedPlugin()
        accelerator.state.deepspeed_plugins.select(_from_accelerator_state=True)


def _refuse(accelerator: Any) -> None:
    """Raises ValueError that names everything the launcher was told and tempo does not do."""
    kind = accelerator.distributed_type.name
    told = {
        f"distributed_type {kind}": kind == "MEGATRON_LM",
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps != 1,
        "mixed_precision": accelerator.mixed_precision != "no",
        "parallelism_config": accelerator.parallelism_config is not None,
    }
    if kind == "FSDP":
        told |= _told_of_sharding(accelerator.state.fsdp_plugin)
    if kind == "DEEPSPEED":
        told |= _told_of_zero(accelerator.state.deepspeed_plugin.deepspeed_config)
    if refused := [name for name, is_set in told.items() if is_set]:
        raise ValueError(
            f"accelerate launch: {', '.join(refused)} cannot be used; configs/accelerate/ has what can "
            "(ddp.yaml, fsdp2.yaml, deepspeed_zero2.yaml), and batch_size, gradient_checkpointing and "
            "model.dtype say the rest"
        )


def _told_of_sharding(plugin: Any) -> dict[str, bool]:
    """What cannot be used of FSDP's settings, and whether it was asked for."""
    # A tower runs once for some rows and once per video for others: only layers that every process calls
    # equally often may be gathered one by one, and those tempo names itself.
    wrap = getattr(plugin.auto_wrap_policy, "func", plugin.auto_wrap_policy)
    return {
        "fsdp_version 1": plugin.fsdp_version == 1,
        "fsdp_auto_wrap_policy SIZE_BASED_WRAP": getattr(wrap, "__name__", "")
        == "size_based_auto_wrap_policy",
        "fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP" in os.environ,
        # The first process alone would have weights, and all check them.
        "fsdp_cpu_ram_efficient_loading": plugin.cpu_ram_efficient_loading,
        "fsdp_offload_params": _is_true("FSDP_OFFLOAD_PARAMS"),
        "fsdp_activation_checkpointing": plugin.activation_checkpointing,
    }


def _told_of_zero(config: Mapping[str, Any]) -> dict[str, bool]:
    """What cannot be used of DeepSpeed's settings, and whether it was asked for."""
    zero = config.get("zero_optimization", {})
    devices = [(zero.get(f"offload_{what}") or {}).get("device") for what in ("optimizer", "param")]
    return {
        # Stage 3 gathers every module by itself, the tower's too: see _told_of_sharding.
        f"zero_stage {zero.get('stage')}": zero.get("stage") != 2,
        "offload_optimizer_device or offload_param_device": any(d not in (None, "none") for d in devices),
        "bf16 or fp16": any((config.get(kind) or {}).get("enabled") is True for kind in ("bf16", "fp16")),
        "gradient_accumulation_steps": config.get("gradient_accumulation_steps") not in (1, "auto", None),
    }


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def call_to_training(device: str, *, is_needed: bool) -> bool:
    """What the first process passes, in all of them: True to train now, False when all work is done."""
    if num_processes() == 1:
        return is_needed
    from accelerate.utils import broadcast_object_list

    make_accelerator(device)
    return bool(broadcast_object_list([is_needed])[0])


def wait_for_all() -> None:
    """Returns when every process is here."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
