import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ds2f import decode
from ds2f.types import Logits


def brute_force(values: Tensor, labels: str) -> tuple[str, list[int], float]:
    """Enumerates all paths of one utterance [T, V], takes the best (the first of equals) and collapses it."""
    log_probs = values.double().log_softmax(dim=1)
    frames = range(len(values))

    def score(path: tuple[int, ...]) -> float:
        return sum(log_probs[frame, label].item() for frame, label in zip(frames, path, strict=True))

    best = max(itertools.product(range(values.shape[1]), repeat=len(values)), key=score)
    runs = [(label, next(group)[0]) for label, group in itertools.groupby(enumerate(best), key=lambda pair: pair[1])]
    spoken = [(labels[label], frame) for label, frame in runs if labels[label] != "_"]
    return "".join(character for character, _ in spoken), [frame for _, frame in spoken], score(best)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["_AB", "A_B", "AB_"]), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 999))
def test_the_reading_is_that_of_the_best_of_all_paths(labels: str, lengths: list[int], seed: int) -> None:
    values = 2 * torch.randn(len(lengths), 5, 3, generator=torch.Generator().manual_seed(seed))
    hypotheses = decode.greedy(Logits(values, torch.tensor(lengths)), labels)
    for row, (hypothesis, length) in enumerate(zip(hypotheses, lengths, strict=True)):
        text, frames, score = brute_force(values[row, :length], labels)
        assert hypothesis.text == text
        assert hypothesis.token_frames == frames
        assert hypothesis.tokens == [labels.index(character) for character in text]
        assert hypothesis.score == pytest.approx(score, rel=1e-5, abs=1e-5)


def spelt(path: str, labels: str) -> Tensor:
    """Logits [1, T, V] whose best path is ``path``."""
    return 9.0 * torch.nn.functional.one_hot(torch.tensor([[labels.index(label) for label in path]]), len(labels))


@pytest.mark.parametrize("labels", ["_AB ", "AB _", " B_A"])
def test_repeats_merge_unless_a_blank_stands_between_wherever_the_blank_is_among_the_labels(labels: str) -> None:
    (hypothesis,) = decode.greedy(Logits(spelt("__AA_ABB _", labels), torch.tensor([10])), tuple(labels))
    assert hypothesis.text == "AAB "
    assert hypothesis.token_frames == [2, 5, 6, 8]
    assert [labels[token] for token in hypothesis.tokens] == list("AAB ")
    assert hypothesis.score == pytest.approx(10 * -math.log(1 + 3 * math.exp(-9)), abs=1e-5)


def test_frames_past_the_end_are_not_read_nor_scored() -> None:
    values = spelt("AABB", "_AB").repeat(3, 1, 1)
    values[:, 3] = torch.nan
    short, none, longer = decode.greedy(Logits(values, torch.tensor([2, 0, 3])), "_AB")
    assert (short.text, none.text, longer.text) == ("A", "", "AB")
    assert none == decode.Hypothesis("", [], [], 0.0)
    assert short.score == pytest.approx(2 / 3 * longer.score)


def test_an_utterance_reads_the_same_alone_as_in_a_batch() -> None:
    values = torch.randn(4, 50, 29, generator=torch.Generator().manual_seed(0))
    lengths, labels = torch.tensor([50, 1, 33, 17]), "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
    together = decode.greedy(Logits(values, lengths), labels)
    for row, length in enumerate(lengths.tolist()):
        (alone,) = decode.greedy(Logits(values[row : row + 1, :length], lengths[row : row + 1]), labels)
        assert alone[:3] == together[row][:3]
        assert alone.score == pytest.approx(together[row].score, rel=1e-6)


def test_of_equal_scores_the_first_label_is_taken() -> None:
    values = torch.tensor([[[0.0, 2.0, 2.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]])
    (hypothesis,) = decode.greedy(Logits(values, torch.tensor([3])), "AB_")
    assert hypothesis.text == "BA"
    assert hypothesis.token_frames == [0, 1]


def test_half_precision_names_every_label_of_a_large_set() -> None:
    labels = ["_", *map(chr, range(0x4E00, 0x4E00 + 1000))]
    values = torch.zeros(1, 1, len(labels), dtype=torch.bfloat16)
    values[0, 0, 777] = 1.0
    assert decode.greedy(Logits(values, torch.tensor([1])), labels)[0].tokens == [777]


def test_an_empty_batch_has_no_readings() -> None:
    assert decode.greedy(Logits(torch.zeros(0, 7, 3), torch.zeros(0, dtype=torch.int64)), "_AB") == []


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 40), max_size=6), st.integers(0, 3))
def test_a_path_extended_piece_by_piece_has_the_tokens_of_the_whole(
    best: list[int], cuts: list[int], blank: int
) -> None:
    labels = ["A", "B", "C"]
    labels.insert(blank, "_")
    path, bounds = decode.BestPath(), [0, *sorted(min(cut, len(best)) for cut in cuts), len(best)]
    for begin, end in itertools.pairwise(bounds):
        path = decode.extend(path, best[begin:end], blank=blank)
    values = torch.nn.functional.one_hot(torch.tensor([best], dtype=torch.int64), 4).float()
    (whole,) = decode.greedy(Logits(values, torch.tensor([len(best)])), labels)
    assert list(path.tokens) == whole.tokens
