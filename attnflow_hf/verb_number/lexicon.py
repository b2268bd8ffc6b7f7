"""The words of the agreement grammar: common English nouns with their plurals, verbs, adjectives, names."""

from __future__ import annotations

__all__ = [
    "ADDITIONS",
    "ADJECTIVES",
    "ADVERBS",
    "DETERMINERS",
    "INDEFINITES",
    "MASS_NOUNS",
    "NAMES",
    "NOUNS",
    "OPENINGS",
    "PREPOSITIONS",
    "PRONOUNS",
    "QUANTIFIERS",
    "UNKNOWN_NOUNS",
    "VERBS",
    "plural_of",
    "third_person_of",
]

IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "leaf": "leaves", "knife": "knives", "wife": "wives", "life": "lives",
    "wolf": "wolves", "shelf": "shelves", "half": "halves", "thief": "thieves", "loaf": "loaves", "calf": "calves",
    "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes", "policeman": "policemen", "fireman": "firemen",
    "businessman": "businessmen", "fisherman": "fishermen", "grandchild": "grandchildren", "analysis": "analyses",
    "crisis": "crises", "hypothesis": "hypotheses", "criterion": "criteria", "phenomenon": "phenomena",
    "sheep": "sheep", "deer": "deer", "quiz": "quizzes", "ox": "oxen",
}  # fmt: skip

NOUNS = tuple(
    """
    accountant actor address airplane airport album alarm analysis animal answer ant apartment apple application
    argument arm army article artist assistant attack aunt author baby bag baker ball balloon banana band bank
    banker bar barber basket bathroom battery beach bean bear bed bedroom bee bell bench bicycle bike bill bird
    birthday blanket boat body bone book boss bottle bowl box boy bracelet branch bread brick bridge broom
    brother brush bucket building bus businessman butcher butterfly button cabinet cable cake calendar calf
    camel camera camp candle candidate candy captain car card carpet carrot cart castle cat cave ceiling chair
    chairman change chapter chef chicken child choice church cigarette circle citizen city class classroom clerk
    client clock cloud clown club coach coat coin colleague collection color comment committee company computer
    concert consultant contract cook cookie corner cottage couch country couple course cousin cow crab crisis
    criterion critic crown cup curtain customer cyclist dancer daughter day deal decision deer dentist desk
    detective diary dictionary diner director discussion dish doctor document dog doll donkey door drawer
    drawing dream dress driver drug drum duck eagle ear editor effect egg elephant elevator email employee
    engine engineer envelope error essay event exam example executive exercise expert eye face fact factory
    family fan farm farmer father fence field film finger fire fireman fish fisherman flag floor flower fly foot
    forest fork fox friend frog fruit game garage garden gate ghost giant gift girl glass glove goat goose
    governor grandchild grandfather grandmother grape group guard guest guide guitar gun hair half hammer hand
    hat head hero hill horse hospital hotel hour house husband hypothesis idea illness image insect instrument
    island jacket job joke journalist judge key king kitchen kitten knife knight label ladder lady lake lamb
    lamp language laptop law lawyer leader leaf leg lemon lesson letter library life light line lion list loaf
    lock machine magazine maid man manager map market mayor meal measure meeting member memory message mind
    minister mirror mistake model moment monkey monster month moon mother mountain mouse movie museum musician
    name neck needle neighbor neighborhood nephew nest newspaper niece night nose note notebook novel number
    nurse object ocean office officer onion opinion option orange orchestra order oven owner page painter
    painting palace pan parent park parrot part party passenger patient pattern peach pear pen pencil person pet
    phenomenon phone photo photograph piano picture pie pig pillow pilot pipe plan plane plant plate player
    playground pocket poem poet policeman pond pool poster pot potato present president price priest prince
    princess prisoner prize problem product professor program project proposal pupil puppy purse puzzle queen
    question quiz rabbit radio rat reader reason receptionist recipe report reporter restaurant result ring
    river road robot rock roof room rose rug rule runner sailor sandwich school scientist seat secretary senator
    shark sheep shelf ship shirt shoe shop sign singer sister skirt snake soldier solution son song soup spider
    spoon spy stair star station statue stone store storm story stranger street student suitcase supervisor
    surgeon sweater swimmer sword table tailor target taxi teacher team teenager telephone tent test theory
    thief thing thought ticket tiger title toe tomato tool tooth tower town toy tractor train traveler tree trip
    truck turtle twin umbrella uncle uniform university valley vase vegetable vehicle victim video village
    violin visitor voice waiter waitress wall wallet watch weapon wedding week wheel wife window wing winner
    wire witch wolf woman word worker writer year
    """.split()
)

# Held out of training altogether, and kept out of the vocabulary, to measure the fallback to word pieces.
UNKNOWN_NOUNS = tuple(
    """
    zebra blogger cupcake teapot kayak hamster squirrel pancake scooter plumber walrus cactus penguin unicorn
    sparrow biscuit pumpkin ostrich babysitter doorbell hedgehog snowman flamingo mushroom lizard napkin
    """.split()
)

MASS_NOUNS = tuple(
    """
    water milk rice sugar salt money music furniture homework advice information traffic weather luggage
    equipment bread butter coffee tea sand gold snow rain evidence knowledge news mathematics physics jewelry
    rubbish grass wood
    """.split()
)

NAMES = tuple(
    """
    Anna Peter Maria John Mary David Sarah Tom Alice Bob Emma Paul Laura George Julia Michael Susan James Linda
    Kevin London Paris Germany Canada Rome Berlin
    """.split()
)

ADJECTIVES = tuple(
    """
    old new young big small large little tall short happy sad rich poor red blue green black white yellow brown
    good bad nice beautiful famous popular important tired hungry clever quiet loud strong heavy warm cold dirty
    clean broken wooden modern local strange funny busy lazy friendly angry careful dangerous expensive cheap
    empty dark bright other same first last best
    """.split()
)

VERBS = tuple(
    """
    like love hate see know hear help visit follow admire watch call meet remember find want need bring carry
    write read buy sell draw describe praise chase use choose teach
    """.split()
)

PREPOSITIONS = (
    *"of of of of to in in on near with for from behind under beside by at above between about against without".split(),
    *"inside outside around over below after before".split(),
    *("next to", "in front of", "on top of", "close to", "across from", "out of"),
)

ADVERBS = tuple("also often usually always never still now sometimes really probably only already certainly".split())

OPENINGS = (
    "yesterday ,", "today", "in the morning ,", "however ,", "of course ,", "sometimes", "at night ,", "for example ,",
    "in my opinion ,", "I think that", "I think", "we know that", "she says that", "they say that", "he said",
    "after the party ,", "in the old houses ,", "near the rivers ,", "because", "if", "when", "although", "and", "but",
    "since", "while", "unless",
    "in 1990 ,", "for many years ,", "as you know ,", "the teacher says that", "the doctors believe that",
)  # fmt: skip

# The first of two entries goes with a singular noun or verb, the second with a plural one.
DETERMINERS = (
    "the the the the the the the the a a a this that my your his her our their every each one another no".split(),
    "the the the the the the the the these those many some several few both all two three four my your his her our "
    "their most other no".split(),
)
QUANTIFIERS = (
    ("each", "one", "one", "every one", "another", "neither", "either"),
    ("many", "some", "most", "all", "both", "several", "few", "two", "three", "a few", "a number", "half"),
)
PRONOUNS = (
    "he she it this that someone everyone everybody nobody everything nothing something somebody".split(),
    "they we you i these those both many all".split(),
)
INDEFINITES = "everyone everybody nobody everything nothing something someone anyone".split()
ADDITIONS = (
    "as well as",
    "together with",
    "along with",
    "like",
    "unlike",
    "including",
    "except",
    "in addition to",
    "not",
)


def plural_of(noun: str) -> str:
    """Return the plural of a noun of this lexicon.

    Example:
        >>> [plural_of(noun) for noun in ("key", "city", "bus", "child", "sheep")]
        ['keys', 'cities', 'buses', 'children', 'sheep']
    """
    return IRREGULAR_PLURALS.get(noun) or _add_s(noun)


def third_person_of(verb: str) -> str:
    """Return the third person singular of a verb of this lexicon.

    Example:
        >>> [third_person_of(verb) for verb in ("like", "watch", "carry")]
        ['likes', 'watches', 'carries']
    """
    return _add_s(verb)


def _add_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith("man"):
        return word[:-3] + "men"
    return word + "s"
