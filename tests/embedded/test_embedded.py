"""The shipped language model and its text."""

import pytest
import torch

from sae_lens_poly.embedded import train_model
from sae_lens_poly.embedded.corpus import is_held_out, stdlib_dataset, stdlib_modules
from sae_lens_poly.embedded.model import WEIGHTS_FILE, bits_per_byte


def test_the_split_is_fixed_by_the_name():
    assert [name for name in ("tarfile", "enum", "mailbox", "os", "json.decoder")
            if is_held_out(name)] == ["tarfile", "enum", "mailbox"]  # fmt: skip
    train = {m.name for m in stdlib_modules("train")}
    held_out = {m.name for m in stdlib_modules("held_out")}
    assert held_out
    assert not train & held_out
    assert set(stdlib_dataset("held_out")["module"]) == held_out


def test_tokenizer_round_trips_source(embedded_model):
    text = "def f(x):\n\treturn 'é ' + x  # two  spaces\n"
    ids = embedded_model.tokenizer.encode(text, add_special_tokens=False)
    assert embedded_model.tokenizer.decode(ids) == text
    assert embedded_model.to_tokens(text)[0, 0] == embedded_model.tokenizer.bos_token_id == 0


@torch.no_grad()
def test_trained_and_shipped_model_are_one_function(embedded_model):
    torch.manual_seed(0)
    plain = train_model.Transformer()
    for p in plain.parameters():
        p.copy_((torch.randn_like(p) * 0.1).half().float())
    weights = {k: w.float() for k, w in train_model.to_transformer_lens_weights(plain).items()}
    before = {k: v.clone() for k, v in embedded_model.state_dict().items()}
    tokens = torch.randint(4096, (2, 64))
    try:
        embedded_model.load_state_dict({**before, **weights})
        torch.testing.assert_close(embedded_model(tokens), plain(tokens), rtol=1e-3, atol=1e-4)
    finally:
        embedded_model.load_state_dict(before)


def test_it_is_causal(embedded_model):
    tokens = torch.randint(4096, (1, 40))
    changed = tokens.clone()
    changed[0, 30:] = torch.randint(4096, (10,))
    torch.testing.assert_close(embedded_model(tokens)[0, :30], embedded_model(changed)[0, :30])


@pytest.mark.slow
def test_bits_per_byte_on_a_few_held_out_modules(embedded_model):
    modules = [m for m in stdlib_modules("held_out") if 4000 < len(m.text) < 9000][:4]
    figures = bits_per_byte(embedded_model, tuple(modules))
    assert figures.model < 1.45
    assert figures.model < figures.xz
    assert WEIGHTS_FILE.stat().st_size < 8_000_000
