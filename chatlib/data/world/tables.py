"""What is true in the world: real tables of facts, and two hundred invented villagers.

Each table is a list of records (attribute -> text). The villagers are fictional, one and all.
"""

import hashlib

from chatlib.data.world.grammar import Record


def stable_hash(*parts: object) -> int:
    """An integer that depends on `parts` alone: the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def words(text: str) -> list[str]:
    return text.split()


def shuffled(items: list, salt: str) -> list:
    return sorted(items, key=lambda item: stable_hash(salt, item))


def read_table(columns: str, rows: str) -> list[Record]:
    """Rows are separated by semicolons or newlines, their cells by commas."""
    names = columns.split()
    lines = [row for line in rows.splitlines() for row in line.split(";") if row.strip()]
    cells = [[cell.strip() for cell in row.split(",")] for row in lines]
    return [dict(zip(names, row, strict=True)) for row in cells]


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


COUNTRIES = read_table(
    "country city continent",
    """
    France, Paris, Europe; Spain, Madrid, Europe; Portugal, Lisbon, Europe; Italy, Rome, Europe
    Germany, Berlin, Europe; Austria, Vienna, Europe; Poland, Warsaw, Europe
    Hungary, Budapest, Europe
    Greece, Athens, Europe; Norway, Oslo, Europe; Sweden, Stockholm, Europe
    Finland, Helsinki, Europe
    Denmark, Copenhagen, Europe; Iceland, Reykjavik, Europe; Ireland, Dublin, Europe
    the United Kingdom, London, Europe; the Netherlands, Amsterdam, Europe
    Belgium, Brussels, Europe
    Romania, Bucharest, Europe; Bulgaria, Sofia, Europe; Croatia, Zagreb, Europe
    Ukraine, Kyiv, Europe
    Estonia, Tallinn, Europe; Latvia, Riga, Europe; Malta, Valletta, Europe
    Serbia, Belgrade, Europe
    Egypt, Cairo, Africa; Kenya, Nairobi, Africa; Ghana, Accra, Africa; Senegal, Dakar, Africa
    Morocco, Rabat, Africa; Tunisia, Tunis, Africa; Ethiopia, Addis Ababa, Africa
    Mali, Bamako, Africa
    Nigeria, Abuja, Africa; Angola, Luanda, Africa; Zambia, Lusaka, Africa; Uganda, Kampala, Africa
    Rwanda, Kigali, Africa; Namibia, Windhoek, Africa; Somalia, Mogadishu, Africa
    Japan, Tokyo, Asia; China, Beijing, Asia; India, New Delhi, Asia; Nepal, Kathmandu, Asia
    Thailand, Bangkok, Asia; Vietnam, Hanoi, Asia; South Korea, Seoul, Asia
    Mongolia, Ulaanbaatar, Asia
    the Philippines, Manila, Asia; Iran, Tehran, Asia; Iraq, Baghdad, Asia
    Pakistan, Islamabad, Asia
    Bangladesh, Dhaka, Asia; Jordan, Amman, Asia; Lebanon, Beirut, Asia; Bhutan, Thimphu, Asia
    Canada, Ottawa, North America; Mexico, Mexico City, North America; Cuba, Havana, North America
    Jamaica, Kingston, North America; Panama, Panama City, North America
    Costa Rica, San José, North America; Honduras, Tegucigalpa, North America
    Brazil, Brasília, South America; Peru, Lima, South America; Chile, Santiago, South America
    Argentina, Buenos Aires, South America; Colombia, Bogotá, South America
    Ecuador, Quito, South America; Uruguay, Montevideo, South America
    Venezuela, Caracas, South America
    Australia, Canberra, Oceania; New Zealand, Wellington, Oceania; Fiji, Suva, Oceania
    """,
)

ELEMENTS = read_table(
    "element symbol number sort use",
    """
    hydrogen, H, 1, gas, it burns in the stars; helium, He, 2, gas, it lifts balloons
    lithium, Li, 3, metal, it stores power in batteries
    beryllium, Be, 4, metal, it goes into springs
    boron, B, 5, solid, it toughens glass; carbon, C, 6, solid, every living thing is built on it
    nitrogen, N, 7, gas, most of the air is made of it; oxygen, O, 8, gas, we breathe it
    fluorine, F, 9, gas, a little of it protects teeth; neon, Ne, 10, gas, it glows in bright signs
    sodium, Na, 11, metal, half of table salt is made of it
    magnesium, Mg, 12, metal, it burns with a white flame
    aluminum, Al, 13, metal, cans and kites are made of it
    silicon, Si, 14, solid, sand and computer chips hold it
    phosphorus, P, 15, solid, it is found in match boxes
    sulfur, S, 16, solid, it smells when it burns; chlorine, Cl, 17, gas, it keeps pools clean
    argon, Ar, 18, gas, it fills light bulbs; potassium, K, 19, metal, bananas hold a little of it
    calcium, Ca, 20, metal, bones need it; titanium, Ti, 22, metal, it is strong and light
    chromium, Cr, 24, metal, it makes bumpers shine; manganese, Mn, 25, metal, it hardens steel
    iron, Fe, 26, metal, nails and horseshoes are made of it
    cobalt, Co, 27, metal, it turns glass blue; nickel, Ni, 28, metal, coins are made of it
    copper, Cu, 29, metal, wires are made of it; zinc, Zn, 30, metal, it keeps rust off buckets
    arsenic, As, 33, solid, it is a poison; bromine, Br, 35, liquid, it is brown and smells sharp
    krypton, Kr, 36, gas, it is used in lamps; silver, Ag, 47, metal, spoons are made of it
    tin, Sn, 50, metal, organ pipes are made of it; iodine, I, 53, solid, it cleans small cuts
    xenon, Xe, 54, gas, it flashes in cameras; tungsten, W, 74, metal, it melts later than any other
    platinum, Pt, 78, metal, it never rusts; gold, Au, 79, metal, rings are made of it
    mercury, Hg, 80, liquid, it ran up and down in old thermometers
    lead, Pb, 82, metal, it is soft and very heavy; radon, Rn, 86, gas, it seeps out of stone
    uranium, U, 92, metal, power stations split it
    """,
)

PLANETS = read_table(
    "planet ordinal feature",
    """
    Mercury, first, it is the smallest planet; Venus, second, it is the hottest planet
    Earth, third, it has oceans and one moon; Mars, fourth, it is red with rust
    Jupiter, fifth, it is the largest planet; Saturn, sixth, it wears bright rings of ice
    Uranus, seventh, it spins lying on its side; Neptune, eighth, it is blue and very windy
    """,
)

_OPPOSITES = read_table(
    "word opposite",
    """
    hot, cold; big, small; tall, short; early, late; full, empty; wet, dry; open, closed; near, far
    loud, quiet; heavy, light; young, old; fast, slow; soft, hard; rich, poor; day, night; up, down
    left, right; true, false; first, last; always, never; happy, sad; clean, dirty; thick, thin
    deep, shallow; sweet, bitter; strong, weak; wide, narrow; high, low; asleep, awake; push, pull
    begin, end; buy, sell; give, take; laugh, cry; remember, forget; arrive, leave; rise, fall
    win, lose; summer, winter; morning, evening
    """,
)
OPPOSITES = _OPPOSITES + [{"word": r["opposite"], "opposite": r["word"]} for r in _OPPOSITES]


def _cycle(names: str, **columns: str) -> list[Record]:
    items = names.split()
    rows = [
        {"name": name, "before": items[i - 1], "after": items[(i + 1) % len(items)]}
        for i, name in enumerate(items)
    ]
    for column, cells in columns.items():
        for row, cell in zip(rows, cells.split(), strict=True):
            row[column] = cell
    return rows


MONTHS = _cycle(
    "January February March April May June July August September October November December",
    ordinal="first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth",
    days="31 28 31 30 31 30 31 31 30 31 30 31",
)
DAYS = _cycle("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

YOUNG = read_table(
    "animal young",
    """
    cat, kitten; dog, puppy; cow, calf; horse, foal; sheep, lamb; goat, kid; pig, piglet; hen, chick
    duck, duckling; goose, gosling; swan, cygnet; deer, fawn; bear, cub; hare, leveret; owl, owlet
    frog, tadpole; kangaroo, joey; fish, fry; eel, elver; eagle, eaglet; butterfly, caterpillar
    """,
)
SOUNDS = read_table(
    "animal sound",
    """
    cat, meows; dog, barks; cow, moos; horse, neighs; sheep, bleats; pig, grunts; hen, clucks
    duck, quacks; goose, honks; wolf, howls; lion, roars; mouse, squeaks; frog, croaks; bee, buzzes
    owl, hoots; crow, caws; dove, coos; donkey, brays; snake, hisses; elephant, trumpets
    turkey, gobbles
    """,
)
HOMES = read_table(
    "animal home",
    """
    bee, hive; bird, nest; bear, den; rabbit, burrow; spider, web; horse, stable; pig, sty
    hen, coop; beaver, lodge; squirrel, drey; badger, sett; cow, barn; lion, savanna
    """,
)
PLURALS = read_table(
    "singular plural",
    """
    mouse, mice; goose, geese; child, children; foot, feet; tooth, teeth; man, men; woman, women
    leaf, leaves; wolf, wolves; knife, knives; ox, oxen; loaf, loaves; sheep, sheep; half, halves
    berry, berries; box, boxes; fox, foxes; story, stories; penny, pennies; scarf, scarves
    """,
)
PAST = read_table(
    "verb past",
    """
    go, went; see, saw; eat, ate; sing, sang; swim, swam; write, wrote; fly, flew; bring, brought
    teach, taught; find, found; give, gave; take, took; run, ran; sleep, slept; think, thought
    catch, caught; draw, drew; grow, grew; know, knew; speak, spoke; break, broke; drink, drank
    ring, rang; build, built; keep, kept; tell, told; win, won; hide, hid; steal, stole
    freeze, froze
    """,
)
SHAPES = read_table(
    "shape sides",
    "triangle, three; square, four; pentagon, five; hexagon, six; heptagon, seven; octagon, eight",
)

TOWNS = words("""
Larkhill Fernby Mosswick Saltmere Appleford Thornbury Windle Oakhaven Pebbleton Greywater
Honeydale Rushmoor Bramblecote Tidewell Copperfold Hollowbrook Snowdrift Elmstead Kestrelby
Marrowdown""")

JOBS = words("""
baker weaver potter miller gardener carpenter blacksmith shepherd fisher teacher doctor
librarian clockmaker cobbler tailor beekeeper cooper glazier painter printer bookbinder sailor
ferryman forester cheesemaker candlemaker saddler mason tinker thatcher postman drummer piper
gamekeeper orchardist toymaker stargazer bellringer locksmith ropemaker""")

PETS = words("""cat dog hen goat tortoise parrot rabbit donkey duck ferret pigeon hedgehog""")

VILLAGER_NAMES = words("""
Abel Adela Agnes Aldo Alma Alvin Amara Ambrose Anika Ansel Anwen Arlo Astrid
Aurel Basil Bea Benno Bertil Bess Bianca Björn Blanche Boris Bronwen Bruno Calla Carys Casper Cato
Cecil Celeste Chloë Cilla Clem Clio Conrad Cora Corin Cosmo Dagny Dahlia Daphne Dario Delia Demelza
Desmond Dilys Dora Doris Dov Ebba Edda Edgar Edith Egon Eira Elfie Elias Elke Elowen Emeric Emrys
Enid Ernst Errol Esme Ester Eudora Evander Fabian Fay Felix Fenella Fergus Fiona Flavia Flora Floyd
Frida Gareth Gemma Gerda Gideon Gilda Ginger Gisela Goran Greta Griff Gus Gwen Hal Hanno Harriet
Hattie Hector Hedda Hilda Hiro Horace Hugo Humphrey Idris Igor Ilse Imogen Ines Ingrid Iona Ira
Irma Isolde Ivor Jago Jasper Jethro Joan Jonas Jorah Josef Judith Junia Kasimir Katya Kenji Kerstin
Klara Knut Lamar Lars Laszlo Leif Lena Leopold Linus Lorna Lucan Ludo Luna Lysander Mabel Magda
Magnus Malik Manon Marlow Matilda Maude Maya Mercy Merle Milos Minerva Morgan Myrtle Nadia Ned Nell
Nestor Noël Norbert Odette Olaf Olga Omar Oona Orla Osric Otis Paloma Percy Perdita Petra Phineas
Piers Quentin Ramona Raoul Rhoda Rolf Rosalind Rufus Sabine Selma Silas Sigrid Søren Stella Sven
Tabitha Tamsin Thelma Thora Tobias Trudy Ulla Ulric Una Ursula Valentin Vera Verity Vidal Viola
Wanda Wilhelm Willa Winston Xavier Yael Yorick Yusuf Yvette Zelda Zora""")


def _villagers() -> list[Record]:
    people = [{"name": "Zoé", "job": "beekeeper", "town": "Larkhill", "pet": "cat"}]
    names = shuffled(VILLAGER_NAMES, "villagers")[:199]
    for i, name in enumerate(names):
        town = TOWNS[(i + 1) % len(TOWNS)]
        jobs = [job for job in shuffled(JOBS, town) if (job, town) != ("beekeeper", "Larkhill")]
        pet = PETS[stable_hash("pet", name) % len(PETS)]
        people.append({"name": name, "job": jobs[i // len(TOWNS)], "town": town, "pet": pet})
    assert len({p["name"] for p in people}) == 200
    assert len({(p["job"], p["town"]) for p in people}) == 200
    return people


VILLAGERS = _villagers()
