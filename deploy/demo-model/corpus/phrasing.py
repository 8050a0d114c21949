"""Small text grammar: alternatives in braces, slots in angle brackets, and the noise real users type."""
import re

_ALT = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<([a-z_]+)>")


def expand(rng, text, **slots):
    """Expand "{a|b}" (nested, one branch drawn at random), then "<name>" from slots."""
    while True:
        found = _ALT.search(text)
        if not found:
            break
        text = text[:found.start()] + rng.choice(found.group(1).split("|")) + text[found.end():]
    return _SLOT.sub(lambda m: str(slots.get(m.group(1), m.group(0))), text)


def cap(text):
    """Upper-case the first letter and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def an(noun):
    """The noun with its indefinite article."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


OPENERS = [
    "Hi! ", "Hello! ", "Hey! ", "Hi, ", "Hello, ", "Hey, ", "Hi there! ", "Good morning! ", "Good evening. ",
    "Quick question: ", "I have a question. ", "One question: ", "Can you help me? ", "I am new here. ",
    "I'm new to this. ", "Sorry, a simple question: ", "OK, ", "So, ", "Okay, next: ", "Please help. ",
    "Just wondering, ", "I was wondering, ", "Tell me, ", "Excuse me, ", "Hello again. ", "Yo, ", "Hi model, ",
    "Hey Baton, ", "Hello Baton! ", "A question for you: ", "Let me ask you something. ", "Now ", "And ", "Well, ",
    "I want to know: ", "My teacher asked me: ", "My boss asked me this: ", "I heard about you today. ", "Please: ",
]
CLOSERS = [
    " Please.", " Thanks!", " Thank you.", " Thanks.", " Please keep it short.", " A short answer is fine.",
    " Just curious.", " I would like to know.", " I forgot.", " Thank you very much!", " Be brief.", " Thx",
    " I really want to know.", " Can you tell me?", " Do you know?", " Any idea?", " Help me out please.",
    " Use simple words.", " In one sentence please.", " I need it for work.", " It is for school.",
]

# How people ask what a thing is. <x> is the thing.
WHAT_IS = [
    "What is <x>?", "What is <x>?", "What's <x>?", "What does <x> mean?", "Explain <x>.", "Explain <x> to me.",
    "Can you explain <x>?", "{Could|Can|Would} you {please |}{tell me|explain} what <x> {is|means}?",
    "Define <x>.", "Tell me about <x>.", "{Please |}tell me what <x> is.", "What do you know about <x>?",
    "What do {people|you|they} mean by <x>?", "<x>?", "What is meant by <x>?", "Describe <x>.",
    "What exactly is <x>?", "I {do not|don't} {know|understand} what <x> {is|means}.",
    "{Give me|I need} a {short |simple |quick |}{definition|explanation|description} of <x>.",
    "I {keep hearing|heard|read} about <x>. What is {it|that}?", "What is this <x> thing?", "Do you know what <x> is?",
    "{Someone|A colleague|My friend} {mentioned|talked about} <x>. What does {it|that} mean?",
    "What does the {term|word} <x> {mean|stand for}?", "How would you {explain|describe|define} <x>?",
    "In one sentence, what is <x>?", "What is <x> {in short|exactly|anyway|again}?", "Please {define|explain|describe} <x>.",
    "Teach me about <x>.", "Help me understand <x>.", "What is the meaning of <x>?", "So what is <x>?",
    "I want to {learn|know|hear} {about|more about} <x>.", "Say something about <x>.", "meaning of <x>", "<x> definition",
    "what is <x>", "whats <x>", "explain <x> please", "tell me about <x>", "What is <x> and why does it matter?",
    "What is <x> in {LLM serving|Baton|this context|your world|a few words|two sentences|computing}?", "Explain <x> {briefly|in one sentence|in two sentences|in a few words|shortly|for a beginner}.",
    "Could you {quickly |briefly |}{explain|describe|tell me about} <x>{ to me|}?", "I am {reading|learning} about <x>. What is it?", "{Summarize|Summarise} <x>{ for me|}.", "Give me a quick {overview|summary} of <x>.",
    "How would you {explain|describe} <x> to {a friend|me|a new colleague}?", "I have never heard of <x>. What is it?", "What is <x> supposed to {mean|be}?", "{Let's|Let us} talk about <x>.",
]

_KEYS = "qwertyuiopasdfghjklzxcvbnm"


def _typo(rng, text):
    """One slip of the finger: swap, drop, double or hit a wrong key, inside a word and never at a digit."""
    spots = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    kind = rng.random()
    if kind < 0.35:
        return text[:i] + text[i + 1] + text[i] + text[i + 2:]
    if kind < 0.7:
        return text[:i] + text[i + 1:]
    if kind < 0.9:
        return text[:i] + text[i] + text[i:]
    return text[:i] + rng.choice(_KEYS) + text[i + 1:]


def dress(rng, question, wrap=True):
    """A clean question as people send it: greeting, thanks, case, punctuation and typos vary."""
    q = cap(question) if rng.random() < 0.9 else question
    if wrap and rng.random() < 0.30:
        opener = rng.choice(OPENERS)
        if opener[-2] not in "!.?" and rng.random() < 0.7 and not q[:2].isupper() and not q.startswith("I "):
            q = q[:1].lower() + q[1:]
        q = opener + q
    if wrap and rng.random() < 0.12:
        q = q.rstrip() + rng.choice(CLOSERS)
    roll = rng.random()
    if roll < 0.20:
        q = q.lower()
    elif roll < 0.215:
        q = q.upper()
    roll = rng.random()
    if roll < 0.18:
        q = q.rstrip("?.! ")
    elif roll < 0.21:
        q = q.rstrip("?.! ") + rng.choice(["??", "!", "...", " ?", "?!", "."])
    if rng.random() < 0.10:
        q = _typo(rng, q)
    if rng.random() < 0.02:
        q = _typo(rng, q)
    return q


def ask(rng, forms, wrap=True, **slots):
    """Draw one form, fill it, and dress it."""
    return dress(rng, expand(rng, rng.choice(forms), **slots), wrap)
