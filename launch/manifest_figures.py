"""What ``launch.manifest`` prints about a manifest."""

from typing import TYPE_CHECKING

from ds2f.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds2f.data.manifest_opening import OpenedManifest
    from ds2f.data.manifest_statistics import Statistics
    from ds2f.data.manifests import Utterance

_BAR = 40  # characters of the longest bar
_LISTED = 40  # characters outside the labels


def print_verdict(opened: "OpenedManifest") -> None:
    """Prints how many rows of a manifest can be used."""
    wrong = len(opened.checked.problems)
    print(
        f"{shown(str(opened.path))}: {opened.checked.rows:,} rows, "
        + (f"{wrong:,} wrong" if wrong else f"all whole, {_time(sum(each.duration for each in opened.utterances))}")
        + (f", {opened.repeated:,} repeated" if opened.repeated else "")
    )
    for remark in opened.remarks:
        print(shown(f"  {remark}"))
    if empty := sum(not each.transcript for each in opened.utterances):
        print(f"  {empty:,} transcripts are empty")


def size(utterances: "Sequence[Utterance]") -> str:
    """The number and length of utterances."""
    return f"{len(utterances):,} utterances, {_time(sum(each.duration for each in utterances))}"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} hours" if seconds >= 3600 else f"{seconds / 60:.2f} minutes"


def print_statistics(name: str, found: "Statistics") -> None:
    """Prints hours, speakers, words, a histogram of lengths, and the characters outside the labels."""
    from ds2f.data.manifest_statistics import EDGES

    print(shown(name))
    langs = ", ".join(f"{lang} {number:,}" for lang, number in found.langs.most_common(10))
    for what, value in (
        ("utterances", f"{found.utterances:,}"),
        ("in all", _time(found.seconds)),
        ("seconds", f"{found.shortest:.2f} to {found.longest:.2f}, median {found.median:.2f}"),
        ("speakers", f"{found.speakers:,}" if found.speakers else "unknown"),
        ("languages", shown(langs)),
        ("words", f"{found.words:,}"),
        ("characters", f"{found.characters:,}, without spaces"),
    ):
        if value:
            print(f"  {what:<10}  {value}")
    used = [index for index, number in enumerate(found.lengths) if number]
    print("  length, s   utterances")
    for index in range(used[0], used[-1] + 1):
        upper = f"{EDGES[index + 1]:g}" if index + 1 < len(EDGES) else "more"
        bar = "#" * -(-_BAR * found.lengths[index] // max(found.lengths))
        print(f"  {f'{EDGES[index]:g} to {upper}':<12}{found.lengths[index]:>9,} {bar}".rstrip())
    if found.outside:
        listed = ", ".join(f"{mark!r} {number:,}" for mark, number in found.outside.most_common(_LISTED))
        more = f" and {len(found.outside) - _LISTED:,} more" if len(found.outside) > _LISTED else ""
        print(shown(f"  outside the labels: {listed}{more}"))
