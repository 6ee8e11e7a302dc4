"""Memory and bytes exchanged per step of a crosscoder, as formulas.

``docs/scale.md`` has the table that :func:`main` prints; a test compares the formulas with what
processes count.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """A crosscoder with dense weights and a linear decoder, trained with BatchTopK.

    Scores are weighted by decoder norms, and AuxK is at rest.

    Args:
        n_hooks: Number of hook points L.
        d_model: Width of one, d.
        d_sae: Number of latents N.
        k: Mean number of active latents a token.
        batch: Tokens of a step, over all processes, B.
        n_processes: P.
        n_shards: How many processes share the latents, M.
        item: Bytes of a number.
    """

    n_hooks: int
    d_model: int
    d_sae: int
    k: int
    batch: int
    n_processes: int
    n_shards: int = 1
    item: int = 4

    @property
    def d_in(self) -> int:
        """Width of the stack, L d."""
        return self.n_hooks * self.d_model

    @property
    def latents(self) -> int:
        """Latents of a process, N / M."""
        return self.d_sae // self.n_shards

    @property
    def tokens(self) -> int:
        """Tokens of a process' step, B M / P."""
        return self.batch * self.n_shards // self.n_processes

    def weights(self) -> int:
        """Numbers in the weights of a process: encoder, decoder and b_enc of its latents, b_dec."""
        return self.latents * (2 * self.d_in + 1) + self.d_in

    def memory(self) -> int:
        """Bytes of weights, gradients and Adam's two moments."""
        return 4 * self.weights() * self.item

    def memory_of_step(self) -> int:
        """Bytes of a step at its largest: the input, its reconstruction, scores of all latents."""
        return self.tokens * (4 * self.d_in + 2 * self.latents) * self.item

    def gradients(self) -> int:
        """Bytes of gradients that a process puts in: of its latents, if others have them."""
        n_data = self.n_processes // self.n_shards
        of_latents = self.latents * (2 * self.d_in + 1) if n_data > 1 else 0
        return (of_latents + self.d_in) * self.item

    def activations(self) -> int:
        """Bytes of own activations for the other shards, and of the sum that is reconstructed."""
        if self.n_shards == 1:
            return 0
        return (self.batch // self.n_processes + self.tokens) * self.d_in * self.item

    def counts(self) -> int:
        """Bytes of how often each latent was active, in float32."""
        return 4 * self.latents if self.n_processes > self.n_shards else 0

    def exchanged(self) -> int:
        """Bytes that a process puts into the collectives of a step that grow with the sizes.

        Beside them, BatchTopK's counts take up to three times 16 kB, and flags some numbers.
        """
        return self.gradients() + self.activations() + self.counts()


#: GPT-2 to a model of 70 billion parameters, by name.
RUNS: dict[str, Run] = {
    "GPT-2, 1 GPU": Run(12, 768, 2**15, 64, 4096, 1),
    "GPT-2, 8 GPUs, data": Run(12, 768, 2**15, 64, 2**15, 8),
    "Gemma 2 2B, 8 GPUs, 8 shards": Run(26, 2304, 2**16, 64, 2**13, 8, 8),
    "Llama 3 8B, 32 GPUs, 8 shards": Run(16, 4096, 2**17, 64, 2**15, 32, 8),
    "70B, 64 GPUs, 64 shards": Run(16, 8192, 2**20, 128, 2**14, 64, 64),
    "70B, 512 GPUs, 64 shards": Run(16, 8192, 2**20, 128, 2**17, 512, 64),
}


def table() -> str:
    """The runs as a table in Markdown, in gigabytes."""
    lines = [
        "| run | weights, gradients, Adam | step | gradients | activations | all exchanged |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in RUNS.items():
        figures = (
            run.memory(),
            run.memory_of_step(),
            run.gradients() if run.n_processes > 1 else 0,
            run.activations(),
            run.exchanged() if run.n_processes > 1 else 0,
        )
        lines.append(f"| {name} | " + " | ".join(f"{f / 1e9:,.2f}" for f in figures) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of ``docs/scale.md``."""
    print(table())


if __name__ == "__main__":
    main()
