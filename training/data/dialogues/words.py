"""The vocabulary of the dialogues."""

from __future__ import annotations

from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Anna Ben Clara David Emma Felix Grace Hugo Ida Jonas Kira Leo Maria Nils Olga Paul Rosa Sam Tara Victor "
    "Alice Bob Carol Daniel Eva Frank Lucy Mark Nina Oscar Peter Sara Tom Zoe"
)
CITIES = _words(
    "Paris London Rome Berlin Madrid Vienna Prague Oslo Lisbon Dublin Athens Warsaw Tokyo Beijing Seoul Delhi Cairo "
    "Lima Boston Chicago Toronto Sydney Nairobi Moscow"
)
COLOURS = _words("red blue green yellow black white purple orange pink brown grey silver")
FOODS = _words("pizza pasta rice soup bread cheese salad fish cake sushi curry noodles")
PETS = _words("Rex Bella Max Luna Milo Coco Rocky Daisy Charlie Molly Toby Ruby")
OBJECTS = _words("key book phone ball ring map coin pen letter camera")
PLACES = _words("box drawer bag basket cupboard garden kitchen car")
ITEMS = _words("apples pears eggs lemons onions carrots cookies tomatoes bananas candles")
SKIES = _words("sunny cloudy rainy windy snowy foggy")
NOTES = ("I am late", "see you soon", "dinner is ready", "call me back", "good luck", "happy birthday")

_ONSETS = _words("b d f g k l m n p r s t v z br dr kr tr st")
_VOWELS = _words("a e i o u")
_CODAS = ("", "", "n", "l", "r", "s")


def person(rng: Random) -> str:
    """Returns a common name, or sometimes an invented one, so that the model learns to copy names."""
    if rng.random() < 0.85:
        return rng.choice(NAMES)
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(2)]
    return ("".join(syllables) + rng.choice(_CODAS)).capitalize()
