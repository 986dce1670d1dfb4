"""Inference with a trained model: transcription, and tuning of the decoder's weights."""

from ds2f.inference.transcriber import Transcriber

__all__ = ["Transcriber"]
