"""The recurrent state of layers with linear attention: states, writes, and changes of them."""

from sae_lens_poly.recurrent_states.direct_path import DirectPath
from sae_lens_poly.recurrent_states.gated_deltanet import DeltaInputs, Scanned, scan
from sae_lens_poly.recurrent_states.interventions import Change, changed_run, kl_divergences
from sae_lens_poly.recurrent_states.reached_layers import delta_layers, reached, scanned_layers
from sae_lens_poly.recurrent_states.read_out import decay_only_shift, read_out_shift
from sae_lens_poly.recurrent_states.steering import steering_direction, steering_writes
from sae_lens_poly.recurrent_states.win_rates import (
    WinRate,
    random_rank_one,
    win_rate,
    wins_of,
)

__all__ = [
    "Change",
    "DeltaInputs",
    "DirectPath",
    "Scanned",
    "WinRate",
    "changed_run",
    "decay_only_shift",
    "delta_layers",
    "kl_divergences",
    "random_rank_one",
    "reached",
    "read_out_shift",
    "scan",
    "scanned_layers",
    "steering_direction",
    "steering_writes",
    "win_rate",
    "wins_of",
]
