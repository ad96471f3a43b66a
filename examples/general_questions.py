"""Questions of general knowledge, made from tables of plain facts: the task by which forgetting is seen.

Written for this project and taken from no benchmark. Wrong options are right answers of other questions of the table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

SEED = 0
OPTIONS = 4

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Portugal": "Lisbon",
    "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Greece": "Athens", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Ireland": "Dublin", "Russia": "Moscow",
    "Ukraine": "Kyiv", "Romania": "Bucharest", "Bulgaria": "Sofia", "Serbia": "Belgrade", "Croatia": "Zagreb",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Iran": "Tehran", "Iraq": "Baghdad", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa",
    "Cuba": "Havana", "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima", "Australia": "Canberra",
}  # fmt: skip
LANGUAGES = {
    "Brazil": "Portuguese", "Mexico": "Spanish", "Japan": "Japanese", "Austria": "German", "Italy": "Italian",
    "Poland": "Polish", "Turkey": "Turkish", "Greece": "Greek", "Hungary": "Hungarian", "Sweden": "Swedish",
    "Egypt": "Arabic", "Vietnam": "Vietnamese", "Australia": "English", "Iceland": "Icelandic", "Thailand": "Thai",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "early": "late", "full": "empty", "heavy": "light", "open": "closed",
    "rich": "poor", "strong": "weak", "true": "false", "wet": "dry", "young": "old", "fast": "slow",
    "deep": "shallow", "rough": "smooth", "loud": "quiet", "thick": "thin", "guilty": "innocent", "sharp": "blunt",
    "cheap": "expensive", "brave": "cowardly",
}  # fmt: skip
PAST_TENSES = {
    "go": "went", "see": "saw", "eat": "ate", "take": "took", "give": "gave", "write": "wrote", "drive": "drove",
    "speak": "spoke", "begin": "began", "swim": "swam", "fly": "flew", "buy": "bought", "teach": "taught",
    "catch": "caught", "sell": "sold", "forget": "forgot", "choose": "chose", "freeze": "froze",
}  # fmt: skip
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "duck": "duckling",
    "goose": "gosling", "kangaroo": "joey", "frog": "tadpole", "swan": "cygnet", "bear": "cub", "goat": "kid",
}  # fmt: skip
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip
AUTHORS = {
    "Hamlet": "William Shakespeare", "Pride and Prejudice": "Jane Austen", "Moby-Dick": "Herman Melville",
    "War and Peace": "Leo Tolstoy", "Don Quixote": "Miguel de Cervantes", "The Divine Comedy": "Dante Alighieri",
    "Oliver Twist": "Charles Dickens", "Faust": "Johann Wolfgang von Goethe", "Les Misérables": "Victor Hugo",
    "Crime and Punishment": "Fyodor Dostoevsky", "The Adventures of Tom Sawyer": "Mark Twain",
    "Frankenstein": "Mary Shelley",
}  # fmt: skip
SUMS, PRODUCTS = 16, 12

TABLES = {
    "capital": ("What is the capital of {}?", CAPITALS),
    "language": ("Which language do most people in {} speak?", LANGUAGES),
    "opposite": ("What is the opposite of “{}”?", OPPOSITES),
    "past": ("What is the past tense of the verb “{}”?", PAST_TENSES),
    "young": ("What is a young {} called?", YOUNG),
    "month": ("Which month comes after {}?", dict(zip(MONTHS, (*MONTHS[1:], MONTHS[0]), strict=True))),
    "author": ("Who wrote “{}”?", AUTHORS),
}


def iter_general_questions() -> Iterator[dict[str, Any]]:
    """Yield all questions in the schema of one's own questions; the same ones whenever it is called."""
    generator = random.Random(SEED)
    for name, (wording, facts) in TABLES.items():
        for number, (thing, answer) in enumerate(facts.items(), start=1):
            others = sorted({other for other in facts.values() if other != answer} - {thing})
            wrong = generator.sample(others, OPTIONS - 1)
            yield _lay_out(generator, f"{name}-{number:02}", wording.format(thing), answer, wrong)
    yield from _iter_arithmetic(generator)


def _iter_arithmetic(generator: random.Random) -> Iterator[dict[str, Any]]:
    pairs = [(a, b) for a in range(2, 30) for b in range(2, a)]
    for number, (a, b) in enumerate(generator.sample(pairs, SUMS), start=1):
        yield _ask_number(generator, f"sum-{number:02}", f"What is {a} + {b}?", a + b)
    pairs = [(a, b) for a in range(3, 13) for b in range(2, a)]
    for number, (a, b) in enumerate(generator.sample(pairs, PRODUCTS), start=1):
        yield _ask_number(generator, f"product-{number:02}", f"What is {a} × {b}?", a * b)


def _ask_number(generator: random.Random, name: str, question: str, answer: int) -> dict[str, Any]:
    near = [answer + step for step in (-10, -3, -2, -1, 1, 2, 3, 10) if answer + step > 0]
    return _lay_out(
        generator, name, question, str(answer), list(map(str, generator.sample(near, OPTIONS - 1)))
    )


def _lay_out(
    generator: random.Random, name: str, question: str, answer: str, wrong: list[str]
) -> dict[str, Any]:
    options = [answer, *wrong]
    generator.shuffle(options)
    return {"id": name, "question": question, "options": options, "answer_index": options.index(answer)}
