"""TIBAV: layer-wise relevance of a timm ViT, batched, with sums per picture."""

from pairlens_server.recording.relevance.attribution import Attribution, transformer_attribution
from pairlens_server.recording.relevance.network import class_refusal, refusal
from pairlens_server.recording.relevance.seeds import ClassSeed, Seed, SimilaritySeed

__all__ = [
    "Attribution",
    "ClassSeed",
    "Seed",
    "SimilaritySeed",
    "class_refusal",
    "refusal",
    "transformer_attribution",
]
