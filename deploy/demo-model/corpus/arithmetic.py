"""Small sums: addition and subtraction up to two digits, the multiplication table, counting and comparing."""
from .facts import NUMBER_WORDS
from .phrasing import ask

ASK = ["What is <a> <o> <b>?", "What is <a> <o> <b>?", "What is <a><o><b>?", "What's <a> <o> <b>?", "<a> <o> <b>", "<a><o><b>", "<a> <o> <b> =", "<a><o><b>=?", "<a> <o> <b> = ?", "Calculate <a> <o> <b>.", "Compute <a> <o> <b>.",
       "How much is <a> <o> <b>?", "Can you {add|compute|calculate|tell me} <a> <o> <b>?", "Tell me <a> <o> <b>.", "{Please |}solve <a> <o> <b>.", "What does <a> <o> <b> {make|give|equal}?", "Do you know what <a> <o> <b> is?",
       "What is the {result|answer|value} of <a> <o> <b>?", "Do the math: <a> <o> <b>", "I need the result of <a> <o> <b>.", "What do you get for <a> <o> <b>?", "Work out <a> <o> <b>.", "<a> <o> <b> is what?", "What is <a> <o> <b> please?"]
WORD_ASK = {
    "+": ["What is the sum of <a> and <b>?", "Add <a> and <b>.", "What do you get when you add <a> and <b>?", "Can you add <a> and <b>?", "Sum <a> and <b>.", "Please add <b> to <a>.", "How much is <a> and <b>?", "What is <a> and <b> together?"],
    "-": ["Subtract <b> from <a>.", "What is <a> take away <b>?", "What is the difference of <a> and <b>?", "Take <b> from <a>.", "How much is left when I take <b> from <a>?", "Can you subtract <b> from <a>?"],
    "/": ["Divide <a> by <b>.", "What is <a> divided by <b>?", "How often does <b> go into <a>?", "Can you divide <a> by <b>?", "Share <a> among <b>."],
    "*": ["Multiply <a> and <b>.", "Multiply <a> by <b>.", "What is the product of <a> and <b>?", "Can you multiply <a> by <b>?", "What is <a> times <b>?", "How much is <a> times <b>?"],
}
SPOKEN = {"+": ["+", "+", "+", "plus", "plus"], "-": ["-", "-", "-", "minus", "minus"], "*": ["*", "x", "times", "times", "multiplied by"], "/": ["/", "/", "divided by", ":"]}
SHOWN = {"+": "+", "-": "-", "*": "x", "/": "/"}
THINGS = "apples books coins cards cookies pens balls eggs stones stamps nuts flowers tokens requests workers".split()
NAMES = "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Lily Max Mia Tom Sam Sara Leo Zoe".split()


def operands(rng):
    """An operator and two numbers; small ones a little more often, as people ask them more often."""
    op = rng.choices("+-*/", [50, 31, 14, 5])[0]
    if op == "*":
        return op, rng.randint(0, 12), rng.randint(0, 12)
    if op == "/":
        b = rng.randint(1, 12)
        return op, b * rng.randint(1, 12), b
    top = rng.choice([9, 20, 99, 99, 99, 99])
    a, b = rng.randint(0, top), rng.randint(0, 99 if rng.random() < 0.3 else top)
    if op == "-" and a < b and rng.random() < 0.8:
        a, b = b, a
    return op, a, b


def result(op, a, b):
    return a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a // b


def equation(op, a, b):
    return f"{a} {SHOWN[op]} {b} = {result(op, a, b)}"


def _one(rng):
    op, a, b = operands(rng)
    if rng.random() < 0.25:
        question = ask(rng, WORD_ASK[op], a=a, b=b)
    elif op in "+*" and a <= 12 and b <= 12 and rng.random() < 0.25:
        question = ask(rng, ASK, a=NUMBER_WORDS[a], b=NUMBER_WORDS[b], o=rng.choice(["plus", "and"] if op == "+" else ["times"]))
    else:
        question = ask(rng, ASK, a=a, b=b, o=rng.choice(SPOKEN[op]))
    return question, equation(op, a, b) + "."


def sums(rng):
    turns = [_one(rng)]
    while rng.random() < 0.3:
        turns.append(_one(rng))
    return turns


def word_problem(rng):
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    if rng.random() < 0.5:
        a, b = rng.randint(1, 50), rng.randint(1, 50)
        forms = ["<n> has <a> <t> and gets <b> more. How many <t> does <n> have{ now|}?", "<n> has <a> <t>. <n> {buys|finds|gets} <b> more. How many {<t> |}does <n> have{ now|}?", "If I have <a> <t> and {get|buy} <b> more, how many {<t> |}do I have?",
                 "There are <a> <t>. <b> more come. How many <t> are there?"]
        answer = f"{equation('+', a, b)}, so there are {a + b} {thing}."
    else:
        a = rng.randint(2, 60)
        b = rng.randint(1, a)
        forms = ["<n> has <a> <t> and {gives away|loses|sells} <b>. How many <t> {are left|does <n> have left|does <n> have}?", "<n> has <a> <t>. <n> {loses|sells|gives away} <b> of them. How many are left?", "If I have <a> <t> and {lose|sell|give away} <b>, how many are left?",
                 "There are <a> <t>. <b> go away. How many <t> are left?"]
        answer = f"{equation('-', a, b)}, so {a - b} {thing} are left."
    return [(ask(rng, forms, n=name, a=a, b=b, t=thing), answer)]


def too_large(rng):
    """Beyond two digits the model would only guess, so it says so."""
    a, b = rng.randint(101, 10 ** rng.randint(3, 6)), rng.randint(2, 10 ** rng.randint(2, 5))
    if rng.random() < 0.5:
        a, b = b, a
    op = rng.choice("+-**//")
    question = ask(rng, ASK, a=a, b=b, o=rng.choice(SPOKEN[op])) if rng.random() < 0.7 else ask(rng, WORD_ASK[op], a=a, b=b)
    return [(question, "These numbers are too large for me. I can add and subtract numbers below one hundred.")]


def counting(rng):
    roll = rng.random()
    if roll < 0.55:
        lo = 1 if rng.random() < 0.7 else rng.randint(0, 20)
        hi = 10 if lo == 1 and rng.random() < 0.4 else lo + rng.randint(2, 19)
        forms = ["Count {to|up to} <h>.", "Count from <l> to <h>.", "{Can|Could} you count to <h>?", "{Say|Write|List} the numbers from <l> to <h>.", "Please count to <h>."] if lo == 1 else ["Count from <l> to <h>.", "{Say|Write|List} the numbers from <l> to <h>."]
        text = ", ".join(str(i) for i in range(lo, hi + 1))
        return [(ask(rng, forms, l=lo, h=hi), text + ".")]
    if roll < 0.65:
        hi = rng.randint(3, 12)
        return [(ask(rng, ["Count {down from|backwards from} <h>.", "Count from <h> to 1.", "Count down from <h> to 1."], h=hi), ", ".join(str(i) for i in range(hi, 0, -1)) + ".")]
    if roll < 0.85:
        a = rng.randint(0, 99)
        after = rng.random() < 0.6
        return [(ask(rng, ["{What|Which} number comes {after|next after} <a>?", "What comes after <a>?"] if after else ["{What|Which} number comes before <a>?", "What comes before <a>?"], a=a), f"The number {'after' if after else 'before'} {a} is {a + 1 if after else a - 1}.")]
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    if a == b:
        b += 1
    big = rng.random() < 0.6
    return [(ask(rng, ["{Which|What} is {larger|bigger}, <a> or <b>?", "{Which|What} number is {larger|bigger}, <a> or <b>?"] if big else ["{Which|What} is smaller, <a> or <b>?", "{Which|What} number is smaller, <a> or <b>?"], a=a, b=b),
             f"{max(a, b) if big else min(a, b)} is {'larger' if big else 'smaller'} than {min(a, b) if big else max(a, b)}.")]


def even_odd(rng):
    a = rng.randint(0, 99)
    return [(ask(rng, ["Is <a> {even or odd|an even number|an odd number|even|odd}?"], a=a), f"{a} is {'odd' if a % 2 else 'even'}.")]


def table(rng):
    """Plain text without a chat frame: many equations, the densest lesson there is."""
    rows = []
    for _ in range(rng.randint(10, 40)):
        op, a, b = operands(rng)
        rows.append(equation(op, a, b))
    return "\n".join(rows)
