"""Why a model said what it said: methods as pure functions of (call, inputs, target), and what they are asked about.

`call` maps a batch of inputs [S, ...] to the raw outputs of the model at some weights (network.py), `target` those to
the one number of each that is explained, float32 [S] (subjects.py).
"""
