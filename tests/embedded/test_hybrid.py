"""The shipped hybrid model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3_5ForCausalLM

from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.embedded.hybrid import HYBRID_FOLDER, load_hybrid_model
from sae_lens_poly.embedded.model import bits_per_byte
from sae_lens_poly.embedded.train_hybrid import hybrid_config, save_hybrid, start_
from sae_lens_poly.recurrent_states import delta_layers


@pytest.fixture(scope="module")
def hybrid():
    return load_hybrid_model()


def test_transformers_reads_the_folder_as_it_is(hybrid):
    plain = AutoModelForCausalLM.from_pretrained(HYBRID_FOLDER).eval()
    assert isinstance(plain, Qwen3_5ForCausalLM)
    assert plain.dtype == torch.float32
    assert sum(p.numel() for p in plain.parameters()) < 3_000_000
    assert (HYBRID_FOLDER / "model.safetensors").stat().st_size < 6_000_000
    tokens = torch.randint(4096, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(hybrid(tokens), plain(tokens).logits)
    assert list(delta_layers(plain)) == [0, 1, 2]


@torch.no_grad()
def test_the_start_forgets_slowly(tmp_path):
    torch.manual_seed(0)
    model = Qwen3_5ForCausalLM(hybrid_config())
    start_(model)
    for layer in delta_layers(model).values():
        steps = torch.nn.functional.softplus(layer.dt_bias)
        assert 0.00099 < steps.min() < steps.max() < 0.101
    tokens = torch.randint(4096, (1, 8))
    assert not model(tokens).logits.any()
    model.lm_head.weight.normal_()
    save_hybrid(model, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert saved.dtype == torch.float32
    torch.testing.assert_close(saved(tokens).logits, model(tokens).logits, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_bits_per_byte_on_a_few_held_out_modules(hybrid):
    modules = [m for m in stdlib_modules("held_out") if 4000 < len(m.text) < 9000][:2]
    figures = bits_per_byte(hybrid, tuple(modules), context=256)
    assert figures.model < 1.8
    assert figures.model < figures.xz
