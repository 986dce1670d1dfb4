"""The acoustic model: layers, batch norm, recurrent kernels, and DeepSpeech2 built of them. Pure functions only."""
