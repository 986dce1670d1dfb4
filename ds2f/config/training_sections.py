"""Sections of training: optimizer, precision, duration, checkpoints, display."""

import attrs

from ds2f.config.settings import needs, one_of, setting, within
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
        "Initial learning rate; for one_cycle and cosine the peak; for noam a factor of order 1.",
        within(0, open_low=True),
    )
    warmup: float = setting(
        -1.0,
        "Warm-up of noam, one_cycle and cosine: number of steps, or below 1 a fraction of all steps; -1: a tenth of "
        "all steps for one_cycle and cosine, 4,000 steps for noam.",
        within(-1),
        needs=(needs("optim.schedule", "noam", "one_cycle", "cosine"),),
    )
    learning_anneal: float = setting(
        0.99,
        "Factor of the exponential schedule per epoch.",
        within(0, 1, open_low=True),
        needs=(needs("optim.schedule", "exponential"),),
    )
    weight_decay: float = setting(1e-5, "Weight decay.", within(0))
    decay_matrices_only: bool = setting(
        False,
        "Apply weight decay and lamb's trust ratio to matrices only, not to biases and batch norm.",
        needs=(
            needs(
                "optim.decays", flags="--optim.weight_decay above 0", decided_by=("optim.weight_decay", "optim.name")
            ),
        ),
    )
    average_decay: float = setting(
        0.0,
        "Decay per step of the moving average of the weights, such as 0.999; the averaged model is evaluated and "
        "chosen. 0: none.",
        within(0, 1),
    )
    max_norm: float = setting(
        400.0, "Maximum global norm of the gradients; larger gradients are clipped.", within(0, open_low=True)
    )
    momentum: float = setting(
        0.9,
        "Momentum of sgd and muon; 0.95 is usual for muon.",
        within(0, 1),
        needs=(needs("optim.name", "sgd", "muon"),),
    )
    nesterov: bool = setting(
        True,
        "Nesterov momentum for sgd and muon.",
        needs=(
            needs("optim.name", "sgd", "muon"),
            needs("optim.momentum"),
        ),
    )
    beta1: float = setting(
        0.9,
        "First-moment decay of adamw, lamb, muon and novograd.",
        within(0, 1),
        needs=(needs("optim.name", "adamw", "lamb", "muon", "novograd"),),
    )
    beta2: float = setting(
        0.999,
        "Second-moment decay of adamw, lamb, muon and novograd.",
        within(0, 1),
        needs=(needs("optim.name", "adamw", "lamb", "muon", "novograd"),),
    )
    eps: float = setting(
        1e-8,
        "Added to the denominator of adamw, lamb, muon and novograd.",
        within(0),
        needs=(needs("optim.name", "adamw", "lamb", "muon", "novograd"),),
    )

    @property
    def decays(self) -> bool:
        """Whether some leaves are treated otherwise than matrices when ``decay_matrices_only`` is set."""
        return self.weight_decay > 0 or self.name == "lamb"

    def warmup_steps(self, total_steps: int) -> float:
        """Steps of the warm-up in a run of so many steps.

        >>> OptimConfig(schedule="cosine").warmup_steps(500), OptimConfig(schedule="noam").warmup_steps(500)
        (50.0, 4000.0)
        """
        given = self.warmup if self.warmup >= 0 else 4000.0 if self.schedule == "noam" else 0.1
        return given * total_steps if given < 1 else given

    def __attrs_post_init__(self) -> None:
        if -1 < self.warmup < 0:
            raise InputError(f"warmup: {self.warmup:g} is no number of steps, a fraction of all steps, nor -1")


@attrs.frozen(kw_only=True)
class ApexConfig:
    """Mixed precision."""

    opt_level: str = setting(
        "O2", "O0: fp32. O1: matrix products in half precision. O2: activations too.", one_of("O0", "O1", "O2")
    )
    dtype: str = setting(
        "auto",
        "Half-precision type; auto asks the device.",
        one_of("auto", "bf16", "fp16"),
        needs=(needs("apex.opt_level", "O1", "O2"),),
    )
    loss_scale: str = setting("dynamic", "Loss scale: a number, or dynamic.")
    initial_scale: float = setting(
        32768.0, "Initial dynamic loss scale.", within(0, open_low=True), needs=(needs("apex.loss_scale", "dynamic"),)
    )
    min_scale: float = setting(
        1.0,
        "Minimum of the dynamic loss scale.",
        within(0, open_low=True),
        needs=(needs("apex.loss_scale", "dynamic"),),
    )
    max_scale: float = setting(
        16777216.0,
        "Maximum of the dynamic loss scale.",
        within(0, open_low=True),
        needs=(needs("apex.loss_scale", "dynamic"),),
    )
    growth_interval: int = setting(
        2000,
        "Consecutive finite steps after which the dynamic loss scale doubles.",
        within(1),
        needs=(needs("apex.loss_scale", "dynamic"),),
    )
    reduce_dtype: str = setting(
        "fp32",
        "Type of the gradient all-reduce; a half-precision type sends half the bytes.",
        one_of("fp32", "bf16", "fp16"),
    )

    @property
    def dynamic(self) -> bool:
        """Whether the loss scale adapts."""
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
    """Duration, seed and evaluation of a run."""

    epochs: int = setting(70, "Passes over the training data.", within(1))
    max_steps: int = setting(
        0, "Stop after this number of steps, with the schedule of all epochs; 0: run all epochs.", within(0)
    )
    seed: int = setting(123456, "Seed of initialisation, shuffling, dropout and augmentation.", within(0))
    evaluate_test: bool = setting(
        False, "Evaluate the best model on the test manifest at the end; not for runs that tune settings."
    )
    metric: str = setting(
        "auto",
        "Error rate that chooses the best model and stands first in tables; auto: WER, or CER where no reference has a "
        "space.",
        one_of("auto", "wer", "cer"),
    )
    validate_every: int = setting(
        1, "Epochs between validations.", within(1), needs=(needs("data.train_on_val", False),)
    )
    log_every: int = setting(10, "Steps between the lines of metrics.jsonl.", within(1))
    finetune: bool = setting(
        False,
        "With checkpointing.continue_from: allow another label set (the output layer gets new rows for new labels), "
        "one direction in place of two (the backward layers are left out), and another spect.normalize or full_scale.",
        needs=(needs("checkpointing.continue_from"),),
    )
    max_skipped_steps: int = setting(
        50,
        "Stop with a diagnosis after this number of consecutive steps with non-finite gradients; 0: never.",
        within(0),
    )
    rollback_spike: float = setting(
        0.0,
        "Go back to the newest checkpoint when the loss of a log line exceeds this multiple of the median of the last "
        "lines; 0: never.",
        within(0),
    )
    engine: str = setting("auto", "Gradient engine; auto asks the device.", one_of("auto", "func", "autograd"))


@attrs.frozen(kw_only=True)
class CheckpointingConfig:
    """Checkpoints: the start of a run, and the stored models."""

    load_auto_checkpoint: bool = setting(False, "Resume from the newest checkpoint of run_dir, if there is one.")
    continue_from: str = setting("", "Run directory from whose best weights the run starts.")
    checkpoint_per_iteration: int = setting(
        0, "Steps between checkpoints, besides the one after each epoch; 0: none.", within(0)
    )
    checkpoint_per_minutes: float = setting(0.0, "Minutes between checkpoints, besides the others; 0: none.", within(0))
    folder: str = setting(
        "",
        "Folder of the checkpoints, of no other run; empty: run_dir/checkpoints. A bucket too, such as "
        "gs://bucket/name (needs gcsfs) or s3://bucket/name (s3fs).",
    )
    save_n_recent_models: int = setting(
        2,
        "Recent checkpoints to keep besides the best; at least two, in case one is damaged.",
        within(2),
    )
    average_models: int = setting(
        1,
        "At the end, evaluate the mean weights of this number of checkpoints: the best by validation, or with "
        "data.train_on_val those of the last epochs.",
        within(1),
    )


@attrs.frozen(kw_only=True)
class VisualizationConfig:
    """Display of a run."""

    tensorboard: bool = setting(
        True, "Write scalars, samples of transcripts, a spectrogram and the final error rates to run_dir/tensorboard."
    )
    wandb: bool = setting(
        False,
        "Send them to Weights & Biases, too: pip install 'ds2f[wandb]'. Its own variables choose project, key and "
        "WANDB_MODE=offline.",
    )
    mlflow: bool = setting(
        False,
        "Send them to MLflow, too: pip install 'ds2f[mlflow]'. MLFLOW_TRACKING_URI chooses the store, "
        "MLFLOW_EXPERIMENT_NAME the experiment.",
    )
    progress: bool = setting(True, "Show a progress bar on a terminal.")
    trace: bool = setting(
        False,
        "Write the time of every stage of three training steps, of all ranks, to run_dir/trace.json, for Perfetto.",
    )
