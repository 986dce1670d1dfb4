"""Sections of the model and of decoding, from features to text."""

import attrs

from ds2f.config.settings import needs, one_of, setting, within
from ds2f.errors import InputError

DEFAULT_LABELS = tuple("_'ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
BLANK = "_"
_LONGEST_LABEL = 64  # code points


@attrs.frozen(kw_only=True)
class ModelConfig:
    """DeepSpeech2: two convolutions, recurrent layers, a linear layer onto the labels.

    >>> ModelConfig(rnn_type="gru", bidirectional=False).lookahead_context
    20
    >>> ModelConfig(labels=("_", "A", " ")).blank
    0
    """

    labels: tuple[str, ...] = setting(
        DEFAULT_LABELS,
        "Output characters (or groups of characters), of which '_' is the CTC blank; from data.labels_path.",
        derived=True,
    )
    rnn_type: str = setting("lstm", "Recurrent cell.", one_of("lstm", "gru", "rnn"))
    hidden_size: int = setting(1024, "Units per recurrent layer and direction.", within(1, 2**16))
    hidden_layers: int = setting(5, "Recurrent layers.", within(1, 1000))
    bidirectional: bool = setting(
        True, "Two directions, whose outputs are summed; otherwise forward only, with a lookahead convolution."
    )
    lookahead_context: int = setting(
        20,
        "Frames of the lookahead convolution of a unidirectional model.",
        within(1, 10000),
        needs=(needs("model.bidirectional", False),),
    )
    time_stride: int = setting(
        2,
        "Frames of the spectrogram per frame of logits, an even number. 4 halves the time of a step and the number of "
        "frames for a transcript.",
        within(2, 8),
    )
    frequency_stride: int = setting(
        4,
        "Frequency bins of the spectrogram per row of the convolutions' output, an even number. 8 halves the work of "
        "both convolutions.",
        within(4, 16),
    )
    num_bins: int = setting(161, "Frequency bins of a frame; from spect.", within(1), derived=True)
    dropout: float = setting(
        0.0,
        "Probability of dropout, on the inputs of the output layer and of all recurrent layers but the first.",
        within(0, 0.95),
    )
    variational_dropout: bool = setting(
        False,
        "Draw dropout per utterance and unit, the same at all frames, instead of per frame.",
        needs=(needs("model.dropout"),),
    )
    kernel: str = setting(
        "auto",
        "Recurrent kernel: the platform's fused operator; this project's LSTM (hoisted); the fused operator on both "
        "directions at once (paired); the plain scan. auto times those that may be fastest on the device.",
        one_of("auto", "fused", "hoisted", "paired", "scan"),
    )
    ctc: str = setting("native", "CTC implementation.", one_of("native", "warpctc", "scan"))
    label_smoothing: float = setting(
        0.0,
        "Fraction w of label smoothing in the training loss, (1 - w) CTC + w divergence: the divergence of each "
        "frame's label distribution from the uniform distribution.",
        within(0, 0.99),
    )
    intermediate_ctc: float = setting(
        0.0,
        "Fraction w of intermediate CTC in the training loss, (1 - w) CTC + w intermediate CTC: CTC of a linear layer "
        "on the middle recurrent layer.",
        within(0, 0.99),
    )
    consistency: float = setting(
        0.0,
        "Weight of consistency in the training loss: the difference of the outputs for two views of an utterance, each "
        "with its own SpecAugment masks and dropout. Doubles the time and memory of a step; 0.2 is usual.",
        within(0, 100),
    )
    remat: bool = setting(
        False,
        "Recompute activations in the backward pass instead of keeping them: less memory, about 4/3 of the time, the "
        "same numbers.",
    )
    sync_batch_norm: bool = setting(
        False,
        "Batch norm by the moments of the global batch; otherwise each device uses its own batch. Running statistics "
        "are pooled over the devices in both cases.",
    )

    @property
    def blank(self) -> int:
        """Index of the CTC blank among the labels."""
        return self.labels.index(BLANK)

    def __attrs_post_init__(self) -> None:
        if self.time_stride % 2:
            raise InputError(f"time_stride: {self.time_stride} must be even: the first convolution has a stride of 2")
        if self.frequency_stride % 2:
            raise InputError(
                f"frequency_stride: {self.frequency_stride} must be even: the second convolution has a stride of 2"
            )
        if self.labels.count(BLANK) != 1:
            raise InputError(f"labels: exactly one label must be the CTC blank {BLANK!r}, got {list(self.labels)}")
        broken = [label for label in self.labels if label != " " and (not label or label != "".join(label.split()))]
        broken += [label for label in self.labels if len(label) > _LONGEST_LABEL]
        if len(set(self.labels)) != len(self.labels) or broken:
            raise InputError(
                f"labels: every label must be a character, or up to {_LONGEST_LABEL} code points without a space, "
                f"without repeats, got {broken or list(self.labels)}"
            )


# Width of the beam and labels a frame by default, without and with hot words, which are scored in Python.
_PLAIN, _BOOSTED = (100, 12), (25, 6)
_SEARCH = needs(
    "lm.searches",
    flags="--lm.path, --lm.hot_words or --lm.decoder=beam",
    decided_by=("lm.path", "lm.hot_words", "lm.decoder"),
)


@attrs.frozen(kw_only=True)
class BeamConfig:
    """Decoding, from logits to text: section ``lm`` of the commands that decode, no part of ``Config``."""

    decoder: str = setting(
        "auto",
        "Greedy: the best path. Beam: a search for the best transcript. auto: beam with a language model or hot words, "
        "else greedy.",
        one_of("auto", "greedy", "beam"),
    )
    path: str = setting(
        "",
        "Language model of words or characters for the beam search, an ARPA file as written by launch.build_lm.",
        needs=(needs("lm.decoder", "auto", "beam"),),
    )
    weight: float = setting(
        0.5,
        "Weight of the language model's natural log-probability.",
        within(0, 100),
        needs=(
            needs("lm.path"),
            needs("lm.decoder", "auto", "beam"),
        ),
    )
    word_score: float = setting(
        0.0,
        "Added to the score for every word of a transcript (with a language model of characters, for every character); "
        "it balances the language model's preference for short transcripts.",
        within(-100, 100),
        needs=(_SEARCH,),
    )
    hot_words: str = setting(
        "",
        "Words and phrases to prefer: a text file with one a line, or a list such as KOWALSKI,NEW YORK. In the file, a "
        "tab and a number after a phrase are its own boost; lines that begin with # are comments.",
        needs=(needs("lm.decoder", "auto", "beam"),),
    )
    hot_words_boost: float = setting(
        1.5,
        "Added to the score for every character of a hot word in a transcript, natural log.",
        within(0, 100, open_low=True),
        needs=(needs("lm.hot_words"), needs("lm.decoder", "auto", "beam")),
    )
    beam_size: int = setting(
        0,
        f"Maximum number of transcripts in the beam at every frame; 0: {_PLAIN[0]}, with hot words {_BOOSTED[0]}.",
        within(0),
        needs=(_SEARCH,),
    )
    beam_size_token: int = setting(
        -1,
        f"Labels that may follow at a frame, the most probable ones; 0: all; -1: {_PLAIN[1]}, with hot words "
        f"{_BOOSTED[1]}. Few make the search fast.",
        within(-1),
        needs=(_SEARCH,),
    )
    beam_threshold: float = setting(
        25.0,
        "Largest distance to the best score in the beam, natural log; other transcripts are dropped.",
        within(0, 1000, open_low=True),
        needs=(_SEARCH,),
    )
    workers: int = setting(
        0,
        "Processes that search, each another utterance; 0: one per processor.",
        within(0, 1024),
        needs=(_SEARCH,),
    )

    @property
    def searches(self) -> bool:
        """Whether decoding is a beam search."""
        return self.decoder == "beam" or (self.decoder == "auto" and bool(self.path or self.hot_words))

    def width(self, *, boosted: bool | None = None) -> int:
        """Maximum number of transcripts in the beam.

        Args:
          boosted: whether there are hot words; None: whether ``hot_words`` names some.
        """
        return self.beam_size or self._defaults(boosted)[0]

    def labels_per_frame(self, *, boosted: bool | None = None) -> int:
        """Labels that may follow at a frame, 0: all; ``boosted`` as for ``width``."""
        return self._defaults(boosted)[1] if self.beam_size_token < 0 else self.beam_size_token

    def _defaults(self, boosted: bool | None) -> tuple[int, int]:
        return _BOOSTED if (bool(self.hot_words) if boosted is None else boosted) else _PLAIN


@attrs.frozen(kw_only=True)
class EndpointConfig:
    """Where segments of a stream end: section ``endpoint`` of the commands that stream, no part of ``Config``."""

    silence: float = setting(
        1.0, "With --stream, silence after text that ends a segment, seconds.", within(0, 3600, open_low=True)
    )
    no_text: float = setting(
        5.0,
        "With --stream, time without text after which a segment is dropped and the next begins, seconds.",
        within(0, 3600, open_low=True),
    )
    longest: float = setting(
        20.0,
        "With --stream, longest segment, seconds. A longer one is divided at the surest space of its last quarter.",
        within(0, 3600, open_low=True),
    )
    blank: float = setting(
        0.8, "With --stream, probability of the blank, or a space, above which a frame counts as silent.", within(0, 1)
    )
