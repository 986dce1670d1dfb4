"""Sections about what turns features into text: the model, and the search in its logits."""

import attrs

from ds2f.config.settings import one_of, setting, within
from ds2f.errors import InputError

DEFAULT_LABELS = tuple("_'ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
BLANK = "_"


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
    frequency_stride: int = setting(
        4,
        "Frequency bins of the spectrogram per row of what the convolutions hand on, an even number. 8 halves the work "
        "of both.",
        within(4, 16),
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
    consistency: float = setting(
        0.0,
        "Weight of a second term of the training loss: how much the output differs between two views of an utterance, "
        "each with its own SpecAugment masks and dropout. Doubles the time and memory of a step; 0.2 is usual.",
        within(0, 100),
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
        if self.frequency_stride % 2:
            raise InputError(f"frequency_stride: {self.frequency_stride} is odd; the second convolution has one of 2")
        if self.labels.count(BLANK) != 1:
            raise InputError(f"labels: exactly one of them must be the CTC blank {BLANK!r}, got {list(self.labels)}")
        if len(set(self.labels)) != len(self.labels) or any(len(label) != 1 for label in self.labels):
            raise InputError(f"labels: every label is one character and stands once, got {list(self.labels)}")


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
