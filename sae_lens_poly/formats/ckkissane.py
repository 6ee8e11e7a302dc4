"""ckkissane's crosscoders of two models: ``{hook point}/cfg.json`` and ``cc_weights.pt``."""

from __future__ import annotations

from typing_extensions import TypedDict

from sae_lens_poly.formats.base import Format, ReadingOptions
from sae_lens_poly.formats.dictionary import Block, PublicDictionary
from sae_lens_poly.formats.files import Files
from sae_lens_poly.formats.scales import scale_block, unscale
from sae_lens_poly.formats.tensors import Sizes, TensorFile
from sae_lens_poly.read_files import damaged, read_json

_WEIGHTS = "cc_weights.pt"


class _Config(TypedDict, total=False):
    d_in: int
    dict_size: int
    hook_point: str


class Ckkissane(Format, name="ckkissane"):
    """Hook points: one of the first model, the same of the second.

    Activations of each model were multiplied by sqrt(d) over their mean norm, and that is stored
    nowhere: ``scales`` has to give both.
    """

    takes_scales = True

    @staticmethod
    def recognises(files: Files) -> bool:
        return files.folder_of(_WEIGHTS) is not None

    @staticmethod
    def read(files: Files, options: ReadingOptions) -> PublicDictionary:
        files = files.folder_of(_WEIGHTS) or files
        config = read_json(files.path("cfg.json"), _Config)
        sizes = Sizes()
        file = TensorFile(files.path(_WEIGHTS), sizes)
        W_enc, W_dec = file.take("W_enc", "M d F"), file.take("W_dec", "F M d")
        b_enc, b_dec = file.take("b_enc", "F"), file.take("b_dec", "M d")
        for field, letter in (("d_in", "d"), ("dict_size", "F")):
            if field in config and config[field] != sizes[letter]:
                why = f"{field}={config[field]}, and the weights have {sizes[letter]}"
                raise damaged(files.path("cfg.json"), why)
        file.close()
        n_models = sizes["M"]
        scales = options.scales_for(n_models, "each model (sqrt(d) over the mean norm)")
        every = tuple(range(n_models))
        block = Block(every, every, W_enc.flatten(0, 1), W_dec.flatten(1), b_enc)
        scale_block(block, scales, scales)
        names = [config["hook_point"]] if "hook_point" in config else None
        return PublicDictionary(unscale(b_dec, scales), [block], hook_names=names)
