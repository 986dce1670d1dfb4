"""Sentences of AN4's kind in English: commands, spelt names, digits, numbers and dates, in capitals."""

import random

_DIGITS = ("ZERO", "OH", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_TEENS = ("TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN")
_TENS = ("TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY")
_MONTHS = (
    *("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE"),
    *("JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"),
)
_ORDINALS = ("FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH", "SIXTH", "SEVENTH", "EIGHTH", "NINTH", "TENTH", "TWELFTH")
_ALONE = ("YES", "NO", "GO", "STOP", "HELP", "START", "ENTER", "ERASE", "REPEAT")
_COMMANDS = ("ENTER", "ERASE", "RUBOUT", "REPEAT")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAMES = (
    "ADAMS ALICE AMBER BAKER BLAKE BOSTON BRIAN BRUCE CAROL CHICAGO CLARK DALLAS DAVID DENVER DIANE EDITH ELLIS "
    "EMILY ERIC EVANS FELIX FLOYD FRANK GRACE GRANT GREEN HARRY HELEN HENRY HUGHES IRENE ISAAC JAMES JASON JOYCE "
    "JULIA KAREN KEITH KELLY LAURA LEWIS LINDA LOGAN MARTIN MAXINE MIAMI MOORE NANCY NEWTON NORMAN OAKLAND OLIVER "
    "OSCAR PARIS PETER PHILIP QUENTIN QUINN RALPH REGINA ROBERT SALEM SIMON SUSAN TAMPA TAYLOR TULSA URBAN UTICA "
    "VICTOR VIOLA WALKER WALTER WENDY XAVIER YONKERS YVONNE ZELDA ZURICH"
)


def sentence(draw: random.Random) -> str:
    """A sentence, in capitals."""
    return " ".join(draw.choice(_KINDS)(draw))


def spoken_form(transcript: str) -> str:
    """Text for espeak-ng: a comma after each letter, so that A is no article; RUBOUT as two words."""
    words = [f"{word}," if len(word) == 1 else word.lower().replace("rubout", "rub out") for word in transcript.split()]
    return " ".join(words).rstrip(",")


def _alone(draw: random.Random) -> list[str]:
    return [draw.choice(_ALONE)]


def _command(draw: random.Random) -> list[str]:
    letters = [draw.choice(_LETTERS) for _ in range(draw.randint(0, 3))]
    return [draw.choice(_COMMANDS), *letters, *draw.choice((_digits, _numbers))(draw)[:2]]


def _spelled(draw: random.Random) -> list[str]:
    if draw.random() < 0.5:
        return list(draw.choice(_NAMES.split()))
    return [draw.choice(_LETTERS) for _ in range(draw.randint(3, 6))]


def _digits(draw: random.Random) -> list[str]:
    return [draw.choice(_DIGITS) for _ in range(draw.randint(2, 5))]


def _numbers(draw: random.Random) -> list[str]:
    words = []
    for _ in range(draw.randint(1, 2)):
        words += [draw.choice(_TENS), draw.choice(_DIGITS[2:])] if draw.random() < 0.7 else [draw.choice(_TEENS)]
    return words


def _date(draw: random.Random) -> list[str]:
    return [draw.choice(_MONTHS), draw.choice(_ORDINALS), *(["NINETEEN", *_numbers(draw)[:2]] * draw.randint(0, 1))]


_KINDS = (
    _alone,
    _command,
    _command,
    _spelled,
    _spelled,
    _digits,
    _numbers,
    _date,
)  # a kind's probability follows from its number of entries
