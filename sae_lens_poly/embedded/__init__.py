"""Small language models and their text, for runs without a hub."""

#: What to write for ``model_name`` to get the embedded model.
EMBEDDED_MODEL_NAME = "stdlib-6l"

#: What to write for ``model_name`` to get the embedded model with recurrent states.
HYBRID_MODEL_NAME = "stdlib-hybrid"

#: All models that come with the package and are trained on the embedded text.
EMBEDDED_MODEL_NAMES = (EMBEDDED_MODEL_NAME, HYBRID_MODEL_NAME)

#: What to write for ``dataset_path`` to get the source of the Python standard library.
EMBEDDED_DATASET_NAME = "stdlib"
