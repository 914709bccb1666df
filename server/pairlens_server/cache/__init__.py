"""Activations kept by content: model, preprocessing, activation and picture."""
