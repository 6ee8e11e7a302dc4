"""The dictionaries of this package, and the parts that they are made of.

``weights``, ``encoders``, ``sparsifiers`` and ``decoders`` are parts; ``crosscoders`` and
``poly_saes`` are assemblies of them; ``official`` is PolySAE as published, and ``kernels`` what all
of them compute with.
"""
