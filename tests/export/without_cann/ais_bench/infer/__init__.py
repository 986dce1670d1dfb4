"""A stand-in for Ascend's ais_bench: its session computes with onnxruntime, from .om files that are graphs of ONNX."""
