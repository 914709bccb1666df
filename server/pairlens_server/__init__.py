"""The pairlens server: holds vision models and explains what they see."""

from importlib.metadata import version

__version__ = version("pairlens")
