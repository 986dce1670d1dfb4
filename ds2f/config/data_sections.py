"""Sections about recordings: which, how they become features, and how training ones are altered."""

import attrs

from ds2f.config.settings import one_of, setting, within
from ds2f.errors import InputError


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
class SpectConfig:
    """The log spectrogram."""

    sample_rate: int = setting(16000, "Sampling rate that recordings are converted to, hertz.", within(1000))
    window_size: float = setting(0.02, "Window, seconds.", within(0, 10, open_low=True))
    window_stride: float = setting(0.01, "Hop between frames, seconds.", within(0, 10, open_low=True))
    window: str = setting("hamming", "Window function (periodic).", one_of("hamming", "hann", "blackman", "bartlett"))
    num_mels: int = setting(
        0,
        "Bands of the mel scale that the magnitudes are summed in; 0: none, every frequency of the FFT is a bin. 64 "
        "more than halve the work of the convolutions.",
        within(0, 1024),
    )
    full_scale: float = setting(
        1.0,
        "The amplitude A that full scale counts as: a magnitude m becomes log(1 + A m). 1, as in deepspeech.pytorch, "
        "leaves all but the loudest sounds of a usual recording linear; from 1000 on it is nearly decibels.",
        within(0, open_low=True),
    )
    normalize: str = setting(
        "utterance",
        "What an utterance's spectrogram is centred by, before its one deviation is divided out: its mean, or each "
        "frequency bin's own, which takes out the colour of microphone and voice.",
        one_of("utterance", "bins"),
    )

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
        """Frequency bins of a frame: the FFT's, or the mel bands."""
        return self.num_mels or self.window_samples // 2 + 1


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
    warp_min: float = setting(
        1.0,
        "Lowest factor that the spectrogram's frequencies are multiplied by, up to 60 % of the highest: below 1 as if "
        "by a longer vocal tract. Pitch and tempo stay, which speeds change along with it.",
        within(0.5, 2),
    )
    warp_max: float = setting(1.0, "Highest such factor.", within(0.5, 2))
    frequency_masks: int = setting(0, "SpecAugment: frequency masks per utterance.", within(0))
    frequency_width: int = setting(20, "SpecAugment: widest frequency mask, bins.", within(0))
    time_masks: int = setting(0, "SpecAugment: time masks per utterance.", within(0))
    time_width: int = setting(
        20, "SpecAugment: widest time mask, frames (and at most a fifth of the utterance).", within(0)
    )

    def __attrs_post_init__(self) -> None:
        for low, high in (
            ("tempo_min", "tempo_max"),
            ("gain_min", "gain_max"),
            ("noise_min_snr", "noise_max_snr"),
            ("warp_min", "warp_max"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise InputError(f"{low} is above {high}; swap them")
