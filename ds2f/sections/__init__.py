"""The sections of a configuration: one frozen attrs class each, whose fields are the flags ``--section.name``.

A setting's flag, help, default and validation, and the README's table, come from here. Nothing here imports torch.
"""

from ds2f.sections.data import AugmentationConfig, DataConfig, SpectConfig
from ds2f.sections.model import BLANK, DEFAULT_LABELS, BeamConfig, ModelConfig
from ds2f.sections.training import (
    ApexConfig,
    CheckpointingConfig,
    OptimConfig,
    TrainingConfig,
    VisualizationConfig,
)

__all__ = [
    "BLANK",
    "DEFAULT_LABELS",
    "ApexConfig",
    "AugmentationConfig",
    "BeamConfig",
    "CheckpointingConfig",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "SpectConfig",
    "TrainingConfig",
    "VisualizationConfig",
]
