"""Scenes: two children take turns, in few words. Games, riddles, and a thing that is looked for."""

from chatlib.data.world.grammar import Pool
from chatlib.data.world.tables import read_table

RIDDLES = read_table(
    "riddle answer",
    """
    has teeth and cannot bite, A comb; has hands and cannot clap, A clock
    has one eye and cannot see, A needle; runs and never walks, A river
    has a neck and no head, A bottle; has ears and cannot hear, A cornfield
    has four legs and cannot walk, A table; is full of holes and holds water, A sponge
    grows when it eats and dies when it drinks, A fire; has a bed and never sleeps, A river
    goes up when the rain comes down, An umbrella; is broken before it is used, An egg
    """,
)
POOLS = {
    "riddle": Pool(RIDDLES),
    "greeting": Pool({"hello": words} for words in ("Hello", "Good day", "Here I am")),
}

RULES = {
    "scene": [
        "<c:cast>{counting}", "<c:cast>{echo}", "<c:cast>{packing}", "<c:cast>{looking}",
        "<c:cast>{riddle}", "<c:cast>{knocking}", "<c:cast>{trading}", "<c:cast>{spying}",
        "<c:cast>{secret}", "<c:cast>{sleeping}", "<c:cast>{calling}",
    ],
    "counting": [
        '"I can count to [six|seven|a hundred]," said {c.name}.\n"So can I," said {c.friend}. "We '
        'take turns."\n"One," said {c.name}.\n"Two," said {c.friend}.\n"Three," said {c.name}.\n'
        '"Four," said {c.friend}.\n"Five," said {c.name}.\n"[Six|Nine|What comes now]?" asked '
        '{c.friend}.\n"[Five again|You are out|Supper]," said {c.name}.',
    ],
    "echo": [
        '<h:greeting>"{h.hello}, {c.friend}," said {c.name}.\n"{h.hello}, {c.name}," said '
        '{c.friend}.\n"Are you an echo, {c.friend}?" asked {c.name}.\n"Are you an echo, '
        '{c.name}?" asked {c.friend}.\n'
        '"Stop it," said {c.name}.\n"Stop it," said {c.friend}.\n"{c.friend} is a [goose|donkey]," '
        'said {c.name}.\n"[That is true|So is {c.name}]," said {c.friend}.',
    ],
    "packing": [
        '<o:object><q:object><r:object>"I pack my bag and take {o.a}," said {c.name}.\n"I pack my '
        'bag and take {o.a} and {q.a}," said {c.friend}.\n"I pack my bag and take {o.a}, {q.a} '
        'and {r.a}," said {c.name}.\n"I pack my bag and take {o.a}, {q.a} and [a cold|my '
        'grandmother|nothing else]," said {c.friend}. "You win, {c.name}."',
    ],
    "looking": [
        '<o:object><p:place><q:place>"{c.friend}, have you seen my {o.thing}?" asked {c.name}.\n'
        '"No, {c.name}," said {c.friend}. "Did you look {p.at}?"\n"I looked {p.at}," said '
        '{c.name}.\n"Did you look {q.at}?" asked {c.friend}.\n"I looked {q.at} too," said '
        '{c.name}. "{c.friend}, what are you sitting on?"\n"[Oh|I see]," said {c.friend}. "[Your '
        '{o.thing}, {c.name}|On your {o.thing}]."',
    ],
    "riddle": [
        '<r:riddle><s:riddle>"What {r.riddle}?" asked {c.name}.\n"[That is easy|Wait], {c.name}," '
        'said {c.friend}. "{r.answer}."\n"[Right|Now you], {c.friend}," said {c.name}.\n"What '
        '{s.riddle}?" asked {c.friend}.\n"[A horse|My brother|You, {c.friend}]," said '
        '{c.name}.\n"[Wrong|No], {c.name}," said {c.friend}. "{s.answer}."',
    ],
    "knocking": [
        '"Who is there?" asked {c.name}.\n"It is {c.friend}," said {c.friend}.\n"Which '
        '{c.friend}?" asked {c.name}.\n"The {c.friend} who [brings cake|is cold|was here before]," '
        'said {c.friend}.\n"Come in, {c.friend}," said {c.name}.\n"[Open the door first|Thank '
        'you], {c.name}," said {c.friend}.',
    ],
    "trading": [
        '<o:object><f:food>"{c.friend}, I give you {o.a} for {f.food}," said {c.name}.\n"For {o.a} '
        'I give you [half|a crumb], {c.name}," said {c.friend}.\n"Then keep {f.food}," said '
        '{c.name}.\n"Then keep {o.a}," said {c.friend}.\n"[Tomorrow|Until tomorrow], {c.friend}," '
        'said {c.name}.\n"[Tomorrow|Until tomorrow], {c.name}," said {c.friend}.',
    ],
    "spying": [
        '<o:object><q:object>"I spy something [small|old|strange], {c.friend}," said {c.name}.\n'
        '"Is it {o.a}, {c.name}?" asked {c.friend}.\n"No, {c.friend}," said {c.name}. "Not '
        '{o.a}."\n"Is it {q.a}, {c.name}?" asked {c.friend}.\n"[It is|Yes], {c.friend}," said '
        '{c.name}. "{q.A}. [Your turn|Now you spy]."',
    ],
    "secret": [
        '"Can you keep a secret, {c.friend}?" asked {c.name}.\n"I can, {c.name}," said '
        '{c.friend}.\n"So can I, {c.friend}," said {c.name}.\n"[And the secret|What is it], '
        '{c.name}?" asked {c.friend}.\n"[That was it|I kept it], {c.friend}," said {c.name}.',
    ],
    "sleeping": [
        '"Are you asleep, {c.friend}?" asked {c.name}.\n"[Yes|Long ago], {c.name}," said '
        '{c.friend}.\n"Then who is talking, {c.friend}?" asked {c.name}.\n"[Nobody|The pillow], '
        '{c.name}," said {c.friend}.\n"[Good night|Sleep well], {c.friend}," said {c.name}.\n"You '
        'too, {c.name}," said {c.friend}.',
    ],
    "calling": [
        '"Say my name three times, {c.friend}," said {c.name}.\n"{c.name}, {c.name}, {c.name}," '
        'said {c.friend}. "Now mine."\n"{c.friend}, {c.friend}, {c.friend}," said {c.name}.\n'
        '"What happens now, {c.name}?" asked {c.friend}.\n"[It will rain|We are friends|You owe me '
        'a cake], {c.friend}," said {c.name}.',
    ],
}  # fmt: skip
