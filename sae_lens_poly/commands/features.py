"""``features``: feature files of a dictionary's latents."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sae_lens_poly.analysis.feature_file_settings import FeatureFileSettings
from sae_lens_poly.commands.export import DICTIONARY_FILES
from sae_lens_poly.commands.parser import Parser, add_settings, given_settings
from sae_lens_poly.devices import check_device
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.paths import RUN_FOLDER, check_can_write, check_folder


def features(flags: Sequence[str]) -> int:
    """Write a file for each latent and each hook point that the dictionary writes.

    Returns:
        The exit status.

    Raises:
        InputError: If a flag is wrong, or the dictionary, its model or its text cannot be loaded.
    """
    parser = Parser(
        "features",
        description="Contexts in which latents are active, from text that training left out, and "
        "the tokens that they make more and less probable, in Neuronpedia's format: "
        "OUTPUT/HOOK_POINT/LATENT.json.",
    )
    parser.add_argument("folder", help="where a training run saved its dictionary")
    parser.add_argument("--output", default="features", help="folder of the files")
    parser.add_argument("--latents", type=int, nargs="+", help="their numbers; all by default")
    parser.add_argument("--n_batches", type=int, default=32, help="batches of text that are read")
    parser.add_argument("--batch_size_prompts", type=int, default=8, help="contexts in a batch")
    parser.add_argument("--dataset_path", help="other text than that of training")
    parser.add_argument("--device", default="cpu")
    add_settings(parser, FeatureFileSettings)
    options = parser.parse_args(flags)
    shown = given_settings(FeatureFileSettings, options)
    text = EvaluationSettings(
        n_batches=options.n_batches,
        batch_size_prompts=options.batch_size_prompts,
        dataset_path=options.dataset_path,
        n_splice_batches=1,
    )
    check_folder("folder", options.folder, DICTIONARY_FILES, RUN_FOLDER)
    check_can_write("output", options.output)
    check_device("device", options.device)
    print(f"loading {options.folder} ...", file=sys.stderr)

    from sae_lens_poly.analysis.feature_files import write_feature_files
    from sae_lens_poly.dictionary_folder import load_dictionary
    from sae_lens_poly.evaluation.saved import load_evaluation_data, model_of
    from sae_lens_poly.registration import register
    from sae_lens_poly.whole_files import whole_folder

    register()
    sae = load_dictionary(options.folder, options.device)
    data = load_evaluation_data(sae, model_of(sae, options.folder, options.device), text)
    with whole_folder(options.output) as unfinished:
        paths = write_feature_files(
            sae,
            data.model,
            data.batches,
            unfinished,
            latents=options.latents,
            special_tokens=data.special_tokens,
            settings=shown,
        )
    print(f"{len(paths)} files in {options.output}")
    return 0
