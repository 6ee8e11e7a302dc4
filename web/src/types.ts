// The data files, as sae_lens_poly/explorer/write_data.py writes them.

export type Figure = number | null;

export interface Figures {
  explained_variance: number;
  explained_variance_linear: number;
  mse_normalised: number;
  cosine: number;
  l0: number;
  n_dead: number;
  n_dense: number;
  ce_recovered: number;
  degree_shares: Record<string, number>;
}

export interface Overview {
  name: string;
  architecture: string;
  decoder: string | null;
  model: string;
  hook_names: string[];
  hooks: string[];
  written: number[];
  models: string[] | null;
  d_sae: number;
  d_in: number;
  training: Record<string, Figure | string | boolean>;
  settings: Record<string, Figure | string>;
  n_tokens: number;
  n_contexts: number;
  l0: number;
  n_dead: number;
  n_dense: number;
  n_sampled: number;
  latents_per_file: number;
  bins_per_octave: number;
  first_octave: number;
  interact: boolean;
  curved: boolean;
  evaluation: {
    per_hook: Record<string, Figures>;
    pooled: Figures;
    coherence: Record<string, number> | null;
    ce_clean: number;
    n_tokens: number;
  } | null;
}

export interface Table {
  density: number[];
  max: number[];
  mean: number[];
  spread: Figure[];
  centre: Figure[];
  coherence: Figure[];
  profile: string[];
  peaks: number[][];
  strings: string[];
}

/** Context, place of the peak, largest activation, tokens by number, hundredths of the peak. */
export interface Example {
  c: number;
  p: number;
  v: number;
  t: number[];
  a: number[];
  /** Of the second latent of a pair. */
  w?: number;
  b?: number[];
}

/** A token's number and what it gains. */
export type Logit = [number, number];

export interface Latent {
  id: number;
  n_active: number;
  density: number;
  max: number;
  mean: number;
  histogram: [number, number[]];
  decoder: number[];
  encoder: number[];
  drive: Figure[];
  coherence: Figure;
  cosines?: number[][];
  nearest: [number, number][];
  logits: Logit[][];
  curve?: { z: number[]; along: number[][]; across: number[][] };
  top: Example[];
  quantiles: Example[][];
  together: [number, number, number][];
  partners: [number, number | null, boolean][];
}

export interface Pair {
  i: number;
  j: number;
  typical: [number, number];
  typical_together: [Figure, Figure];
  cosine: number;
  n_sampled: number;
  n_i: number;
  n_j: number;
  n_both: number;
  n_expected: number;
  norms: { i: number[]; j: number[]; pair?: number[] };
  share: number | null;
  examples: Example[];
  logits?: [number, number, number, number][];
}

export interface LatentFile {
  strings: string[];
  latents: Latent[];
}

export interface PairFile {
  strings: string[];
  pairs: Pair[];
}

export interface Comparison {
  a: string;
  b: string;
  columns: {
    relative_norm: Figure[];
    cosine: Figure[];
    kind: string[];
    nu_error: Figure[];
    nu_reconstruction: Figure[];
  };
}

export interface Score {
  balanced_accuracy: number;
  interval: [number, number];
}

export interface Explanation {
  explanation: string | null;
  detection?: Score | null;
  fuzzing?: Score | null;
}

export interface Mode {
  served: boolean;
  explanations: boolean;
}

export interface Edit {
  latent: number;
  value: number;
  kind: "clamp" | "add";
}

export interface Tried {
  tokens: string[];
  special: boolean[];
  /** Of each token, its latents and their activations. */
  codes: [number, number][][];
  /** Of each token, what may come next: text, probability before and after the edits. */
  next: [string, number, number][][];
  /** Of each token, the Kullback-Leibler divergence of what comes next, in nats. */
  divergence: number[];
}
