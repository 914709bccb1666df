"""The explanation methods: recorded activations in, maps on the model's grid out.

Pure arithmetic on batched float32 tensors. A method knows no transport, no cache,
no model class and no device; it names the activations that it needs as values of
`recording.activations`, and `recording.facts` tells it what a model can give.
"""
