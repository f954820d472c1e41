"""Recipes: the shared prefix as the loss of other people's training code. docs/python.md shows both."""

import numpy as np
import pytest
import torch

from tempo import Prefix, VideoLM, dpo_loss, load_model, log_probs
from tempo.model.prefix import language_model

PROMPT = "Describe the video in order."
EVENTS = ["A red ring turns.", "A blue box falls.", "A green cone grows."]


def make_pairs(count):
    """Rows of random frames, one chosen text and two rejected ones: the same events in a wrong order."""
    generator = np.random.default_rng(0)
    rejected = [" ".join(EVENTS[::-1]), " ".join(EVENTS[1:] + EVENTS[:1])]
    frames = generator.integers(0, 256, (count, 6, 64, 64, 3), dtype=np.uint8)
    return [{"frames": video, "chosen": " ".join(EVENTS), "rejected": rejected} for video in frames]


def test_a_plain_torch_loop():
    lm = load_model("embedded")
    reference = load_model("embedded")
    lm.model.requires_grad_(False)
    language_model(lm.model).requires_grad_(True)
    trained = [parameter for parameter in lm.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5)
    losses = []
    for row in make_pairs(2) * 3:
        prefix, texts = Prefix(row["frames"], PROMPT, fps=2.0), [row["chosen"], *row["rejected"]]
        with torch.no_grad():
            expected = log_probs(reference, prefix, texts)
        loss, _ = dpo_loss(log_probs(lm, prefix, texts), expected, beta=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(np.log(2), rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]


def test_the_dpo_trainer_of_trl(tmp_path):
    """`compute_loss` sees one row per video, with all its rejected texts over one prefix."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from PIL import Image

    class SharedPrefixTrainer(trl.DPOTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            lm = VideoLM(model, self.processing_class)
            losses = []
            for row in inputs["rows"]:
                frames = np.stack([np.asarray(image) for image in row["images"]])
                prefix, texts = Prefix(frames, row["prompt"], fps=2.0), [row["chosen"], *row["rejected"]]
                with torch.no_grad(), model.disable_adapter():
                    reference = log_probs(lm, prefix, texts)
                loss, _ = dpo_loss(log_probs(lm, prefix, texts), reference, beta=self.beta)
                losses.append(loss)
            return torch.stack(losses).mean()

    rows = [
        {**row, "prompt": PROMPT, "images": [Image.fromarray(frame) for frame in row.pop("frames")]}
        for row in make_pairs(2)
    ]
    steps = {"max_steps": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1}
    cpu = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    config = trl.DPOConfig(str(tmp_path), per_device_train_batch_size=2, **steps, **cpu, **quiet)
    lm = load_model("embedded")
    lora = LoraConfig(r=4, target_modules=r"model\.language_model\..*_proj")
    trainer = SharedPrefixTrainer(
        model=get_peft_model(lm.model, lora),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=lm.processor,
        data_collator=lambda batch: {"rows": batch},
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < 0.9 * losses[0]
