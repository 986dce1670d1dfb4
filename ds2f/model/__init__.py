"""The acoustic model: layers, batch norm, recurrent kernels, and DeepSpeech2 composed of them. Pure functions only."""
