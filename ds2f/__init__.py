"""ds2f: DeepSpeech2 as pure functions over explicit parameter pytrees, for Ascend NPUs, CUDA GPUs and CPUs."""

__version__ = "0.1.0"
