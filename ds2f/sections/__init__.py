"""The sections of a configuration: one frozen attrs class each, whose fields are the flags ``--section.name``.

A setting's flag, help, default and validation, and the README's table, come from here. Nothing here imports torch.
"""
