"""EleutherAI's sparsify: ``{hook point}/cfg.json`` and ``sae.safetensors``, SAE or transcoder."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

import torch
from typing_extensions import TypedDict

from sae_lens_poly.formats.base import Format, ReadingOptions
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import damaged, read_json

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"


class SparsifyConfig(TypedDict, total=False):
    """What ``cfg.json`` says; further fields are of no matter here."""

    activation: Literal["topk", "groupmax"]
    k: int
    num_latents: int
    d_in: int
    transcode: bool
    skip_connection: bool
    n_targets: int


class Sparsify(Format, name="sparsify"):
    """Hook points: the one, or input and output of a transcoder.

    The k highest positive pre-activations are kept; with groupmax the highest of each of k ranges.
    """

    @staticmethod
    def recognises(files: Files) -> bool:
        return n_targets(files) == 0 and files.folder_of(WEIGHTS) is not None

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        files = files.folder_of(WEIGHTS) or files
        sizes, config = Sizes(), read_json(files.path(CONFIG), SparsifyConfig)
        file = TensorFile(files.path(WEIGHTS), sizes)
        W_enc, b_enc = file.take("encoder.weight", "F d"), file.take("encoder.bias", "F")
        W_dec, b_dec = file.take("W_dec", "F d"), file.take("b_dec", "d")
        transcode, has_skip = config.get("transcode", False), "W_skip" in file
        skips = {(0, 1): file.take("W_skip", "d d").T.contiguous()} if has_skip else {}
        file.close()
        if has_skip != config.get("skip_connection", False) or (has_skip and not transcode):
            found = "has W_skip" if has_skip else "has no W_skip"
            raise damaged(
                files.path(CONFIG),
                f"skip_connection={config.get('skip_connection', False)}, transcode={transcode}, "
                f"and {WEIGHTS} {found}",
            )
        k, n_groups = sparsify_k(files, config, sizes)
        block = Block((0,), (int(transcode),), W_enc.T, W_dec, b_enc)
        return PublicDictionary(
            torch.stack([torch.zeros_like(b_dec)] * transcode + [b_dec]),
            [block],
            k=k,
            n_groups=n_groups,
            skips=skips,
            centred=not transcode,
        )


def n_targets(files: Files) -> int:
    """How many layers each is said to write, at most; 0: it is no cross-layer transcoder."""
    found = [0]
    for name in files.names:
        if PurePosixPath(name).name == WEIGHTS:
            config = str(PurePosixPath(name).with_name(CONFIG))
            if config in files:
                found.append(read_json(files.path(config), SparsifyConfig).get("n_targets", 0))
    return max(found)


def sparsify_k(files: Files, config: SparsifyConfig, sizes: Sizes) -> tuple[int, int]:
    """How many latents of a range are kept, and how many ranges there are.

    Raises:
        InputError: If the config does not fit the weights.
    """
    path, n_latents = files.path(CONFIG), sizes["F"]
    for field, letter in (("num_latents", "F"), ("d_in", "d")):
        value = config.get(field)
        if value and value != sizes[letter]:
            raise damaged(path, f"{field}={value}, and the weights have {sizes[letter]}")
    k = config.get("k", 0)
    if not 0 < k <= n_latents:
        raise damaged(path, f"k={config.get('k')} of {n_latents} latents")
    if config.get("activation", "topk") == "topk":
        return k, 1
    if n_latents % k:
        raise damaged(path, f"groupmax with k={k} groups of {n_latents} latents")
    return 1, k
