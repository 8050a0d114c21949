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


# What people say instead; applied now and then so that the model listens to the words that carry the meaning.
SYNONYMS = [
    ("tell me", ["let me know", "say", "give me", "please tell me", "share with me", "talk to me about"]), ("explain", ["describe", "clarify", "help me understand", "go over", "walk me through"]),
    ("what is", ["what's", "what exactly is", "what would be", "what may be", "wat is", "whats", "what was", "what sort of thing is"]), ("how do i", ["how can one", "how should I", "how would I", "what is the way to", "how does one", "how can we"]),
    ("can you", ["could you", "would you", "are you able to", "would you mind to", "can u", "will you", "might you"]), ("could you", ["can you", "would you kindly", "can u please", "will you please"]),
    ("story", ["tale", "short story", "little tale", "nice story", "bedtime story"]), ("write", ["compose", "make", "create", "draft", "produce", "come up with"]), ("what does", ["what did", "what would", "what might"]), ("mean", ["stand for", "refer to", "signify"]),
    ("largest", ["biggest", "greatest", "most large"]), ("biggest", ["largest", "very biggest"]), ("i want", ["I would like", "I'd love", "I wish", "I need", "we want", "I'd like"]), ("do you know", ["have you heard of", "can you say", "do you happen to know", "are you aware of"]),
    ("how many", ["what number of", "how much", "the number of"]), ("about", ["on", "regarding", "concerning", "around"]), ("what are", ["what're", "which are", "name", "list"]), ("who are", ["who exactly are", "who r", "what are"]), ("do not", ["don't"]), ("i am", ["I'm", "im"]),
    ("how does", ["how did", "in what way does", "how exactly does"]), ("why is", ["why's", "how come", "why exactly is", "what is the reason why", "why does it look"]), ("why do", ["how come", "why exactly do", "for what reason do"]), ("why does", ["how come", "why would", "for what reason does"]),
    ("difference", ["distinction", "main difference", "contrast"]), ("important", ["relevant", "a big deal", "essential"]), ("your", ["ur", "your own"]), ("you", ["u", "you guys"]), ("yourself", ["you", "your background"]), ("are you", ["r u", "are u"]),
    ("meaning", ["definition", "sense"]), ("how are", ["how r", "how're"]), ("joke", ["funny joke", "little joke", "pun"]), ("poem", ["little poem", "verse", "nice poem"]), ("which", ["what"]), ("what", ["which", "wat"]), ("calculate", ["compute", "figure out", "determine"]),
]
FILLERS = "actually exactly really just please maybe again quickly kindly perhaps basically then today there here also simply still now well even too precisely roughly".split() + ["a bit", "for me", "right now", "by the way", "in general", "in short", "in fact", "you know", "of course", "if possible", "this time", "for once", "I mean", "like"]
_DROP = {"is", "the", "a", "an", "of", "do", "does", "you", "me", "to", "are", "what", "can", "please", "it", "that", "i", "for", "about"}


def _loosen(rng, text):
    """Say the same in other words: a synonym, a filler, or a small word left out."""
    roll = rng.random()
    if roll < 0.5:
        low = text.lower()
        hits = [(a, b) for a, b in SYNONYMS if re.search(rf"\b{a}\b", low)]
        if hits:
            old, new = rng.choice(hits)
            match = re.search(rf"\b{old}\b", low)
            return cap(text[:match.start()] + rng.choice(new) + text[match.end():])
    words = text.split(" ")
    if roll < 0.8:
        words.insert(rng.randint(0, max(len(words) - 1, 0)), rng.choice(FILLERS))
        return " ".join(words)
    drops = [i for i, w in enumerate(words) if w.lower() in _DROP]
    if drops and len(words) > 2:
        del words[rng.choice(drops)]
    return " ".join(words)


def dress(rng, question, wrap=True):
    """A clean question as people send it: greeting, thanks, case, punctuation and typos vary."""
    q = cap(question) if rng.random() < 0.9 else question
    while rng.random() < 0.28 and len(q) > 6:
        q = _loosen(rng, q)
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
