"""Tools that a dialogue may declare, and exchanges with them: question, call, result, answer.

Names, parameters and descriptions differ from dialogue to dialogue, so that declarations have to be read. A question
whose tool is not declared is answered by saying so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from training.data.declarations import declaration
from training.data.words import vocabulary as words
from training.data.words.forms import ask
from training.data.words.vocabulary import Novelty, choose, invented

NO_TOOL = "I have no tool for that."
LOOKUPS = (
    "price", "height", "age", "balance", "score", "weight", "rank", "length", "number", "level", "speed", "width",
    "depth", "rating", "total", "size", "grade", "limit", "budget", "distance",
)  # fmt: skip
SUBJECTS: tuple[tuple[str, Callable[[Random, bool], str]], ...] = (
    ("city", words.city),
    ("person", words.person),
    ("item", lambda rng, novel: choose(rng, words.ITEMS, novel)),
)


@dataclass(frozen=True)
class Exchange:
    question: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    answer: str


@dataclass(frozen=True)
class Tool:
    """A declared tool; `exchange` draws a question that it answers. `subject` tells tools of one kind apart."""

    subject: str
    name: str
    description: str
    properties: dict[str, str]  # argument -> JSON schema type
    exchange: Callable[[Random, Novelty], Exchange]

    def schema(self, rng: Random) -> dict[str, Any]:
        """Returns a declaration for the OpenAI API, in one of the ways in which clients write them."""
        return declaration(rng, self.name, self.description, {p: {"type": t} for p, t in self.properties.items()})


def _weather(rng: Random, novelty: Novelty) -> Tool:
    parameter = rng.choice(("city", "city", "location", "place"))

    def exchange(rng: Random, novelty: Novelty) -> Exchange:
        place, degrees = words.city(rng, novelty.words), rng.randint(0, 35)
        sky = choose(rng, words.SKIES, novelty.words)
        forms = ("What is the weather in {c}?", "How is the weather in {c}?", "Tell me the weather in {c}.")
        return Exchange(
            ask(rng, forms, novelty.forms, c=place),
            {parameter: place},
            {"celsius": degrees, "sky": sky},
            f"It is {degrees} degrees and {sky} in {place}.",
        )

    name = rng.choice(("get_weather", "weather", "current_weather", "lookup_weather"))
    return Tool("weather", name, "Current weather of a city.", {parameter: "string"}, exchange)


def _time(rng: Random, novelty: Novelty) -> Tool:
    parameter = rng.choice(("city", "location", "place"))

    def exchange(rng: Random, novelty: Novelty) -> Exchange:
        place, time = words.city(rng, novelty.words), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
        forms = ("What time is it in {c}?", "Tell me the time in {c}.", "What is the time in {c}?")
        return Exchange(
            ask(rng, forms, novelty.forms, c=place), {parameter: place}, {"time": time}, f"It is {time} in {place}."
        )

    name = rng.choice(("get_time", "local_time", "clock", "current_time"))
    return Tool("time", name, "Local time in a city.", {parameter: "string"}, exchange)


def _timer(rng: Random, novelty: Novelty) -> Tool:
    def exchange(rng: Random, novelty: Novelty) -> Exchange:
        minutes = rng.randint(2, 59)
        forms = ("Set a timer for {m} minutes.", "Wake me in {m} minutes.", "Start a timer of {m} minutes.")
        answer = f"The timer is set for {minutes} minutes."
        return Exchange(ask(rng, forms, novelty.forms, m=minutes), {"minutes": minutes}, {"ok": True}, answer)

    name = rng.choice(("set_timer", "start_timer", "timer"))
    return Tool("timer", name, "Rings after some minutes.", {"minutes": "integer"}, exchange)


def _cart(rng: Random, novelty: Novelty) -> Tool:
    def exchange(rng: Random, novelty: Novelty) -> Exchange:
        item, quantity, total = choose(rng, words.ITEMS, novelty.words), rng.randint(2, 20), rng.randint(20, 99)
        forms = ("Put {q} {i} in the cart.", "Add {q} {i} to my cart.", "I want to buy {q} {i}.", "Order {q} {i}.")
        return Exchange(
            ask(rng, forms, novelty.forms, q=quantity, i=item),
            {"item": item, "quantity": quantity},
            {"total": total},
            f"Added {quantity} {item}. The cart holds {total} items.",
        )

    name = rng.choice(("add_to_cart", "put_in_cart", "order_items"))
    return Tool("cart", name, "Puts items in the cart.", {"item": "string", "quantity": "integer"}, exchange)


def _message(rng: Random, novelty: Novelty) -> Tool:
    def exchange(rng: Random, novelty: Novelty) -> Exchange:
        person, text = words.person(rng, novelty.words), choose(rng, words.NOTES, novelty.words)
        forms = ("Write to {p}: {t}.", "Send {p} a message: {t}.", "Text {p}: {t}.")
        answer = f"The message to {person} is sent."
        return Exchange(
            ask(rng, forms, novelty.forms, p=person, t=text), {"to": person, "text": text}, {"ok": True}, answer
        )

    name = rng.choice(("send_message", "send_text", "write_to"))
    return Tool("message", name, "Sends a text to a person.", {"to": "string", "text": "string"}, exchange)


def _multiply(rng: Random, novelty: Novelty) -> Tool:
    def exchange(rng: Random, novelty: Novelty) -> Exchange:
        a, b = rng.randint(100, 999), rng.randint(11, 99)
        forms = ("What is {a} * {b}?", "What is {a} times {b}?", "Multiply {a} by {b}.")
        question = ask(rng, forms, novelty.forms, a=a, b=b)
        return Exchange(question, {"a": a, "b": b}, {"product": a * b}, f"The product is {a * b}.")

    name = rng.choice(("multiply", "product", "times"))
    return Tool("multiply", name, "Product of two large numbers.", {"a": "integer", "b": "integer"}, exchange)


def _lookup(rng: Random, novelty: Novelty) -> Tool:
    """A tool for a property that may have an invented name, of a city, a person or an item."""
    listed = rng.random() < 0.5
    what = choose(rng, LOOKUPS, novelty.words) if listed else invented(rng, novelty.words, 2)
    kind, draw = rng.choice(SUBJECTS)

    def exchange(rng: Random, novelty: Novelty) -> Exchange:
        subject, value = draw(rng, novelty.words), rng.randint(1, 99)
        forms = ("What is the {w} of {s}?", "Tell me the {w} of {s}.", "Give me the {w} of {s}.", "{w} of {s}?")
        question = ask(rng, forms, novelty.forms, w=what, s=subject)
        return Exchange(question, {kind: subject}, {what: value}, f"The {what} of {subject} is {value}.")

    name = rng.choice((f"get_{what}", f"{what}_of", f"find_{what}", f"{what}"))
    return Tool(f"{what} of {kind}", name, f"The {what} of a {kind}.", {kind: "string"}, exchange)


FAMILIES = (_weather, _time, _timer, _cart, _message, _multiply, _lookup, _lookup, _lookup, _lookup)


def draw_tools(rng: Random, novelty: Novelty, count: int) -> list[Tool]:
    """Returns `count` tools with different names and different purposes."""
    tools: list[Tool] = []
    while len(tools) < count:
        tool = rng.choice(FAMILIES)(rng, novelty)
        if all(tool.name != other.name and tool.subject != other.subject for other in tools):
            tools.append(tool)
    return tools


def missing_tool(rng: Random, novelty: Novelty, declared: list[Tool]) -> str:
    """Returns a question for which none of the declared tools is there; one of them may be close to it."""
    while True:
        tool = rng.choice(FAMILIES)(rng, novelty)
        if tool.subject not in [other.subject for other in declared]:
            return tool.exchange(rng, novelty).question
