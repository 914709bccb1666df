"""From the bytes of a request to a model's input, and from a heatmap back to a picture.

`admission` decodes files of strangers within limits, `preprocess` makes the input
tensor and says which original pixels it covers, `render` draws the map over them.
"""
