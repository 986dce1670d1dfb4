"""The benchmark: python -m launch.bench. Our training step beside its rivals, and the parts around it alone.

parts, options   which parts there are and what they are told; neither imports torch
step             our step, the usual way's and the best imperative one's, in turns in one run
ours, rivals     the contestants; ``contest`` makes them by name and holds them to each other
stages           where our step's time goes
limit, work      what the machine can do, and what a step asks of it
loader, features, decode, epoch, memory
"""
