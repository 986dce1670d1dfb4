"""Devices: how a process opens one, what is fast there, and the Ascend shim."""
