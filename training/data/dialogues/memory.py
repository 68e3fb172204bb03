"""Facts that the user states and asks for later in the same dialogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from training.data.dialogues import words
from training.data.dialogues.skills import Question

UNKNOWN = "You have not told me."


@dataclass(frozen=True)
class Fact:
    """One kind of fact; `{}` in `said`, `asked` and `answered` is the place of its value."""

    said: tuple[str, ...]
    asked: tuple[str, ...]
    answered: str
    value: Callable[[Random], str]
    thanks: str = "Noted."


FACTS = (
    Fact(
        ("My name is {}.", "I am {}.", "Hello, my name is {}."),
        ("What is my name?", "Who am I?", "Do you remember my name?"),
        "Your name is {}.",
        words.person,
        "Nice to meet you, {}.",
    ),
    Fact(
        ("My favourite colour is {}.",),
        ("What is my favourite colour?", "Which colour do I like best?"),
        "Your favourite colour is {}.",
        lambda rng: rng.choice(words.COLOURS),
    ),
    Fact(
        ("My favourite food is {}.", "I love {}."),
        ("What is my favourite food?", "What do I love to eat?"),
        "Your favourite food is {}.",
        lambda rng: rng.choice(words.FOODS),
    ),
    Fact(
        ("I live in {}.", "My home is in {}."),
        ("Where do I live?", "In which city do I live?"),
        "You live in {}.",
        lambda rng: rng.choice(words.CITIES),
    ),
    Fact(
        ("My lucky number is {}.",),
        ("What is my lucky number?", "Which number is my lucky number?"),
        "Your lucky number is {}.",
        lambda rng: str(rng.randint(2, 99)),
    ),
    Fact(
        ("My dog is called {}.", "The name of my dog is {}."),
        ("What is my dog called?", "What is the name of my dog?"),
        "Your dog is called {}.",
        lambda rng: rng.choice(words.PETS),
    ),
)


def _place(thing: str) -> Fact:
    return Fact(
        (f"The {thing} is in the {{}}.", f"I put the {thing} in the {{}}."),
        (f"Where is the {thing}?", f"Where did I put the {thing}?"),
        f"The {thing} is in the {{}}.",
        lambda rng: f"{rng.choice(words.COLOURS)} {rng.choice(words.PLACES)}",
    )


THINGS = tuple(_place(thing) for thing in words.OBJECTS)


@dataclass
class Memory:
    """The facts that the user has stated so far in one dialogue."""

    known: dict[int, str] = field(default_factory=dict)

    def state(self, rng: Random) -> Question:
        """Returns a statement of a new fact, or of a known one with a new value, which replaces the old one."""
        facts = FACTS + THINGS
        index = rng.randrange(len(FACTS)) if rng.random() < 0.7 else rng.randrange(len(facts))
        fact = facts[index]
        self.known[index] = fact.value(rng)
        return "fact", rng.choice(fact.said).format(self.known[index]), fact.thanks.format(self.known[index])

    def ask(self, rng: Random) -> Question:
        """Returns a question about a known fact, or sometimes about an unknown one."""
        facts = FACTS + THINGS
        anything = not self.known or rng.random() < 0.12
        index = rng.randrange(len(facts)) if anything else rng.choice(list(self.known))
        value = self.known.get(index)
        answer = UNKNOWN if value is None else facts[index].answered.format(value)
        return "recall", rng.choice(facts[index].asked), answer
