"""Recordings, manifests, corpora and batches: everything that turns files into what the model reads."""
