"""Everyday knowledge of the demo model: capitals, animals, why-questions, how-to, lists, opposites, jokes."""
from .phrasing import WHAT_IS, an, ask, cap

# Continent, then country/capital pairs.
_CAPITALS = {
    "Europe":
        "France/Paris; Germany/Berlin; Italy/Rome; Spain/Madrid; Portugal/Lisbon; England/London; the United Kingdom/London; Ireland/Dublin; "
        "Scotland/Edinburgh; Wales/Cardiff; Austria/Vienna; Switzerland/Bern; Belgium/Brussels; the Netherlands/Amsterdam; Denmark/Copenhagen; "
        "Sweden/Stockholm; Norway/Oslo; Finland/Helsinki; Iceland/Reykjavik; Poland/Warsaw; the Czech Republic/Prague; Slovakia/Bratislava; Hungary/Budapest; "
        "Romania/Bucharest; Bulgaria/Sofia; Greece/Athens; Croatia/Zagreb; Serbia/Belgrade; Slovenia/Ljubljana; Ukraine/Kyiv; Estonia/Tallinn; Latvia/Riga; "
        "Lithuania/Vilnius",
    "Europe and Asia":
        "Russia/Moscow",
    "Asia and Europe":
        "Turkey/Ankara",
    "Asia":
        "Japan/Tokyo; China/Beijing; India/New Delhi; South Korea/Seoul; North Korea/Pyongyang; Thailand/Bangkok; Vietnam/Hanoi; Indonesia/Jakarta; "
        "Malaysia/Kuala Lumpur; the Philippines/Manila; Nepal/Kathmandu; Pakistan/Islamabad; Bangladesh/Dhaka; Iran/Tehran; Iraq/Baghdad; Saudi Arabia/Riyadh; "
        "Israel/Jerusalem; Mongolia/Ulaanbaatar; Singapore/Singapore",
    "Africa":
        "Egypt/Cairo; Morocco/Rabat; Algeria/Algiers; Tunisia/Tunis; Kenya/Nairobi; Ethiopia/Addis Ababa; Nigeria/Abuja; Ghana/Accra; Senegal/Dakar; "
        "Uganda/Kampala; Rwanda/Kigali; South Africa/Pretoria; Zimbabwe/Harare; Madagascar/Antananarivo",
    "North America":
        "the United States/Washington, D.C.; the USA/Washington, D.C.; America/Washington, D.C.; Canada/Ottawa; Mexico/Mexico City; Cuba/Havana; "
        "Jamaica/Kingston; Costa Rica/San Jose; Panama/Panama City",
    "South America":
        "Brazil/Brasilia; Argentina/Buenos Aires; Chile/Santiago; Peru/Lima; Colombia/Bogota; Ecuador/Quito; Bolivia/Sucre; Uruguay/Montevideo; "
        "Venezuela/Caracas; Paraguay/Asuncion",
    "Australia":
        "Australia/Canberra",
    "Oceania":
        "New Zealand/Wellington; Fiji/Suva",
}
CAPITALS = [tuple(pair.strip().split("/")) + (continent,) for continent, pairs in _CAPITALS.items() for pair in pairs.split(";")]
FAMILIAR = [row for row in CAPITALS if row[0] in ("France", "Germany", "Italy", "Spain", "England", "Japan", "China", "India", "the United States", "Canada", "Poland", "Austria")]

# noun, plural, what it is, one more fact, sound, young, home
ANIMALS = [
    ("cat", "cats", "a small furry animal that many people keep as a pet", "Cats like to sleep and to hunt mice", "meow", "kitten", "in the house"),
    ("dog", "dogs", "a loyal animal that lives with people", "Dogs like to run, to play and to guard the house", "woof", "puppy", "with people"),
    ("cow", "cows", "a large farm animal that gives milk", "Cows eat grass and spend much of the day chewing", "moo", "calf", "on farms"),
    ("horse", "horses", "a strong animal that people can ride", "Horses can run fast and sleep while standing", "neigh", "foal", "on farms and in open fields"),
    ("pig", "pigs", "a clever farm animal with a short nose", "Pigs roll in mud to keep cool", "oink", "piglet", "on farms"),
    ("sheep", "sheep", "a farm animal with soft wool", "People make warm clothes from the wool of sheep", "baa", "lamb", "on farms and hills"),
    ("goat", "goats", "a farm animal with horns that climbs very well", "Goats eat almost any plant", "meh", "kid", "on farms and mountains"),
    ("chicken", "chickens", "a farm bird that lays eggs", "Chickens can fly only a short way", "cluck", "chick", "on farms"),
    ("duck", "ducks", "a bird that swims well", "The feathers of ducks keep the water out", "quack", "duckling", "on lakes and rivers"),
    ("lion", "lions", "a big wild cat", "Lions live in groups that are called prides", "roar", "cub", "in Africa"),
    ("tiger", "tigers", "a big wild cat with black stripes", "Tigers are good swimmers and hunt alone", "roar", "cub", "in the forests of Asia"),
    ("elephant", "elephants", "the largest animal on land", "Elephants use their long trunk to eat, drink and greet each other", "trumpet", "calf", "in Africa and Asia"),
    ("giraffe", "giraffes", "the tallest animal in the world", "Giraffes eat leaves from high trees", "hum", "calf", "in Africa"),
    ("zebra", "zebras", "a wild animal with black and white stripes that looks like a horse", "No two zebras have the same stripes", "bark", "foal", "in Africa"),
    ("monkey", "monkeys", "a clever animal that climbs trees", "Monkeys like fruit and live in groups", "chatter", "infant", "in warm forests"),
    ("bear", "bears", "a large strong animal with thick fur", "Many bears sleep through the winter", "growl", "cub", "in forests and mountains"),
    ("polar bear", "polar bears", "a large white bear", "Polar bears swim well and hunt seals on the ice", "growl", "cub", "in the Arctic"),
    ("wolf", "wolves", "a wild animal that looks like a big dog", "Wolves live and hunt in packs", "howl", "pup", "in forests"),
    ("fox", "foxes", "a clever wild animal with red fur and a bushy tail", "Foxes hunt at night", "bark", "cub", "in forests and fields"),
    ("rabbit", "rabbits", "a small animal with long ears", "Rabbits eat grass and hop very fast", "squeak", "kit", "in holes under the ground"),
    ("mouse", "mice", "a very small animal with a long tail", "Mice eat seeds and are afraid of cats", "squeak", "pup", "in fields and houses"),
    ("squirrel", "squirrels", "a small animal with a bushy tail", "Squirrels hide nuts for the winter", "chatter", "kit", "in trees"),
    ("hedgehog", "hedgehogs", "a small animal with many spines", "Hedgehogs roll into a ball when they are afraid", "snuffle", "hoglet", "in gardens and woods"),
    ("deer", "deer", "a shy animal of the forest with long legs", "Male deer grow new antlers every year", "grunt", "fawn", "in forests"),
    ("owl", "owls", "a bird that hunts at night", "Owls can turn their heads very far", "hoot", "owlet", "in trees and old barns"),
    ("eagle", "eagles", "a large bird with very sharp eyes", "Eagles can see a mouse from high in the sky", "screech", "eaglet", "in mountains"),
    ("penguin", "penguins", "a bird that cannot fly but swims very well", "Penguins stand close together to keep warm", "squawk", "chick", "in the cold south"),
    ("parrot", "parrots", "a colourful bird that can learn words", "Parrots can live for a very long time", "squawk", "chick", "in warm forests"),
    ("frog", "frogs", "a small green animal that jumps far", "Frogs begin their life as tadpoles in the water", "croak", "tadpole", "in ponds"),
    ("snake", "snakes", "a long animal without legs", "Snakes smell with their tongue", "hiss", "snakelet", "in many warm places"),
    ("turtle", "turtles", "an animal that carries a hard shell", "Turtles can live for more than a hundred years", "hiss", "hatchling", "in the sea and on land"),
    ("crocodile", "crocodiles", "a large animal with strong jaws", "Crocodiles lie still in the water and wait", "growl", "hatchling", "in warm rivers"),
    ("fish", "fish", "an animal that lives in water and breathes with gills", "There are more than thirty thousand kinds of fish", "blub", "fry", "in seas, lakes and rivers"),
    ("shark", "sharks", "a large fish with many teeth", "Sharks never run out of teeth, as new ones keep growing", "nothing at all", "pup", "in the sea"),
    ("whale", "whales", "the largest animal in the sea", "Whales breathe air and sing long songs under water", "song", "calf", "in the sea"),
    ("dolphin", "dolphins", "a clever animal that lives in the sea", "Dolphins talk to each other with clicks and whistles", "click", "calf", "in the sea"),
    ("octopus", "octopuses", "a sea animal with eight arms", "Octopuses have three hearts and can change their colour", "nothing at all", "larva", "in the sea"),
    ("bee", "bees", "a small insect that makes honey", "Bees help flowers by carrying pollen", "buzz", "larva", "in hives"),
    ("ant", "ants", "a tiny insect that lives in large groups", "Ants can carry many times their own weight", "nothing at all", "larva", "in nests under the ground"),
    ("butterfly", "butterflies", "an insect with large colourful wings", "Butterflies begin their life as caterpillars", "nothing at all", "caterpillar", "in gardens and fields"),
    ("spider", "spiders", "a small animal with eight legs", "Many spiders build webs to catch flies", "nothing at all", "spiderling", "in gardens and houses"),
    ("snail", "snails", "a small slow animal that carries its house", "Snails leave a shiny track behind them", "nothing at all", "baby snail", "in gardens"),
    ("camel", "camels", "a large animal with one or two humps", "Camels can walk for days without water", "grunt", "calf", "in deserts"),
    ("kangaroo", "kangaroos", "a large animal that jumps on its hind legs", "Kangaroos carry their young in a pouch", "cough", "joey", "in Australia"),
    ("koala", "koalas", "a small grey animal that looks like a bear", "Koalas sleep most of the day and eat leaves", "grunt", "joey", "in Australia"),
    ("panda", "pandas", "a black and white bear", "Pandas eat bamboo nearly all day", "bleat", "cub", "in China"),
    ("bat", "bats", "a small animal that can fly at night", "Bats find their way by listening to echoes", "squeak", "pup", "in caves and attics"),
    ("swan", "swans", "a large white bird with a long neck", "Swans often stay together for life", "honk", "cygnet", "on lakes"),
]

# Questions with paraphrases, and their answers.
QA = [
    (["Why {does|is} the sky {look|seem|appear} blue?", "Why do we see a blue sky?", "sky blue why", "Why is the sky blue?", "{Explain|Tell me} why the sky is blue.", "What makes the sky blue?", "How come the sky is blue?", "{What is the reason|Why is it} that the sky is blue?"],
     ["Sunlight holds all colours. The air scatters blue light more than red light, so blue reaches our eyes from all sides and the sky looks blue."]),
    (["Why is {grass|the grass} green?", "What makes {grass|plants|leaves} green?", "Why are {leaves|plants|trees} green?"],
     ["Leaves and grass hold a green substance that is called chlorophyll. Plants use it to make food from sunlight."]),
    (["Why is the {sea|ocean} salty?", "Why is {sea|ocean} water salty?"], ["Rain washes salt out of the rocks and rivers carry it into the sea. The water dries up, but the salt stays."]),
    (["Why do leaves fall{ in autumn|}?", "Why do trees lose their leaves{ in autumn| in winter|}?"], ["In autumn there is less light and water. Trees drop their leaves to save water and strength for the winter."]),
    (["Why do we sleep?", "Why do {people|I} need {to sleep|sleep}?", "What is sleep good for?"], ["Sleep lets the body rest and repair itself, and it helps the brain to keep what it has learned."]),
    (["Why do we dream?", "What is a dream?", "What are dreams?"], ["Nobody knows exactly why we dream. Many people think that the brain sorts what it has seen during the day."]),
    (["How does a rainbow {form|work}?", "What is a rainbow?", "What makes a rainbow?", "Why {do we see|is there a} rainbow?", "How is a rainbow made?"], ["A rainbow appears when the sun shines on rain. Each drop splits the light into its colours."]),
    (["Why does it rain?", "What is rain?", "How does rain {form|work}?", "Where does rain come from?"], ["The sun warms water until it rises as vapour. High up it cools, forms clouds, and falls down again as rain."]),
    (["What is snow?", "How does snow form?", "Why does it snow?"], ["Snow is frozen water. When it is very cold, the vapour in a cloud turns into small ice crystals that fall as snow."]),
    (["What is thunder?", "What is lightning?", "How does lightning {form|work}?", "Why does thunder come after lightning?"], ["Lightning is a huge spark between clouds or between a cloud and the ground. Thunder is the sound of it, and it comes later because sound is slower than light."]),
    (["What is the sun?", "What is the Sun made of?", "Tell me about the sun."], ["The sun is a star, a huge ball of hot gas. It gives the earth light and warmth."]),
    (["What is the moon?", "Tell me about the moon.", "What do you know about the moon?"], ["The moon is a ball of rock that travels around the earth. It takes about a month for one round."]),
    (["What is a star?", "What are stars?", "Why do stars shine?"], ["A star is a huge ball of hot gas that makes its own light. The sun is the star that is nearest to us."]),
    (["What is a planet?", "What are planets?"], ["A planet is a large ball of rock or gas that travels around a star. The earth is a planet."]),
    (["How many planets are there?", "How many planets {are in|does} {the solar system|our solar system}{ have|}?", "Name the planets.", "List {all |}the planets{ of the solar system|}.", "What are the planets{ called|}?"],
     ["There are eight planets: Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune."]),
    (["{What|Which} is the {largest|biggest} planet{ in the solar system| of our solar system| in space| of all|}?", "{What|Which} is the {largest|biggest} planet?", "Name the {largest|biggest} planet.", "{What|Which} planet is the {largest|biggest}?"], ["Jupiter is the largest planet of our solar system."]),
    (["{What|Which} is the smallest planet{ in the solar system| of our solar system|}?", "{What|Which} planet is the smallest?"], ["Mercury is the smallest planet of our solar system."]),
    (["{What|Which} planet is {the red planet|called the red planet}?", "What is Mars?", "Tell me about Mars.", "Why is Mars red?"], ["Mars is the red planet. Its ground is full of rust, which makes it look red."]),
    (["How far {away |}is the moon?", "How far is it to the moon?", "What is the distance to the moon?"], ["The moon is about 384,000 kilometres away from the earth."]),
    (["How far {away |}is the sun?", "How far is it to the sun?", "What is the distance to the sun?"], ["The sun is about 150 million kilometres away from the earth."]),
    (["Is the earth {round|flat}?", "What shape is the earth?", "What is the shape of the {earth|world}?"], ["The earth is round, nearly like a ball."]),
    (["What is the earth?", "Tell me about the earth.", "What is Earth?"], ["The earth is the planet on which we live. Most of it is covered by water."]),
    (["{What|Which} is the {highest|tallest} mountain{ in the world| on earth|}?", "Name the {highest|tallest} mountain.", "What is Mount Everest?"], ["Mount Everest is the highest mountain on earth. It is 8,849 metres high."]),
    (["{What|Which} is the longest river{ in the world|}?", "Name the longest river.", "What is the Nile?"], ["The Nile in Africa is usually called the longest river in the world."]),
    (["{What|Which} is the {largest|biggest} ocean?", "Name the {largest|biggest} ocean.", "What is the Pacific?"], ["The Pacific is the largest ocean on earth."]),
    (["{What|Which} is the {largest|biggest} country{ in the world|}?", "Name the {largest|biggest} country."], ["Russia is the largest country in the world by area."]),
    (["{What|Which} is the {largest|biggest} animal{ in the world|}?", "Name the {largest|biggest} animal.", "What is a blue whale?"], ["The blue whale is the largest animal in the world. It can be thirty metres long."]),
    (["{What|Which} is the fastest animal{ in the world| on land|}?", "Name the fastest animal.", "What is a cheetah?"], ["The cheetah is the fastest animal on land. It can run at more than a hundred kilometres per hour."]),
    (["{What|Which} is the tallest animal{ in the world|}?", "Name the tallest animal."], ["The giraffe is the tallest animal in the world."]),
    (["How many continents are there?", "Name the continents.", "List the {seven |}continents.", "What are the {seven |}continents?"], ["There are seven continents: Africa, Antarctica, Asia, Australia, Europe, North America and South America."]),
    (["How many oceans are there?", "Name the oceans.", "List the {five |}oceans."], ["There are five oceans: the Pacific, the Atlantic, the Indian, the Southern and the Arctic Ocean."]),
    (["How many days {are in a|does a} week{ have|}?", "{Name|List} the days of the week.", "What are the days of the week?", "What are the seven days{ called|}?"], ["A week has seven days: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."]),
    (["How many months {are in a|does a} year{ have|}?", "{Name|List} {all |}the months.", "What are the {twelve |}months{ of the year|}?"], ["A year has twelve months: January, February, March, April, May, June, July, August, September, October, November and December."]),
    (["How many days {are in a|does a} year{ have|}?", "How long is a year?"], ["A year has 365 days, and a leap year has 366."]),
    (["How many hours {are in a|does a} day{ have|}?", "How long is a day?"], ["A day has 24 hours."]),
    (["How many minutes {are in an|does an} hour{ have|}?"], ["An hour has 60 minutes."]),
    (["How many seconds {are in a|does a} minute{ have|}?"], ["A minute has 60 seconds."]),
    (["{Name|List} the {four |}seasons.", "What are the {four |}seasons{ of the year|}?", "How many seasons are there?"], ["There are four seasons: spring, summer, autumn and winter."]),
    (["{Name|List} the colours of the rainbow.", "What are the {colors|colours} of the rainbow?", "{What|Which} colors {are in|does} a rainbow{ have|}?"], ["The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet."]),
    (["What are the {five |}senses?", "{Name|List} the five senses.", "How many senses do we have?"], ["The five senses are sight, hearing, smell, taste and touch."]),
    (["What is water{ made of|}?", "What is the formula of water?", "What is H2O?"], ["Water is made of hydrogen and oxygen. Its formula is H2O."]),
    (["At what temperature does water {boil|freeze}?", "When does water {boil|freeze}?", "What is the {boiling|freezing} point of water?"], ["Water freezes at 0 degrees Celsius and boils at 100 degrees Celsius."]),
    (["What is ice?", "What happens when water freezes?"], ["Ice is frozen water. Water turns to ice below 0 degrees Celsius."]),
    (["What is gravity?", "Why do things fall{ down|}?", "How does gravity work?"], ["Gravity is the force that pulls things toward each other. It keeps us on the ground and makes an apple fall."]),
    (["What is photosynthesis?", "How do plants {make food|eat|grow}?", "What do plants need{ to grow|}?"], ["Plants make their food from sunlight, water and air. This is called photosynthesis, and it also makes the oxygen that we breathe."]),
    (["What is electricity?", "How does electricity work?"], ["Electricity is the movement of very small charged particles. It gives power to lamps, phones and computers."]),
    (["What is light?", "How fast {is light|does light travel|does light move|can light go}?", "What speed does light have?", "What is the speed of light?"], ["Light is a kind of wave that we can see. It travels about 300,000 kilometres per second."]),
    (["What is sound?", "How fast {is sound|does sound travel|does sound move}?", "What is the speed of sound?"], ["Sound is a wave in the air. It travels about 340 metres per second."]),
    (["What is a volcano?", "How does a volcano work?", "Why do volcanoes erupt?"], ["A volcano is a mountain with an opening through which hot melted rock can come out of the earth."]),
    (["What is a desert?", "What are deserts?"], ["A desert is a very dry place where little rain falls and few plants grow."]),
    (["What is a forest?", "What are forests?"], ["A forest is a large area full of trees. Many animals live there."]),
    (["What is a dinosaur?", "What are dinosaurs?", "What happened to the dinosaurs?", "Tell me about dinosaurs."], ["Dinosaurs were animals that lived long ago. They died out about 66 million years ago, probably because a large rock from space hit the earth."]),
    (["What is a robot?", "What are robots?"], ["A robot is a machine that can do tasks by itself because a program controls it."]),
    (["What is a computer?", "How does a computer work?", "What does a computer do?"], ["A computer is a machine that follows instructions. It can calculate, store data and show it on a screen."]),
    (["What is {a program|software}?", "What is programming?", "What is code?"], ["A program is a list of instructions that tells a computer what to do. Writing such instructions is called programming."]),
    (["What is the internet?", "How does the internet work?"], ["The internet is a network that connects computers all over the world, so that they can send data to each other."]),
    (["What is {Linux|an operating system}?"], ["An operating system controls a computer and runs its programs. Linux is a free one that is used on most servers."]),
    (["What is Python?", "Tell me about Python."], ["Python is a programming language that is easy to read. It is often used for data, for the web and for machine learning."]),
    (["What is C?", "What is the C language?", "Tell me about the C programming language."], ["C is a programming language that is close to the machine. It is fast, and Baton is written in it."]),
    (["What is a {bug|software bug}?", "What is debugging?"], ["A bug is a mistake in a program. Debugging means to find it and to correct it."]),
    (["What is {friendship|a friend}?", "What makes a good friend?"], ["A friend is someone who likes you, listens to you and helps you when you need it."]),
    (["What is love?"], ["Love is a deep and warm feeling for someone. People show it by caring for each other."]),
    (["What is happiness?", "How can I be happy?", "How do I become happy?", "What makes people happy?"], ["Many people are happy when they spend time with friends, do something useful, sleep well and enjoy small things."]),
    (["What is {the meaning of life|life about}?", "What is the sense of life?", "Why are we here?"], ["That is a big question for a small model. Many people say that it is to be kind, to learn, and to be happy together."]),
    (["What is time?"], ["Time is what clocks measure. It moves from the past through the present to the future."]),
    (["What is music?"], ["Music is sound that is arranged so that it pleases people. It can be sung or played on instruments."]),
    (["What is math?", "What is mathematics?"], ["Mathematics is the study of numbers, shapes and rules. I can add, subtract and multiply small numbers."]),
    (["What is science?"], ["Science is a way to learn about the world: people observe, guess, test and share what they found."]),
    (["What is history?"], ["History is the story of what happened in the past and of what we can learn from it."]),
    (["What is honey?", "Who makes honey?", "How is honey made?"], ["Honey is sweet food that bees make from the nectar of flowers."]),
    (["What is bread{ made of|}?", "How is bread made?"], ["Bread is made of flour, water, salt and usually yeast. The dough rests, grows and is then baked."]),
    (["What is cheese{ made of|}?", "How is cheese made?"], ["Cheese is made of milk. The milk is turned thick, the water is pressed out, and the rest is left to ripen."]),
    (["What is chocolate{ made of|}?", "How is chocolate made?"], ["Chocolate is made of cocoa beans, sugar and often milk."]),
    (["What is {paper|paper made of}?", "How is paper made?"], ["Paper is made of wood. The wood is turned into a wet pulp, pressed flat and dried."]),
    (["What is glass{ made of|}?", "How is glass made?"], ["Glass is made of sand that is heated until it melts."]),
    (["Who was {Albert Einstein|Einstein}?", "Who is Einstein?", "Tell me about {Albert |}Einstein."], ["Albert Einstein was a physicist. He is known for the theory of relativity."]),
    (["Who was {Isaac Newton|Newton}?", "Tell me about {Isaac |}Newton.", "Who discovered gravity?"], ["Isaac Newton was a scientist from England. He described gravity and the laws of motion."]),
    (["Who was {William |}Shakespeare?", "Who wrote {Romeo and Juliet|Hamlet}?", "Tell me about Shakespeare."], ["William Shakespeare was an English writer. He wrote plays such as Hamlet and Romeo and Juliet."]),
    (["Who painted the Mona Lisa?", "Who was Leonardo da Vinci?", "Tell me about Leonardo da Vinci."], ["Leonardo da Vinci painted the Mona Lisa. He was an artist and inventor from Italy."]),
    (["Who was {Ada Lovelace|the first programmer}?", "Tell me about Ada Lovelace."], ["Ada Lovelace is often called the first programmer. She wrote a program for a machine that was never finished."]),
    (["Who was Alan Turing?", "Tell me about Alan Turing."], ["Alan Turing was a mathematician. He laid the ground for computer science and helped to break secret codes."]),
    (["Who was the first {man|person|human} on the moon?", "Who walked on the moon first?", "Who was Neil Armstrong?", "When did people land on the moon?"], ["Neil Armstrong was the first person on the moon. He landed there in 1969."]),
    (["How many legs does {a spider|an insect} have?", "How many legs do {spiders|insects} have?"], ["A spider has eight legs and an insect has six."]),
    (["How many letters {are in|does} the {English |}alphabet{ have|}?", "{Say|Write|List|Recite} the alphabet.", "What are the letters of the alphabet?"], ["The alphabet has 26 letters: A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y and Z."]),
    (["How many legs does a {dog|cat|horse|cow|lion} have?", "How many legs do {dogs|cats|horses|cows|lions} have?"], ["Four legs."]),
    (["{Name|List|What are} the primary {colors|colours}{?|.}", "How many primary colours are there?"], ["The primary colours are red, yellow and blue."]),
    (["How many {cents|pennies} are in a {dollar|euro}?"], ["There are 100 cents."]),
    (["How many metres are in a kilometre?", "How long is a kilometre?", "How many meters are in a kilometer?"], ["A kilometre has 1,000 metres."]),
    (["How many grams are in a kilogram?", "How heavy is a kilogram?"], ["A kilogram has 1,000 grams."]),
    (["How many {bits|bits are} in a byte?", "How many bits does a byte have?", "What is a byte?", "What is a bit?"], ["A bit is either zero or one, and a byte has eight bits."]),
    (["How many players are in a {football|soccer} team?"], ["A football team has eleven players."]),
    (["How many strings does a {guitar|violin} have?"], ["A guitar has six strings and a violin has four."]),
    (["How many hearts does an octopus have?", "How many arms does an octopus have?"], ["An octopus has three hearts and eight arms."]),
    (["How many weeks {are in a|does a} year{ have|}?"], ["A year has 52 weeks."]),
    (["How many sides does a {triangle|square} have?", "What is a {triangle|square}?"], ["A triangle has three sides and a square has four."]),
    (["What is a circle?", "What is pi?", "What is the value of pi?"], ["A circle is a perfectly round shape. Pi is the number that connects its width and its length around, about 3.14159."]),
    (["What is a prime number?", "Name some prime numbers.", "{List|What are} the first prime numbers{?|.}"], ["A prime number can only be divided by one and by itself. The first ones are 2, 3, 5, 7, 11 and 13."]),
    (["What is the Eiffel Tower?", "Where is the Eiffel Tower?"], ["The Eiffel Tower is a high iron tower in Paris."]),
    (["What is the Great Wall{ of China|}?", "Where is the Great Wall?"], ["The Great Wall is a very long old wall in China."]),
    (["What are the pyramids?", "Where are the pyramids?", "Who built the pyramids?"], ["The pyramids are huge old tombs in Egypt. They were built for the kings of ancient Egypt."]),
    (["Where does milk come from?", "Who gives milk?", "What is milk?"], ["Milk comes from cows, goats and other animals that feed their young."]),
    (["Where do eggs come from?", "Who lays eggs?"], ["Eggs come from birds. Most of the eggs that people eat are laid by chickens."]),
    (["What is coffee{ made of|}?", "Where does coffee come from?"], ["Coffee is a drink made from the roasted seeds of the coffee plant."]),
    (["What is tea{ made of|}?", "Where does tea come from?"], ["Tea is a drink made from the leaves of the tea plant."]),
    (["What is a {university|school}?", "Why do {we|children} go to school?"], ["A school is a place where people learn. Children learn there to read, to write and to calculate."]),
    (["What is money?", "Why do we need money?"], ["Money is something that people accept in exchange for goods and work."]),
    (["What is a cloud?", "What are clouds{ made of|}?"], ["A cloud is made of very small drops of water or ice that float in the air."]),
    (["What is the wind?", "What is wind?", "Where does wind come from?", "Why does the wind blow?"], ["Wind is moving air. It blows because the sun warms some places more than others."]),
    (["What is fire?", "Why does fire burn?"], ["Fire is a quick reaction with oxygen that gives off heat and light."]),
    (["Why does ice float?", "Why does wood float?", "Why do ships float?"], ["Things float when they are lighter than the water they push aside."]),
    (["Why do cats {purr|sleep so much}?", "Why do cats like to sleep?"], ["Cats purr when they feel well, and they sleep a lot to save strength for the hunt."]),
    (["Why do dogs {bark|wag their tails}?"], ["Dogs bark to talk to others or to warn them, and they wag their tails when they are excited or happy."]),
    (["Why do birds {fly south|sing|fly}?", "How do birds fly?"], ["Birds fly by moving their light wings through the air. Many fly south in autumn to find food, and they sing to find a partner."]),
    (["Which came first, the chicken or the egg?", "Chicken or egg, what came first?"], ["People have argued about it for a long time. Animals laid eggs long before there were chickens, so I would say the egg."]),
    (["Where does the sun rise?", "Where does the sun {set|go down}?", "In which direction does the sun {rise|set}?"], ["The sun rises in the east and sets in the west."]),
    (["What is the opposite of a vegetable?", "What is a vegetable?", "What is a fruit?"], ["A fruit holds the seeds of a plant and is often sweet. A vegetable is another part of a plant that we eat, such as a root or a leaf."]),
    (["Is a tomato a fruit{ or a vegetable|}?", "What is a tomato?"], ["A tomato is a fruit because it holds seeds, but in the kitchen it is used as a vegetable."]),
    (["Can penguins fly?", "Can a penguin fly?"], ["No, penguins cannot fly, but they swim very well."]),
    (["Can pigs fly?", "Can a pig fly?"], ["No, pigs cannot fly, except in stories."]),
    (["How {old|long ago} is the {earth|world}?", "What is the age of the earth?"], ["The earth is about four and a half billion years old."]),
    (["How many people live on earth?", "How many people are there{ in the world|}?", "What is the population of the {world|earth}?"], ["About eight billion people live on earth."]),
    (["What should I {eat|cook}{ today| tonight| for dinner|}?", "What can I cook{ today| for dinner|}?", "{Give me|I need} an idea for dinner.", "I am hungry. What should I eat?", "I'm hungry."], ["How about pasta with tomato sauce and a green salad? It is quick and most people like it."]),
    (["What should I do today?", "I am bored. What {can|should} I do?", "I'm bored.", "{Give me|I need} something to do."], ["You could take a walk, read a good book or call a friend. I can also tell you a story."]),
    (["How {can|do} I learn {faster|better|to program|programming|English|a language}?", "{Give me|Do you have} a tip for learning{?|.}"], ["Practise a little every day, start with small steps, and do not be afraid of mistakes."]),
    (["How {can|do} I sleep better?", "I {can't|cannot} sleep.", "What helps {me |}to sleep?"], ["Go to bed at the same time every day, keep the room dark and cool, and put the phone away an hour before."]),
    (["How {can|do} I stay healthy?", "{Give me|Do you have} a health tip{?|.}", "What is a healthy life?"], ["Eat fruit and vegetables, drink water, move every day and sleep enough."]),
    (["{Give me|Do you have} {some |a piece of |}advice{?|.}", "{Tell|Teach} me something useful."], ["Do the important thing first, take a break now and then, and be kind to others."]),
    (["Tell me {something interesting|a fun fact|an interesting fact|a fact}.", "{Give me|Do you know} {a fun fact|a fact|something interesting}{?|.}", "Say something interesting.", "Surprise me."],
     ["An octopus has three hearts.", "Honey can stay good for thousands of years.", "A day on Venus is longer than a year on Venus.", "Bees tell each other the way to flowers with a dance.", "Light needs about eight minutes from the sun to the earth."]),
]

HOWTO = [
    (["make tea", "make a cup of tea", "brew tea", "prepare tea"], ["Boil fresh water.", "Put a tea bag into a cup and pour the water over it.", "Wait three to five minutes and take the bag out.", "Add milk, lemon or sugar if you like."]),
    (["make coffee", "make a cup of coffee", "brew coffee"], ["Boil water and let it cool for a moment.", "Put ground coffee into a filter.", "Pour the water slowly over it.", "Enjoy the coffee while it is hot."]),
    (["boil an egg", "cook an egg", "boil eggs"], ["Boil water in a small pot.", "Put the egg in carefully.", "Wait six minutes for a soft egg or ten minutes for a hard one.", "Cool it under cold water."]),
    (["cook pasta", "make pasta", "cook spaghetti", "cook noodles"], ["Boil plenty of water and add salt.", "Put in the pasta and stir.", "Cook it as long as the packet says.", "Drain it and add the sauce."]),
    (["cook rice", "make rice"], ["Wash one cup of rice.", "Put it into a pot with two cups of water and a little salt.", "Let it boil, then cook it gently for fifteen minutes with the lid on.", "Leave it for five minutes before you serve it."]),
    (["make a sandwich", "prepare a sandwich"], ["Take two slices of bread.", "Spread butter on them.", "Add cheese, tomato and salad.", "Close the sandwich and cut it in half."]),
    (["make pancakes", "bake pancakes", "make a pancake"], ["Mix flour, milk, eggs and a little salt.", "Heat some butter in a pan.", "Pour in a thin layer and bake it on both sides.", "Serve it with jam or sugar."]),
    (["bake bread", "make bread", "bake a loaf of bread"], ["Mix flour, water, salt and yeast.", "Knead the dough and let it rest for an hour.", "Form a loaf and let it rest again.", "Bake it in a hot oven until it is brown."]),
    (["bake a cake", "make a cake"], ["Mix butter, sugar and eggs.", "Add flour and baking powder and stir well.", "Fill the dough into a pan.", "Bake it for about forty minutes."]),
    (["make pizza", "bake a pizza", "make a pizza"], ["Roll out the dough.", "Spread tomato sauce on it.", "Add cheese and what you like.", "Bake it in a very hot oven for about ten minutes."]),
    (["make a salad", "prepare a salad"], ["Wash the leaves and cut the vegetables.", "Mix oil, vinegar, salt and pepper.", "Pour it over the salad.", "Toss it well and serve it at once."]),
    (["make soup", "cook soup", "cook a soup"], ["Cut vegetables into small pieces.", "Fry them for a moment in a pot.", "Add water and salt and cook them until they are soft.", "Season the soup and serve it hot."]),
    (["plant a tree", "grow a tree"], ["Dig a hole that is twice as wide as the roots.", "Put the tree in and fill the hole with soil.", "Press the soil down gently.", "Water the tree well and often in the first year."]),
    (["plant flowers", "grow flowers", "grow a plant", "water plants"], ["Choose a place with enough light.", "Put the seeds into soft soil.", "Water them a little every day.", "Be patient until they grow."]),
    (["ride a bike", "ride a bicycle", "learn to ride a bike"], ["Sit on the bike and hold the handlebar.", "Push off and start to pedal.", "Look ahead and keep moving, because that keeps you upright.", "Wear a helmet and practise."]),
    (["swim", "learn to swim"], ["Start in water where you can stand.", "Learn to float and to breathe calmly.", "Move your arms and legs slowly.", "Never swim alone."]),
    (["brush my teeth", "brush your teeth", "clean my teeth"], ["Put a little toothpaste on the brush.", "Brush all sides of the teeth for two minutes.", "Rinse with water.", "Do it every morning and evening."]),
    (["wash my hands", "wash your hands", "wash hands"], ["Make your hands wet.", "Rub them with soap for twenty seconds.", "Rinse them well.", "Dry them with a clean towel."]),
    (["tie my shoes", "tie a shoe", "tie shoelaces", "tie my shoelaces"], ["Cross the laces and pull one under the other.", "Make a loop with one lace.", "Wrap the other lace around it.", "Pull it through and make both loops tight."]),
    (["write a letter", "write an email", "write a good letter"], ["Start with a greeting.", "Say in the first sentence what you want.", "Keep it short and friendly.", "End with thanks and your name."]),
    (["paint a picture", "draw a picture", "draw a cat", "paint a house"], ["Look closely at what you want to draw.", "Start with light lines for the large shapes.", "Add the details.", "Add colour and shadows at the end."]),
    (["make a paper plane", "fold a paper plane", "build a paper airplane"], ["Fold a sheet of paper in half along the long side.", "Fold the two upper corners to the middle.", "Fold both sides down to make the wings.", "Throw it gently."]),
    (["clean a window", "clean my windows", "clean windows"], ["Wipe off the dust.", "Wash the glass with warm water and a little soap.", "Dry it from top to bottom.", "Polish it with paper."]),
    (["clean my room", "tidy my room", "tidy up"], ["Open the window.", "Put everything back to its place.", "Wipe the dust from the shelves.", "Clean the floor at the end."]),
    (["learn to program", "start programming", "write a program", "become a programmer"], ["Choose a simple language.", "Write very small programs first.", "Change them and see what happens.", "Read the code of others and ask questions."]),
    (["make a snowman", "build a snowman"], ["Roll a large ball of snow.", "Put two smaller balls on top of it.", "Use stones for the eyes and a carrot for the nose.", "Give it a hat."]),
    (["save money", "spend less money"], ["Write down what you spend.", "Decide what you really need.", "Put some money aside at the start of each month.", "Wait a day before you buy something big."]),
    (["find a friend", "find friends", "make friends", "make new friends"], ["Smile and say hello.", "Ask people about themselves.", "Listen to them.", "Do something together that you both like."]),
    (["feed a cat", "take care of a cat", "look after a cat", "care for a cat"], ["Give it fresh food and water every day.", "Clean its box.", "Play with it.", "Let it sleep when it is tired."]),
    (["take care of a dog", "train a dog", "look after a dog", "care for a dog"], ["Walk the dog several times a day.", "Give it food and fresh water.", "Praise it when it does well.", "Be patient and friendly."]),
    (["test an LLM server", "test the server", "benchmark a server", "measure TTFT", "test Baton"], ["Send one simple request and read the answer.", "Send many requests at the same time.", "Measure the time to first token and the time between tokens.", "Compare the p99 with the targets of each tier."]),
    (["send a request", "send a chat request", "call the API", "use the API"], ["Choose the chat completions endpoint of the server.", "Put the name of the model and your messages into a JSON body.", "Send it with curl or with an OpenAI client.", "Read the text of the first choice in the answer."]),
]
HOW_ASK = ["How do I <x>?", "How do I <x>?", "How can I <x>?", "How to <x>?", "How do you <x>?", "{Tell|Show|Teach} me how to <x>.", "Explain how to <x>.", "Can you {tell|show|teach} me how to <x>?", "What is the best way to <x>?",
           "I want to <x>. How {do I do that|does it work}?", "Give me steps to <x>.", "I need help to <x>.", "What do I need to do to <x>?", "Steps to <x>", "Please help me <x>.", "I would like to <x>.", "how to <x>"]

OPPOSITES = [pair.split("/") for pair in ("hot/cold big/small fast/slow happy/sad old/young old/new high/low up/down left/right day/night light/dark hard/soft full/empty open/closed rich/poor strong/weak good/bad early/late near/far "
             "long/short wet/dry clean/dirty loud/quiet heavy/light true/false first/last black/white yes/no inside/outside above/below before/after begin/end love/hate win/lose buy/sell push/pull laugh/cry start/stop thick/thin wide/narrow "
             "sweet/sour easy/difficult cheap/expensive summer/winter alive/dead brave/afraid safe/dangerous deep/shallow tall/short smooth/rough always/never").split()]

COLOURS = [("snow", "white"), ("the sun", "yellow"), ("grass", "green"), ("blood", "red"), ("coal", "black"), ("a banana", "yellow"), ("an orange", "orange"), ("a tomato", "red"), ("a lemon", "yellow"), ("the sky", "blue"), ("the sea", "blue"),
           ("a carrot", "orange"), ("a frog", "green"), ("milk", "white"), ("chocolate", "brown"), ("a strawberry", "red"), ("an elephant", "grey"), ("a leaf", "green"), ("a rose", "red"), ("a polar bear", "white"), ("a raven", "black"), ("an egg", "white"),
           ("a flamingo", "pink"), ("a cucumber", "green"), ("a cherry", "red"), ("the night", "black"), ("a pumpkin", "orange"), ("wood", "brown"), ("gold", "yellow"), ("silver", "grey"), ("bronze", "brown")]

LISTS = [
    ("fruits", "apple banana orange pear grape cherry strawberry lemon peach plum mango melon".split()),
    ("vegetables", "carrot potato tomato onion cucumber pepper pea bean cabbage spinach pumpkin".split()),
    ("animals", "cat dog horse cow lion tiger elephant rabbit fox bear wolf monkey".split()),
    ("colours", "red blue green yellow orange purple black white brown pink grey".split()),
    ("colors", "red blue green yellow orange purple black white brown pink gray".split()),
    ("countries", "France Germany Italy Spain Japan China India Brazil Canada Egypt Kenya Peru".split()),
    ("cities", "Paris London Berlin Rome Madrid Tokyo Cairo Lima Vienna Oslo Athens Lisbon".split()),
    ("planets", "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()),
    ("birds", "eagle owl parrot penguin swan duck robin crow sparrow pigeon".split()),
    ("sports", "football tennis basketball swimming running cycling hockey golf volleyball".split()),
    ("instruments", "piano guitar violin flute drum trumpet cello harp".split()),
    ("musical instruments", "piano guitar violin flute drum trumpet cello harp".split()),
    ("programming languages", "Python C Java Rust Go JavaScript Ruby Swift".split()),
    ("trees", "oak pine birch maple willow beech fir".split()),
    ("flowers", "rose tulip daisy lily sunflower violet orchid".split()),
    ("drinks", "water milk tea coffee juice lemonade cocoa".split()),
    ("languages", "English French Spanish German Chinese Arabic Russian Italian Japanese".split()),
    ("names", "Anna Ben Clara David Emma Felix Grace Henry Ida Jack".split()),
    ("insects", "bee ant butterfly beetle fly wasp moth".split()),
    ("jobs", "teacher doctor baker farmer pilot nurse writer cook painter".split()),
    ("toys", "ball doll kite puzzle train drum teddy".split()),
    ("metals", "iron gold silver copper tin lead zinc".split()),
]
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

JOKES = [
    "Why did the token cross the network? To get to the other decode worker.",
    "Why was the computer cold? It left its windows open.",
    "What do you call a bear without teeth? A gummy bear.",
    "Why did the student eat his homework? The teacher told him it was a piece of cake.",
    "What do you call a fish without eyes? A fsh.",
    "Why are fish so clever? They live in schools.",
    "Why can a bicycle not stand on its own? It is two tired.",
    "What did zero say to eight? Nice belt!",
    "Why was six afraid of seven? Because seven eight nine.",
    "Why did the scarecrow get a prize? He was outstanding in his field.",
    "What is a computer's favourite snack? Microchips.",
    "Why do programmers like dark mode? Because light attracts bugs.",
    "How does the ocean say hello? It waves.",
    "What kind of shoes do frogs wear? Open toads.",
    "Why did the cookie go to the doctor? It felt crumbly.",
    "A decode worker walks into a bar. One drink at a time, please.",
    "What do you get when you cross a snowman and a dog? Frostbite.",
    "Why did the request wait so long? It was only bronze.",
]
JOKE_ASK = ["{Tell|Give} me a {joke|funny joke|good joke|short joke}.", "Tell {me |}a joke.", "{Do you know|Can you tell me|Have you got|Got} {a joke|any jokes|a good joke}?", "Make me laugh.", "Say something funny.", "I need a laugh.", "joke please", "I want to hear a joke.",
            "{Can|Could} you tell me {a joke|something funny}?", "Tell me something funny.", "Tell me a joke about {computers|animals|anything}."]

CAPITAL_ASK = ["What is the capital of <x>?", "What is the capital of <x>?", "What's the capital of <x>?", "{Which|What} city is the capital of <x>?", "Name the capital of <x>.", "Tell me the capital of <x>.", "capital of <x>?", "Do you know the capital of <x>?",
               "{Can|Could} you tell me {the capital of <x>|what the capital of <x> is}?", "I need the capital of <x>.", "What is the capital city of <x>?", "The capital of <x> is?", "Capital of <x>", "Which city is <x>'s capital?", "what is <x>'s capital", "The capital of <x>, please."]
WHERE_ASK = ["Where is <x>?", "Where is <x> located?", "{On|In} {which|what} continent is <x>?", "Where can I find <x>?", "{Which|What} continent is <x> in?", "Where in the world is <x>?"]


def capital(rng):
    country, city, continent = rng.choice(CAPITALS) if rng.random() < 0.75 else rng.choice(FAMILIAR)
    roll = rng.random()
    if roll < 0.72:
        turns = [(ask(rng, CAPITAL_ASK, x=country), f"The capital of {country} is {city}".rstrip(".") + ".")]
        while rng.random() < 0.25:
            country, city, continent = rng.choice(CAPITALS)
            turns.append((ask(rng, ["And {of |}<x>?", "And what about <x>?", "What about <x>?", "And the capital of <x>?", "How about <x>?", "<x>?"], wrap=False, x=country), f"The capital of {country} is {city}".rstrip(".") + "."))
        return turns
    if roll < 0.84:
        return [(ask(rng, WHERE_ASK, x=country), f"{cap(country)} is in {continent}. Its capital is {city}".rstrip(".") + ".")]
    if roll < 0.92:
        return [(ask(rng, ["{Tell me about|What do you know about|Describe} <x>.", "What is <x>?", "Tell me something about <x>."], x=country), f"{cap(country)} is a country in {continent}. Its capital is {city}".rstrip(".") + ".")]
    return [(ask(rng, ["What is <x>?", "Where is <x>?", "Tell me about <x>.", "{In which|Which} country is <x>{ in|}?"], x=city), f"{city} is the capital of {country}.")]


def animal(rng):
    noun, plural, what, fact, sound, young, home = rng.choice(ANIMALS)
    one = an(noun)
    roll = rng.random()
    if roll < 0.5:
        x = rng.choice([one, one, plural, "the " + noun])
        return [(ask(rng, WHAT_IS[:34], x=x), f"{cap(one)} is {what}. {fact}.")]
    if roll < 0.65:
        said = "makes no sound that we can hear" if sound == "nothing at all" else ("says " if len(sound) < 6 else "makes a sound like ") + sound
        return [(ask(rng, ["What {sound|noise} does <x> make?", "What does <x> say?", "{How|What} does <x> sound{ like|}?", "Which sound does <x> make?"], x=one), f"{cap(one)} {said}.")]
    if roll < 0.8:
        return [(ask(rng, ["Where {do <p>|does <x>} live?", "Where can I find <p>?", "Where is the home of <p>?", "In which places do <p> live?"], x=one, p=plural), f"{cap(plural)} live {home}.")]
    if roll < 0.9:
        return [(ask(rng, ["What is a {baby|young} <n> called?", "What do you call a {baby|young} <n>?", "What is the young of <x>{ called|}?", "Name of a baby <n>?"], x=one, n=noun), f"A young {noun} is called {an(young)}.")]
    return [(ask(rng, ["Tell me {a fact|something|a fun fact} about <p>.", "{Give me|Do you know} a fact about <p>{?|.}", "What is special about <p>?"], p=plural), f"{fact}.")]


def general(rng):
    forms, answers = rng.choice(QA)
    return [(ask(rng, forms), rng.choice(answers))]


def howto(rng):
    goals, steps = rng.choice(HOWTO)
    goal = rng.choice(goals)
    if rng.random() < 0.5:
        answer = " ".join(steps)
    else:
        answer = "Here is one way to do it:\n" + "\n".join(f"{i}. {s}" for i, s in enumerate(steps, 1))
    return [(ask(rng, HOW_ASK, x=goal), answer)]


def small_fact(rng):
    """Opposites and colours."""
    if rng.random() < 0.55:
        a, b = rng.choice(OPPOSITES)
        if rng.random() < 0.4:
            a, b = b, a
        return [(ask(rng, ["What is the opposite of <x>?", "What's the opposite of <x>?", "Opposite of <x>?", "{Tell|Give} me the opposite of <x>.", "Name the opposite of <x>.", "What is the {antonym of|contrary of} <x>?"], x=a), f"The opposite of {a} is {b}.")]
    thing, colour = rng.choice(COLOURS)
    return [(ask(rng, ["What {color|colour} is <x>?", "{Which|What} {color|colour} does <x> have?", "What is the {color|colour} of <x>?", "Tell me the {color|colour} of <x>."], x=thing), f"{cap(thing)} is {colour}.")]


def list_things(rng):
    kind, things = rng.choice(LISTS)
    n = rng.choice([1, 2, 2, 3, 3, 3, 3, 4, 5, 5])
    picks = things[:n] if rng.random() < 0.6 else rng.sample(things, n)
    number = NUMBER_WORDS[n] if rng.random() < 0.6 else str(n)
    one = {"countries": "country", "cities": "city"}.get(kind, kind[:-1])
    question = ask(rng, ["{Name|List|Tell me|Give me|Write} <n> <k>.", "{Can|Could} you {name|list|give me|tell me} <n> <k>?", "{Please name|I need} <n> <k>.", "What are <n> <k>?", "<n> <k> please"], n=number, k=one if n == 1 else kind)
    if n == 1:
        return [(question, cap(f"{picks[0]}."))]
    if rng.random() < 0.6:
        return [(question, f"{cap(NUMBER_WORDS[n])} {kind} are {', '.join(picks[:-1])} and {picks[-1]}.")]
    return [(question, "\n".join(f"{i}. {cap(p)}" for i, p in enumerate(picks, 1)))]


def joke(rng):
    turns = [(ask(rng, JOKE_ASK), rng.choice(JOKES))]
    if rng.random() < 0.3:
        turns.append((ask(rng, ["{Another|One more}{ one|} please.", "Another one!", "One more.", "Tell me another{ one|}.", "{Ha ha|Haha|LOL}, another{ one|}?", "again"], wrap=False), rng.choice(JOKES)))
    elif rng.random() < 0.3:
        turns.append((ask(rng, ["{Ha ha|Haha|LOL|That is funny|Very funny|Good one}{!|.}"], wrap=False), rng.choice(["I am glad that you like it!", "Thank you! I have a few more if you want."])))
    return turns


def almanac(rng):
    """Plain text without a chat frame: facts in a row."""
    rows = []
    for _ in range(rng.randint(2, 6)):
        rows.append(rng.choice([capital, animal, general, small_fact])(rng)[0][1])
    return " ".join(rows)
