"""A crosscoder as the papers define it: dense tensors, one hook point after the other, float64.

Differentiable in the dictionary's own weights, so that gradients can be compared too.
"""

import torch
from sae_lens.saes.jumprelu_sae import JumpReLU, Step

from sae_lens_poly.architectures.decoders.interactions import CodeInteractions, Interactions

DEGREE_SUM = {2: 3, 3: 15}


def dense_tensor(form, weights, rows, cfg):
    """W (L, d, F): as it is, or put together from the factors by the formula of its form."""
    if form == "dense":
        return rows.view(len(rows), cfg.n_hooks, -1).permute(1, 2, 0)
    factors = weights.forms[0] if cfg.structure != "acausal" else weights
    A, B, C = factors.activation, factors.latent, factors.hook
    L, d = C.shape[0], A.shape[0]
    gain = L * d / torch.tensor(factors.ranks).double().prod().sqrt()
    if form == "cp":
        return gain * torch.einsum("ar,ir,lr->lai", A, B, C)
    R3 = C.shape[1]
    return gain * torch.einsum("apq,iqr,lrp->lai", A, B.unflatten(1, (-1, R3)), C)


def sets_of(cfg):
    """What each latent reads and writes, two (F, L) matrices of 0 and 1."""
    L, F = cfg.n_hooks, cfg.d_sae
    if cfg.structure == "acausal":
        groups = [(set(range(L)), set(range(L)))]
    elif cfg.structure == "weakly_causal":
        groups = [({h}, set(range(h, L))) for h in range(L)]
    elif cfg.structure == "strictly_causal":
        groups = [({h}, set(range(h + 1, L))) for h in range(L - 1)]
    else:  # the one free structure that the tests use: a transcoder from the first to the rest
        assert (cfg.reads, cfg.writes) == ("0", f"1..{L - 1}")
        groups = [({0}, set(range(1, L)))]
    reads, writes = torch.zeros(F, L, dtype=torch.double), torch.zeros(F, L, dtype=torch.double)
    for i in range(F):
        group = next(g for g in range(len(groups)) if i < F * (g + 1) // len(groups))
        for h in groups[group][0]:
            reads[i, h] = 1
        for h in groups[group][1]:
            writes[i, h] = 1
    return reads, writes


def weights_of_penalty(cfg, W_dec):
    """By what penalties weigh each latent, (F,), from W_dec (L, d, F)."""
    squares = W_dec.pow(2).sum(1)
    if cfg.sparsity_penalty == "l2_of_norms":
        return squares.sum(0).sqrt()
    return squares.clamp_min(1e-300).sqrt().sum(0)


class Reference:
    """Reads the weights of a training crosscoder and does everything else by itself."""

    def __init__(self, sae):
        self.sae, cfg = sae, sae.cfg
        self.L, self.d, self.F = cfg.n_hooks, cfg.d_in // cfg.n_hooks, cfg.d_sae
        self.reads, self.writes = sets_of(cfg)
        enc = dense_tensor(cfg.encoder_weights, sae.encoder_weights, sae.W_enc.T, cfg)
        dec = dense_tensor(cfg.decoder_weights, sae.decoder_weights, sae.W_dec, cfg)
        self.W_enc = enc * self.reads.T[:, None, :]
        self.W_dec = dec * self.writes.T[:, None, :]
        self.b_dec = sae.b_dec.view(self.L, self.d)
        self.scale = sae.hook_scales.scale

    def norms(self):
        """sum_l ||W_dec,i^l|| where scores use it, (F,)."""
        if not self.sae.cfg.score_by_decoder_norm:
            return torch.ones(self.F, dtype=torch.double)
        return self.W_dec.detach().pow(2).sum(1).sqrt().sum(0)

    def pre_activations(self, x, seen=None):
        x = x.view(-1, self.L, self.d) * self.scale[:, None]
        if self.sae.cfg.apply_b_dec_to_input:
            x = x - self.b_dec
        if seen is not None:
            x = x * seen[..., None]
        return self.scores(x) + self.sae.b_enc

    def scores(self, x):
        """Of centred x (n, L, d): products, or products over norms times a power of the input's."""
        products = torch.einsum("tla,lai->ti", x, self.W_enc)
        if self.sae.cfg.encoder_score == "inner_product":
            return products
        size = torch.einsum("tla,il->ti", x.pow(2), self.reads).clamp_min(1e-16).sqrt()
        score = self.sae.encoder_score
        if self.sae.cfg.encoder_score == "input_power":
            return products / size * size.pow(score.power)
        cosine = products / size / self.W_enc.pow(2).sum(dim=(0, 1)).sqrt().clamp_min(1e-8)
        return score.log_scale.exp() * size.pow(score.power) * cosine

    def codes(self, pre, k=None):
        """What training keeps of the pre-activations. Of JumpReLU, SAELens' gradients are taken."""
        cfg = self.sae.cfg
        scores = (pre * self.norms()).detach()
        k = cfg.k if k is None else k
        if cfg.sparsifier == "relu":
            active = pre > 0
        elif cfg.sparsifier == "jumprelu":
            return JumpReLU.apply(*self.jump(pre)) / self.norms()
        elif cfg.sparsifier == "topk":
            cut = scores.sort(dim=1, descending=True).values[:, int(k) - 1 : int(k)]
            active = (scores >= cut) & (pre > 0)
        else:
            cut = scores.flatten().sort(descending=True).values[int(k * len(pre)) - 1]
            active = (scores >= cut) & (pre > 0)
        return pre * active

    def jump(self, pre):
        """What SAELens' step functions take."""
        cfg, threshold = self.sae.cfg, self.sae.sparsifier.threshold
        return pre * self.norms(), threshold, cfg.jumprelu_bandwidth, cfg.jumprelu_ste_to_input

    def reconstruct(self, z, width=None):
        """(n, L, d), from the first ``width`` latents."""
        keep = torch.arange(self.F) < (self.F if width is None else width)
        z = z * keep
        linear = torch.einsum("ti,lai->tla", z, self.W_dec)
        hooks = [
            linear[:, h] + self.b_dec[h] + self.polynomial(z * self.writes[:, h], linear, h)
            for h in range(self.L)
        ]
        return torch.stack(hooks, dim=1)

    def polynomial(self, z, linear, hook):
        """The terms of degree 2 and 3 at one hook point, from the latents that write it."""
        terms = self.sae.polynomial
        out = torch.zeros(len(z), self.d, dtype=torch.double)
        if terms is None:
            return out
        at = slice(hook * self.d, (hook + 1) * self.d)
        limit = terms.code_limit
        homogeneous, faster = terms.homogeneous, self.sae.cfg.terms_lr_scale
        if isinstance(terms, Interactions):
            V = terms.projection.V
            if isinstance(terms, CodeInteractions):
                Q = terms.code_scale[:, None] * V
            else:
                Q = self.W_dec.permute(2, 0, 1).reshape(self.F, -1) @ (terms.code_scale * V)
            a = z @ Q
            held = torch.ones(len(z), 1, dtype=torch.double)
            if not homogeneous:
                bound = limit * terms.rank**0.5
                held = (bound / a.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
            size = a.square().mean(1, keepdim=True).clamp_min(1e-24) ** 0.5
            for degree, rank in terms.ranks.items():
                product = (a * held)[:, :rank] ** degree
                if not terms.self_terms:
                    own = (z * held)[:, :, None] * Q[:, :rank]
                    s1, s2, s3 = (own.pow(p).sum(1) for p in (1, 2, 3))
                    product = s1**2 - s2 if degree == 2 else s1**3 - 3 * s1 * s2 + 2 * s3
                gain = 4.0**-degree * (rank * DEGREE_SUM[degree]) ** -0.5
                if homogeneous:
                    product = product / size ** (degree - 1)
                out = out + faster * gain * product @ terms.C[str(degree)][:, at]
        else:
            u = z * terms.code_scale
            u = u if homogeneous else u.clamp(-limit, limit)
            number = (u != 0).sum(1, keepdim=True).clamp_min(1)
            size = (u.square().sum(1, keepdim=True) / number).clamp_min(1e-24) ** 0.5
            for degree in terms.ranks:
                W = terms.A[str(degree)] @ terms.B[str(degree)][:, at]
                rank = terms.ranks[degree]
                gain = 4.0**-degree * (rank * DEGREE_SUM[degree]) ** -0.5
                powers = u**degree / size ** (degree - 1) if homogeneous else u**degree
                out = out + faster * gain * powers @ W
        return out

    def losses(self, x, seen, dead, coefficients):
        """All losses of a training step."""
        cfg = self.sae.cfg
        written = self.writes.amax(0)[:, None]
        target = x.view(-1, self.L, self.d) * self.scale[:, None] * written
        pre = self.pre_activations(x, seen)
        z = self.codes(pre)
        recon = self.reconstruct(z) * written
        losses = {"mse_loss": (recon - target).pow(2).sum((1, 2)).mean()}
        for width in cfg.matryoshka_widths:
            if width < self.F:
                inner = (self.reconstruct(z, width) - target).pow(2).sum((1, 2)).mean()
                losses[f"inner_mse_loss_{width}"] = inner
        if cfg.sparsifier == "relu":
            weights = weights_of_penalty(cfg, self.W_dec)
            losses["l1_loss"] = coefficients["l1"] * (z * weights).sum(1).mean()
        if cfg.sparsifier == "jumprelu":
            norms = weights_of_penalty(cfg, self.W_dec)
            if cfg.jumprelu_sparsity_loss_mode == "tanh":
                per_token = torch.tanh(cfg.jumprelu_tanh_scale * z * norms).sum(1)
            else:
                per_token = Step.apply(*self.jump(pre)).sum(1)
            losses["l0_loss"] = coefficients["l0"] * per_token.mean()
            if cfg.pre_act_loss_coefficient is not None:
                scores, threshold, *_ = self.jump(pre)
                weights = 1.0 if cfg.score_by_decoder_norm else norms
                counts = dead if cfg.pre_act_loss_on == "dead" else torch.ones_like(dead)
                below = ((threshold - scores).relu() * counts * weights).sum(1).mean()
                losses["pre_act_loss"] = cfg.pre_act_loss_coefficient * below
        if cfg.aux_loss_coefficient and dead.any():
            losses["auxiliary_reconstruction_loss"] = self.aux_k(pre, target - recon, dead)
        return losses

    def aux_k(self, pre, residual, dead):
        cfg = self.sae.cfg
        scores = pre[:, dead] * self.norms()[dead]
        k_aux = cfg.k_aux or max(1, self.d // 2)
        n_kept = min(k_aux, int(dead.sum()))
        cut = scores.sort(dim=1, descending=True).values[:, n_kept - 1 : n_kept]
        kept = pre[:, dead] * (scores >= cut)
        guess = torch.einsum("ti,lai->tla", kept, self.W_dec[..., dead])
        loss = (guess - residual.detach()).pow(2).sum((1, 2)).mean()
        return cfg.aux_loss_coefficient * min(int(dead.sum()) / k_aux, 1) * loss
