"""trl.DPOTrainer (1.16) on the same material, configured as a careful user would.

It takes no video, so frames are passed as its `images`. Nothing is truncated (`max_length=None`) or padded
(all answers have the same length). Gradient checkpointing and bfloat16, on by default, are off as for the
other forms. Its own collator makes the batches between steps, which is not timed. `padding_free` has no
effect in this version, and `precompute_ref_log_probs` does not support images.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from harness import Measured, forget_peak, peak_megabytes
from material import PROMPT, Material, Setting, make_material
from policies import BETA, LEARNING_RATE, LORA, fill_adapters, flat_gradient, warm_up


def measure_trl(setting: Setting, *, accumulate: bool) -> Measured:
    """Measures the trainer on the pairs of one video: all in one batch, or one pair at a time."""
    material = make_material(setting)
    warm_up(material.lm)
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(material, setting, directory, accumulate=accumulate)
        fill_adapters(trainer.model)
        watch = _watch(trainer)
        trainer.train()
    losses = tuple(row["loss"] for row in trainer.state.log_history if "loss" in row)
    return Measured(tuple(watch.seconds), watch.peak, losses, watch.gradient)


def make_trainer(material: Material, setting: Setting, directory: str, *, accumulate: bool) -> Any:
    """A DPOTrainer whose steps and epochs each consist of the pairs of the one video."""
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    pairs = setting.num_rejected
    config = DPOConfig(
        output_dir=directory,
        max_steps=setting.steps,
        per_device_train_batch_size=1 if accumulate else pairs,
        gradient_accumulation_steps=pairs if accumulate else 1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        optim="adamw_torch",
        beta=BETA,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    # The default of transformers for this model.
    material.lm.model.set_attn_implementation("sdpa")
    trainer = DPOTrainer(
        model=material.lm.model,
        args=config,
        train_dataset=_dataset(material),
        processing_class=material.lm.processor,
        peft_config=_lora(material.lm.model),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _lora(model: Any) -> Any:
    """The same adapters as in our own forms."""
    from peft import LoraConfig
    from torch.nn import Linear

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.startswith("model.language_model.")
    ]
    return LoraConfig(r=LORA["lora_rank"], lora_alpha=LORA["lora_alpha"], target_modules=names)


def _dataset(material: Material) -> Any:
    """One row per pair in TRL's conversational format; TRL puts the images before the text."""
    from datasets import Dataset

    chosen, *rejected = material.answers
    rows = [
        {
            "images": list(material.images),
            "prompt": [{"role": "user", "content": PROMPT}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": answer}],
        }
        for answer in rejected
    ]
    return Dataset.from_list(rows)


def _watch(trainer: Any) -> Any:
    """A callback that records the seconds of every step, and peak memory and gradient of the first."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.peak = 0.0
            self.gradient: Any = None
            self._start = self._before = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not self.seconds:
                self._before = forget_peak()
            self._start = time.perf_counter()

        def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
            if self.gradient is None:
                copying = time.perf_counter()
                self.gradient = flat_gradient([p for p in model.parameters() if p.requires_grad])
                self._start += time.perf_counter() - copying

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self._start)
            if len(self.seconds) == 1:
                self.peak = peak_megabytes() - self._before

    watch = Watch()
    trainer.add_callback(watch)
    return watch
