"""Tools that a dialogue may declare, and examples of their use: question, call, result, answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from training.data.dialogues import words

NO_TOOL = "I have no tool for that."


@dataclass(frozen=True)
class ToolExchange:
    """A question, the call and result of a tool, and the answer."""

    question: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    answer: str


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    properties: dict[str, str]  # argument -> JSON schema type
    example: Callable[[Random], ToolExchange]

    def schema(self) -> dict[str, Any]:
        """Returns the declaration of the tool for the OpenAI API."""
        parameters = {
            "type": "object",
            "properties": {name: {"type": kind} for name, kind in self.properties.items()},
            "required": list(self.properties),
        }
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def _weather(rng: Random) -> ToolExchange:
    city, degrees, sky = rng.choice(words.CITIES), rng.randint(0, 35), rng.choice(words.SKIES)
    forms = ("What is the weather in {}?", "How is the weather in {}?", "Tell me the weather in {}.")
    return ToolExchange(
        rng.choice(forms).format(city),
        {"city": city},
        {"celsius": degrees, "sky": sky},
        f"It is {degrees} degrees and {sky} in {city}.",
    )


def _time(rng: Random) -> ToolExchange:
    city, time = rng.choice(words.CITIES), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    forms = ("What time is it in {}?", "Tell me the time in {}.")
    return ToolExchange(rng.choice(forms).format(city), {"city": city}, {"time": time}, f"It is {time} in {city}.")


def _timer(rng: Random) -> ToolExchange:
    minutes = rng.randint(2, 59)
    forms = ("Set a timer for {} minutes.", "Wake me in {} minutes.")
    answer = f"The timer is set for {minutes} minutes."
    return ToolExchange(rng.choice(forms).format(minutes), {"minutes": minutes}, {"ok": True}, answer)


def _cart(rng: Random) -> ToolExchange:
    item, quantity, total = rng.choice(words.ITEMS), rng.randint(2, 20), rng.randint(20, 99)
    forms = ("Put {} {} in the cart.", "Add {} {} to my cart.", "I want to buy {} {}.")
    return ToolExchange(
        rng.choice(forms).format(quantity, item),
        {"item": item, "quantity": quantity},
        {"total": total},
        f"Added {quantity} {item}. The cart holds {total} items.",
    )


def _message(rng: Random) -> ToolExchange:
    name, text = words.person(rng), rng.choice(words.NOTES)
    forms = ("Write to {}: {}.", "Send {} a message: {}.")
    question = rng.choice(forms).format(name, text)
    return ToolExchange(question, {"to": name, "text": text}, {"ok": True}, f"The message to {name} is sent.")


def _multiply(rng: Random) -> ToolExchange:
    a, b = rng.randint(100, 999), rng.randint(11, 99)
    forms = ("What is {} * {}?", "What is {} times {}?", "Multiply {} by {}.")
    question = rng.choice(forms).format(a, b)
    return ToolExchange(question, {"a": a, "b": b}, {"product": a * b}, f"The product is {a * b}.")


TOOLS = (
    Tool("get_weather", "Current weather of a city.", {"city": "string"}, _weather),
    Tool("get_time", "Local time in a city.", {"city": "string"}, _time),
    Tool("set_timer", "Rings after some minutes.", {"minutes": "integer"}, _timer),
    Tool("add_to_cart", "Puts items in the cart.", {"item": "string", "quantity": "integer"}, _cart),
    Tool("send_message", "Sends a text to a person.", {"to": "string", "text": "string"}, _message),
    Tool("multiply", "Product of two large numbers.", {"a": "integer", "b": "integer"}, _multiply),
)
