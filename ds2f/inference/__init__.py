"""Inference with a trained model: transcription, and tuning of the decoder's weights."""
