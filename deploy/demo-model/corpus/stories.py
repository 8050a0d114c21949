"""Short stories about anything: a hero, a plot of several turns, many ways to say each sentence."""
from .phrasing import an, ask, cap, expand
from .smalltalk import ADJECTIVES as MORE_ADJECTIVES
from .smalltalk import NOUNS, made_up

ANIMALS = ("cat dog mouse rabbit fox bear owl duck frog turtle squirrel hedgehog horse cow pig sheep goat lion tiger elephant monkey penguin whale dolphin fish bee ant butterfly snail wolf deer bird parrot kangaroo koala panda "
           "hamster donkey crow swan goose hen chicken spider seal crab octopus giraffe zebra camel beaver badger mole bat eagle sparrow kitten puppy lamb pony").split()
CREATURES = "dragon robot unicorn giant fairy witch wizard ghost mermaid elf dwarf monster dinosaur snowman phoenix princess prince king queen knight pirate alien".split()
PEOPLE = "boy girl farmer baker teacher sailor painter gardener fisherman postman tailor shepherd miller nurse doctor cook astronaut child grandmother grandfather programmer engineer".split()
THINGS = ("train boat car bus balloon kite teapot lamp clock star cloud river tree stone leaf flower pencil ball toy umbrella bell candle key house bridge mill lighthouse snowflake raindrop moon sun apple pumpkin carrot book shoe hat violin drum "
          "computer server token scheduler rocket tractor bicycle spoon cup wheel mountain lake wave feather button mirror door").split()
THEMES = ["friendship", "courage", "kindness", "honesty", "patience", "sharing", "love", "hope", "the sea", "the moon", "the forest", "winter", "spring", "summer", "autumn", "rain", "snow", "a garden", "an island", "a castle", "a school",
          "a birthday", "Christmas", "a lost toy", "a treasure", "a secret", "the night", "the wind", "magic", "a dream", "a long journey", "a small village", "music", "two friends", "a family", "the mountains", "space", "the stars", "a river", "bread", "a storm", "the desert"]
GIRLS = "Anna Lily Mia Emma Clara Ida Nina Rosa Tina Zoe Ella Lucy Sara Julia Maya Lena Ruby Daisy Molly Pia Nora Eva Grace Kim Olga Alice Lola Hanna Fina Tilly".split()
BOYS = "Ben Tom Max Felix Jack Leo Sam Paul Oscar Henry Karl David Finn Noah Theo Tim Pip Otto Hugo Emil Bruno Milo Oliver Rudi Nico Bob Peter Fred Kuno Toby".split()
FRIENDS = ["an old owl", "a small mouse", "a friendly dog", "a clever fox", "a kind bear", "a tiny bee", "a grey cat", "a slow turtle", "a cheerful frog", "a wise crow", "a young rabbit", "a brown horse", "a quiet deer", "a little bird", "a funny duck"]

OPENING = [
    "Once upon a time there was <hero>. {<He> lived <place>.|<He> had a small home <place>.|<Hisc> home was <place>.}",
    "Once upon a time, <place>, there lived <hero>.",
    "There was once <hero> who lived <place>.",
    "Long ago, <hero> lived <place>.",
    "<place_c> there lived <hero>.",
    "{One day|Many years ago}, <hero> {came to live|found a home} <place>.",
]
TRAIT = [
    "<Name> was {very |always |}{kind|curious|brave|cheerful|friendly|gentle|clever} and {loved to sing|liked to help others|wanted to see the world|loved to look at the stars|asked many questions|liked the quiet mornings best}.",
    "{Everybody|Everyone} liked <name> because <he> was so {kind|friendly|funny|cheerful|gentle|helpful}.",
    "<Name> loved {the morning sun|the smell of rain|the sound of the wind|warm evenings|long walks|old songs}, and <he> {smiled|was happy} nearly every day.",
    "<Name> was {small|young|quiet}, but <he> had a big {heart|dream}.",
    "",
]
PLACES = ["in a small village", "at the edge of a forest", "near a blue lake", "on a green hill", "by the sea", "in a big city", "on an old farm", "in a quiet valley", "beside a river", "in a garden full of flowers", "on a little island", "in a house with a red roof", "under a tall oak tree", "at the foot of a mountain", "behind an old mill", "in a warm country far away"]

# Each plot: lists of sentences, one drawn from each; an empty string leaves the step out.
PLOTS = {
    "lost": [
        ["One {day|morning|evening}, <name> {went|walked} {into the forest|over the hills|along the river} and {lost the way|could not find the way home}.", "One {day|morning}, <name> followed a {butterfly|small path|strange light} and {soon|after a while} did not know where <he> was."],
        ["It {grew|became} {dark|cold|late}, and <name> was {a little |}{afraid|worried|scared}.", "The {trees|shadows|clouds} looked {strange|dark|very tall}, and <he> {began to cry|felt very small}.", "<He> looked {left and right|around|everywhere}, but everything looked {strange|the same}."],
        ["Then <name> met <friend>. \"{Why are you so sad|What is the matter|Are you lost}?\" asked <friend_the>.", "Then <friend> came {along|out of the bushes|by}. \"Can I help you?\" <friend_the> asked.", "{Suddenly|Just then} <he> heard a {soft|kind|friendly} voice. It was <friend>."],
        ["\"I {want to go home|have lost my way|cannot find my home},\" said <name>.", "\"Please help me to find the way home,\" said <name>.", "<Name> told <friend_the> everything."],
        ["\"{Follow me|Come with me|Do not worry},\" said <friend_the>. {Together they walked under the stars|They walked side by side and sang a song|They walked until they saw a light}.", "<Friend_the_c> knew every {tree|stone|path} and led the way."],
        ["Soon they {saw|reached} the home of <name>. \"{Thank you|Thank you so much},\" said <name>, and {they became friends|from that day they were friends}.", "At last <name> was home again, and {there was warm soup for both of them|<he> gave <friend_the> a big hug}."],
    ],
    "help": [
        ["One {day|morning|afternoon}, <name> {heard a quiet cry|heard somebody call for help|saw something move in the grass}.", "One {rainy|windy|sunny|cold} day, <name> {went for a walk|was on the way home}."],
        ["<Friend_c> {was caught under a branch|had fallen into a hole|was stuck in the mud|could not get out of the water}.", "There <he> saw <friend>, who {was hurt|was hungry and cold|had lost a home in the storm}."],
        ["\"{Please help me|Can you help me|I cannot do it alone},\" said <friend_the>.", "<Friend_the_c> looked at <name> with {big|sad|tired} eyes.", ""],
        ["<Name> did not {wait|think twice|run away}. {With all <his> strength <he> pulled and pulled|<He> found a long rope and pulled|<He> thought for a moment and had an idea}.", "\"{Of course|I will try|Wait, I have an idea},\" said <name>, and <he> {went to work|began at once}."],
        ["{It was hard work|It took a long time}, but {in the end|at last} <friend_the> was {free|safe|warm and safe}.", "After {an hour|a while}, <friend_the> was {safe|free} and smiled."],
        ["\"You are {a true friend|very kind},\" said <friend_the>. \"{One day I will help you too|I will never forget this}.\"", "{The others heard of it and were proud of <name>|Everyone was proud of <name>}."],
        ["And {some weeks later|that winter}, when <name> needed help, <friend_the> {was there|came at once}.", ""],
    ],
    "learn": [
        ["<Name> wanted to {learn to fly|learn to swim|learn to read|learn to sing|dance|paint|play the violin}, but {everyone laughed|it was very hard|nobody believed it}.", "More than anything, <name> wanted to {sing|paint|swim|dance|cook|write} {as well as the others|better than anyone else}."],
        ["The first try went {wrong|badly}. {<He> fell down|It was a mess|The others laughed}.", "<He> tried once, and it did not work. <He> tried again, and it still did not work."],
        ["<Name> was {sad|tired} and {wanted to give up|sat down under a tree}.", ""],
        ["Then <friend> said, \"{Nobody can do it on the first day|Every master was once a beginner|Try a little every day}.\"", "<Friend_c> came by and said, \"{Do not give up|Small steps also lead to the top|Try it once more}.\""],
        ["So <name> {practised|tried} {every morning|each day, in sun and in rain}.", "From then on <name> practised {a little every day|every evening until the stars came out}."],
        ["{After some weeks|One spring morning|At last} it worked! <Name> {laughed with joy|jumped with joy|could hardly believe it}.", "And one day, {suddenly|without a mistake}, <he> could do it."],
        ["{Now everyone came to watch|The others were surprised and clapped}, and <name> was {proud|happy}.", ""],
    ],
    "treasure": [
        ["One {day|morning}, <name> found an old map {in a box|under a stone|in a bottle}.", "One {evening|day}, <name> heard about a treasure that was hidden {on a mountain|in a cave|on an island}."],
        ["<He> packed {some bread and an apple|a lamp and a rope|a small bag} and set off.", "\"I {will|must} find it,\" said <name>, and {off <he> went|<he> left at sunrise}."],
        ["The way was long. <He> {crossed a river|climbed over high rocks|walked through a dark forest} and {slept under the stars|rested beside a fire}.", "On the way <he> met <friend>, and they went on together."],
        ["At last <name> {stood in front of a cave|came to the place on the map|saw a small door in the rock}.", "After {three|seven} days <he> {reached|found} the place."],
        ["Inside there was {a small wooden box|an old chest}. It held {a letter|a mirror|a single seed}, and no gold at all.", "There was no gold, only {a small seed|an old book|a note}."],
        ["The {note|words beside it} said: \"{The best treasure is a good friend|The way was the treasure|What you share grows}.\"", "<Name> thought about it for a long time and then began to {smile|laugh}."],
        ["<He> {went home|walked home} {and told the story to everyone|and was richer than before, in a way}.", "<Name> planted a tree to remember the day, and it grew {tall|high} and strong."],
    ],
    "share": [
        ["One {autumn|summer|winter} <name> had {more apples than <he> could eat|a basket full of nuts|a big cake|plenty of bread}.", "It was a {hard|long|cold} winter and food was {rare|hard to find}. Only <name> had {enough|a full basket}."],
        ["<Friend_c> came and {asked for a little|was very hungry}.", "One evening <friend> knocked at the door. \"{I am so hungry|May I come in},\" it said in a low voice."],
        ["At first <name> {did not want to share|wanted to keep everything}. \"{It is mine|I may need it later},\" <he> thought.", "<Name> {looked at the food and thought|thought for a moment}."],
        ["But then <he> saw the {sad|tired} eyes of <friend_the> and {cut everything in two|said, \"Sit down and eat with me\"}.", "\"{Come in|Sit down},\" said <name>, and they {ate together|shared all of it}."],
        ["It {tasted|was} better than ever, because they {laughed and talked|were together}.", "That evening there was {laughter|music} in the house, and <name> was not alone."],
        ["In spring, <friend_the> came back with {the first berries|a bunch of flowers|sweet honey}. \"This is for you,\" it said.", "Since then <name> has always kept {a place at the table|something} for others."],
    ],
    "storm": [
        ["One {night|day} a {big|terrible|great} storm came {over the land|from the sea}. The wind {howled|roared} and the rain {beat|fell} on the roof.", "One {evening|afternoon} the sky turned {dark|black} and {thunder rolled|the wind began to howl}."],
        ["Everyone {was afraid|ran inside|closed the doors}, but <name> {saw that somebody was missing|heard a cry from outside}.", "<Name> looked out of the window and saw <friend>, {all alone in the rain|wet and cold}."],
        ["<Name> {took a lamp|took a deep breath} and {went out|ran into the rain}.", "\"I must {do something|help},\" thought <name>."],
        ["The {way|path} was {wet|full of water}, but <he> did not {stop|turn back}.", ""],
        ["<He> found <friend_the> and {brought it home|led it to a safe place}.", "Step by step <he> {came closer|went on} until {both were safe|<he> could hold on to <friend_the>}."],
        ["{All night|For hours} they sat {by the fire|close together} and told {stories|each other jokes} until the storm was over.", ""],
        ["In the morning the sun {shone|came out} and {a rainbow stood over the hills|the whole world looked new}.", "When the sun came back, everyone {thanked|cheered for} <name>."],
    ],
    "star": [
        ["Every {night|evening} <name> looked up at the {stars|moon} and {made a wish|dreamed of going there}.", "One {clear|warm} night <name> saw a star fall from the sky."],
        ["One night a small {star|light} {landed|fell} {in the grass|in the garden|right beside <name>}.", "One night a star fell down and landed {in the garden|behind the house}, and <name> ran to {see|find} it."],
        ["\"{I have lost my place in the sky|I want to go home},\" said the {little star|star}. \"{Can you help me|Will you help me}?\"", "It was a tiny star, and it was {sad|cold}."],
        ["<Name> {put it carefully into a basket|held it gently} and {climbed the highest hill|went up the mountain}.", "<Name> asked <friend> for {advice|help}, and together they made a plan."],
        ["At the top <he> {lifted|threw} the star up as high as <he> could, and the wind {took it|carried it}.", "{They waited for a strong wind|They built a big kite}, and up and up the star went, back into the sky."],
        ["Since then one star shines {a little brighter|only for <name>} {every night|when it is dark}.", "Now, when <name> looks up, the star {blinks|shines} as if to say thank you."],
    ],
    "race": [
        ["One day there was a {big race|race} {around the lake|through the forest|to the top of the hill}, and everyone wanted to win.", "Every year there was a race, and this year <name> wanted to {run|take part}."],
        ["<Name> was not the fastest, {but <he> wanted to try|and some laughed}.", "\"You will never win,\" {said|laughed} {some|the others}, but <name> {only smiled|went to the start all the same}."],
        ["The race began, and {the others ran ahead|soon <name> was the last}.", "At the start everyone {ran|rushed} ahead, and <name> followed step by step."],
        ["Halfway, <name> saw <friend>, who {had fallen|was hurt}. The others {ran past|did not stop}.", "Then <he> saw <friend> {beside the road|in the ditch}, tired and sad."],
        ["<Name> stopped and {helped|carried} <friend_the>, and they {went on together|walked on side by side}.", "\"Winning is not everything,\" thought <name>, and {stopped to help|took <friend_the> by the hand}."],
        ["They came in last, but everyone {cheered|clapped} {louder than for the winner|for them}.", "When they {reached the finish|came in} together, the crowd {cheered|stood up}."],
        ["That day <name> won {something better than a prize: a friend|a friend}.", ""],
    ],
    "work": [
        ["Every day <name> did {the same small job|small and quiet work}, and nobody {saw it|said thank you}.", "<Name> had an {important|unusual} task: <he> {carried messages|looked after the lights|kept the old clock running}."],
        ["\"Am I {important|useful} at all?\" <name> {asked|wondered}.", "Sometimes <he> thought that {nobody needed <him>|it did not matter}."],
        ["One day <name> {was ill and stayed in bed|stayed at home}, and {everything went wrong|nothing worked any more}.", "Then, one {morning|evening}, <name> {was late|took a day off}, and {everything stopped|there was chaos}."],
        ["<Friend_c> came and said, \"{Without you nothing works|We all miss you|We need you}.\"", "Everyone {came|ran} to <name> and {asked for help|said how much they missed <him>}."],
        ["<Name> {smiled|stood up} and {went back to work|set everything right again}.", ""],
        ["From then on <name> knew that {small work can be great work|even small things matter}.", "From that day the others said thank you every {evening|day}."],
    ],
    "shy": [
        ["<Name> was {very shy|often alone} and {did not dare to speak to the others|played alone every day}.", "<Name> was new {there|in the place} and did not know anyone."],
        ["From far away <he> {watched|saw} the others {play|laugh} and {wished to be with them|felt lonely}.", ""],
        ["One day a ball rolled {to <his> feet|right in front of <him>}. {\"Can you throw it back?\" called <friend>|<Friend_c> ran after it}.", "One day <friend> sat down beside <name> and {said hello|smiled}."],
        ["<Name> {took a deep breath|was afraid at first}, but then {threw it back and laughed|said, \"Can I play with you?\"}.", "\"Would you like to play with us?\" asked <friend_the>. <Name> {nodded|said yes}."],
        ["They played {until the sun went down|all afternoon} and {laughed a lot|told each other stories}.", ""],
        ["{In the evening|When it was time to go home} <name> thought: {it was not so hard to say hello|today I found a friend}.", "From that day on <name> was {never lonely again|not alone any more}."],
    ],
}
ENDING = ["The end.", "And they lived happily ever after.", "And so <name> learned that {a kind heart is worth more than gold|friends make everything easier|it is good to be brave|patience is a great gift|sharing makes everyone richer|even the smallest can do great things}.", "That night <name> slept well and {dreamed of new adventures|smiled in <his> sleep}.", "And {everyone was happy|<name> was very happy}.", "", "Since that day <name> has never been {sad|lonely} for long."]

STORY_ASK = ["{I'd|I would} {love|like} {to hear |}a story about <x>.", "{How about|Let's have|Let us hear|I need|Have you got|Do you have} a {short |}story about <x>{?|.}", "{Tell|Write} a tale {of|about} <x>.", "a story on <x>", "Story time! {Something|A story} about <x>.", "Tell {my little sister|my class|us all} {something|a story} about <x>.", "Tell me a story about <x>.", "Tell me a story about <x>.", "{Tell|Write|Read|Give} me a {short |little |nice |funny |bedtime |}story about <x>.", "{Can|Could|Would} you {please |}tell {me |us |}a {short |}story about <x>?", "Write a {short |}story about <x>.", "I {want|would like} {to hear |}a story about <x>.",
             "A story about <x>{ please|}.", "story about <x>", "Do you know a story about <x>?", "Make up a story about <x>.", "Please tell a story about <x>.", "Tell my {son|daughter|kids|children} a story about <x>.", "Write {me |}a {tale|fairy tale|short tale} about <x>.", "{Invent|Create} a story about <x>."]
STORY_ANY = ["Tell me a story.", "Tell me a {short|bedtime|nice|funny|good} story.", "{Can|Could} you tell me a story?", "I want {to hear |}a story.", "Write a {short |}story.", "Story please", "Once upon a time", "Do you know a {good |}story?", "Tell us a story.", "A story, please.", "Write something{ nice| creative|}.", "Tell me a fairy tale.", "Entertain me.", "Tell me something."]
MORE = ["{Another|One more}{ story|} please.", "Tell me another {one|story}.", "Another one about <x>.", "And now {a story |one |}about <x>.", "That was {nice|great}. {Another one|One more} about <x> please.", "Again, but about <x>."]


CLAUSES = ["{who|that} {could not sleep|wanted to fly|loved music|was always late|could talk|was afraid of the dark|lost a shoe|wanted to be big|never smiled|liked to dance|lived alone|had no friends|was very lonely|found a key|dreamed of the sea|could not swim|went to school|wanted to learn to read|collected stones|told jokes}",
           "with {a red hat|a big nose|a golden key|blue eyes|three wishes|a secret|a wooden leg|no name|one ear|a broken heart}", "{in the forest|at the sea|on the moon|in space|in a big city|on a farm|in the snow|from Paris|from the north|in the desert|on an island}"]
HERO_ADJECTIVES = ("brave little lonely clever lazy old young sad happy tiny big lost hungry friendly sleepy blue red flying green purple golden grumpy curious funny strange wise quiet noisy cold magic giant kind evil poor rich silly shy white black forgetful dancing singing "
                   "thirsty angry proud polite wild invisible nervous").split()
PAIR_PLOTS = ["help", "storm", "race", "star", "shy"]
PLURALS = {"mouse": "mice", "fish": "fish", "wolf": "wolves", "deer": "deer", "fox": "foxes", "butterfly": "butterflies", "sheep": "sheep", "goose": "geese", "octopus": "octopuses", "monkey": "monkeys", "donkey": "donkeys", "pony": "ponies", "puppy": "puppies", "fairy": "fairies", "witch": "witches", "dwarf": "dwarfs", "elf": "elves", "child": "children", "fisherman": "fishermen", "postman": "postmen", "princess": "princesses", "phoenix": "phoenixes", "snowman": "snowmen"}


def plural(noun):
    return PLURALS.get(noun, noun + "s")


def pair(rng):
    """A story about two heroes, who are friends."""
    a, b = rng.choice(ANIMALS + CREATURES + PEOPLE), rng.choice(ANIMALS + CREATURES + PEOPLE)
    girl = rng.random() < 0.5
    one, two = rng.choice(GIRLS if girl else BOYS), rng.choice(GIRLS + BOYS)
    if one == two:
        two = "Robin"
    if rng.random() < 0.5 or a == b:
        about = f"two {plural(a)}"
        start = rng.choice([f"Once upon a time there were two {plural(a)} named {one} and {two}. They lived <place>.", f"<place_c> there lived two {plural(a)}, {one} and {two}. They were the best of friends."])
    else:
        about = f"{an(a)} and {an(b)}"
        start = rng.choice([f"Once upon a time there were {an(a)} named {one} and {an(b)} named {two}. They were good friends and lived <place>.", f"<place_c> there lived {an(a)} named {one}. <Hisc> best friend was {an(b)} named {two}."])
    text = fill_in(rng, start, "", PAIR_PLOTS, one, girl, dict(friend=two, friend_the=two, Friend_c=two, Friend_the_c=two, hero=one))
    return about, text.replace(f"Suddenly {two} heard", f"Suddenly {one} heard")


def subject(rng):
    """What a story is asked to be about, and the hero that follows from it: (subject, noun, name)."""
    roll = rng.random()
    if roll < 0.36:
        noun = rng.choice(rng.choice([ANIMALS, ANIMALS, CREATURES, PEOPLE, THINGS, THINGS]))
    elif roll < 0.42:
        noun = rng.choice(rng.choice([ANIMALS, CREATURES, PEOPLE, THINGS]))
        clause = expand(rng, rng.choice(CLAUSES))
        return f"{an(noun)} {clause}", f"{noun}|{clause}", None
    elif roll < 0.50:
        noun = rng.choice(NOUNS)
    elif roll < 0.56:
        noun = made_up(rng)
    elif roll < 0.70:
        name = rng.choice(GIRLS + BOYS) if rng.random() < 0.7 else cap(made_up(rng))
        who = rng.choice([name, f"a girl {rng.choice(['named', 'called'])} {name}", f"a boy {rng.choice(['named', 'called'])} {name}", f"{an(rng.choice(ANIMALS))} {rng.choice(['named', 'called'])} {name}"])
        return who, None, name
    elif roll < 0.86:
        return rng.choice(THEMES), None, None
    else:
        noun = rng.choice(rng.choice([ANIMALS, CREATURES, PEOPLE, THINGS]))
        adjective = rng.choice(HERO_ADJECTIVES if rng.random() < 0.85 else MORE_ADJECTIVES)
        return an(f"{adjective} {noun}"), f"{adjective} {noun}", None
    return rng.choice([an(noun), an(noun), "the " + noun]), noun, None


def tell(rng, about=None, noun=None, name=None, opening=None):
    """One story. about: a theme to mention; noun: what the hero is; name: the hero's given name."""
    girl = rng.random() < 0.5
    if about and about.startswith(("a girl", "a boy")):
        girl = about.startswith("a girl")
    elif name in GIRLS or name in BOYS:
        girl = name in GIRLS
    elif noun in ("boy", "king", "prince", "farmer", "wizard", "knight", "grandfather", "fisherman", "postman", "sailor", "pirate", "miller", "tailor", "shepherd"):
        girl = False
    elif noun in ("girl", "queen", "princess", "witch", "mermaid", "fairy", "grandmother", "hen", "cow"):
        girl = True
    theme = about if noun is None and name is None else None
    named = name is None
    name = name or rng.choice(GIRLS if girl else BOYS)
    if noun:
        noun, _, clause = noun.partition("|")
        plain = noun if " " in noun or rng.random() < 0.4 else rng.choice("small little young brave old curious friendly".split()) + " " + noun
        hero = f"{an(plain)} {rng.choice(['named', 'called', 'whose name was'])} {name}" if not clause else f"{an(noun)} named {name} {clause}"
    elif name and not named and about and " " in about:
        hero = about
    else:
        kind = ("girl" if girl else "boy") if not theme or rng.random() < 0.6 else rng.choice(ANIMALS)
        hero = f"{an(rng.choice(['small', 'little', 'young', 'curious', 'brave']) + ' ' + kind)} named {name}"
    friend = rng.choice([f for f in FRIENDS if not noun or noun.split()[-1] not in f])
    friend_the = "the " + friend.split(" ", 1)[1].split(" ")[-1]
    second = rng.choice(TRAIT)
    extra = dict(hero=hero, friend=friend, friend_the=friend_the, Friend_c=cap(friend), Friend_the_c=cap(friend_the))
    if theme:
        second = rng.choice(["<Name> often thought about <theme>.", "This is a story about <theme>.", "Nothing was as dear to <name> as <theme>.", "<Name> had heard many things about <theme>."])
        extra["theme"] = theme
    return fill_in(rng, opening or rng.choice(OPENING), second, list(PLOTS), name, girl, extra)


def fill_in(rng, opening, second, plots, name, girl, extra):
    """Opening, second sentence, one plot, ending; all slots filled."""
    place, he = rng.choice(PLACES), "she" if girl else "he"
    slots = dict(Name=name, name=name, he=he, He=cap(he), his="her" if girl else "his", him="her" if girl else "him", Hisc="Her" if girl else "His", place=place, place_c=cap(place), **extra)
    parts = [opening, second] + [rng.choice(step) for step in PLOTS[rng.choice(plots)]] + [rng.choice(ENDING)]
    return " ".join(expand_story(rng, p, slots) for p in parts if p)


def expand_story(rng, text, slots):
    """expand() accepts lower-case slot names only; stories also use capitals to mark the start of a sentence."""
    text = expand(rng, text)
    for key, value in slots.items():
        text = text.replace(f"<{key}>", value)
    return text


def layout(rng, text):
    """Most stories are one paragraph; some are two."""
    if rng.random() < 0.8:
        return text
    sentences = text.split(". ")
    half = len(sentences) // 2
    return ". ".join(sentences[:half]) + ".\n\n" + ". ".join(sentences[half:])


def story(rng):
    if rng.random() < 0.2:
        turns = [(ask(rng, STORY_ANY), layout(rng, tell(rng, noun=rng.choice(ANIMALS + CREATURES + PEOPLE))))]
    elif rng.random() < 0.06:
        about, text = pair(rng)
        turns = [(ask(rng, STORY_ASK, x=about), layout(rng, text))]
    else:
        about, noun, name = subject(rng)
        turns = [(ask(rng, STORY_ASK, x=about), layout(rng, tell(rng, about, noun, name)))]
    if rng.random() < 0.15:
        about, noun, name = subject(rng)
        form = rng.choice(MORE)
        text = tell(rng, about, noun, name) if "<x>" in form else tell(rng, noun=rng.choice(ANIMALS))
        turns.append((ask(rng, [form], wrap=False, x=about), text))
    return turns


def comfort(rng):
    """The model offers a story and the user says yes."""
    question = ask(rng, ["I am {sad|lonely|bored|unhappy|tired}{ today|}.", "I feel {sad|lonely|bad}.", "I had a bad day.", "I'm {sad|bored|lonely}."])
    offer = "I am sorry to hear that. Would you like to hear a story?"
    if rng.random() < 0.2:
        return [(question, offer), (ask(rng, ["No, thanks.", "No.", "No thank you.", "Not now."], wrap=False), "That is fine. Be kind to yourself, and ask me whenever you like.")]
    yes = ask(rng, ["Yes.", "Yes please.", "Yes, please!", "Sure.", "OK.", "Okay", "That would be nice.", "I would love to.", "Yes, tell me a story.", "ok, go on"], wrap=False)
    return [(question, offer), (yes, tell(rng, noun=rng.choice(ANIMALS + CREATURES)))]


def plain(rng):
    """A story without a chat frame, mostly opened by "Once upon a time"."""
    opening = rng.choice(OPENING[:2] + ["Once upon a time there was <hero>. One of <his> friends was <friend>.", "Once upon a time, there was <hero>."]) if rng.random() < 0.75 else None
    if rng.random() < 0.5:
        return tell(rng, noun=rng.choice(ANIMALS + CREATURES + PEOPLE + THINGS), opening=opening)
    about, noun, name = subject(rng)
    return tell(rng, about, noun, name, opening=opening)
