"""The training text of the demo model: every sample is made here, from templates and a seeded generator."""
from . import arithmetic, facts, smalltalk, stories, terms
from .smalltalk import SYSTEMS

START, END, EOT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"



def pasted(rng):
    return smalltalk.pasted(rng, "\n".join(stories.plain(rng) for _ in range(rng.randint(1, 4))))


# Weight of each kind of conversation.
KINDS = [
    (terms.define, 20), (terms.difference, 4), (terms.about_baton, 7), (stories.story, 9), (arithmetic.sums, 14), (arithmetic.word_problem, 3), (arithmetic.counting, 3), (arithmetic.even_odd, 0.5), (arithmetic.too_large, 1),
    (facts.capital, 5), (facts.animal, 4), (facts.general, 9), (facts.howto, 3), (facts.small_fact, 2.5), (facts.list_things, 2.5), (facts.joke, 1.5),
    (smalltalk.intent, 14), (smalltalk.unknown, 6), (smalltalk.wild, 7), (smalltalk.slogan, 0.7), (pasted, 0.4), (stories.comfort, 0.5), (smalltalk.gibberish, 0.7), (smalltalk.say, 4), (smalltalk.spell, 1), (smalltalk.user_name, 1.5), (smalltalk.no_name, 0.3), (smalltalk.poem, 3),
]
PLAIN = [(stories.plain, 5), (arithmetic.table, 5), (terms.glossary, 1), (facts.almanac, 1)]
FUNCS, WEIGHTS = [k for k, _ in KINDS], [w for _, w in KINDS]
PLAIN_FUNCS, PLAIN_WEIGHTS = [k for k, _ in PLAIN], [w for _, w in PLAIN]


def turns(rng):
    """One conversation: a list of (user, assistant) pairs, sometimes about several things in a row."""
    talk = list(rng.choices(FUNCS, WEIGHTS)[0](rng))
    chance = 0.22
    while rng.random() < chance and len(talk) < 24:
        talk += rng.choices(FUNCS, WEIGHTS)[0](rng)
        chance = 0.5 if rng.random() < 0.9 else 0.93
    return talk


def conversation(rng):
    """One conversation as (text, is_answer) pieces in ChatML, ended by the end-of-text mark."""
    pieces = []
    if rng.random() < 0.25:
        pieces.append((f"{START}system\n{rng.choice(SYSTEMS)}{END}\n", False))
    for user, assistant in turns(rng):
        pieces.append((f"{START}user\n{user}{END}\n{START}assistant\n", False))
        pieces.append((assistant + END, True))
        pieces.append(("\n", False))
    pieces[-1] = ("\n" + EOT, False)
    return pieces


def document(rng):
    """A conversation, or now and then plain text."""
    if rng.random() < 0.10:
        return [(rng.choices(PLAIN_FUNCS, PLAIN_WEIGHTS)[0](rng) + EOT, True)]
    return conversation(rng)
