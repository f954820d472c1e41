"""Recipes: the shared prefix as the loss of other people's training code. docs/python.md shows both."""

import numpy as np
import pytest
import torch

from tempo import Prefix, VideoLM, dpo_loss, load_model, log_probs
from tempo.model.prefix import language_model
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.world import make_story

PROMPT = "Describe the video in order."


def make_pairs(count):
    """Rows of frames, one chosen text and two rejected ones: the events of a story in a wrong order."""
    rows = []
    for index in range(count):
        events = make_story(5, index, num_shots=(3, 3)).events
        texts = [f"A {event.thing} {event.action}." for event in events]
        frames = np.concatenate([event_frames(event, (0.25, 0.75), size=64) for event in events])
        rejected = [" ".join(texts[::-1]), " ".join(texts[1:] + texts[:1])]
        rows.append({"frames": frames, "chosen": " ".join(texts), "rejected": rejected})
    return rows


def add_lora(model):
    from peft import LoraConfig, get_peft_model

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.language_model.")
    ]
    return get_peft_model(model, LoraConfig(r=4, target_modules=names))


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
    assert losses[:2] == pytest.approx([np.log(2)] * 2, rel=0.2)
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])


def test_the_dpo_trainer_of_trl(tmp_path):
    """`compute_loss` sees one row per video, with all its rejected texts over one prefix."""
    import trl
    from datasets import Dataset
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
    config = trl.DPOConfig(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lm = load_model("embedded")
    trainer = SharedPrefixTrainer(
        model=add_lora(lm.model),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=lm.processor,
        data_collator=lambda batch: {"rows": batch},
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < 0.9 * losses[0]
