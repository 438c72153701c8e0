"""Spelling: words taken apart into letters, and letters counted. Half of the words are invented."""

from itertools import product

from chatlib.data.world.grammar import Pool, Record
from chatlib.data.world.tables import shuffled, stable_hash, words

REAL_WORDS = words("""acorn amber anchor apple apron arrow autumn badger banana barley barrel basket
beacon beetle berry blanket blossom bottle branch bread bridge bucket butter button cabbage cactus
candle canvas carpet carrot castle cellar cherry chimney cinnamon circle clover coffee compass
copper corner cotton cradle cricket curtain daisy dragon drawer dream eagle engine falcon feather
fiddle finger flower flute forest fossil garden garlic ginger glacier goblet hammer harbor harvest
hazel hollow honey island ivory jacket jasmine jewel juniper kettle kitchen ladder lantern lemon
letter lettuce lilac linen lizard magnet maple marble market meadow medal melon mirror mitten
monkey morning mountain mushroom napkin needle nettle nutmeg oatmeal ocean olive orange orchard
otter oven oyster paddle paper parcel parsley pebble pencil pepper picnic pigeon pillow pirate
pocket poppy potato pottery pumpkin puppet puzzle quarrel quilt rabbit raisin ribbon river robin
rocket saddle sailor salmon satin scissors season shadow shelter shovel signal silver sparrow spider
spinach spoon spring squirrel stable statue stocking summer sunset tailor teapot temple thistle
thunder ticket timber tomato tower trumpet tulip tunnel turnip turtle umbrella valley vanilla velvet
vessel village violet violin wagon walnut warbler water weather whisper whistle willow window winter
wizard wonder yellow zebra zipper""")

_ONSETS = words("bl br fl gl j pl sm sn tr tw v z")
_VOWELS = words("a e i o u")
_MIDDLES = words("bb ck dd ll mm mp nd st")
_ENDINGS = words("et ib ock og oon ow um")
_TAKEN = words("bracket brocket jillet placket plummet snicket vallum vellum")  # and REAL_WORDS

# Words that nobody has ever used, like snobboon. They are every combination of the parts, not some
# of them: so what there is to learn is the parts, and no list of words has to be known by heart.
_COMBINATIONS = {"".join(parts) for parts in product(_ONSETS, _VOWELS, _MIDDLES, _ENDINGS)}
INVENTED_WORDS = sorted(_COMBINATIONS - {*REAL_WORDS, *_TAKEN})
COUNTS = words("no one two three four five six seven eight nine ten eleven twelve thirteen")


def word_is_held_out(word: str) -> bool:
    """Training never sees a tenth of the words."""
    return stable_hash("unseen word", word) % 10 == 0


def spell(word: str) -> str:
    return "-".join(word)


def _word_record(word: str) -> Record:
    return {
        "word": word,
        "letters": spell(word),
        "length": str(len(word)),
        "first": word[0],
        "last": word[-1],
        "backward": spell(word[::-1]),
    }


def _letter_records(words: list[str]) -> list[Record]:
    """One record for each distinct letter of each word."""
    return [
        _word_record(word)
        | {
            "letter": letter,
            "times": "once" if word.count(letter) == 1 else f"{word.count(letter)} times",
        }
        for word in words
        for letter in dict.fromkeys(word)
    ]


HELD_OUT_WORDS = shuffled([w for w in REAL_WORDS + INVENTED_WORDS if word_is_held_out(w)], "words")
_REAL = [w for w in REAL_WORDS if not word_is_held_out(w)]
_INVENTED = [w for w in INVENTED_WORDS if not word_is_held_out(w)]

POOLS = {
    "real-word": Pool(_word_record(word) for word in [*_REAL, "Zoé"]),
    "invented-word": Pool(_word_record(word) for word in _INVENTED),
    "real-letter": Pool(_letter_records(_REAL)),
    "invented-letter": Pool(_letter_records(_INVENTED)),
}

RULES = {
    "spelling": [
        "{spelled} {spelled} {spelled} {counted}",
        "{spelled} {counted} {spelled} {counted}",
        "[At school|In the morning|On the blackboard] the children spell [four|some] words. "
        "{spelled} {spelled} {spelled} {spelled}",
        "{sized} {spelled} {sized} {spelled}",
    ],
    "spelled": ["<w:real-word>{spelled_word}", "<w:invented-word>{spelled_word}"],
    "spelled_word": [
        (3, "The word {w.word} is spelled {w.letters}."),
        "{w.letters} spells {w.word}.",
        "Spell {w.word}: {w.letters}.",
        "Read {w.word} backward: {w.letters} becomes {w.backward}.",
    ],
    "sized": ["<w:real-word>{sized_word}", "<w:invented-word>{sized_word}"],
    "sized_word": [
        "The word {w.word}, spelled {w.letters}, has {w.length} letters.",
        "The word {w.word} begins with {w.first} and ends with {w.last}.",
    ],
    "counted": ["<w:real-letter>{counted_letter}", "<w:invented-letter>{counted_letter}"],
    "counted_letter": [
        "In {w.word}, spelled {w.letters}, the letter {w.letter} comes {w.times}.",
        "How often is there {w.letter} in {w.word}? Look at {w.letters}: {w.times}.",
    ],
}
