"""The sections of a configuration: one frozen attrs class each, whose fields are the flags ``--section.name``.

A setting's flag, help, default and validation, and the README's table, come from here. Nothing here imports torch.
"""

import attrs

from ds2f.errors import InputError
from ds2f.settings import one_of, setting, within

DEFAULT_LABELS = tuple("_'ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
BLANK = "_"


@attrs.frozen(kw_only=True)
class DataConfig:
    """Which recordings, in what batches."""

    dataset: str = setting(
        "an4", "Corpus name: the manifests default to <data_path>/<dataset>_{train,val,test}_manifest.csv."
    )
    train_manifest: str = setting("", "Training manifest; empty: see data.dataset.")
    val_manifest: str = setting("", "Validation manifest; empty: see data.dataset.")
    test_manifest: str = setting("", "Test manifest; empty: see data.dataset.")
    train_on_val: bool = setting(
        False,
        "Train on the training and the validation manifest together: for a final model whose epochs were fixed "
        "beforehand. Nothing is validated, and the last model counts as the best.",
    )
    batch_size: int = setting(240, "Utterances per card and step.", within(1))
    global_batch_size: int = setting(
        0,
        "Utterances per step of all cards together; 0: data.batch_size times the cards that the run starts with. When "
        "the number of cards changes it is kept, and each card takes several micro-batches of at most data.batch_size.",
        within(0),
    )
    max_frames: int = setting(
        0,
        "Frames, padding included, that a card's batch holds at most; 0: no limit. Batches of long utterances then "
        "have fewer than data.batch_size; how many follows from the recordings' lengths at the slowest speed, so that "
        "every epoch has the same number of steps.",
        within(0),
    )
    padded_shapes: int = setting(
        0,
        "Pad batches to one of at most so many lengths, chosen to pad the fewest frames, for devices that compile a "
        "program for every shape (NPU); 0: to the next multiple of 8 frames. Each set of recordings has its own "
        "lengths. The number of utterances differs in the last batch only, if data.max_frames is 0.",
        within(0),
    )
    num_workers: int = setting(1, "Loader processes; 0 loads in the training process.", within(0))
    labels_path: str = setting("", "JSON list of the labels, blank '_' included; empty: blank, apostrophe, A-Z, space.")
    min_duration: float = setting(0.0, "Training utterances shorter than this are left out, seconds.", within(0))
    max_duration: float = setting(
        0.0, "Training utterances longer than this are left out, seconds; 0: no limit.", within(0)
    )
    unknown_characters: str = setting(
        "error",
        "A transcript with a character outside the labels: stop, drop the character, or drop the utterance.",
        one_of("error", "drop_character", "drop_utterance"),
    )
    sort_first_epoch: bool = setting(False, "Order the first epoch from short to long utterances (SortaGrad).")
    bucket_jitter: float = setting(
        0.05,
        "Utterances are batched by length times a random factor within 1 +- this; 0 fixes the batches.",
        within(0, 10),
    )
    cache_features: bool = setting(True, "Keep computed features in <data_path>/cache and read them from there.")
    max_unreadable: int = setting(
        10,
        "Training utterances that may become unreadable while the run goes on; they are left out, counted and listed.",
        within(0),
    )


@attrs.frozen(kw_only=True)
class ModelConfig:
    """DeepSpeech2: two convolutions, recurrent layers, a linear layer onto the labels."""

    labels: tuple[str, ...] = setting(
        DEFAULT_LABELS, "Output characters; '_' is the CTC blank; data.labels_path names others.", derived=True
    )
    rnn_type: str = setting("lstm", "Recurrent cell.", one_of("lstm", "gru", "rnn"))
    hidden_size: int = setting(1024, "Units per recurrent layer and direction.", within(1, 2**16))
    hidden_layers: int = setting(5, "Recurrent layers.", within(1, 1000))
    bidirectional: bool = setting(True, "Two directions, summed; otherwise one, with a lookahead convolution.")
    lookahead_context: int = setting(
        20, "Frames of the lookahead convolution of a unidirectional model.", within(1, 10000)
    )
    time_stride: int = setting(
        2,
        "Frames of spectrogram per frame of logits, an even number. 4 halves the time of a step, and the frames that a "
        "transcript may spread over.",
        within(2, 8),
    )
    num_bins: int = setting(161, "Frequency bins of a frame; follows spect.", within(1), derived=True)
    dropout: float = setting(
        0.0, "Dropout on the input of every recurrent layer but the first, and of the output layer.", within(0, 0.95)
    )
    variational_dropout: bool = setting(
        False, "Dropout drops a unit of an utterance at all of its frames or at none, not frame by frame."
    )
    kernel: str = setting(
        "auto",
        "Recurrent kernel: the platform's fused operator; an LSTM of our own; the plain scan; auto times the first two "
        "where either may be faster.",
        one_of("auto", "fused", "hoisted", "scan"),
    )
    ctc: str = setting("native", "CTC implementation.", one_of("native", "warpctc", "scan"))
    label_smoothing: float = setting(
        0.0,
        "Share of the training loss that is the divergence of every frame's distribution over the labels from the "
        "uniform one, against overconfidence; the rest is CTC.",
        within(0, 0.99),
    )
    intermediate_ctc: float = setting(
        0.0,
        "Share of the training loss that is CTC on the middle recurrent layer, read by a linear layer of its own; the "
        "rest is CTC on the output.",
        within(0, 0.99),
    )
    remat: bool = setting(
        False,
        "Recompute activations in the backward pass instead of keeping them: for memory that is short, at about 4/3 of "
        "the time, with the same numbers.",
    )
    sync_batch_norm: bool = setting(
        False,
        "Normalise by the moments of all cards' batches together; otherwise each card by its own. Running statistics "
        "are pooled either way.",
    )

    @property
    def blank(self) -> int:
        """The index of the CTC blank among the labels."""
        return self.labels.index(BLANK)

    def __attrs_post_init__(self) -> None:
        if self.time_stride % 2:
            raise InputError(f"time_stride: {self.time_stride} is odd; the first convolution alone has a stride of 2")
        if self.labels.count(BLANK) != 1:
            raise InputError(f"labels: exactly one of them must be the CTC blank {BLANK!r}, got {list(self.labels)}")
        if len(set(self.labels)) != len(self.labels) or any(len(label) != 1 for label in self.labels):
            raise InputError(f"labels: every label is one character and stands once, got {list(self.labels)}")


@attrs.frozen(kw_only=True)
class SpectConfig:
    """The log spectrogram."""

    sample_rate: int = setting(16000, "Sampling rate that recordings are converted to, hertz.", within(1000))
    window_size: float = setting(0.02, "Window, seconds.", within(0, 10, open_low=True))
    window_stride: float = setting(0.01, "Hop between frames, seconds.", within(0, 10, open_low=True))
    window: str = setting("hamming", "Window function (periodic).", one_of("hamming", "hann", "blackman", "bartlett"))

    @property
    def window_samples(self) -> int:
        """Samples in a window, which is the FFT's size too."""
        return round(self.window_size * self.sample_rate)

    @property
    def stride_samples(self) -> int:
        """Samples between frames."""
        return round(self.window_stride * self.sample_rate)

    @property
    def num_bins(self) -> int:
        """Frequency bins of a frame."""
        return self.window_samples // 2 + 1


@attrs.frozen(kw_only=True)
class AugmentationConfig:
    """What is done to training utterances only; every draw depends on (seed, epoch, utterance) alone."""

    speeds: tuple[float, ...] = setting(
        (), "Speed factors, one drawn per utterance: 0.9,1.0,1.1. Changes pitch too.", within(0.25, 4)
    )
    tempo_min: float = setting(1.0, "Lowest tempo factor (pitch kept).", within(0.25, 4))
    tempo_max: float = setting(1.0, "Highest tempo factor.", within(0.25, 4))
    gain_min: float = setting(0.0, "Lowest gain, dB.", within(-60, 60))
    gain_max: float = setting(0.0, "Highest gain, dB.", within(-60, 60))
    noise_dir: str = setting("", "Folder of noise recordings to mix in; empty: none.")
    noise_prob: float = setting(0.4, "Probability that an utterance gets noise.", within(0, 1))
    noise_min_snr: float = setting(5.0, "Lowest signal-to-noise ratio, dB.", within(-20, 100))
    noise_max_snr: float = setting(30.0, "Highest signal-to-noise ratio, dB.", within(-20, 100))
    frequency_masks: int = setting(0, "SpecAugment: frequency masks per utterance.", within(0))
    frequency_width: int = setting(20, "SpecAugment: widest frequency mask, bins.", within(0))
    time_masks: int = setting(0, "SpecAugment: time masks per utterance.", within(0))
    time_width: int = setting(
        20, "SpecAugment: widest time mask, frames (and at most a fifth of the utterance).", within(0)
    )

    def __attrs_post_init__(self) -> None:
        for low, high in (("tempo_min", "tempo_max"), ("gain_min", "gain_max"), ("noise_min_snr", "noise_max_snr")):
            if getattr(self, low) > getattr(self, high):
                raise InputError(f"{low} is above {high}; swap them")


@attrs.frozen(kw_only=True)
class OptimConfig:
    """Optimizer and learning-rate schedule."""

    name: str = setting("adamw", "Optimizer.", one_of("adamw", "sgd", "lamb", "novograd"))
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
    momentum: float = setting(0.9, "Momentum of sgd.", within(0, 1))
    nesterov: bool = setting(True, "Nesterov momentum for sgd.")
    beta1: float = setting(0.9, "First-moment decay of adamw, lamb and novograd.", within(0, 1))
    beta2: float = setting(0.999, "Second-moment decay of adamw, lamb and novograd.", within(0, 1))
    eps: float = setting(1e-8, "Added to the denominator of adamw, lamb and novograd.", within(0))


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


@attrs.frozen(kw_only=True)
class BeamConfig:
    """How logits become text: the section ``lm``, of the commands that decode. It is no part of a run."""

    decoder: str = setting(
        "auto",
        "The best path, or a beam search for the best transcript; auto searches when there is a language model.",
        one_of("auto", "greedy", "beam"),
    )
    path: str = setting(
        "", "Language model for the beam search, of words or characters: an ARPA file as launch.build_lm writes it."
    )
    weight: float = setting(0.5, "Weight of the language model's natural log-probability.", within(0, 100))
    word_score: float = setting(
        0.0,
        "Added for every word of a transcript (for every character, with a language model of characters): what makes "
        "up for the language model's taste for short ones.",
        within(-100, 100),
    )
    beam_size: int = setting(100, "Transcripts that the beam search keeps at every frame.", within(1))
    beam_threshold: float = setting(
        25.0,
        "Transcripts that fall behind the best by more than this, natural log, leave the beam.",
        within(0, 1000, open_low=True),
    )

    @property
    def searches(self) -> bool:
        """Whether to search with a beam."""
        return self.decoder == "beam" or (self.decoder == "auto" and bool(self.path))
