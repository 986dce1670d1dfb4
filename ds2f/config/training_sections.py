"""Sections about how a model is trained, and what is kept and shown of it."""

import attrs

from ds2f.config.settings import one_of, setting, within
from ds2f.errors import InputError


@attrs.frozen(kw_only=True)
class OptimConfig:
    """Optimizer and learning-rate schedule."""

    name: str = setting("adamw", "Optimizer.", one_of("adamw", "sgd", "lamb", "muon", "novograd"))
    schedule: str = setting(
        "noam", "Learning-rate schedule.", one_of("constant", "exponential", "noam", "one_cycle", "cosine")
    )
    learning_rate: float = setting(
        1.0,
        "Initial learning rate (the peak, for one_cycle and cosine; a factor of order 1, for noam).",
        within(0, open_low=True),
    )
    warmup: float = setting(
        4000.0, "Warm-up of noam, one_cycle and cosine: steps, or below 1 a share of all steps.", within(0)
    )
    learning_anneal: float = setting(
        0.99, "The exponential schedule multiplies the rate by this every epoch.", within(0, 1, open_low=True)
    )
    weight_decay: float = setting(1e-5, "Weight decay.", within(0))
    decay_matrices_only: bool = setting(
        False, "Weight decay leaves biases and the scales and shifts of batch norm alone; so does lamb's trust ratio."
    )
    average_decay: float = setting(
        0.0,
        "Decay per step of a moving average of the weights, which is what is evaluated and kept as the model, such as "
        "0.999; 0: none.",
        within(0, 1),
    )
    max_norm: float = setting(400.0, "Gradients are clipped to this global norm.", within(0, open_low=True))
    momentum: float = setting(0.9, "Momentum of sgd and muon; 0.95 is usual for muon.", within(0, 1))
    nesterov: bool = setting(True, "Nesterov momentum for sgd and muon.")
    beta1: float = setting(0.9, "First-moment decay of adamw, lamb, muon and novograd.", within(0, 1))
    beta2: float = setting(0.999, "Second-moment decay of adamw, lamb, muon and novograd.", within(0, 1))
    eps: float = setting(1e-8, "Added to the denominator of adamw, lamb, muon and novograd.", within(0))


@attrs.frozen(kw_only=True)
class ApexConfig:
    """Mixed precision."""

    opt_level: str = setting(
        "O2", "O0: fp32. O1: products in half precision. O2: activations too.", one_of("O0", "O1", "O2")
    )
    dtype: str = setting("auto", "Half-precision type; auto asks the device.", one_of("auto", "bf16", "fp16"))
    loss_scale: str = setting("dynamic", "Loss scale: a number, or dynamic.")
    initial_scale: float = setting(32768.0, "First dynamic loss scale.", within(0, open_low=True))
    min_scale: float = setting(1.0, "Floor of the dynamic loss scale.", within(0, open_low=True))
    max_scale: float = setting(16777216.0, "Ceiling of the dynamic loss scale.", within(0, open_low=True))
    growth_interval: int = setting(2000, "Finite steps before the dynamic loss scale doubles.", within(1))
    reduce_dtype: str = setting(
        "fp32",
        "Type in which gradients are summed over the cards; a half type sends half the bytes.",
        one_of("fp32", "bf16", "fp16"),
    )

    @property
    def dynamic(self) -> bool:
        """Whether the scale adapts."""
        return self.loss_scale == "dynamic"

    def __attrs_post_init__(self) -> None:
        try:
            usable = self.dynamic or 0 < float(self.loss_scale) < float("inf")
        except ValueError:
            usable = False
        if not usable:
            raise InputError(f"loss_scale: {self.loss_scale!r} is neither a positive number nor 'dynamic'")


@attrs.frozen(kw_only=True)
class TrainingConfig:
    """How long, from which seed, and what is evaluated."""

    epochs: int = setting(70, "Passes over the training data.", within(1))
    max_steps: int = setting(0, "Stop after this many steps, schedules unchanged; 0: run all epochs.", within(0))
    seed: int = setting(123456, "Seed of initialisation, shuffling, dropout and augmentation.", within(0))
    evaluate_test: bool = setting(
        False, "Evaluate the best model on the test manifest at the end. Tuning runs must not."
    )
    validate_every: int = setting(1, "Epochs between validations.", within(1))
    log_every: int = setting(10, "Steps between lines of metrics.jsonl.", within(1))
    finetune: bool = setting(
        False,
        "With checkpointing.continue_from: another label set is welcome, for which the output layer is made anew.",
    )
    max_skipped_steps: int = setting(
        50, "Stop with a diagnosis after this many steps in a row whose gradient is not finite; 0: never.", within(0)
    )
    rollback_spike: float = setting(
        0.0,
        "Go back to the newest checkpoint when the loss of a log line exceeds this many times the median of the last "
        "lines; 0: never.",
        within(0),
    )
    engine: str = setting("auto", "Gradient engine; auto asks the device.", one_of("auto", "func", "autograd"))


@attrs.frozen(kw_only=True)
class CheckpointingConfig:
    """What of a run is kept, and what it starts from."""

    load_auto_checkpoint: bool = setting(False, "Go on from the newest checkpoint of run_dir, if it holds one.")
    continue_from: str = setting("", "Start from the best weights of this run directory.")
    checkpoint_per_iteration: int = setting(
        0, "Also write a checkpoint every so many steps; 0: once per epoch.", within(0)
    )
    checkpoint_per_minutes: float = setting(0.0, "Also write a checkpoint every so many minutes; 0: never.", within(0))
    folder: str = setting(
        "", "Where checkpoints go; empty: run_dir/checkpoints. Any path that orbax takes, such as gs://bucket/name."
    )
    save_n_recent_models: int = setting(
        2,
        "Recent checkpoints that are kept besides the best one; at least two, lest a damaged one be the last.",
        within(2),
    )
    average_models: int = setting(
        1,
        "Evaluate the mean weights of so many checkpoints, the best ones by validation (with data.train_on_val the "
        "last epochs'), at the end.",
        within(1),
    )


@attrs.frozen(kw_only=True)
class VisualizationConfig:
    """What a run shows."""

    tensorboard: bool = setting(True, "Write TensorBoard scalars to run_dir/tensorboard.")
    progress: bool = setting(True, "Show a progress bar on a terminal.")
