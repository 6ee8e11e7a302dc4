"""Copies of the folders with one thing wrong."""

import json
import re
import shutil

import torch
import yaml
from safetensors.torch import load_file, save_file

# Of each format: a field of its config, and what it cannot be.
CONFIGS = {
    "ckkissane": ("*/cfg.json", {"d_in": 999}),
    "circuit_tracer_clt": ("config.yaml", {"model_kind": "transcoder_set"}),
    "circuit_tracer_transcoder_set": ("config.yaml", {"model_kind": "cross_layer_transcoder"}),
    "clt_training": ("*/cfg.json", {"k": 0}),
    "sparsify": ("*/cfg.json", {"num_latents": 999}),
    "dictionary_learning_crosscoder": ("config.json", {"dict_size": 999}),
    "crosscode": ("model_cfg.yaml", {"n_latents": 999}),
    "llamascopium": ("config.json", {"d_model": 7}),
}


class Copy:
    """A folder of a case that may be changed."""

    def __init__(self, case, folder):
        # The folder's name and what is above it: Gemma Scope 2 is recognised by its path.
        self.case, self.folder = case, folder / case.path
        shutil.copytree(case.folder, self.folder)
        (self.folder / "reference.safetensors").unlink()
        found = [*self.folder.rglob("*.safetensors"), *self.folder.rglob("*.pt")]
        self.weights = sorted(found, key=lambda path: (not path.name.startswith("W_enc"), path))[0]
        pattern = CONFIGS.get(case.path.split("/")[0], ("none",))[0]
        self.config = next(iter(sorted(self.folder.glob(pattern))), None)

    def load(self):
        return self.case.load(self.folder)

    def change(self, change):
        """Replace the tensors of a file by what a function makes of them."""
        if self.weights.suffix == ".pt":
            tensors = torch.load(self.weights, weights_only=True)
            torch.save(change(tensors), self.weights)
        else:
            save_file(change(load_file(self.weights)), self.weights)

    def configure(self, **fields):
        """Set fields of the config."""
        loads, dumps = (json.loads, json.dumps)
        if self.config.suffix == ".yaml":
            loads, dumps = yaml.safe_load, yaml.safe_dump
        self.config.write_text(dumps({**loads(self.config.read_text()), **fields}))

    def encoder(self, tensors):
        """The name of the encoder's weights."""
        named = [name for name in tensors if re.search("w_?e(nc)?|encoder.weight", name, re.I)]
        return max(named, key=lambda name: tensors[name].numel())


class _Code:
    """Makes a file where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def missing_tensor(copy):
    copy.change(lambda tensors: {k: v for k, v in tensors.items() if k != copy.encoder(tensors)})


def wrong_shape(copy):
    copy.change(
        lambda tensors: {
            k: v[:, :-1].contiguous() if k == copy.encoder(tensors) else v
            for k, v in tensors.items()
        }
    )


def not_finite(copy):
    def change(tensors):
        name = copy.encoder(tensors)
        tensors[name] = tensors[name] * torch.tensor(torch.nan)
        return tensors

    copy.change(change)


def further_tensor(copy):
    copy.change(lambda tensors: {**tensors, "W_more": torch.zeros(2)})


def pickle_with_code(copy):
    torch.save(_Code(copy.folder / "code-ran"), copy.weights)


def truncated(copy):
    copy.weights.write_bytes(copy.weights.read_bytes()[:-9])


def wrong_config(copy):
    copy.configure(**CONFIGS[copy.case.path.split("/")[0]][1])


def no_config(copy):
    copy.config.write_text("{")


DAMAGES = [
    missing_tensor,
    wrong_shape,
    not_finite,
    further_tensor,
    pickle_with_code,
    truncated,
    wrong_config,
    no_config,
]
