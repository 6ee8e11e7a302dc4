"""Feature files against counts by hand, and against their schema."""

import json

import jsonschema
import pytest
import torch
from sae_lens import SAE

from sae_lens_poly import InputError, StackedHooks
from sae_lens_poly.analysis.feature_file_settings import FeatureFileSettings
from sae_lens_poly.analysis.feature_files import LatentRecords, write_feature_files
from tests.evaluation.test_splicing import crosscoder

HOOKS = "blocks.{1..3}.hook_resid_post"
STRING, NUMBER = {"type": "string"}, {"type": "number"}
STRINGS, NUMBERS = ({"type": "array", "items": of} for of in (STRING, NUMBER))
EXAMPLE = {
    "tokens": STRINGS,
    "tokens_acts_list": NUMBERS,
    "train_token_ind": {"type": "integer"},
    "is_repeated_datapoint": {"type": "boolean"},
}
FIELDS = {
    "transcoder_id": STRING,
    "index": {"type": "integer"},
    "examples_quantiles": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["quantile_name", "examples"],
            "properties": {
                "quantile_name": STRING,
                "examples": {
                    "type": "array",
                    "items": {"type": "object", "required": list(EXAMPLE), "properties": EXAMPLE},
                },
            },
        },
    },
    "top_logits": STRINGS,
    "bottom_logits": STRINGS,
    "act_min": NUMBER,
    "act_max": NUMBER,
    "quantile_values": NUMBERS,
    "histogram": NUMBERS,
    "activation_frequency": NUMBER,
}
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": list(FIELDS),
    "properties": FIELDS,
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def stack(embedded_model):
    return StackedHooks(embedded_model, HOOKS)


@pytest.fixture(scope="module")
def batches(embedded_model):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 4096, (8, 24), generator=generator)
    tokens[:, 0] = embedded_model.tokenizer.bos_token_id
    tokens[6] = tokens[5]
    return list(tokens.split(3))


@pytest.fixture(scope="module")
def sae(stack, batches):
    """Random weights, and thresholds that a twentieth of the tokens exceed."""
    sae = crosscoder(d_in=3 * 128, d_sae=12, dtype="float32")
    x = torch.cat([stack.gather(tokens)[:, 1:].flatten(0, 1) for tokens in batches])
    with torch.no_grad():
        sae.threshold.copy_((x @ sae.W_enc + sae.b_enc).quantile(0.95, dim=0))
        sae.threshold[3] = 1e9
    return sae


def write(sae, stack, batches, folder, **fields):
    special = [stack.tokenizer.bos_token_id]
    return write_feature_files(sae, stack, batches, folder, special_tokens=special, **fields)


def test_a_file_for_each_latent_and_hook_point(sae, stack, batches, tmp_path):
    paths = write(sae, stack, batches, tmp_path, latents=[3, 7])
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        f"{name}/{latent}.json" for name in stack.hook_names for latent in (3, 7)
    ]
    for path in paths:
        jsonschema.Draft7Validator(SCHEMA).validate(json.loads(path.read_text()))


@torch.no_grad()
def test_figures_by_hand(sae, stack, batches, tmp_path):
    latent, hook = 7, 1
    write(sae, stack, batches, tmp_path, latents=[latent])
    content = json.loads((tmp_path / stack.hook_names[hook] / "7.json").read_text())
    z = torch.cat([sae.encode(stack.gather(tokens)) for tokens in batches])[:, 1:, latent]
    active = z[z > 0]
    assert content["act_max"] == pytest.approx(z.max().item())
    assert content["activation_frequency"] == pytest.approx(len(active) / z.numel())
    assert sum(content["histogram"]) == len(active)
    assert len(content["histogram"]) == 50
    assert content["histogram"][-1] >= 1
    median = content["quantile_values"][49]
    assert median == pytest.approx(active.median().item(), rel=0.2)
    logits = sae.W_dec_per_hook[latent, hook] @ stack.model.W_U
    assert content["top_logits"][0] == stack.tokenizer.decode([int(logits.argmax())])
    assert content["bottom_logits"][0] == stack.tokenizer.decode([int(logits.argmin())])

    top = content["examples_quantiles"][0]["examples"]
    peaks = [example["tokens_acts_list"][example["train_token_ind"]] for example in top]
    expected = z.amax(dim=1).sort(descending=True).values
    assert peaks == pytest.approx(expected[expected > 0].tolist()[:10])
    row = int(z.amax(dim=1).argmax())
    tokens = torch.cat(batches)[row]
    at = int(z[row].argmax()) + 1
    window = tokens[max(0, at - 16) : at + 17]
    assert top[0]["tokens"] == stack.tokenizer.batch_decode(window[:, None].tolist())
    for example in top:
        assert len(example["tokens"]) == len(example["tokens_acts_list"])
        assert max(example["tokens_acts_list"]) == peaks[top.index(example)]


def test_contexts_beyond_the_top_are_shown_by_interval(sae, stack, batches):
    records = LatentRecords(sae, stack, batches, [7])
    settings = FeatureFileSettings(n_top=1, n_intervals=2, n_per_interval=2, window=3)
    groups = records.feature_file(7, torch.arange(4096.0), "a", settings)["examples_quantiles"]
    names = ["Top activations", "Interval 1 of 2", "Interval 2 of 2"]
    assert [group["quantile_name"] for group in groups] == names
    peaks = [
        example["tokens_acts_list"][example["train_token_ind"]]
        for group in groups
        for example in group["examples"]
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert all(len(e["tokens"]) <= 7 for group in groups for e in group["examples"])


def test_a_text_that_comes_twice_is_marked(sae, stack, batches):
    twice = stack.gather(batches[1][2:])[0, 1:]  # the sixth text, and the seventh
    latent = int(sae.encode(twice).amax(dim=0).argmax())
    records = LatentRecords(sae, stack, batches, [latent])
    repeated = sum(
        example["is_repeated_datapoint"]
        for group in records.feature_file(latent, torch.arange(4096.0), "a")["examples_quantiles"]
        for example in group["examples"]
    )
    assert repeated == 1


def test_a_dead_latent_has_a_file(sae, stack, batches):
    content = LatentRecords(sae, stack, batches, [3]).feature_file(3, torch.arange(4096.0), "a")
    jsonschema.Draft7Validator(SCHEMA).validate(content)
    assert content["act_max"] == content["activation_frequency"] == sum(content["histogram"]) == 0


def test_an_sae_at_one_hook_point(embedded_model, batches, tmp_path):
    stack = StackedHooks(embedded_model, "blocks.2.hook_resid_post")
    fields = {"d_in": 128, "d_sae": 6, "dtype": "float32", "device": "cpu"}
    sae = SAE.from_dict({"architecture": "standard", **fields})
    paths = write(sae, stack, batches, tmp_path)
    assert len(paths) == 6
    assert paths[0].parent.name == "blocks.2.hook_resid_post"


def test_what_is_refused(sae, stack, batches):
    with pytest.raises(InputError, match="latents: 12"):
        LatentRecords(sae, stack, batches, [12])
    with pytest.raises(InputError, match="no token"):
        LatentRecords(sae, stack, [], [1])
    with pytest.raises(InputError, match="n_bins=0"):
        FeatureFileSettings(n_bins=0)
