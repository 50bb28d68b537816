"""Items of downstream tasks, cut from texts: last words, endings, gaps. The first choice of an item is the true one."""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from isoflop.evaluate.held_out_texts import Text, by_hash, hash_of

CHOICES = 4
# Longer endings are harder for small models: what they say of themselves outweighs what the context says of them.
ENDING_WORDS, WORDS_AFTER_GAP = 4, 3
# Candidates that are looked at in one domain: endings are told apart by others as likely as they.
MOST_CANDIDATES = 5_000
# A passage is at least this share of what it may be.
FEWEST_SHARE = 0.6
# A word is the answer of so many last-word items at most: always saying the commonest one must not pay.
MOST_SAME_ANSWER = 5
# A gap's other words are drawn from so many of nearly its frequency.
NEAR_WORDS = 12

_WORD, _SPACE = re.compile(r"\S+"), re.compile(r"\s")
_LAST_WORD = re.compile(r"(?<=\S) ([^\W\d_]{4,})[.!?;:]")
_GAP = re.compile(r"(?<=[^\W\d_,;] )([^\W\d_]{4,})((?: [^\s]+){" + str(WORDS_AFTER_GAP) + "})(?=\\s)")
_SENTENCE_ENDS = ".!?;:"


@dataclass(frozen=True)
class Item:
    """A passage and what may follow it; the first choice is what does. `domain` is that of its document."""

    domain: str
    query: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    document: int
    query: str
    answer: str
    after: str = ""


def last_words(texts: Sequence[Text], item_bytes: int) -> Iterator[Item]:
    """Passages up to the last word of a sentence, where that word stands in the passage already."""
    answers: Counter[str] = Counter()
    for text in texts:
        seen: set[str] = set()
        for match in _LAST_WORD.finditer(text.text):
            word = match[1]
            if word in seen or word != word.lower() or answers[word] == MOST_SAME_ANSWER:
                continue
            passage = _before(text, match.start(), item_bytes)
            if passage is None or word not in _words(passage):
                continue
            seen.add(word)  # once a document, or one that repeats itself would be half of the task
            answers[word] += 1
            yield Item(text.domain, passage, (word,))


def endings(texts: Sequence[Text], item_bytes: int, most: int) -> Iterator[Item]:
    """Passages broken off in a sentence, with the next words and three endings from other documents of the domain.

    At most `most` of each domain.

    The others are those whose words are as frequent as the true ending's: only the passage tells which is true.
    """
    for domain, mine in _by_domain(texts):
        candidates = list({found.query: found for found in _sparse(mine, item_bytes)}.values())
        frequency = Counter(word for candidate in candidates for word in candidate.answer.split(" "))
        total = math.log(max(1, frequency.total()))

        def cost(candidate: _Candidate, frequency: Counter[str] = frequency, total: float = total) -> float:
            return sum(total - math.log(frequency[word]) for word in candidate.answer.split(" "))

        candidates.sort(key=lambda candidate: (cost(candidate), hash_of(candidate.answer)))
        places = {candidate.query: place for place, candidate in enumerate(candidates)}
        for query in by_hash(places, str)[:most]:
            place = places[query]
            others = _nearest(candidates, place)
            if len(others) == CHOICES - 1:
                yield Item(domain, candidates[place].query, (candidates[place].answer, *others))


def gaps(texts: Sequence[Text], item_bytes: int, most: int) -> Iterator[Item]:
    """Passages up to a word, with the word and the three that follow it, and the same with three words as frequent.

    The texts are those of one domain; at most `most` items.
    """
    candidates = list(
        {
            (passage, match[1]): _Candidate(text.number, passage, match[1], match[2])
            for text in texts
            for match in _GAP.finditer(text.text)
            if match[1] == match[1].lower()
            and (passage := _before(text, match.start() - 1, item_bytes - len(match[0].encode()))) is not None
        }.values()
    )
    frequency = Counter(candidate.answer for candidate in candidates)
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))
    rank = {word: place for place, word in enumerate(ranked)}
    for candidate in by_hash(candidates, lambda candidate: candidate.query + candidate.answer)[:most]:
        place = rank[candidate.answer]
        near = ranked[max(0, place - NEAR_WORDS // 2) : place + NEAR_WORDS // 2 + 1]
        others = sorted((word for word in near if word != candidate.answer), key=partial(_salted, candidate.query))
        if len(others) >= CHOICES - 1:
            words = (candidate.answer, *others[: CHOICES - 1])
            yield Item(texts[0].domain, candidate.query, tuple(word + candidate.after for word in words))


def spread(items: Iterable[Item], most: int) -> list[Item]:
    """Up to `most` items of different passages, from each domain as many as from any other as far as it has them."""
    by_domain = defaultdict(list)
    different = {item.query: item for item in items}
    for item in by_hash(different.values(), lambda item: item.query + item.choices[0]):
        by_domain[item.domain].append(item)
    turns = itertools.zip_longest(*(by_domain[domain] for domain in sorted(by_domain)))
    return [item for turn in turns for item in turn if item is not None][:most]


def _sparse(texts: Sequence[Text], item_bytes: int) -> Iterator[_Candidate]:
    """Places in the middle of a sentence, evenly over the texts."""
    step = max(1, sum(len(text.text) for text in texts) // (6 * MOST_CANDIDATES))  # a word has some six letters
    for text in texts:
        words = list(_WORD.finditer(text.text))
        for k in range(1, len(words) - ENDING_WORDS, step):
            before, first, last = words[k - 1], words[k], words[k + ENDING_WORDS - 1]
            answer = text.text[first.start() : last.end()]
            if text.text[before.end() : first.start()] != " " or before[0][-1] in _SENTENCE_ENDS or "\n" in answer:
                continue
            if answer.count(" ") != ENDING_WORDS - 1:
                continue
            passage = _before(text, before.end(), item_bytes - len(answer.encode()))
            if passage is not None:
                yield _Candidate(text.number, passage, answer)


def _nearest(candidates: Sequence[_Candidate], place: int) -> list[str]:
    """The answers next to that of `candidates[place]`, by turns below and above, from other documents."""
    me = candidates[place]
    found: list[str] = []
    for distance in range(1, 50):
        for other in (place - distance, place + distance):
            if not 0 <= other < len(candidates) or candidates[other].document == me.document:
                continue
            answer = candidates[other].answer
            if answer != me.answer and answer not in found and len(found) < CHOICES - 1:
                found.append(answer)
    return found


def _before(text: Text, end: int, n_bytes: int) -> str | None:
    """Whole words up to place `end`, as many as `n_bytes` hold; None if there are too few."""
    room = int(n_bytes * text.characters_a_byte)
    begin = max(0, end - room)
    if begin and (space := _SPACE.search(text.text, begin, end)):
        begin = space.start()
    passage = text.text[begin:end].strip()
    return passage if passage and len(passage) >= FEWEST_SHARE * room else None


def _salted(salt: str, word: str) -> int:
    return hash_of(salt + word)


def _words(passage: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", passage))


def _by_domain(texts: Sequence[Text]) -> list[tuple[str, list[Text]]]:
    domains = sorted({text.domain for text in texts})
    return [(domain, [text for text in texts if text.domain == domain]) for domain in domains]
