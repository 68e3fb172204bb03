"""Questions that carry everything their answer needs: arithmetic, counting, conversion of known and of stated units."""

from __future__ import annotations

from random import Random

from training.data.words.forms import ask
from training.data.words.vocabulary import Novelty, invented

Question = tuple[str, str, str]  # category, question, answer

UNITS = (
    ("metre", "centimetre", 100, 20),
    ("kilometre", "metre", 1000, 20),
    ("kilogram", "gram", 1000, 20),
    ("litre", "millilitre", 1000, 20),
    ("minute", "second", 60, 12),
    ("hour", "minute", 60, 12),
    ("week", "day", 7, 12),
    ("day", "hour", 24, 7),
    ("year", "month", 12, 10),
    ("tonne", "kilogram", 1000, 20),
    ("dozen", "piece", 12, 10),
    ("foot", "inch", 12, 10),
)
PLURALS = {"foot": "feet", "inch": "inches", "dozen": "dozen"}


def arithmetic(rng: Random, novelty: Novelty) -> Question:
    kind = rng.choice("++---*")
    if kind == "+":
        total = rng.randint(2, 100)
        a = rng.randint(0, total)
        b, answer = total - a, total
    elif kind == "-":
        a = rng.randint(1, 100)
        b = rng.randint(0, a)
        answer = a - b
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        answer = a * b
    sign = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "times")}[kind]
    term = f"{a} {rng.choice(sign)} {b}"
    if "plus" not in term and rng.random() < 0.08:
        term = term.replace(" ", "")
    forms = ("What is {term}?", "What's {term}?", "Compute {term}.", "How much is {term}?", "{term} = ?", "{term}")
    return "arithmetic", ask(rng, forms, novelty.forms, term=term), f"{a} {kind} {b} = {answer}"


def counting(rng: Random, novelty: Novelty) -> Question:
    step = rng.choice((1, 1, 1, 2, 3, 5, 10))
    length = rng.randint(3, 8)
    top = 100 if step >= 5 else 60
    first = rng.randint(0, max(1, top - step * (length - 1)))
    if step >= 5 and rng.random() < 0.8:
        first -= first % step
    numbers = [first + step * i for i in range(length)]
    down = rng.random() < 0.35
    if down:
        numbers.reverse()
    verbs = ("Count", "Please count", "Count for me", "Can you count")
    ways = (" down",) if down else ("", " up")
    paces = ("",) if step == 1 else (" by {step}", " in steps of {step}")
    forms = [f"{verb}{way} from {{a}} to {{b}}{pace}." for verb in verbs for way in ways for pace in paces]
    question = ask(rng, forms, novelty.forms, a=numbers[0], b=numbers[-1], step=step)
    return "counting", question, ", ".join(map(str, numbers))


def amount(number: int, unit: str) -> str:
    return f"{number} {unit if number == 1 else PLURALS.get(unit, unit + 's')}"


def conversion(rng: Random, novelty: Novelty) -> Question:
    """Known units, or, of the unseen half always, invented ones whose size the question states."""
    if novelty.words or rng.random() < 0.35:
        return stated_conversion(rng, novelty)
    unit, small, factor, most = rng.choice(UNITS)
    number = rng.randint(1, most)
    forms = (
        "How many {smalls} {verb} {amount}?",
        "Convert {amount} to {smalls}.",
        "What {verb} {amount} in {smalls}?",
        "{amount} in {smalls}?",
    )
    values = {
        "smalls": PLURALS.get(small, small + "s"),
        "verb": "is" if number == 1 else "are",
        "amount": amount(number, unit),
    }
    return "conversion", ask(rng, forms, novelty.forms, **values), amount(number * factor, small)


def stated_conversion(rng: Random, novelty: Novelty) -> Question:
    unit, small = (invented(rng, novelty.words, 2) for _ in range(2))
    factor, number = rng.randint(2, 10), rng.randint(2, 10)
    forms = (
        "One {unit} is {factor} {small}s. How many {small}s are {number} {unit}s?",
        "There are {factor} {small}s in a {unit}. What are {number} {unit}s in {small}s?",
        "A {unit} has {factor} {small}s. Convert {number} {unit}s to {small}s.",
    )
    question = ask(rng, forms, novelty.forms, unit=unit, small=small, factor=factor, number=number)
    return "stated unit", question, f"{number * factor} {small}s"
