"""Sections of the data: recordings and batches, features, augmentation."""

import attrs

from ds2f.config.settings import Needs, needs, one_of, setting, within
from ds2f.errors import InputError


@attrs.frozen(kw_only=True)
class DataConfig:
    """Recordings and batches."""

    dataset: str = setting(
        "",
        "Corpus name: the manifests default to <data_path>/<dataset>_{train,val,test}_manifest.csv or .jsonl; empty: "
        "an4, unless a manifest is named.",
    )
    train_manifest: str = setting(
        "", "Training manifest, a file or a folder; empty: beside another that is named, or see data.dataset."
    )
    val_manifest: str = setting(
        "", "Validation manifest, a file or a folder; empty: beside another that is named, or see data.dataset."
    )
    test_manifest: str = setting(
        "", "Test manifest, a file or a folder; empty: beside another that is named, or see data.dataset."
    )
    train_on_val: bool = setting(
        False,
        "Train on the training and the validation manifest together, for a final model with a number of epochs fixed "
        "beforehand. There is no validation, and the last model counts as the best.",
    )
    batch_size: int = setting(240, "Utterances per device and step.", within(1))
    global_batch_size: int = setting(
        0,
        "Utterances per step of all devices together; 0: data.batch_size times the number of devices at the start of "
        "the run. When the number of devices changes, the global batch keeps its size; a device splits its shard into "
        "micro-batches of at most data.batch_size.",
        within(0),
        yields_to="data.batch_size",
    )
    max_frames: int = setting(
        0,
        "Maximum number of frames in a device's batch, padding included; 0: no limit. Batches of long utterances then "
        "have fewer than data.batch_size utterances. The number is computed at the slowest speed, so every epoch has "
        "the same number of steps.",
        within(0),
    )
    padded_shapes: int = setting(
        0,
        "Maximum number of padded lengths, for devices that compile a program per shape (NPU); 0: pad to the next "
        "multiple of 8 frames. Each split has its own lengths, chosen for the least padding. If data.max_frames is 0, "
        "only the last batch has another number of utterances.",
        within(0),
    )
    num_workers: int = setting(1, "Loader processes per device; 0: the training process loads.", within(0))
    loader_timeout: float = setting(
        600.0,
        "Longest wait for a batch of the loader processes, seconds; then the run ends and names them. 0: without end.",
        within(0),
        needs=(needs("data.num_workers"),),
    )
    labels_path: str = setting(
        "", "File with a JSON list of the labels, blank '_' included; empty: blank, apostrophe, A-Z, space."
    )
    min_duration: float = setting(
        0.0, "Minimum length of training utterances, seconds; shorter utterances are left out.", within(0)
    )
    max_duration: float = setting(
        0.0, "Maximum length of training utterances, seconds; longer utterances are left out; 0: no limit.", within(0)
    )
    unknown_characters: str = setting(
        "error",
        "Effect of a character outside the labels in a transcript: stop, drop the character, or drop the utterance.",
        one_of("error", "drop_character", "drop_utterance"),
    )
    sort_first_epoch: bool = setting(False, "Sort the first epoch from short to long utterances (SortaGrad).")
    bucket_jitter: float = setting(
        0.05,
        "Utterances are batched by length times a random factor within 1 +- this value; 0: batches never change.",
        within(0, 10),
    )
    max_recording_seconds: float = setting(
        1800.0,
        "Limit of a recording's length, seconds; a longer recording is refused before it is decoded. A minute takes up "
        "to 46 MB while it is read.",
        within(0, open_low=True),
    )
    max_text_bytes: int = setting(
        1 << 20, "Limit of the size of a transcript, and of the file of labels, bytes.", within(1)
    )
    max_manifest_bytes: int = setting(256 << 20, "Limit of the size of a manifest, bytes.", within(1))
    verify: bool = setting(
        False,
        "Read every byte of the recordings at the start, and compare with the bytes that the run was begun with. "
        "Rows, transcripts, sizes, times and a sample of each recording are compared in any case.",
    )
    allow_changes: bool = setting(
        False,
        "Go on with a run although rows, transcripts or recordings have changed.",
        needs=(needs("checkpointing.load_auto_checkpoint"),),
    )
    cache_features: bool = setting(True, "Store features in <data_path>/cache and read them from there.")
    max_unusable: int = setting(
        0,
        "Maximum number of rows of a manifest that are left out at the start, with a remark, because the recording or "
        "the transcript cannot be used. With more, the command stops and lists them all.",
        within(0),
    )
    max_unreadable: int = setting(
        10,
        "Maximum number of utterances of a set that become unreadable during a run; they are skipped, counted, listed.",
        within(0),
    )


@attrs.frozen(kw_only=True)
class SpectConfig:
    """Features: the log spectrogram."""

    sample_rate: int = setting(16000, "Sampling rate, hertz; recordings are converted to it.", within(1000, 192_000))
    window_size: float = setting(0.02, "Length of the window, seconds.", within(0, 10, open_low=True))
    window_stride: float = setting(0.01, "Distance between frames, seconds.", within(0, 10, open_low=True))
    window: str = setting("hamming", "Window function (periodic).", one_of("hamming", "hann", "blackman", "bartlett"))
    num_mels: int = setting(
        0,
        "Number of mel bands, in which magnitudes are summed; 0: none, every frequency of the FFT is a bin. 64 bands "
        "more than halve the work of the convolutions.",
        within(0, 1024),
    )
    full_scale: float = setting(
        1.0,
        "Amplitude A of full scale: a magnitude m becomes log(1 + A m). With 1, as in deepspeech.pytorch, all but the "
        "loudest sounds of a usual recording stay nearly linear; from 1000 on, values are nearly decibels.",
        within(0, open_low=True),
    )
    normalize: str = setting(
        "utterance",
        "Mean that is subtracted from a spectrogram before the division by its deviation: of the whole utterance, of "
        "each frequency bin of the utterance, which removes the colour of microphone and voice, or of each bin over "
        "the training set (global), with which streaming gives the same text as whole recordings.",
        one_of("utterance", "bins", "global"),
    )
    mean: tuple[float, ...] = setting(
        (), "Mean of each bin of the log spectrogram over the training set; measured by the training.", derived=True
    )
    deviation: float = setting(
        0.0, "Deviation from these means, over all bins; 0: not measured.", within(0), derived=True
    )

    @property
    def window_samples(self) -> int:
        """Samples of a window, also the size of the FFT."""
        return round(self.window_size * self.sample_rate)

    @property
    def stride_samples(self) -> int:
        """Samples between frames."""
        return round(self.window_stride * self.sample_rate)

    @property
    def num_bins(self) -> int:
        """Bins of a frame: the frequencies of the FFT, or the mel bands."""
        return self.num_mels or self.window_samples // 2 + 1


def _varies(step: str) -> Needs:
    """What gives the probability of a step its effect: a range that does more than nothing."""
    low, high = f"augmentation.{step}_min", f"augmentation.{step}_max"
    return needs(f"augmentation.varies_{step}", flags=f"--{low} or --{high}", decided_by=(low, high))


_DRAWN_ROOMS = needs(
    "augmentation.draws_rooms",
    flags="--augmentation.reverb_prob without --augmentation.reverb_dir",
    decided_by=("augmentation.reverb_prob", "augmentation.reverb_dir"),
)


@attrs.frozen(kw_only=True)
class AugmentationConfig:
    """Augmentation of training utterances; every random number depends on (seed, epoch, utterance) alone."""

    speeds: tuple[float, ...] = setting(
        (), "Speed factors, such as 0.9,1.0,1.1; each utterance gets a random one. Pitch changes too.", within(0.25, 4)
    )
    speed_prob: float = setting(
        1.0, "Probability of a speed factor in an utterance.", within(0, 1), needs=(needs("augmentation.speeds"),)
    )
    tempo_prob: float = setting(
        1.0, "Probability of a tempo factor in an utterance.", within(0, 1), needs=(_varies("tempo"),)
    )
    tempo_min: float = setting(1.0, "Lowest tempo factor; the pitch stays.", within(0.25, 4))
    tempo_max: float = setting(1.0, "Highest tempo factor.", within(0.25, 4))
    silence_prob: float = setting(
        1.0, "Probability of silence around an utterance.", within(0, 1), needs=(needs("augmentation.silence"),)
    )
    silence: float = setting(
        0.0,
        "Longest silence before and after an utterance, seconds, of its own quietest sound: for recordings that are "
        "cut in other places than the training's.",
        within(0, 10),
    )
    reverb_prob: float = setting(0.0, "Probability of reverberation in an utterance.", within(0, 1))
    reverb_dir: str = setting(
        "",
        "Folder of impulse responses of rooms, recorded or simulated; empty: rooms are drawn.",
        needs=(needs("augmentation.reverb_prob"),),
    )
    reverb_min_rt60: float = setting(
        0.2, "Shortest reverberation time (RT60) of a drawn room, seconds.", within(0.01, 10), needs=(_DRAWN_ROOMS,)
    )
    reverb_max_rt60: float = setting(
        0.8, "Longest reverberation time (RT60) of a drawn room, seconds.", within(0.01, 10), needs=(_DRAWN_ROOMS,)
    )
    reverb_min_drr: float = setting(
        0.0, "Lowest direct-to-reverberant ratio of a drawn room, dB.", within(-20, 60), needs=(_DRAWN_ROOMS,)
    )
    reverb_max_drr: float = setting(
        12.0, "Highest direct-to-reverberant ratio of a drawn room, dB.", within(-20, 60), needs=(_DRAWN_ROOMS,)
    )
    gain_prob: float = setting(1.0, "Probability of a gain in an utterance.", within(0, 1), needs=(_varies("gain"),))
    gain_min: float = setting(0.0, "Lowest gain, dB.", within(-60, 60))
    gain_max: float = setting(0.0, "Highest gain, dB.", within(-60, 60))
    noise_dir: str = setting("", "Folder of noise recordings to add; empty: none.")
    noise_prob: float = setting(
        0.4, "Probability of noise in an utterance.", within(0, 1), needs=(needs("augmentation.noise_dir"),)
    )
    noise_min_snr: float = setting(
        5.0, "Lowest signal-to-noise ratio, dB.", within(-20, 100), needs=(needs("augmentation.noise_dir"),)
    )
    noise_max_snr: float = setting(
        30.0, "Highest signal-to-noise ratio, dB.", within(-20, 100), needs=(needs("augmentation.noise_dir"),)
    )
    band_prob: float = setting(
        0.0, "Probability of a limited band of frequencies in an utterance, as of a telephone.", within(0, 1)
    )
    band_min_low: float = setting(
        300.0, "Lowest lower cut-off of the band, hertz.", within(0), needs=(needs("augmentation.band_prob"),)
    )
    band_max_low: float = setting(
        300.0, "Highest lower cut-off of the band, hertz.", within(0), needs=(needs("augmentation.band_prob"),)
    )
    band_min_high: float = setting(
        3400.0, "Lowest upper cut-off of the band, hertz.", within(1), needs=(needs("augmentation.band_prob"),)
    )
    band_max_high: float = setting(
        3400.0, "Highest upper cut-off of the band, hertz.", within(1), needs=(needs("augmentation.band_prob"),)
    )
    codec_prob: float = setting(0.0, "Probability of a codec's distortion in an utterance.", within(0, 1))
    codecs: tuple[str, ...] = setting(
        ("ulaw", "alaw"),
        "Codecs; each coded utterance gets a random one. ulaw and alaw (G.711) and gsm have 8 kHz, as telephones.",
        one_of("ulaw", "alaw", "gsm", "opus", "vorbis", "mp3"),
        needs=(needs("augmentation.codec_prob"),),
    )
    warp_prob: float = setting(
        1.0, "Probability of a frequency warp in an utterance.", within(0, 1), needs=(_varies("warp"),)
    )
    warp_min: float = setting(
        1.0,
        "Lowest factor of the frequencies up to 60 % of the highest (vocal tract length perturbation); below 1: a "
        "longer vocal tract. Pitch and tempo stay.",
        within(0.5, 2),
    )
    warp_max: float = setting(1.0, "Highest factor of the frequencies.", within(0.5, 2))
    frequency_masks: int = setting(0, "SpecAugment: frequency masks per utterance.", within(0))
    frequency_width: int = setting(
        20, "SpecAugment: widest frequency mask, bins.", within(0), needs=(needs("augmentation.frequency_masks"),)
    )
    time_masks: int = setting(0, "SpecAugment: time masks per utterance.", within(0))
    time_width: int = setting(
        20,
        "SpecAugment: widest time mask, frames; at most a fifth of the utterance.",
        within(0),
        needs=(needs("augmentation.time_masks"),),
    )

    def __attrs_post_init__(self) -> None:
        for low, high in (
            ("tempo_min", "tempo_max"),
            ("gain_min", "gain_max"),
            ("reverb_min_rt60", "reverb_max_rt60"),
            ("reverb_min_drr", "reverb_max_drr"),
            ("noise_min_snr", "noise_max_snr"),
            ("band_min_low", "band_max_low"),
            ("band_min_high", "band_max_high"),
            ("warp_min", "warp_max"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise InputError(f"{low} is above {high}; swap them")
        if self.band_prob and self.band_max_low >= self.band_min_high:
            raise InputError(
                f"band_max_low={self.band_max_low:g} is not below band_min_high={self.band_min_high:g}; lower it"
            )
        if self.codec_prob and not self.codecs:
            raise InputError("codec_prob without codecs; name some, such as ulaw,alaw")

    @property
    def varies_tempo(self) -> bool:
        """Whether the range of tempos has others than 1."""
        return (self.tempo_min, self.tempo_max) != (1, 1)

    @property
    def varies_gain(self) -> bool:
        """Whether the range of gains has others than 0 dB."""
        return (self.gain_min, self.gain_max) != (0, 0)

    @property
    def varies_warp(self) -> bool:
        """Whether the range of frequency factors has others than 1."""
        return (self.warp_min, self.warp_max) != (1, 1)

    @property
    def draws_rooms(self) -> bool:
        """Whether reverberation is that of drawn rooms, not of recorded impulse responses."""
        return bool(self.reverb_prob) and not self.reverb_dir
