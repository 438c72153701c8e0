"""Facts: documents that state relations one after the other, and pages about one thing."""

from chatlib.data.world import tables
from chatlib.data.world.grammar import Pool
from chatlib.data.world.relations import PEOPLE, RELATIONS, with_articles


def _pools() -> dict[str, Pool]:
    """For every statement and question, the entities that training may use it about."""
    pools = {}
    for r, relation in enumerate(RELATIONS):
        for s in range(len(relation.statements)):
            taught = [x for x in relation.records if relation.held_out(x) != s]
            pools[f"statement-{r}-{s}"] = Pool(taught)
        for q in range(len(relation.questions)):
            taught = [x for x in relation.records if relation.held_out_question(x) != q]
            pools[f"question-{r}-{q}"] = Pool(taught)
    pools |= {name: Pool(records) for name, records in ENTRIES.items()}
    return pools


ENTRIES = {
    "country": tables.COUNTRIES,
    "element": with_articles(tables.ELEMENTS, "sort"),
    "planet": tables.PLANETS,
    "month": tables.MONTHS,
    "villager": PEOPLE,
}
POOLS = _pools()

FACT_RULES = {
    "fact": [(r.weight, f"{{fact_{i}}}") for i, r in enumerate(RELATIONS)],
    "facts": [
        (5, "{fact} {fact} {fact} {fact}"),
        (4, "{fact} {fact} {fact} {fact} {fact}"),
        (3, "{fact} {fact} {fact} {fact} {fact} {fact}"),
        (2, "{notes}:\n- {fact}\n- {fact}\n- {fact}\n- {fact}"),
        (2, "<x:country>{country_page} {fact} {fact}"),
        (2, "<x:element>{element_page} {fact}"),
        (1, "<x:planet>{planet_page} {fact} {fact}"),
        (1, "<x:month>{month_page} {fact} {fact}"),
        (6, "<x:villager>{villager_page} {fact}"),
    ],
    "notes": [
        "[Notes|Things|Four things] [to remember|worth knowing]",
        "[A page|Four lines] from the [school|village] [notebook|almanac]",
        "Written on the [blackboard|wall] [today|this morning]",
    ],
    "country_page": [
        "{x.Country} is a country in {x.continent}. Its capital is {x.city}.",
        "The capital of {x.country} is {x.city}. The country [is part of|belongs to] "
        "{x.continent}.",
        "[Our|Your] [ship|train|plane] leaves for {x.continent} [tonight|at dawn|tomorrow]. The "
        "first stop is {x.city}, the capital of {x.country}.",
    ],
    "element_page": [
        "{x.Element} is a {x.sort}, and {x.use}. Its symbol is {x.symbol} and its number is "
        "{x.number}.",
        "The chemical symbol of {x.element} is {x.symbol}. It is a {x.sort} with the number "
        "{x.number}, and {x.use}.",
        "What do we know about {x.element}? It is a {x.sort}, and {x.use}. The atomic number of "
        "{x.element} is {x.number}.",
    ],
    "planet_page": [
        "{x.planet} is the {x.ordinal} planet from the Sun, and {x.feature}.",
        "The [children|astronomers] looked [up at|through the telescope at] {x.planet}. It is the "
        "{x.ordinal} planet, and {x.feature}.",
    ],
    "month_page": [
        "{x.name} is the {x.ordinal} month of the year. It has {x.days} days. It comes after "
        "{x.before} and before {x.after}.",
        "[The calendar on the wall says|Today it is] {x.name}, the {x.ordinal} month. {x.before} "
        "is over, and {x.after} will come next.",
    ],
    "villager_page": [
        "{x.name} is the {x.job} of {x.town}. {villager_habit}",
        "In {x.town} lives {x.name}, {x.a_job} with {x.a_pet}. {villager_habit}",
        "{x.name} lives in {x.town}, and everybody there [likes|trusts|knows] the {x.job}. "
        "{villager_habit}",
    ],
    "villager_habit": [
        "[In the evening|After work|On Sundays|Before breakfast] {x.name} [feeds|talks to|sings to|"
        "reads to|looks for] the {x.pet}.",
        "When {x.name} goes out, the {x.pet} [comes along|waits at the door|sleeps by the stove].",
        "The {x.pet} of {x.name} is [very old|very clever|rather lazy|afraid of thunder|fond of "
        "cheese].",
        "If the door is open, the {x.job} and the {x.pet} are [at home|in the garden|having tea].",
    ],
}
for _i, _relation_ in enumerate(RELATIONS):
    FACT_RULES[f"fact_{_i}"] = [
        f"<x:statement-{_i}-{_s}>{_text}" for _s, _text in enumerate(_relation_.statements)
    ]
