"""Labels of several characters: pieces of words, by byte-pair encoding of the transcripts."""

import io
from collections.abc import Iterator, Sequence

from ds2f import text
from ds2f.errors import InputError
from ds2f.extras import import_extra

_LONGEST = 1 << 16  # bytes of a word; sentencepiece leaves longer ones out


def pieces(transcripts: Sequence[str], labels: Sequence[str], *, number: int) -> tuple[str, ...]:
    """Merges labels that stand side by side in words, the most frequent pair first.

    No piece reaches over a space, so words keep their beginnings. Losses and decoders take pieces as any labels. A
    transcript is cut into the longest pieces that fit (``text.units``), which needs no file beside the labels, and may
    differ from the order of the merges.

    Args:
      transcripts: of the training set.
      labels: of single letters, blank included.
      number: labels and pieces together, blank included, at most.

    Returns:
      ``labels``, and behind them the pieces, the most frequent first; fewer than ``number`` where the transcripts have
      no more pairs.

    Raises:
      InputError: the package sentencepiece is missing, ``number`` leaves no room for a piece, or there are no words.

    Source: Sennrich et al., "Neural machine translation of rare words with subword units", ACL 2016.
    """
    library = import_extra(
        "sentencepiece",
        need="byte-pair encoding is learnt by sentencepiece",
        remedy="pip install 'ds2f[bpe]' (or pip install sentencepiece), or leave --pieces out",
    )
    if number <= len(labels):
        raise InputError(
            f"--pieces={number}: {len(labels)} labels are single letters already; give more, or leave it out"
        )
    words = [word for transcript in transcripts for word in _words(transcript, labels)]
    if not words:
        raise InputError("--pieces: the transcripts have no words to take pieces of")
    found = io.BytesIO()
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=found,
            model_type="bpe",
            # Its own symbols for unknown text and for a space come on top; both are left out below.
            vocab_size=number + 1,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            split_by_whitespace=False,
            max_sentence_length=_LONGEST,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # the same pieces on every machine
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise InputError(f"--pieces={number}: sentencepiece cannot learn them: {error}; give another number") from error
    model = library.SentencePieceProcessor(model_proto=found.getvalue())
    learnt = (model.id_to_piece(index) for index in range(model.get_piece_size()) if not model.is_unknown(index))
    known = set(labels)
    merged = [piece for piece in learnt if len(piece) > 1 and piece not in known and "▁" not in piece]
    return (*labels, *merged[: number - len(labels)])


def _words(transcript: str, labels: Sequence[str]) -> Iterator[str]:
    """The words of a transcript in the spelling of the labels, without what is outside them."""
    ids = text.encode(transcript, labels, unknown="drop_character") or []
    yield from filter(None, text.decode(ids, labels).split(" "))
