"""Prefix beam search by flashlight-text, with or without a language model."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ds2f import text
from ds2f.config import BLANK, BeamConfig
from ds2f.decode.flashlight_text import NEVER, LanguageModel, import_flashlight
from ds2f.decode.greedy import Hypothesis
from ds2f.decode.hot_word_search import hot_word_scorer
from ds2f.decode.hot_words import HotWords
from ds2f.errors import InputError
from ds2f.types import Logits


def beam(
    logits: Logits,
    labels: Sequence[str],
    *,
    cfg: BeamConfig,
    lm: LanguageModel | None = None,
    hot_words: HotWords | None = None,
) -> list[list[Hypothesis]]:
    """Finds the most probable transcripts of every utterance.

    A transcript y of the recording x scores ln P(y | x) + ``cfg.weight`` ln P(y) + ``cfg.word_score`` |y|, where
    P(y | x) is the sum over the CTC paths to y in the beam. P(y) is the language model's probability, end of sentence
    included. |y| is the number of units: words or characters, as the language model's (Graves and Jaitly, ICML 2014;
    Hannun et al., arXiv:1408.2873). Without a language model the score is ln P(y | x).

    A language model of words restricts the search to its words. The space label ends a word; only the last word needs
    none. Spaces elsewhere are not written. With a language model of characters, any spelling can be found; its
    ``cfg.word_score`` is added after the search, since flashlight offers no bonus per character.

    With hot words, the score also has their boosts; see ``make_hot_words``. Hot words outside a language model of words
    are found, too: they count as its unknown word, but not less than its least probable word.

    Args:
      logits: values [B, T', V] float, unnormalised; lengths [B] int64 on the CPU, frames.
      labels: the V characters, the blank among them at any index.
      cfg: beam size and weights, the ``lm`` section.
      lm: the language model, opened for the same labels; None: no language model.
      hot_words: made for the same labels; None: none.

    Returns:
      For each utterance, 1 to ``cfg.width`` hypotheses with different texts, best first; their frames belong to
      the best path to the text. If no path is finite, the text is empty and its score minus infinity. If no hypothesis
      ends with a whole word, the last word of the result is unfinished and its score is below -9000.

    Raises:
      InputError: if flashlight-text is not installed, or ``cfg`` names a language model or hot words and they are not
        given.
      ValueError: the hot words were made for other labels.
    """
    if cfg.path and lm is None:
        raise InputError(
            f"lm.path={cfg.path} is not opened: pass lm=ds2f.data.language_model.open_language_model(path, labels)"
        )
    if cfg.hot_words and hot_words is None:
        raise InputError(
            f"lm.hot_words={cfg.hot_words} are not read: pass hot_words=ds2f.data.hot_word_lists.read_hot_words(...)"
        )
    if hot_words and hot_words.labels != tuple(labels):
        raise ValueError("the hot words were made for other labels")
    scorer = hot_word_scorer(hot_words, cfg, lm) if hot_words else None  # flashlight does not keep it alive
    search = _decoder(labels, cfg, lm, scorer)
    log_probs = logits.values.float().log_softmax(dim=2).cpu()
    found = [
        _search(row[:length], search, labels, lm)
        for row, length in zip(log_probs, logits.lengths.tolist(), strict=True)
    ]
    if lm is None or lm.unit == "words":
        return found
    return [_with_bonus(hypotheses, cfg.word_score) for hypotheses in found]


def _decoder(labels: Sequence[str], cfg: BeamConfig, lm: LanguageModel | None, hot_words: Any) -> Any:
    """A decoder of flashlight; ``hot_words`` is the scorer of the hot words, if there are any."""
    flashlight = import_flashlight("decoder")
    blank, boosted = labels.index(BLANK), hot_words is not None
    options: dict[str, Any] = {
        "beam_size": cfg.width(boosted=boosted),
        "beam_size_token": min(cfg.labels_per_frame(boosted=boosted) or len(labels), len(labels)),
        "beam_threshold": cfg.beam_threshold,
        "lm_weight": cfg.weight * math.log(10) if lm else 0.0,  # KenLM's logarithms are decimal
        "sil_score": 0.0,
        "log_add": True,
        "criterion_type": flashlight.CriterionType.CTC,
    }
    # The blank as the label before the first frame: a text may then begin with any label.
    if hot_words:
        free = flashlight.LexiconFreeDecoderOptions(**options | {"lm_weight": 1.0})
        return flashlight.LexiconFreeDecoder(free, hot_words, blank, blank, [])
    if lm is None or lm.lexicon is None:
        free = flashlight.LexiconFreeDecoderOptions(**options)
        return flashlight.LexiconFreeDecoder(free, lm.scorer if lm else flashlight.ZeroLM(), blank, blank, [])
    bound = flashlight.LexiconDecoderOptions(word_score=cfg.word_score, unk_score=-math.inf, **options)
    return flashlight.LexiconDecoder(bound, lm.lexicon, lm.scorer, labels.index(" "), blank, -1, [], False)


def _search(log_probs: Tensor, search: Any, labels: Sequence[str], lm: LanguageModel | None) -> list[Hypothesis]:
    """Searches one utterance, ``log_probs`` [T, V]; returns its hypotheses, best first."""
    spelling = lm is not None and lm.lexicon is not None
    if spelling:
        # An additional last frame of a certain space: the last word of a recording has no space of its own.
        end = torch.full((1, len(labels)), NEVER, device="cpu", dtype=torch.float32)
        end[0, labels.index(" ")] = 0.0
        log_probs = torch.cat((log_probs, end))
    emissions = log_probs.contiguous()
    found = search.decode(emissions.data_ptr(), *emissions.shape)
    # flashlight's path has an additional label at either end, which belongs to no frame.
    return [_hypothesis(path.tokens[1:-1], path.score, labels, tidy=spelling) for path in found] or [
        Hypothesis("", [], [], -math.inf)
    ]


def _hypothesis(path: Sequence[int], score: float, labels: Sequence[str], *, tidy: bool) -> Hypothesis:
    """Merges repeats and removes blanks; ``tidy`` keeps single spaces between words and no other spaces."""
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
    return Hypothesis(text.decode(tokens, labels), tokens, frames, score)


def _with_bonus(hypotheses: list[Hypothesis], bonus: float) -> list[Hypothesis]:
    """Adds ``bonus`` per token to the scores and sorts anew."""
    scored = [hypothesis._replace(score=hypothesis.score + bonus * len(hypothesis.tokens)) for hypothesis in hypotheses]
    return sorted(scored, key=lambda hypothesis: hypothesis.score, reverse=True)
