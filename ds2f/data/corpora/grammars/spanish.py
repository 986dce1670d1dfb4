"""Sentences in Spanish, in lower case without punctuation: numbers, times, places, commands, shopping."""

import random

_ONES = (
    *("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    *("diez", "once", "doce", "trece", "catorce", "quince", "dieciséis", "diecisiete", "dieciocho", "diecinueve"),
    *("veinte", "veintiuno", "veintidós", "veintitrés", "veinticuatro", "veinticinco", "veintiséis"),
    *("veintisiete", "veintiocho", "veintinueve"),
)
_TENS = ("", "", "", "treinta", "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa")
_MONTHS = (
    *("enero", "febrero", "marzo", "abril", "mayo", "junio"),
    *("julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
)
_WEEKDAYS = ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo")
_CITIES = ("madrid", "sevilla", "bogotá", "lima", "málaga", "zaragoza", "bilbao", "córdoba", "valencia", "cúcuta")
_ROOMS = ("de la cocina", "del baño", "del salón", "del jardín", "de la oficina", "del garaje")
_DEVICES = ("la luz", "la radio", "la televisión", "la lámpara", "el horno", "la calefacción")
_GOODS = ("manzanas", "naranjas", "huevos", "cebollas", "botellas de agua", "piñas", "panes", "litros de leche")
_PLACES = ("la estación", "el museo", "la farmacia", "el aeropuerto", "la playa", "el hospital", "la montaña")
_ALONE = ("sí", "no", "gracias", "por favor", "ayuda", "adelante", "para", "repítelo", "hasta mañana", "adiós")


def number(value: int) -> str:
    """A whole number from 0 to 99 in words.

    >>> [number(value) for value in (0, 16, 22, 31, 80, 99)]
    ['cero', 'dieciséis', 'veintidós', 'treinta y uno', 'ochenta', 'noventa y nueve']
    """
    if value < len(_ONES):
        return _ONES[value]
    tens, ones = divmod(value, 10)
    return f"{_TENS[tens]} y {_ONES[ones]}" if ones else _TENS[tens]


def sentence(draw: random.Random) -> str:
    """A sentence in lower case without punctuation."""
    return draw.choice(_KINDS)(draw)


def spoken_form(transcript: str) -> str:
    """Text for espeak-ng: the transcript itself."""
    return transcript


def _alone(draw: random.Random) -> str:
    return draw.choice(_ALONE)


def _numbers(draw: random.Random) -> str:
    return " ".join(number(draw.randint(0, 99)) for _ in range(draw.randint(2, 4)))


def _time(draw: random.Random) -> str:
    minute = draw.choice(("", " y media", " y cuarto", f" y {number(draw.randint(3, 29))}"))
    hour = draw.randint(1, 11)
    part = "tarde" if hour < 8 else draw.choice(("mañana", "noche"))
    return f"{'la una' if hour == 1 else f'las {number(hour)}'}{minute} de la {part}"


def _date(draw: random.Random) -> str:
    return f"el {draw.choice(_WEEKDAYS)} {number(draw.randint(2, 30))} de {draw.choice(_MONTHS)}"


def _switch(draw: random.Random) -> str:
    return f"{draw.choice(('enciende', 'apaga'))} {draw.choice(_DEVICES)} {draw.choice(_ROOMS)}"


def _journey(draw: random.Random) -> str:
    start, end = draw.sample(_CITIES, 2)
    return f"el tren de {start} a {end} sale a {_time(draw)}"


def _shopping(draw: random.Random) -> str:
    return f"{draw.choice(('quiero', 'compra'))} {number(draw.randint(2, 20))} {draw.choice(_GOODS)}"


def _way(draw: random.Random) -> str:
    return f"dónde está {draw.choice(_PLACES)} de {draw.choice(_CITIES)}"


_KINDS = (
    *(_numbers, _numbers, _time, _date, _date, _switch, _switch),
    *(_journey, _journey, _shopping, _shopping, _way, _alone),
)  # a kind's probability follows from its number of entries
