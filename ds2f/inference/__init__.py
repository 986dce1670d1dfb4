"""Inference with a trained model: transcription, streaming, and tuning of the decoder's weights."""

from ds2f.inference.recognizer import Recognizer
from ds2f.inference.session import Session, step_sessions
from ds2f.inference.transcript import Final, Partial, Segment, Transcript, Word

__all__ = ["Final", "Partial", "Recognizer", "Segment", "Session", "Transcript", "Word", "step_sessions"]
