"""ARPA files written, read and scored straight from their definition, for tests to compare with."""

import math

# A made-up model of words, of order 2, as ``write`` takes it.
WORDS = {
    ("<unk>",): (-2.0, 0.0), ("<s>",): (-9.0, -0.3), ("</s>",): (-0.8, 0.0), ("A",): (-0.6, -0.2),
    ("AB",): (-0.9, -0.4), ("B",): (-1.1, 0.0), ("<s>", "AB"): (-0.2, 0.0), ("A", "B"): (-0.1, 0.0),
    ("B", "</s>"): (-0.15, 0.0), ("AB", "A"): (-0.5, 0.0),
}  # fmt: skip
# One of characters, of order 3.
CHARACTERS = {
    ("<unk>",): (-2.0, 0.0), ("<s>",): (-9.0, -0.3), ("</s>",): (-0.8, 0.0), ("A",): (-0.6, -0.2),
    ("B",): (-0.9, -0.4), ("<space>",): (-1.0, -0.1), ("<s>", "B"): (-0.2, -0.2), ("A", "B"): (-0.1, -0.3),
    ("B", "A"): (-0.4, 0.1), ("B", "</s>"): (-0.15, 0.0), ("<s>", "B", "A"): (-0.3, 0.0), ("B", "A", "B"): (-1.5, 0.0),
}  # fmt: skip


def write(path, ngrams):
    """Writes n-grams, ``{("A", "B"): (decimal log-probability, back-off weight)}``, and returns the path."""
    order = max(map(len, ngrams))
    sizes = [[key for key in ngrams if len(key) == size] for size in range(1, order + 1)]
    lines = ["\\data\\", *(f"ngram {size}={len(keys)}" for size, keys in enumerate(sizes, 1))]
    for size, keys in enumerate(sizes, 1):
        lines += ["", f"\\{size}-grams:"]
        for key in keys:
            probability, backoff = ngrams[key]
            lines.append(f"{probability}\t{' '.join(key)}" + (f"\t{backoff}" if size < order else ""))
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path


def read(text):
    """The n-grams of a file's text, as ``write`` takes them."""
    found, size = {}, 0
    for line in text.splitlines():
        if line.startswith("\\"):
            size = int(line[1:].partition("-")[0]) if line.endswith("-grams:") else 0
        elif size and line:
            probability, words, *backoff = line.split("\t")
            found[tuple(words.split(" "))] = (float(probability), float(backoff[0]) if backoff else 0.0)
            assert len(words.split(" ")) == size
    return found


def log10(ngrams, history, token):
    """The decimal log-probability of a token after a history, by Katz's back-off."""
    if (*history, token) in ngrams:
        return ngrams[(*history, token)][0]
    if not history:
        return ngrams[("<unk>",)][0]
    return ngrams.get(history, (0.0, 0.0))[1] + log10(ngrams, history[1:], token)


def sentence(ngrams, tokens):
    """The natural log-probability of a sentence, its end included."""
    order = max(map(len, ngrams))
    history, total = ("<s>",), 0.0
    for token in (*tokens, "</s>"):
        total += log10(ngrams, history[-(order - 1) :], token)
        history = (*history, token)
    return total * math.log(10)
