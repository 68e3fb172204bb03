"""The program that invents scenarios. A part of its nouns, finders and values is never seen in training."""

from __future__ import annotations

from random import Random

from training.agentic.difficulty import Difficulty
from training.agentic.scenario import Domain, Goal, Record, Scenario
from training.data.words import vocabulary as words
from training.data.words.vocabulary import Novelty, choose, invented, several

NOUNS = (
    "lamp", "parcel", "order", "ticket", "car", "meeting", "account", "plant", "machine", "door", "bike", "table",
    "window", "shelf", "booking", "flight", "invoice", "printer", "robot", "garden", "sensor", "locker", "heater",
    "boat", "camera", "fridge", "desk", "tank", "crate", "truck",
)  # fmt: skip
FIELDS: dict[str, tuple[str, ...]] = {
    "colour": words.COLOURS,
    "state": ("open", "closed", "ready", "broken", "waiting", "paused", "empty", "full", "locked", "clean"),
    "level": ("low", "middle", "high", "urgent", "normal", "extreme", "minimal", "maximal"),
    "size": ("small", "large", "tiny", "huge", "medium", "narrow", "wide", "short", "tall"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "plan": ("free", "basic", "gold", "family", "student", "silver", "trial", "team", "yearly"),
    "mode": ("fast", "slow", "silent", "eco", "manual", "automatic", "night", "winter", "summer"),
}
FINDERS = {"owner": words.person, "city": words.city, "room": None, "label": None}
ROOMS = (*words.PLACES, "office", "library", "workshop", "studio", "lobby", "stable", "porch", "bakery")
RECORDS = 4


def _found_by(rng: Random, finder: str, novel: bool) -> str:
    draw = FINDERS[finder]
    if draw is not None:
        return draw(rng, novel)
    return choose(rng, ROOMS, novel) if finder == "room" else invented(rng, novel, 2)


def domain(rng: Random, novelty: Novelty, without: str = "") -> Domain:
    """Returns a domain of four records whose noun is not `without`."""
    novel = novelty.words
    while (noun := choose(rng, NOUNS, novel) if rng.random() < 0.6 else invented(rng, novel, 2)) == without:
        pass
    finder = rng.choice(list(FINDERS))
    chosen = rng.sample(list(FIELDS), 2)
    fields = {name: several(rng, FIELDS[name], novel, 2 if novel else 4) for name in chosen}
    found: list[str] = []
    while len(found) < RECORDS:
        if (value := _found_by(rng, finder, novel)) not in found:
            found.append(value)
    records: dict[int, Record] = {
        number: {finder: value} | {name: rng.choice(values) for name, values in fields.items()}
        for number, value in zip(sorted(rng.sample(range(10, 100), RECORDS)), found, strict=True)
    }
    return Domain(noun, finder, fields, records)


def goal(rng: Random, domain: Domain, difficulty: Difficulty) -> Goal:
    """Returns a change of the domain that takes so many values from tools. Raises ValueError where none does."""
    numbers = list(domain.records)
    rng.shuffle(numbers)
    field = rng.choice(list(domain.fields))
    for number in numbers:
        now = domain.records[number][field]
        if difficulty.information < 2:
            value = rng.choice([value for value in domain.fields[field] if value != now])
            return Goal(number, field, value, by_finder=difficulty.information == 1)
        for source in numbers:
            if (value := domain.records[source][field]) != now:
                return Goal(number, field, value, True, source, difficulty.information == 3)
    raise ValueError(f"domain {domain.noun}: every {field} is the same, so none can be taken from another record")


def scenario(rng: Random, difficulty: Difficulty, novelty: Novelty) -> Scenario:
    """The default role: a domain, another for tools that are not needed, and a goal in the first."""
    while True:
        main = domain(rng, novelty)
        other = domain(rng, novelty, without=main.noun)
        try:
            return Scenario(main, other, goal(rng, main, difficulty))
        except ValueError:  # all records happen to agree
            continue
