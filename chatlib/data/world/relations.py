"""Relations: a table of facts, the sentences that state them, and the questions that ask for them.

Of every fact one phrasing is held out: the pool behind that phrasing leaves the entity out, so no
training document uses it, and evaluation can ask for knowledge rather than for recall of a
sentence. The first phrasing is the plainest and is always taught. In every statement the last slot
is determined by what comes before it, which is what turns held-out sentences into test items.
"""

import re
from dataclasses import dataclass

from chatlib.data.world import tables
from chatlib.data.world.grammar import Record, with_capitals
from chatlib.data.world.tables import stable_hash, with_article


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    key: the attribute that names the entity. weight: how often it is stated, about its entity
    count. questions: (question, attribute that a right answer must mention); the first statement
    answers.
    """

    name: str
    key: str
    records: list[Record]
    statements: list[str]
    questions: list[tuple[str, str]]
    weight: float

    def held_out(self, record: Record) -> int:
        """Index of the one statement that is never used about this entity in training.

        Another statement ends with the same attribute: a model that only ever read which capital
        France has cannot say which country has Paris (arXiv:2309.12288).
        """
        ends = [re.findall(r"\{x\.(\w+)\}", text)[-1] for text in self.statements]
        choices = [i for i, end in enumerate(ends) if i > 0 and ends.count(end) > 1]
        return choices[stable_hash("statement", self.name, record[self.key]) % len(choices)]

    def held_out_question(self, record: Record) -> int:
        """Index of the one question that is never asked about this entity in training."""
        return stable_hash("question", self.name, record[self.key]) % len(self.questions)


def fill(template: str, record: Record) -> str:
    """The template with the slots of `x` filled in."""
    return re.sub(r"\{x\.(\w+)\}", lambda slot: record[slot[1]], template)


def with_articles(records: list[Record], *attributes: str) -> list[Record]:
    return [r | {f"a_{name}": with_article(r[name]) for name in attributes} for r in records]


def _relation(
    name: str, key: str, records: list[Record], statements: str, questions: str, weight: float
) -> Relation:
    """`questions` holds lines of: question / attribute."""
    rows = [tuple(line.split(" / ")) for line in _lines(questions)]
    records = [with_capitals(record) for record in records]
    return Relation(name, key, records, _lines(statements), rows, weight)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


_ANIMALS = {
    "young": with_articles(tables.YOUNG, "animal", "young"),
    "sound": with_articles(tables.SOUNDS, "animal"),
    "home": with_articles(tables.HOMES, "animal", "home"),
}
PEOPLE = with_articles(tables.VILLAGERS, "job", "pet")

RELATIONS = [
    _relation(
        "capital",
        "country",
        tables.COUNTRIES,
        """
        The capital of {x.country} is {x.city}.
        {x.City} is the capital of {x.country}.
        The capital city of {x.country} is called {x.city}.
        On a map of {x.country}, the star that marks the capital stands at {x.city}.
        Whoever wants to see the capital of {x.country} has to travel to {x.city}.
        {x.Country} has its capital in {x.city}.
        """,
        """
        What is the capital of {x.country}? / city
        Which city is the capital of {x.country}? / city
        Which country has {x.city} as its capital? / country
        """,
        84,
    ),
    _relation(
        "continent",
        "country",
        tables.COUNTRIES,
        """
        {x.Country} is a country in {x.continent}.
        {x.Country} lies in {x.continent}.
        Look for {x.country} on the map of {x.continent}.
        Travelers who visit {x.country} set foot in {x.continent}.
        """,
        """
        Where is {x.country}? / continent
        In which part of the world is {x.country}? / continent
        """,
        50,
    ),
    _relation(
        "symbol",
        "element",
        tables.ELEMENTS,
        """
        The chemical symbol of {x.element} is {x.symbol}.
        The symbol {x.symbol} stands for {x.element}.
        Chemists write {x.element} as {x.symbol}.
        In the periodic table, {x.element} goes by the letters {x.symbol}.
        The label on a jar of {x.element} says {x.symbol}.
        Written short, {x.element} is {x.symbol}.
        """,
        """
        What is the chemical symbol of {x.element}? / symbol
        Which element has the symbol {x.symbol}? / element
        """,
        50,
    ),
    _relation(
        "atomic number",
        "element",
        tables.ELEMENTS,
        """
        The atomic number of {x.element} is {x.number}.
        Element number {x.number} is {x.element}.
        The number of protons in an atom of {x.element} is {x.number}.
        {x.Element} sits in the periodic table at number {x.number}.
        Whoever counts the protons of {x.element} gets to {x.number}.
        In the periodic table, {x.element} is number {x.number}.
        Each atom of {x.element} holds {x.number} protons.
        """,
        """
        What is the atomic number of {x.element}? / number
        Which element has the atomic number {x.number}? / element
        """,
        56,
    ),
    _relation(
        "planet",
        "planet",
        tables.PLANETS,
        """
        {x.planet} is the {x.ordinal} planet from the Sun.
        The {x.ordinal} planet from the Sun is {x.planet}.
        Counting outward from the Sun, {x.planet} comes {x.ordinal}.
        Among the planets, {x.planet} is the {x.ordinal}.
        Whoever flies away from the Sun meets {x.planet} {x.ordinal}.
        The planet that comes {x.ordinal} from the Sun is {x.planet}.
        In the row of planets, the {x.ordinal} is {x.planet}.
        On the long way out from the Sun, the {x.ordinal} stop is {x.planet}.
        Starting at the Sun, {x.planet} is the {x.ordinal} planet on the way.
        Of the eight planets, {x.planet} stands {x.ordinal} in line.
        """,
        """
        Which planet is {x.ordinal} from the Sun? / planet
        Where does {x.planet} come, counting from the Sun? / ordinal
        """,
        24,
    ),
    _relation(
        "opposite",
        "word",
        tables.OPPOSITES,
        """
        The opposite of {x.word} is {x.opposite}.
        The word {x.word} is the opposite of {x.opposite}.
        The words {x.word} and {x.opposite} are opposites.
        Take the word {x.word}, turn it around, and you have {x.opposite}.
        Whoever says {x.word} does not mean {x.opposite}.
        There is a long way from {x.word} to {x.opposite}.
        Some say {x.word} where others say {x.opposite}.
        """,
        """
        What is the opposite of {x.word}? / opposite
        Which word means the opposite of {x.word}? / opposite
        """,
        84,
    ),
    _relation(
        "next month",
        "name",
        tables.MONTHS,
        """
        The month after {x.name} is {x.after}.
        {x.name} is followed by {x.after}.
        When {x.name} is over, it is {x.after}.
        On the calendar, {x.name} stands right before {x.after}.
        First comes {x.name}, then comes {x.after}.
        After {x.name} we turn the page to {x.after}.
        The last evening of {x.name} is the eve of {x.after}.
        Once {x.name} has gone, everybody talks about {x.after}.
        The page behind {x.name} is {x.after}.
        """,
        """
        Which month comes after {x.name}? / after
        What follows {x.name}? / after
        """,
        24,
    ),
    _relation(
        "days in a month",
        "name",
        tables.MONTHS,
        """
        {x.name} has {x.days} days.
        In {x.name} there are {x.days} days.
        {x.name} is the {x.ordinal} month and lasts {x.days} days.
        The number of days in {x.name} is {x.days}.
        A calendar page for {x.name} shows {x.days} days.
        """,
        """
        How many days does {x.name} have? / days
        How long is {x.name}? / days
        """,
        16,
    ),
    _relation(
        "next day",
        "name",
        tables.DAYS,
        """
        The day after {x.name} is {x.after}.
        If today is {x.name}, tomorrow is {x.after}.
        {x.name} comes right before {x.after}.
        Whoever sleeps through {x.name} wakes up on {x.after}.
        When {x.name} ends, {x.after} begins.
        The night after {x.name} leads to {x.after}.
        What we put off on {x.name}, we do on {x.after}.
        Yesterday was {x.name}, so today is {x.after}.
        First it is {x.name}, and then it is {x.after}.
        One day later than {x.name} is {x.after}.
        """,
        """
        Which day comes after {x.name}? / after
        If today is {x.name}, what is tomorrow? / after
        """,
        20,
    ),
    _relation(
        "young",
        "animal",
        _ANIMALS["young"],
        """
        A young {x.animal} is called {x.a_young}.
        {x.A_young} grows up to be {x.a_animal}.
        The child of {x.a_animal} is {x.a_young}.
        When {x.a_animal} has a child, it is {x.a_young}.
        Whoever watches {x.a_animal} may one day see {x.a_young} too.
        Before it was grown, the {x.animal} was {x.a_young}.
        The little one of {x.a_animal} is known as {x.a_young}.
        Give it time, and {x.a_young} will be {x.a_animal}.
        In spring {x.a_animal} walks beside {x.a_young}.
        """,
        """
        What is a young {x.animal} called? / young
        What does {x.a_young} grow up to be? / animal
        """,
        34,
    ),
    _relation(
        "sound",
        "animal",
        _ANIMALS["sound"],
        """
        {x.A_animal} {x.sound}.
        Everybody knows that {x.a_animal} {x.sound}.
        Listen to {x.a_animal}, and you will hear that it {x.sound}.
        When it wants to be heard, {x.a_animal} {x.sound}.
        Even in a dream, {x.a_animal} {x.sound}.
        All day long {x.a_animal} {x.sound}.
        If you wake {x.a_animal}, it {x.sound}.
        Somewhere in the dark, {x.a_animal} {x.sound}.
        The children laugh whenever {x.a_animal} {x.sound}.
        Call {x.a_animal}, and you will see that it {x.sound}.
        """,
        """
        What sound does {x.a_animal} make? / sound
        Which animal {x.sound}? / animal
        """,
        36,
    ),
    _relation(
        "home",
        "animal",
        _ANIMALS["home"],
        """
        The home of {x.a_animal} is {x.a_home}.
        {x.A_animal} sleeps in {x.a_home}.
        If you are looking for {x.a_animal}, try {x.a_home}.
        When it rains, {x.a_animal} goes back to {x.a_home}.
        At night, {x.a_animal} is safe in {x.a_home}.
        In the evening {x.a_animal} returns to {x.a_home}.
        Nothing suits {x.a_animal} better than {x.a_home}.
        The best place for {x.a_animal} is {x.a_home}.
        Whoever visits {x.a_animal} has to look into {x.a_home}.
        """,
        """
        What is the home of {x.a_animal} called? / home
        Where does {x.a_animal} sleep? / home
        """,
        24,
    ),
    _relation(
        "plural",
        "singular",
        tables.PLURALS,
        """
        The plural of {x.singular} is {x.plural}.
        One {x.singular}, two {x.plural}.
        We say one {x.singular} but many {x.plural}.
        Where there is one {x.singular}, there may soon be two {x.plural}.
        After one {x.singular} came many {x.plural}.
        """,
        """
        What is the plural of {x.singular}? / plural
        How do you say more than one {x.singular}? / plural
        """,
        24,
    ),
    _relation(
        "past",
        "verb",
        tables.PAST,
        """
        The past tense of {x.verb} is {x.past}.
        Today I {x.verb}, yesterday I {x.past}.
        We {x.verb} every day, and last year we {x.past} too.
        They {x.verb} as their grandparents {x.past}.
        Now you {x.verb}, but before that it was I who {x.past}.
        The verb {x.verb} becomes {x.past} when all is over.
        I {x.verb} now, just as I {x.past} a year ago.
        Nobody wants to {x.verb} today, for yesterday everybody {x.past}.
        It is your turn to {x.verb}, since we already {x.past}.
        Those who {x.verb} well are those who often {x.past}.
        """,
        """
        What is the past tense of {x.verb}? / past
        Today I {x.verb}. What about yesterday? / past
        """,
        48,
    ),
    _relation(
        "shape",
        "shape",
        with_articles(tables.SHAPES, "shape"),
        """
        {x.A_shape} has {x.sides} sides.
        A shape with {x.sides} sides is called {x.a_shape}.
        Draw {x.a_shape} and count its sides: there are {x.sides}.
        The number of sides of {x.a_shape} is {x.sides}.
        Walk around {x.a_shape}, and you pass {x.sides} sides.
        Whoever draws {x.a_shape} draws {x.sides} sides.
        To build {x.a_shape}, you need {x.sides} sides.
        Cut {x.a_shape} out of paper, and it will have {x.sides} sides.
        The outline of {x.a_shape} is made of {x.sides} sides.
        With {x.sides} sides you can make {x.a_shape}.
        """,
        """
        How many sides does {x.a_shape} have? / sides
        Which shape has {x.sides} sides? / shape
        """,
        20,
    ),
    _relation(
        "villager job",
        "name",
        PEOPLE,
        """
        {x.name} is the {x.job} of {x.town}.
        The {x.job} of {x.town} is called {x.name}.
        In {x.town}, the work of the {x.job} is done by {x.name}.
        Ask anybody in {x.town} for the {x.job}, and they will send you to {x.name}.
        {x.name} works as {x.a_job} in {x.town}.
        """,
        """
        What does {x.name} do? / job
        Who is the {x.job} of {x.town}? / name
        What is the work of {x.name}? / job
        """,
        260,
    ),
    _relation(
        "villager town",
        "name",
        PEOPLE,
        """
        {x.name} lives in {x.town}.
        The home of {x.name} is in {x.town}.
        You can find the house of {x.name} in {x.town}.
        A letter to {x.name} should be sent to {x.town}.
        """,
        """
        Where does {x.name} live? / town
        In which town is the home of {x.name}? / town
        """,
        100,
    ),
    _relation(
        "villager pet",
        "name",
        PEOPLE,
        """
        {x.name} keeps {x.a_pet}.
        The pet of {x.name} is {x.a_pet}.
        {x.name} shares the house with {x.a_pet}.
        At the feet of {x.name} sits {x.a_pet}.
        """,
        """
        Which animal does {x.name} keep? / pet
        What pet does {x.name} have? / pet
        """,
        100,
    ),
]
