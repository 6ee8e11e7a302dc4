"""PolySAE as published (Koromilas et al. 2026, arXiv 2602.01322): its form, and its files.

Training in that form has architectures of its own; files of its code are read by ``poly_topk`` and
``poly_jumprelu``. Nothing else of the package needs to know about either.
"""
