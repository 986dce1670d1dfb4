"""The benchmark: python -m launch.bench. Our training step beside its baselines, and the parts around it alone.

registry, options                    the parts by name, and how much is measured; neither imports torch
step                                 our step, the usual way's and the best imperative one's, in turns in one run
ours, baselines, comparison          the steps; ``comparison`` makes them by name and holds them to each other
stages                               time of our step by stage
limit, flops                         what the machine can do, and what a step asks of it
feature_speed, decoding_speed, loader, epoch, memory, ranks, startup
"""
