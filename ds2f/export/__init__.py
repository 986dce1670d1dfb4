"""Exported models: written in formats of other programs, checked, and run through the same features and decoders."""
