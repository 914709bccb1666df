"""Activations as values, and the recorders that take them from a running model.

`activations` and `facts` are plain values that methods name and read. `vit` and
`resnet` know how each family of timm models gives an activation at least cost.
"""
