"""The fused step of Adam, against Adam's formula in float64."""

import pytest
import torch
from torch import nn
from torch.optim import Adam

from sae_lens_poly.training.fused_adam import fuse_
from sae_lens_poly.training.runner import TrainingRunner
from tests.training.tiny_runs import numbered_rows, tiny_config, tiny_stack

LR, BETA_1, BETA_2, EPS = 1e-2, 0.9, 0.999, 1e-8


def weights_of():
    """Contiguous, transposed, and a scalar."""
    torch.manual_seed(0)
    return [
        nn.Parameter(torch.randn(5, 7)),
        nn.Parameter(torch.randn(7, 5).T),
        nn.Parameter(torch.tensor(0.3)),
    ]


def gradients_of(weights, step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(w.shape, generator=generator) for w in weights]


def by_formula(weights, n_steps):
    weights = [w.detach().double() for w in weights]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for t in range(1, n_steps + 1):
        for i, grad in enumerate(gradients_of(weights, t)):
            m = BETA_1 * moments[i][0] + (1 - BETA_1) * grad.double()
            v = BETA_2 * moments[i][1] + (1 - BETA_2) * grad.double() ** 2
            moments[i] = m, v
            m, v = m / (1 - BETA_1**t), v / (1 - BETA_2**t)
            weights[i] = weights[i] - LR * m / (v.sqrt() + EPS)
    return weights


@pytest.mark.parametrize("otherwise", [False, True], ids=["as the weights lie", "otherwise"])
def test_it_is_adam_however_gradients_and_moments_lie_in_memory(otherwise):
    weights = weights_of()
    optimizer = Adam(weights, lr=LR, betas=(BETA_1, BETA_2))
    for step in range(1, 7):
        if step == 3:  # as of a checkpoint that was made without
            fuse_(optimizer)
        for weight, grad in zip(weights, gradients_of(weights, step), strict=True):
            weight.grad = grad.T.contiguous().T if otherwise and grad.ndim else grad.clone()
            for name, moment in optimizer.state[weight].items():
                if otherwise and name != "step" and moment.ndim:
                    optimizer.state[weight][name] = moment.contiguous()
        optimizer.step()
    assert optimizer.param_groups[0]["fused"]
    for weight, wanted in zip(weights, by_formula(weights_of(), 6), strict=True):
        torch.testing.assert_close(weight.double(), wanted, rtol=1e-5, atol=1e-6)


def test_weights_with_gaps_in_memory_are_left_to_the_other_step():
    whole = torch.randn(4, 6)
    weight = nn.Parameter(whole[:, ::2])
    wanted = weight.detach() - LR
    optimizer = Adam([weight], lr=LR)
    fuse_(optimizer)
    assert not optimizer.param_groups[0]["fused"]
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), wanted)


def test_runs_step_by_it(tmp_path, monkeypatch):
    fused = []
    step = Adam.step

    def seen(self, *arguments):
        fused.append(self.param_groups[0]["fused"])
        return step(self, *arguments)

    monkeypatch.setattr(Adam, "step", seen)
    cfg = tiny_config(tmp_path, training_tokens=192, lr_warm_up_steps=0, lr_decay_steps=0)
    TrainingRunner(cfg, numbered_rows(), tiny_stack()).run()
    assert fused == [True] * 3
