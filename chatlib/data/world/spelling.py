"""Spelling: words taken apart into letters, and letters counted. Half of the words are invented."""

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

_ONSETS = (
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n "
    "p pl pr qu r s sh sk sl sm sn st t th tr v w z"
)
_VOWELS = "a e i o u a e i o u ai ea ee oa oo ou"
_CODAS = "b ck d ff g l ll m n nd ng nk nt p r rk rn s ss st t x sh th"
_ENDINGS = "el er et ish le o ow um y in on a ock us ing"


def _invent(number: int) -> str:
    """A word of two or three syllables that nobody has ever used."""

    def pick(letters: str, part: str) -> str:
        options = letters.split()
        return options[stable_hash("word", number, part) % len(options)]

    word = pick(_ONSETS, "onset") + pick(_VOWELS, "vowel") + pick(_CODAS, "coda")
    if stable_hash("long", number) % 3 == 0:
        word += pick(_VOWELS, "vowel 2") + pick(_CODAS, "coda 2")
    return word + pick(_ENDINGS, "ending")


INVENTED_WORDS = sorted({_invent(number) for number in range(4000)} - set(REAL_WORDS))
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
        "{w.word} spelled backward is {w.backward}.",
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
