"""Recordings, manifests, corpora and batches: from files to the tensors that the model reads."""
