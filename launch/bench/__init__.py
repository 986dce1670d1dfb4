"""The benchmark: python -m launch.bench. The training step of ds2f beside its baselines, and other parts alone.

registry, options          the parts by name, and the extent of the measurement; neither imports torch
step                       the training step of ds2f and of the baselines, in turns in one run
comparison, baselines      the implementations of the step by name, and the check that they compute the same
stages                     time of the training step of ds2f by stage
limit, flops               the speed of the machine's matrix products, and the operations of a step
feature_speed, decoding_speed, loader, epoch, memory, ranks, startup
machine, markdown          description of the machine and timing; the table of speeds for the page
"""
