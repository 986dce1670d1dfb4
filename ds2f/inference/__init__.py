"""A trained model at work: transcription, and the search for a decoder's weights."""
