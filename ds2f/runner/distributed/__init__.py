"""Ranks and machines: starting them, rendezvous, heartbeat, collectives, consistency."""
