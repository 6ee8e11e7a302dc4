"""Checkpoints of version 0.1.0 are resumed with the state of Adam that they have."""

import json

import pytest
import torch

from sae_lens_poly import InputError, TrainingPolyCrosscoderConfig, TrainingRunner
from tests.training.tiny_runs import numbered_rows, tiny_config, tiny_stack


def config(folder, structure, **changes):
    sae = TrainingPolyCrosscoderConfig(
        d_in=64, d_sae=64, n_hooks=2, k=4, rank_2=4, rank_3=4, structure=structure
    )
    return tiny_config(folder, sae=sae, n_checkpoints=1, **changes)


def checkpoint_of_0_1_0(folder, structure):
    """As that version wrote it: encoders transposed, other fields, no manifest."""
    TrainingRunner(config(folder, structure), numbered_rows(), tiny_stack()).run()
    checkpoint = next(path.parent for path in folder.glob("checkpoints/*/*/trainer_state.pt"))
    saved = json.loads((checkpoint / "cfg.json").read_text())
    del saved["encoder_score"]
    saved["threshold_lr"] = saved.pop("topk_threshold_lr")
    (checkpoint / "cfg.json").write_text(json.dumps(saved))
    (checkpoint / "manifest.json").unlink()
    state = torch.load(checkpoint / "trainer_state.pt")
    number = 2  # after b_enc and b_dec
    for name in ("exp_avg", "exp_avg_sq"):
        moments = state["optimizer"]["state"][number]
        moments[name] = moments[name].T.contiguous()
    torch.save(state, checkpoint / "trainer_state.pt")
    return checkpoint, state["optimizer"]["state"][number]


def test_moments_of_a_dense_encoder_lie_as_its_weight(tmp_path):
    checkpoint, old = checkpoint_of_0_1_0(tmp_path / "old", "acausal")
    seen = []

    class Watching(TrainingRunner):
        def run_trainer_with_interruption_handling(self, trainer):
            sae = super().run_trainer_with_interruption_handling(trainer)
            seen.append(trainer.optimizer.state[sae.encoder_weights.W])
            return sae

    resumed = config(
        tmp_path / "new", "acausal", resume_from_checkpoint=str(checkpoint), training_tokens=2048
    )
    stop = Watching(resumed, numbered_rows(), tiny_stack())
    stop.cfg.training_tokens = int(checkpoint.name)  # no step is left
    stop.run()
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(seen[0][name], old[name].T)
        assert seen[0][name].is_contiguous()


def test_blocks_are_refused(tmp_path):
    checkpoint, _ = checkpoint_of_0_1_0(tmp_path / "old", "weakly_causal")
    resumed = config(tmp_path / "new", "weakly_causal", resume_from_checkpoint=str(checkpoint))
    with pytest.raises(InputError, match=r"is of version 0\.1\.0, .* export it"):
        TrainingRunner(resumed, numbered_rows(), tiny_stack())
