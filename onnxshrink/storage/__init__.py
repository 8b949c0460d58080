"""Encodings of weights: each module stores an array in fewer bytes and builds the nodes that decode it.

Decoders use standard ONNX operators that ONNX Runtime folds into a constant when it loads a model.
"""
