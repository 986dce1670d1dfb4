"""Sentences in German, in the usual spelling without punctuation: numbers, times, places, commands, shopping."""

import random

_ONES = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf")
_TENS = ("", "zehn", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")
_MONTHS = (
    *("Januar", "Februar", "März", "April", "Mai", "Juni"),
    *("Juli", "August", "September", "Oktober", "November", "Dezember"),
)
_ORDINALS = (
    "ersten",
    "zweiten",
    "dritten",
    "vierten",
    "fünften",
    "sechsten",
    "siebten",
    "achten",
    "neunten",
    "zehnten",
)
_WEEKDAYS = ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag")
_CITIES = ("Berlin", "Hamburg", "München", "Köln", "Leipzig", "Dresden", "Nürnberg", "Wien", "Zürich", "Bremen")
_ROOMS = ("in der Küche", "im Flur", "im Bad", "im Wohnzimmer", "im Büro", "im Garten", "in der Garage")
_DEVICES = ("das Licht", "die Heizung", "den Fernseher", "das Radio", "die Lampe", "den Ofen")
_GOODS = ("Äpfel", "Birnen", "Brötchen", "Eier", "Zwiebeln", "Flaschen Wasser", "Tüten Milch", "Gläser Honig")
_PLACES = ("der Bahnhof", "die Apotheke", "das Museum", "die Post", "der Flughafen", "das Rathaus", "die Brücke")
_ALONE = ("ja", "nein", "danke", "bitte", "stopp", "weiter", "Hilfe", "wiederholen", "grüß dich", "auf Wiedersehen")


def number(value: int) -> str:
    """A whole number from 0 to 999 as a word.

    >>> [number(value) for value in (1, 12, 16, 17, 21, 30, 476)]
    ['eins', 'zwölf', 'sechzehn', 'siebzehn', 'einundzwanzig', 'dreißig', 'vierhundertsechsundsiebzig']
    """
    if value < len(_ONES):
        return _ONES[value]
    hundreds, rest = divmod(value, 100)
    if hundreds:
        return f"{'ein' if hundreds == 1 else _ONES[hundreds]}hundert{number(rest) if rest else ''}"
    tens, ones = divmod(value, 10)
    if tens == 1:
        return {6: "sech", 7: "sieb"}.get(ones, _ONES[ones]) + "zehn"
    return f"{'ein' if ones == 1 else _ONES[ones]}und{_TENS[tens]}" if ones else _TENS[tens]


def sentence(draw: random.Random) -> str:
    """A sentence without punctuation; nouns have capitals."""
    return draw.choice(_KINDS)(draw)


def spoken_form(transcript: str) -> str:
    """Text for espeak-ng: the transcript itself."""
    return transcript


def _alone(draw: random.Random) -> str:
    return draw.choice(_ALONE)


def _numbers(draw: random.Random) -> str:
    return " ".join(number(draw.randint(0, draw.choice((9, 99, 999)))) for _ in range(draw.randint(2, 3)))


def _time(draw: random.Random) -> str:
    hour = draw.randint(0, 23)
    minute = draw.choice(("", f" {number(draw.randint(1, 59))}"))
    return f"{'ein' if hour == 1 else number(hour)} Uhr{minute}"


def _date(draw: random.Random) -> str:
    return f"am {draw.choice(_ORDINALS)} {draw.choice(_MONTHS)} um {_time(draw)}"


def _switch(draw: random.Random) -> str:
    return f"schalte {draw.choice(_DEVICES)} {draw.choice(_ROOMS)} {draw.choice(('ein', 'aus'))}"


def _journey(draw: random.Random) -> str:
    start, end = draw.sample(_CITIES, 2)
    return f"der Zug von {start} nach {end} fährt am {draw.choice(_WEEKDAYS)} um {_time(draw)}"


def _shopping(draw: random.Random) -> str:
    return f"ich möchte {number(draw.randint(2, 99))} {draw.choice(_GOODS)}"


def _way(draw: random.Random) -> str:
    return f"wo ist {draw.choice(_PLACES)} in {draw.choice(_CITIES)}"


_KINDS = (
    *(_numbers, _numbers, _time, _date, _date, _switch, _switch),
    *(_journey, _journey, _shopping, _shopping, _way, _alone),
)  # a kind's probability follows from its number of entries
