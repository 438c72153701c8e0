"""Stories: two children, a place, a thing, and something that happens because of something else."""

from chatlib.data.world.grammar import Pool, Record
from chatlib.data.world.tables import TOWNS, read_table, stable_hash, with_article, words

GIRLS = words(
    "Ida Mara Tilda Nora Pia Lotte Rosa Anna Mila Juno Wren Kaya Elsie Saskia Freya Lucy Hazel Ruby"
)
BOYS = words("Pim Otto Bram Tom Jonah Emil Finn Theo Rafi Niko Kit Sam Oskar Leo Max Ravi Ben Hugh")
_SHE = {"he": "she", "his": "her", "him": "her", "self": "herself", "child": "girl"}
_HE = {"he": "he", "his": "his", "him": "him", "self": "himself", "child": "boy"}
CHILDREN: list[Record] = [{"name": n, **_SHE} for n in GIRLS] + [{"name": n, **_HE} for n in BOYS]


def pair_is_held_out(hero: str, friend: str) -> bool:
    """A tenth of the pairs of children never meet in training."""
    return stable_hash("friends", hero, friend) % 10 == 0


CAST: list[Record] = [
    hero | {"friend": friend["name"]} | {f"f{k}": v for k, v in friend.items() if k != "name"}
    for hero in CHILDREN
    for friend in CHILDREN
    if hero is not friend
]

PLACES = read_table(
    "place at",
    """
    river, by the river; old mill, at the old mill; orchard, in the orchard; harbor, in the harbor
    lighthouse, at the lighthouse; forest, in the forest; market, at the market
    meadow, in the meadow
    bakery, in front of the bakery; bridge, under the bridge; well, beside the well
    pond, by the pond
    hill, on the hill; station, at the station; churchyard, in the churchyard; beach, on the beach
    """,
)
THINGS = read_table(
    "thing adjective",
    """
    kite, red; lantern, brass; whistle, silver; mitten, striped; drum, little; basket, round
    umbrella, green; boat, wooden; key, rusty; scarf, woolen; bell, tiny; ball, blue; book, thin
    compass, old; flute, bamboo; spoon, crooked; hat, yellow; map, torn; mirror, cracked
    puppet, painted
    """,
)
_LIGHT = words("kite mitten umbrella scarf hat map puppet book")
INVENTIONS = read_table(
    "invention",
    """
    a kite; a boat; a water wheel; a music box; a sled; a wooden horse; a flying machine; a drum
    a weather vane; a lamp; a cart with three wheels; a paper dragon
    """,
)
ANIMALS = read_table(
    "animal adjective",
    """
    goat, stubborn; fox, young; crow, clever; hedgehog, sleepy; cat, gray; dog, shaggy; goose, proud
    donkey, patient; squirrel, nervous; owl, wise; duck, muddy; hare, quick; heron, thin
    badger, fat
    """,
)
FOODS = read_table(
    "food",
    """
    a loaf of bread; a honey cake; a bowl of plum soup; a cheese pie; a bag of roasted nuts
    a pear tart
    a pot of porridge; a plate of pancakes; a slice of cake; a basket of cherries; a gingerbread man
    """,
)
_BAKED = words("bread cake pie tart man")
ELDERS = [
    {"elder": name, **(_SHE if sex == "f" else _HE)}
    for name, sex in [
        ("Grandmother", "f"), ("Grandfather", "m"), ("Aunt Berta", "f"), ("Uncle Fitz", "m"),
        ("old Mrs. Finch", "f"), ("old Mr. Pettigrew", "m"), ("the schoolteacher", "f"),
        ("the ferryman", "m"), ("the widow next door", "f"), ("the old captain", "m"),
    ]
]  # fmt: skip


def _described(records: list[Record], noun: str) -> list[Record]:
    return [
        r | {"a": with_article(r["adjective"] + " " + r[noun]), "plain": with_article(r[noun])}
        for r in records
    ]


POOLS = {
    "child": Pool(CHILDREN),
    "cast": Pool(r for r in CAST if not pair_is_held_out(r["name"], r["friend"])),
    "place": Pool(PLACES),
    "object": Pool(_described(THINGS, "thing")),
    "light-object": Pool(_described([t for t in THINGS if t["thing"] in _LIGHT], "thing")),
    "invention": Pool(INVENTIONS),
    "town": Pool({"town": town} for town in TOWNS),
    "animal": Pool(_described(ANIMALS, "animal")),
    "food": Pool(FOODS),
    "baked": Pool(
        r for r in FOODS if r["food"].split()[-1] in ("bread", "cake", "pie", "tart", "man")
    ),
    "elder": Pool(ELDERS),
    "monster": Pool({"monster": m} for m in ("ghost", "giant", "water spirit", "dragon", "witch")),
}

PHRASES = {
    "one_day": [
        "One [morning|afternoon|evening|cold morning|summer day|windy day|quiet Sunday]",
        "[On the first day of spring|On a gray autumn day|In the middle of winter|On market day]",
        "[Before breakfast|After school|Long before sunrise|When the rain stopped]",
    ],
    "glad": ["[glad|happy|proud|full of joy]", "[as happy as a lark|pleased]"],
    "said": ["[said|whispered|cried|called]"],
    "laughed": ["They [both laughed|laughed until it hurt|laughed all the way home]."],
    "the_end": [
        "That night {c.name} [slept well|dreamed of it|lay awake and smiled].",
        "{c.name} and {c.friend} have been friends ever since.",
        "If you go there, you can still [see the place|hear them laugh|find the marks].",
        "{c.friend} says that it was [a Tuesday|all {c.his} doing|the best day of the year].",
        "After that, [nothing was too hard for them|they were never bored|it was time for supper].",
        "[The moon|A star|The cat on the wall] had seen it all and kept [quiet|the secret].",
        "{c.name} wrote it down [in a notebook|on the wall], so that it stays true.",
        "From that day on, {c.name} and {c.friend} [went everywhere together|shared everything].",
        "[And that was that.|Nobody in the village ever forgot it.|They still tell the story "
        "today.]",
        "{c.name} [ran|walked|skipped] home [with a song|as the stars came out|before dark].",
        "{laughed}",
    ],
    "thanks": [
        '"Thank you, {c.friend}," said {c.name}.',
        '"What would I do without you?" {c.name} {said}.',
        '{c.name} hugged {c.friend}. "Thank you," {c.he} {said}.',
        "{c.name} could not find the words, so {c.he} gave {c.friend} a hug.",
    ],
    "meets_friend": [
        "There {c.he} met {c.friend}.",
        "{c.friend} was [already there|waiting for {c.him}|sitting on a wall there].",
        "On the way {c.he} met {c.friend}.",
    ],
    "asks_help": [
        '"[Will|Can|Would] you help me?" {c.name} asked.',
        "{c.name} asked {c.friend} for help.",
        '"I cannot do it alone," {c.name} {said}.',
    ],
    "agrees": [
        '"Of course," said {c.friend}.',
        '"[Let us try|With pleasure|Two are better than one]," {said} {c.friend}.',
        "{c.friend} nodded and [took off {c.fhis} coat|rolled up {c.fhis} sleeves].",
    ],
    "weather_turns": [
        "Then it began to [rain|snow|hail].",
        "Suddenly [the wind rose|dark clouds came over the hill|there was thunder].",
        "A thick fog came [in from the sea|down from the hills].",
    ],
    "sky_clears": [
        "Then the [clouds parted|sun came out|wind died down].",
        "By [noon|evening], the sky was clear again.",
    ],
}
