"""TIBAV: layer-wise relevance of a timm ViT, batched, with sums per picture."""

from pairlens_server.recording.relevance.attribution import Attribution, transformer_attribution
from pairlens_server.recording.relevance.network import refusal
from pairlens_server.recording.relevance.seeds import ClassSeed, Seed, SimilaritySeed

__all__ = [
    "Attribution",
    "ClassSeed",
    "Seed",
    "SimilaritySeed",
    "refusal",
    "transformer_attribution",
]
