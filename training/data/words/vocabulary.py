"""The words of the corpus, in two halves that never meet: seen ones, and a fifth that training never shows.

Which half a text belongs to is a function of its letters, so that invented words are split as listed ones are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from zlib import crc32

SALT = 869  # chosen so that every list below and those of the tasks have words in both halves


def unseen(text: str) -> bool:
    """Whether training never shows this word or form."""
    return crc32(f"{SALT} {text}".encode()) % 5 == 0


@dataclass(frozen=True)
class Novelty:
    """Which half is drawn from: of words (names, cities, units, things), and of forms (how a question is put)."""

    words: bool = False
    forms: bool = False


SEEN = Novelty()
UNSEEN_WORDS = Novelty(words=True)
UNSEEN_ALL = Novelty(words=True, forms=True)
NOVELTIES = {"seen": SEEN, "words": UNSEEN_WORDS, "all": UNSEEN_ALL}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Anna Ben Clara David Emma Felix Grace Hugo Ida Jonas Kira Leo Maria Nils Olga Paul Rosa Sam Tara Victor Alice Bob "
    "Carol Daniel Eva Frank Lucy Mark Nina Oscar Peter Sara Tom Zoe Ahmed Aiko Akira Amina Anton Bruno Carlos Chen "
    "Dmitri Elena Fatima Gustav Hana Igor Ines Ivan Jamal Joana Kofi Lars Leila Lin Luca Mei Miguel Mina Nadia Noah "
    "Omar Pablo Priya Rahul Ravi Ruth Sofia Stefan Tariq Theo Uma Vera Wanda Wei Yara Yusuf Zara Ingrid Emil Greta"
)
CITIES = _words(
    "Paris London Rome Berlin Madrid Vienna Prague Oslo Lisbon Dublin Athens Warsaw Tokyo Beijing Seoul Delhi Cairo "
    "Lima Boston Chicago Toronto Sydney Nairobi Moscow Accra Amman Bangkok Bogota Brussels Budapest Dakar Denver "
    "Geneva Hamburg Hanoi Havana Helsinki Istanbul Jakarta Kyoto Lagos Manila Milan Montreal Mumbai Munich Naples "
    "Osaka Perth Porto Quito Riga Santiago Seville Sofia Tallinn Tunis Turin Venice Zagreb Zurich"
)
COLOURS = _words(
    "red blue green yellow black white purple orange pink brown grey silver golden violet beige turquoise crimson navy"
)
FOODS = _words(
    "pizza pasta rice soup bread cheese salad fish cake sushi curry noodles stew omelette pancakes porridge risotto "
    "tacos dumplings lentils beans chocolate yoghurt couscous"
)
PETS = _words(
    "Rex Bella Max Luna Milo Coco Rocky Daisy Charlie Molly Toby Ruby Biscuit Bruno Ginger Hazel Pepper Poppy Rusty "
    "Simba"
)
OBJECTS = _words(
    "key book phone ball ring map coin pen letter camera wallet torch ticket scarf umbrella ladder hammer kettle brush "
    "basket clock mirror whistle candle"
)
PLACES = _words("box drawer bag basket cupboard garden kitchen car attic cellar garage hall locker shed suitcase tent")
ITEMS = _words(
    "apples pears eggs lemons onions carrots cookies tomatoes bananas candles plums grapes peppers pencils bottles "
    "socks cups nails stamps batteries"
)
SKIES = _words("sunny cloudy rainy windy snowy foggy stormy clear misty humid")
NOTES = (
    "I am late", "see you soon", "dinner is ready", "call me back", "good luck", "happy birthday", "the train is late",
    "we are waiting", "bring some bread", "all is well", "the door is open", "do not wait for me",
    "thanks for the book", "the meeting is off", "it starts at noon",
)  # fmt: skip
TOPICS = _words(
    "France history music football poetry the-moon elephants politics physics the-sea love dinosaurs chess philosophy "
    "painting cooking the-weather-forecast Shakespeare China computers money gardening the-stars religion volcanoes "
    "fashion medicine film bicycles robots Rome whales the-internet mathematics theatre Brazil mountains sleep art "
    "cars butterflies opera tennis coffee tea the-sun trees birds rivers democracy maps dreams"
)

_ONSETS = _words("b d f g h j k l m n p r s t v w y z br dr fl gr kr pl sk sl st tr sh ch")
_VOWELS = _words("a e i o u a e i o u ai ea oo")
_CODAS = ("", "", "", "n", "l", "r", "s", "m", "k", "t", "x", "nd", "sk")


# The share of words that training makes up where a list has words: who knows a list by heart cannot copy what it lacks.
MADE_UP = 0.4
_LINKS = _words("the a my your is are was on at for with not and to please now today here we you")


def choose(rng: Random, listed: Sequence[str], novel: bool) -> str:
    """Returns a text of the list's unseen half, or one of its seen half or a made-up one of its kind.

    Raises IndexError when that half is empty.
    """
    if not novel and rng.random() < MADE_UP:
        return like(rng, listed)
    return rng.choice([text for text in listed if unseen(text) is novel])


def several(rng: Random, listed: Sequence[str], novel: bool, count: int) -> tuple[str, ...]:
    """Returns `count` different texts as `choose` draws them."""
    drawn: list[str] = []
    while len(drawn) < count:
        if (text := choose(rng, listed, novel)) not in drawn:
            drawn.append(text)
    return tuple(drawn)


def like(rng: Random, listed: Sequence[str]) -> str:
    """Returns a made-up text for training: a sentence where the list has some, else a word."""
    while True:
        if any(" " in text for text in listed):
            text = " ".join(_sentence(rng))
        else:
            text = blended(rng) if rng.random() < 0.5 else invented(rng, False)
            text = text.capitalize() if listed[0][0].isupper() else text
        if not unseen(text) and (" " in text or len(text) <= 10):
            return text


def _sentence(rng: Random) -> Iterator[str]:
    for _ in range(rng.randint(2, 5)):
        yield rng.choice(_LINKS) if rng.random() < 0.5 else rng.choice(_SEEN_PLAIN)


def blended(rng: Random) -> str:
    """Returns the beginning of one seen word with the end of another: more spellings than syllables have."""
    while True:
        one, other = rng.choice(_SEEN_WORDS), rng.choice(_SEEN_WORDS)
        word = one[: rng.randint(1, len(one) - 1)] + other[rng.randint(1, len(other) - 1) :]
        if 3 <= len(word) <= 10 and not unseen(word):
            return word


def invented(rng: Random, novel: bool, syllables: int = 0) -> str:
    """Returns a word that no list has, of one to three syllables."""
    while True:
        count = syllables or rng.choice((2, 2, 2, 3))
        word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)) + rng.choice(_CODAS)
        if unseen(word) is novel:
            return word


def named(listed: Sequence[str]) -> Callable[[Random, bool], str]:
    """Returns a source of names: listed ones and, of unseen names too, as many that nobody has."""

    def draw(rng: Random, novel: bool) -> str:
        if not novel or rng.random() >= 0.5:
            return choose(rng, listed, novel)
        while True:
            name = invented(rng, novel).capitalize()
            if unseen(name) is novel:
                return name

    return draw


_PLAIN = (*COLOURS, *FOODS, *OBJECTS, *PLACES, *ITEMS, *SKIES, *(topic for topic in TOPICS if "-" not in topic))
_SEEN_PLAIN = [word for word in _PLAIN if not unseen(word)]
_SEEN_WORDS = [word.lower() for word in (*_SEEN_PLAIN, *NAMES, *CITIES) if not unseen(word) and len(word) > 2]
person = named(NAMES)
city = named(CITIES)
pet = named(PETS)
