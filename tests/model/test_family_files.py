"""For every family: `adapter/` in plain PEFT and `model/` in plain transformers are the trained model."""

import pytest
import torch
from families import MODELS, make_group, make_model
from peft import PeftModel
from test_families import REJECTED, each_of

from tempo.config import DpoPhase, ModelConfig
from tempo.model.chat import VideoLM
from tempo.model.support import duplicated_log_probs
from tempo.training import adapters
from tempo.training.policy import Policy


class NoProcessor:
    """The models are given inputs, not text."""

    def save_pretrained(self, directory):
        pass


@pytest.mark.parametrize("family", each_of(MODELS.keys() - REJECTED.keys()))
def test_the_files_of_a_run_are_the_model_that_was_trained(family, tmp_path, monkeypatch):
    groups = [make_group(family, num_steps=3, lengths=[4, 7])]
    base = make_model(family, attention=False)
    base.save_pretrained(tmp_path / "base")

    def load(path, **options):
        model, found = type(base).from_pretrained(path, output_loading_info=True)
        assert not any(found.values())
        return model.eval()

    monkeypatch.setattr(adapters, "load_model", lambda **options: VideoLM(load(**options), NoProcessor()))
    trained = adapters.TrainedModel(ModelConfig(path=str(tmp_path / "base")), tmp_path / "adapter")
    for number in range(2):
        phase = DpoPhase(name=f"{number}", objective="dpo", learning_rate=1e-3, lora_rank=2 + number)
        policy = Policy(trained.lm.model, phase, dtype=torch.float32)
        torch.manual_seed(number)
        for parameter in policy.trained.values():
            torch.nn.init.normal_(parameter, std=0.1)
        trained.save_phase(phase, policy.trained, tmp_path)
        trained.finish_phase(phase, tmp_path)
    with torch.no_grad():
        stacked = duplicated_log_probs(trained.lm.model, groups)
        adapters.save_checkpoint(trained.merged(), tmp_path / "model")
        peft = PeftModel.from_pretrained(base, tmp_path / "adapter").base_model.model
        found = [duplicated_log_probs(model, groups) for model in (load(tmp_path / "model"), peft)]
        plain = duplicated_log_probs(load(tmp_path / "base"), groups)
    wanted, *others, before = (torch.cat(rows[0]) for rows in (stacked, *found, plain))
    assert not torch.allclose(wanted, before, atol=0.01)
    for other in others:
        assert torch.allclose(wanted, other, atol=1e-4)
