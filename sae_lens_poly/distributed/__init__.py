"""Training by several processes, which torchrun starts.

torch.distributed does the work. Parts of a dictionary that depend on the whole batch ask a
:class:`~sae_lens_poly.architectures.world.World`; :class:`ProcessMesh` is the one of a run.
"""
