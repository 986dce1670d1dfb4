"""Sentences in Mandarin, in simplified characters without spaces: numbers, times, places, commands, weather."""

import random

_DIGITS = "零一二三四五六七八九"
_UNITS = ("千", "百", "十", "")
_DAYS = ("今天", "明天", "后天", "昨天")
_PARTS = (("早上", 5, 8), ("上午", 8, 11), ("中午", 12, 12), ("下午", 1, 6), ("晚上", 7, 11))  # with their hours
_CITIES = ("北京", "上海", "广州", "天津", "南京", "西安", "成都", "杭州")
_PLACES = ("银行", "医院", "学校", "超市", "饭店", "公园", "火车站", "机场", "药店")
_ROOMS = ("客厅", "卧室", "厨房", "书房")
_DEVICES = ("灯", "空调", "电视", "窗户", "音乐")
_GOODS = ("苹果", "牛肉", "鸡蛋", "白菜", "面包")
_DRINKS = ("水", "牛奶", "绿茶")
_VEHICLES = ("火车", "飞机", "汽车", "高铁")
_PEOPLE = ("爸爸", "妈妈", "老师", "医生", "哥哥", "王先生", "李小姐", "张经理")
_TASKS = ("起床", "开会", "吃饭", "吃药", "回家", "上课", "打电话")
_SKIES = ("有雨", "有雪", "晴天", "多云", "很冷", "很热")
_SIDES = ("东边", "西边", "南边", "北边", "左边", "右边", "前面")
_ALONE = ("好的", "谢谢", "再见", "停止", "是的", "不是", "没有问题", "请再说一遍", "我不知道")


def number(value: int) -> str:
    """A whole number from 0 to 9,999 in characters.

    >>> [number(value) for value in (0, 10, 15, 20, 105, 110, 2026, 3007)]
    ['零', '十', '十五', '二十', '一百零五', '一百一十', '二千零二十六', '三千零七']
    """
    if value < 10:
        return _DIGITS[value]
    written = ""
    for digit, unit in zip(map(int, f"{value:04d}"), _UNITS, strict=True):
        if digit:
            written += _DIGITS[digit] + unit
        elif written and not written.endswith("零"):
            written += "零"
    written = written.rstrip("零")
    return written[1:] if written.startswith("一十") else written


def sentence(draw: random.Random) -> str:
    """A sentence, without spaces and punctuation."""
    return draw.choice(_KINDS)(draw)


def spoken_form(transcript: str) -> str:
    """Text for espeak-ng: the transcript itself."""
    return transcript


def _maybe(draw: random.Random, text: str) -> str:
    return text if draw.random() < 0.5 else ""


def _alone(draw: random.Random) -> str:
    return draw.choice(_ALONE)


def _digits(draw: random.Random) -> str:
    return _maybe(draw, "号码是") + "".join(draw.choice(_DIGITS) for _ in range(draw.randint(3, 6)))


def _date(draw: random.Random) -> str:
    year = "".join(draw.choice(_DIGITS) for _ in range(2))
    month = draw.randint(1, 12)
    day = f"{number(month)}月{number(draw.randint(1, 28 if month == 2 else 30))}号"
    return _maybe(draw, f"二零{year}年") + day + _maybe(draw, f"星期{draw.choice('一二三四五六天')}")


def _time(draw: random.Random) -> str:
    part, first, last = draw.choice(_PARTS)
    hour = draw.randint(first, last)
    minute = draw.choice(("", "半", f"{number(draw.randint(11, 59))}分"))
    return f"{part}{'两' if hour == 2 else number(hour)}点{minute}"


def _reminder(draw: random.Random) -> str:
    return f"{_maybe(draw, '请')}{draw.choice(_DAYS[:3])}{_time(draw)}提醒我{draw.choice(_TASKS)}"


def _switch(draw: random.Random) -> str:
    return f"{_maybe(draw, '请')}{draw.choice(('打开', '关上'))}{draw.choice(_ROOMS)}的{draw.choice(_DEVICES)}"


def _temperature(draw: random.Random) -> str:
    return f"{draw.choice(_ROOMS)}的温度是{number(draw.randint(11, 39))}度"


def _journey(draw: random.Random) -> str:
    start, end = draw.sample(_CITIES, 2)
    vehicle = draw.choice(_VEHICLES)
    if draw.random() < 0.5:
        return f"从{start}到{end}的{vehicle}{_time(draw)}{draw.choice(('出发', '到'))}"
    return f"{draw.choice(('我', '我们', '他'))}想{draw.choice(_DAYS[1:3])}坐{vehicle}去{end}"


def _weather(draw: random.Random) -> str:
    forecast = f"{draw.choice(_CITIES)}{draw.choice(_DAYS)}{draw.choice(_SKIES)}"
    return forecast + _maybe(draw, f"气温{number(draw.randint(1, 39))}度")


def _shopping(draw: random.Random) -> str:
    amount = draw.choice(("一", "两", *_DIGITS[3:], "十"))
    goods = f"斤{draw.choice(_GOODS)}" if draw.random() < 0.6 else f"瓶{draw.choice(_DRINKS)}"
    price = f"{number(draw.randint(2, 999))}块钱"
    return f"{_maybe(draw, draw.choice(('我要买', '我们买了')))}{amount}{goods}{_maybe(draw, price)}"


def _way(draw: random.Random) -> str:
    place, other = draw.sample(_PLACES, 2)
    side = f"{place}在{other}的{draw.choice(_SIDES)}"
    return draw.choice((f"请问{place}在哪里", f"去{place}怎么走", side, side))


def _call(draw: random.Random) -> str:
    person = draw.choice(_PEOPLE)
    return draw.choice((f"打电话给{person}", f"{person}{_time(draw)}来", f"{draw.choice(_DAYS)}{person}在家"))


_KINDS = (
    *(_digits, _date, _date, _time, _reminder, _reminder, _switch, _switch, _temperature, _journey, _journey),
    *(_weather, _weather, _shopping, _shopping, _shopping, _way, _way, _way, _call, _call, _alone, _alone),
)  # a kind's probability follows from its number of entries
