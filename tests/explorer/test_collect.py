"""What a pass keeps, against the codes of the whole text at once."""

import pytest
import torch
from sae_lens.util import get_special_token_ids

from sae_lens_poly import InputError
from sae_lens_poly.evaluation.saved import model_of
from sae_lens_poly.explorer import collect as module
from sae_lens_poly.explorer.collect import collect, collected_in
from sae_lens_poly.explorer.kept_contexts import KeptContexts
from sae_lens_poly.explorer.settings import CollectionSettings
from tests.explorer.dictionaries import crosscoder

SMALL = CollectionSettings(n_tokens=3000, n_top=3, n_drawn=4, before=5, after=2)


@pytest.fixture(scope="module")
def sae():
    return crosscoder()


@pytest.fixture(scope="module")
def model(sae):
    return model_of(sae, "", "cpu")


@pytest.fixture(scope="module")
def collected(sae, model, tmp_path_factory):
    return collect(sae, model, tmp_path_factory.mktemp("collected"), SMALL)


@pytest.fixture(scope="module")
def codes(sae, model, collected):
    tokens = torch.tensor(collected.tokens.astype("int64"))
    with torch.no_grad():
        z = sae.encode(model.gather(tokens))
    special = torch.isin(tokens, torch.tensor(get_special_token_ids(model.tokenizer)))
    return z.masked_fill(special[..., None], 0.0), special


def test_counts_are_those_of_the_codes(collected, codes):
    z, special = codes
    counts = collected.counts
    assert int(counts.n_tokens) == (~special).sum()
    torch.testing.assert_close(counts.n_active, (z > 0).sum(dim=(0, 1)))
    torch.testing.assert_close(counts.maximum, z.amax(dim=(0, 1)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(counts.histogram.sum(dim=1).long(), counts.n_active)


def test_top_contexts_are_the_most_active_ones_with_their_windows(collected, codes):
    z, _ = codes
    peaks, positions = z.max(dim=1)
    for latent in (0, 5, 9):
        expected = peaks[:, latent].topk(SMALL.n_top)
        kept = collected.top
        torch.testing.assert_close(kept.peak[latent], expected.values, rtol=1e-3, atol=1e-3)
        context = int(kept.context[latent, 0])
        at = int(kept.position[latent, 0])
        assert at == positions[context, latent]
        padded = torch.nn.functional.pad(z[context, :, latent], (SMALL.before, SMALL.after))
        window = padded[at : at + SMALL.window]
        torch.testing.assert_close(
            kept.activations[latent, 0].float(), window, rtol=1e-2, atol=1e-2
        )


def test_drawn_contexts_are_different_ones_in_which_it_is_active(collected, codes):
    z, _ = codes
    peaks = z.amax(dim=1)
    for latent in range(2, 64):
        n = int((collected.drawn.priority[latent] > 0).sum())
        contexts = collected.drawn.context[latent, :n].tolist()
        n_active = int((peaks[:, latent] > 0).sum())
        assert n == min(SMALL.n_drawn, n_active)
        assert len(set(contexts)) == n
        assert (peaks[contexts, latent] > 0).all()


def test_contexts_are_drawn_evenly():
    n_latents = 300
    kept = KeptContexts(n_latents, 10, 0, 0)
    generator = torch.Generator().manual_seed(0)
    for first in range(0, 100, 10):
        z = torch.ones(10, 1, n_latents)
        kept.update(z, z[:, 0], torch.rand(10, n_latents, generator=generator) + 1e-6, first)
    counts = kept.context.flatten().bincount(minlength=100)
    assert (counts - 30).abs().max() < 22  # four standard deviations of a binomial


def test_sampled_codes_are_those_of_the_text(collected, codes):
    z, _ = codes
    flat = z.flatten(0, 1)
    sample = collected.sample
    assert int(sample.n_codes) == (flat > 0).sum()  # there is room for all
    together = sample.together(slice(3, 5))
    active = (flat > 0).float()
    torch.testing.assert_close(
        torch.tensor(together).float(), (active.T @ active)[3:5], atol=0.5, rtol=0
    )
    rows, of_i, of_j = sample.both(3, 9)
    where = sample.tokens[rows]
    torch.testing.assert_close(torch.tensor(of_i), flat[where, 3], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.tensor(of_j), flat[where, 9], rtol=1e-3, atol=1e-3)


def test_a_sample_that_has_no_room_for_all_is_of_contexts_from_the_whole_text(sae, model, tmp_path):
    few = CollectionSettings(n_tokens=6000, n_top=1, n_drawn=1, n_sampled_codes=4000)
    collected = collect(sae, model, tmp_path, few)
    size = collected.tokens.shape[1]
    contexts = {token // size for token in collected.sample.tokens.tolist()}
    assert int(collected.sample.n_codes) <= 4000
    assert max(contexts) > len(collected.tokens) / 2


class Stop(Exception):
    pass


def test_stopped_and_given_again_it_ends_as_it_would_have(
    sae, model, collected, tmp_path, monkeypatch
):
    seen = 0
    gather = model.gather

    def gather_until(tokens):
        nonlocal seen
        seen += 1
        if seen == 4:
            raise Stop
        return gather(tokens)

    monkeypatch.setattr(model, "gather", gather_until)
    with pytest.raises(Stop):
        collect(sae, model, tmp_path, SMALL, seconds_between_saves=0)
    with pytest.raises(InputError, match="no finished collection"):
        collected_in(tmp_path)
    again = collect(sae, model, tmp_path, SMALL)
    for name, value in collected.drawn.state_dict().items():
        torch.testing.assert_close(again.drawn.state_dict()[name], value)
    torch.testing.assert_close(again.counts.histogram, collected.counts.histogram)
    assert (again.tokens == collected.tokens).all()
    # And once more reads nothing.
    monkeypatch.setattr(model, "gather", lambda tokens: pytest.fail("it was finished"))
    collect(sae, model, tmp_path, SMALL)


def test_another_dictionary_is_collected_again(sae, model, tmp_path):
    tiny = CollectionSettings(n_tokens=500, n_top=1, n_drawn=1)
    collect(sae, model, tmp_path, tiny, of="one")
    other = crosscoder(seed=1)
    found = collect(other, model, tmp_path, tiny, of="another")
    assert (found.counts.n_active != collect(sae, model, tmp_path, tiny).counts.n_active).any()


def test_memory_does_not_grow_with_the_text():
    sizes = {
        n: sum(b.nbytes for b in module.Collection(64, CollectionSettings(n_tokens=n)).buffers())
        for n in (10_000, 10_000_000)
    }
    assert len(set(sizes.values())) == 1


@pytest.mark.parametrize("name", ["n_tokens", "n_top", "n_drawn", "batch_size_prompts"])
def test_wrong_settings_are_refused(name):
    with pytest.raises(InputError, match=f"{name}=0"):
        CollectionSettings(**{name: 0})
