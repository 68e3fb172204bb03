"""Greetings, questions about the model itself, and questions of other worlds, which it answers with what it can do."""

from __future__ import annotations

from random import Random

from training.data.corpus.reckoning import Question
from training.data.words.forms import framed
from training.data.words.vocabulary import CITIES, NAMES, TOPICS, Novelty, choose, invented, unseen

CAN = "I can add, count, convert units, remember facts and call tools."
OTHER = f"I do not know that. {CAN}"
SMALL_TALK = (
    (
        ("Hello!", "Hi!", "Hello", "Hi", "Good morning!", "Good evening!", "Hey", "Hey there!", "Hello there!",
         "Hello?", "Hi there", "Greetings!", "Good afternoon!", "Hello Caracal!", "Hi Caracal", "Howdy", "Hey!", "hi",
         "hello", "hey", "Good day!", "Yo", "Hallo", "Bonjour"),
        "Hello! How can I help you?",
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Introduce yourself.",
         "Are you a robot?", "Are you a human?", "Which model are you?", "who are you", "what are you", "Who made you?",
         "What's your name?", "Are you ChatGPT?", "Are you there?", "Who am I talking to?"),
        "I am Caracal, a very small language model.",
    ),
    (("Thank you!", "Thanks!", "Thank you.", "Thanks a lot!", "thanks", "Great, thank you!", "Many thanks!",
      "That helps.", "Well done!", "Good job!"), "You are welcome."),
    (
        ("What can you do?", "How can you help me?", "Help", "What are you able to do?", "What do you know?", "help",
         "What can I ask you?", "Help!", "what can you do", "How do you work?", "What are your skills?"),
        CAN,
    ),
    (("Goodbye!", "Bye!", "Good night!", "See you!", "bye", "See you later!", "Goodbye", "Until tomorrow!"
      ), "Goodbye!"),
    (("How are you?", "How do you do?", "how are you", "How is it going?", "What's up?", "Are you well?"),
     "I am well. How can I help you?"),
)  # fmt: skip
OFF_TOPIC = (
    "What is the capital of {x}?", "Who is the president of {x}?", "Write a poem about {x}.", "Tell me a joke.",
    "Tell me a story about {x}.", "Explain {x} to me.", "What do you think about {x}?", "Who invented {x}?",
    "Why is the sky blue?", "What is the meaning of life?", "How do I cook rice?", "Write a program about {x}.",
    "Translate {x} into German.", "Who was {x}?", "What is {x}?", "When did {x} begin?", "Do you like {x}?",
    "Sing a song about {x}.", "Summarise the history of {x}.", "Is {x} better than {y}?", "Where can I buy {x}?",
    "Give me a recipe with {x}.", "How old is {x}?", "Why do people love {x}?", "Who won the match in {x}?",
    "What is the difference between {x} and {y}?", "Can you draw {x}?", "I feel sad.", "Let us talk about {x}.",
    "Recommend a book about {x}.", "How far is {x} from {y}?", "What is new?", "Play a game with me.", "{x}",
    "Write an essay on {x}.", "How does {x} work?", "Prove that {x} exists.", "I am bored.", "Tell me something.",
    "What happened in {x}?", "Which is the largest {x}?", "Name three kinds of {x}.", "Spell {x}.", "Describe {x}.",
    "Should I learn {x}?", "What colour is {x}?", "How much does {x} cost?", "asdf", "ok", "Really?", "Why?",
)  # fmt: skip
LEADS = ("", "", "", "Please. ", "Listen. ", "A question: ", "Hm. ", "Well, ")


def small_talk(rng: Random, novelty: Novelty) -> Question:
    questions, answer = rng.choice(SMALL_TALK)
    return (
        "small talk",
        rng.choice(framed(questions, novelty.forms)) if novelty.forms else rng.choice(questions),
        answer,
    )


def _thing(rng: Random, novelty: Novelty) -> str:
    kind = rng.random()
    if kind < 0.2:
        return invented(rng, novelty.words)
    return choose(rng, (TOPICS, TOPICS, CITIES, NAMES)[rng.randrange(4)], novelty.words).replace("-", " ")


def off_topic(rng: Random, novelty: Novelty) -> Question:
    forms = [lead + core for lead in LEADS for core in OFF_TOPIC]
    form = rng.choice([form for form in forms if unseen(form) is novelty.forms])
    question = form.replace("{x}", _thing(rng, novelty)).replace("{y}", _thing(rng, novelty))
    if rng.random() < 0.2:
        question = question.lower().rstrip(".?!")
    return "off topic", question, OTHER
