"""Records the flags of ``train`` for the command line; run it when a config's fields change."""

from sae_lens_poly.training.flag_table import RECORD, flags_of_classes

if __name__ == "__main__":
    RECORD.write_text(flags_of_classes().to_json(), encoding="utf-8")
