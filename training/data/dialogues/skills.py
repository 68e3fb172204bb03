"""Questions that carry everything their answer needs: arithmetic, counting, unit conversion, small talk."""

from __future__ import annotations

from random import Random

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
)
SMALL_TALK = (
    (("Hello!", "Hi!", "Hello", "Hi", "Good morning!"), "Hello! How can I help you?"),
    (("Who are you?", "What are you?", "What is your name?"), "I am Caracal, a very small language model."),
    (("Thank you!", "Thanks!", "Thank you."), "You are welcome."),
    (
        ("What can you do?", "How can you help me?", "Help"),
        "I can add, count, convert units, remember facts and call tools.",
    ),
    (("Goodbye!", "Bye!", "Good night!"), "Goodbye!"),
)


def arithmetic(rng: Random) -> Question:
    kind = rng.choice("+-*")
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
    forms = ("What is {}?", "What is {}?", "Compute {}.", "How much is {}?", "{} = ?", "{}")
    return "arithmetic", rng.choice(forms).format(term), f"{a} {kind} {b} = {answer}"


def counting(rng: Random) -> Question:
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
    ask = rng.choice(("Count", "Please count")) + (" down" if down else rng.choice(("", " up")))
    pace = "" if step == 1 else rng.choice((f" by {step}", f" in steps of {step}"))
    return "counting", f"{ask} from {numbers[0]} to {numbers[-1]}{pace}.", ", ".join(map(str, numbers))


def _amount(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def conversion(rng: Random) -> Question:
    unit, small, factor, most = rng.choice(UNITS)
    number = rng.randint(1, most)
    amount = _amount(number, unit)
    verb = "is" if number == 1 else "are"
    forms = (
        f"How many {small}s {verb} {amount}?",
        f"Convert {amount} to {small}s.",
        f"What {verb} {amount} in {small}s?",
    )
    return "conversion", rng.choice(forms), f"{number * factor} {small}s"


def small_talk(rng: Random) -> Question:
    questions, answer = rng.choice(SMALL_TALK)
    return "small talk", rng.choice(questions), answer
