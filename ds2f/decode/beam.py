"""Prefix beam search with or without a language model, by flashlight-text."""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ds2f.config import BLANK, BeamConfig
from ds2f.decode.greedy import Hypothesis
from ds2f.errors import InputError
from ds2f.types import Logits

_NEVER = -1e4  # natural log; a probability of zero would make flashlight subtract infinities


class LanguageModel(NamedTuple):
    """A language model for the labels of one acoustic model, as ``ds2f.data.language_model`` opens it."""

    unit: str  # "words" or "characters": what its n-grams are made of
    scorer: Any  # flashlight's KenLM, whose scores are decimal logarithms
    lexicon: Any  # flashlight's Trie of the words' spellings, each ended by a space; None for characters
    unspellable: int  # words of the file that the labels cannot spell, and that are thus never heard


def flashlight_decoders() -> ModuleType:
    """flashlight-text's module of decoders.

    Raises:
      InputError: when the package is not installed.
    """
    try:
        from flashlight.lib.text import decoder
    except ImportError as error:
        raise InputError(f"beam search needs flashlight-text ({error}): pip install 'ds2f[lm]'") from error
    return decoder


def beam(
    logits: Logits, labels: Sequence[str], *, cfg: BeamConfig, lm: LanguageModel | None = None
) -> list[list[Hypothesis]]:
    """Finds the most probable transcripts of every utterance.

    A transcript y of the recording x scores ln P(y | x) + ``cfg.weight`` ln P(y) + ``cfg.word_score`` |y|, where
    P(y | x) sums over the CTC paths to y that stay in the beam, P(y) is the language model's, the end of the sentence
    included, and |y| counts its units, words or characters (Graves and Jaitly, ICML 2014; Hannun et al.,
    arXiv:1408.2873). Without a language model the score is ln P(y | x).

    With a model of words, only its words are found, and the space label ends each of them: a word needs one but for
    the last, and spaces before, after and besides are not written. With a model of characters, any spelling is
    found; the units are counted when the search has ended, since flashlight knows no such bonus while it searches.

    Args:
      logits: values [B, T', V] float, unnormalised; lengths [B] int64 on the CPU, frames.
      labels: the V characters, the blank among them at any index.
      cfg: the beam and the weights.
      lm: the language model, opened for these labels; None: none.

    Returns:
      At most ``cfg.beam_size`` hypotheses per utterance, best first, of different texts, and at least one. Frames are
      those of the best path to the text. Logits without any finite path give the empty text, its score minus infinity;
      if no hypothesis in the beam ends with a whole word, an unfinished one stands at the end, at a score below -9000.

    Raises:
      InputError: flashlight-text is not installed, or ``cfg.path`` names a language model and ``lm`` is None.
    """
    if cfg.path and lm is None:
        raise InputError(
            f"lm.path={cfg.path} is not opened: pass lm=ds2f.data.language_model.open_language_model(path, labels)"
        )
    search = _decoder(labels, cfg, lm)
    log_probs = logits.values.float().log_softmax(dim=2).cpu()
    found = [
        _search(row[:length], search, labels, lm)
        for row, length in zip(log_probs, logits.lengths.tolist(), strict=True)
    ]
    if lm is None or lm.unit == "words":
        return found
    return [_with_bonus(hypotheses, cfg.word_score) for hypotheses in found]


def _decoder(labels: Sequence[str], cfg: BeamConfig, lm: LanguageModel | None) -> Any:
    flashlight = flashlight_decoders()
    blank = labels.index(BLANK)
    options: dict[str, Any] = {
        "beam_size": cfg.beam_size,
        "beam_size_token": len(labels),
        "beam_threshold": cfg.beam_threshold,
        "lm_weight": cfg.weight * math.log(10) if lm else 0.0,  # KenLM's logarithms are decimal
        "sil_score": 0.0,
        "log_add": True,
        "criterion_type": flashlight.CriterionType.CTC,
    }
    if lm is None or lm.lexicon is None:
        # The label that flashlight thinks came before the first frame is the blank, so that a text may begin with any.
        free = flashlight.LexiconFreeDecoderOptions(**options)
        return flashlight.LexiconFreeDecoder(free, lm.scorer if lm else flashlight.ZeroLM(), blank, blank, [])
    bound = flashlight.LexiconDecoderOptions(word_score=cfg.word_score, unk_score=-math.inf, **options)
    return flashlight.LexiconDecoder(bound, lm.lexicon, lm.scorer, labels.index(" "), blank, -1, [], False)


def _search(log_probs: Tensor, search: Any, labels: Sequence[str], lm: LanguageModel | None) -> list[Hypothesis]:
    """Hypotheses, best first, for the frames of one utterance [T, V]."""
    spelling = lm is not None and lm.lexicon is not None
    if spelling:
        # A last frame of space alone: the last word needs an end, and a recording stops without one.
        end = torch.full((1, len(labels)), _NEVER, device="cpu", dtype=torch.float32)
        end[0, labels.index(" ")] = 0.0
        log_probs = torch.cat((log_probs, end))
    emissions = log_probs.contiguous()
    found = search.decode(emissions.data_ptr(), *emissions.shape)
    # A path has a label more at either end, which belongs to no frame.
    return [_hypothesis(one.tokens[1:-1], one.score, labels, tidy=spelling) for one in found] or [
        Hypothesis("", [], [], -math.inf)
    ]


def _hypothesis(path: Sequence[int], score: float, labels: Sequence[str], *, tidy: bool) -> Hypothesis:
    """Merges repeats and removes blanks; ``tidy`` leaves single spaces between words and none elsewhere."""
    blank, space = labels.index(BLANK), labels.index(" ") if tidy else -1
    tokens: list[int] = []
    frames: list[int] = []
    previous = blank
    for frame, label in enumerate(path):
        if label not in (previous, blank) and not (label == space and (not tokens or tokens[-1] == space)):
            tokens.append(label)
            frames.append(frame)
        previous = label
    if tidy and tokens and tokens[-1] == space:
        del tokens[-1], frames[-1]
    return Hypothesis("".join(labels[token] for token in tokens), tokens, frames, score)


def _with_bonus(hypotheses: list[Hypothesis], bonus: float) -> list[Hypothesis]:
    scored = [one._replace(score=one.score + bonus * len(one.tokens)) for one in hypotheses]
    return sorted(scored, key=lambda one: one.score, reverse=True)
