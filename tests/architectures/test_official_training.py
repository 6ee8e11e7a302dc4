"""With the official options, training is the published update rule, step for step."""

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from tests.architectures.poly_saes import (
    D_IN,
    D_SAE,
    K,
    activations,
    orthonormality_error,
    poly_sae,
)

LR, BETA1, BETA2, EPS = 3e-3, 0.9, 0.999, 1e-8
R2, R3 = 6, 4


def trainer_of(sae):
    return SAETrainer(
        SAETrainerConfig(
            total_training_samples=10**6,
            lr=LR,
            lr_end=LR,
            adam_beta1=BETA1,
            adam_beta2=BETA2,
            train_batch_size_samples=64,
            dead_feature_window=10**6,
            feature_sampling_window=10**6,
        ),
        sae,
        iter(()),
    )


class PublishedPolySAE:
    """The published training, written out: loss, clipping, Adam, QR, in float64."""

    def __init__(self, weights):
        self.w = {name: w.clone().requires_grad_() for name, w in weights.items()}
        self.m = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.v = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.t = 0

    def loss(self, x):
        w = self.w
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        kth = pre.detach().sort(dim=-1, descending=True).values[:, K - 1 : K]
        z = torch.relu(pre) * (pre >= kth)
        a = z @ w["U"]
        y1 = a @ w["C1"].T
        y2 = (a[:, :R2] * a[:, :R2]) @ w["C2"].T
        y3 = (a[:, :R3] * a[:, :R3] * a[:, :R3]) @ w["C3"].T
        x_hat = w["b_dec"] + y1 + w["lambda2"] * y2 + w["lambda3"] * y3
        return (x_hat - x).pow(2).sum(dim=-1).mean()

    def step(self, x):
        self.t += 1
        grads = torch.autograd.grad(self.loss(x), list(self.w.values()))
        total = torch.stack([g.pow(2).sum() for g in grads]).sum().sqrt()
        clip = min(1.0, 1.0 / (total.item() + 1e-6))
        for (name, w), g in zip(self.w.items(), grads, strict=True):
            g = g * clip
            self.m[name] = BETA1 * self.m[name] + (1 - BETA1) * g
            self.v[name] = BETA2 * self.v[name] + (1 - BETA2) * g * g
            m_hat = self.m[name] / (1 - BETA1**self.t)
            v_hat = self.v[name] / (1 - BETA2**self.t)
            w.data = w.data - LR * m_hat / (v_hat.sqrt() + EPS)
        q, r = torch.linalg.qr(self.w["U"].data)
        self.w["U"].data = q * r.diagonal().sign()


def published_weights(sae):
    p = sae.polynomial
    weights = {
        "W_enc": sae.W_enc,
        "b_enc": sae.b_enc,
        "b_dec": sae.b_dec,
        "U": p.projection.V,
        "C1": p.C1.T,
        "C2": p.C["2"].T,
        "C3": p.C["3"].T,
        "lambda2": p.lambdas["2"],
        "lambda3": p.lambdas["3"],
    }
    return {name: w.detach().clone() for name, w in weights.items()}


def test_twenty_steps_of_the_published_rule():
    sae = poly_sae(form="official", dtype="float64", rescale_acts_by_decoder_norm=False)
    assert sae.polynomial.C1.shape == (D_IN, D_IN)  # R1 = d
    bound = (6 / R2) ** 0.5  # Kaiming-uniform, fan_in the rank
    assert bound * 0.8 < sae.polynomial.C["2"].abs().max() <= bound
    assert [sae.polynomial.lambdas[d].item() for d in "23"] == [-0.5, 0.5]

    trainer = trainer_of(sae)
    published = PublishedPolySAE(published_weights(sae))
    start = published_weights(sae)
    for step in range(20):
        x = activations(seed=step, dtype=torch.float64)
        expected = published.loss(x).item()
        output = trainer.step(x)
        trainer.n_training_steps += 1
        torch.testing.assert_close(output.losses["mse_loss"].item(), expected)
        published.step(x)
        sae.retract_()  # what the next step would begin with
        for name, w in published_weights(sae).items():
            torch.testing.assert_close(w, published.w[name].detach(), rtol=1e-6, atol=1e-9)
    for name, w in published_weights(sae).items():
        assert (w - start[name]).abs().max() > 1e-3, name


def test_retraction_compensated_or_as_published():
    for retraction, moves in {"compensated": False, "uncompensated": True}.items():
        sae = poly_sae(form="official", dtype="float64", retraction=retraction)
        with torch.no_grad():
            sae.polynomial.projection.weight.add_(0.01 * torch.randn(D_SAE, D_IN).double())
        before = sae.W_dec.clone()
        sae.retract_()
        assert orthonormality_error(sae.polynomial.projection) < 1e-12
        moved = (sae.W_dec - before).norm() / before.norm()
        assert moved > 1e-3 if moves else moved < 1e-14
