"""Dialogue: questions and answers about facts and sums, and small talk between two children."""

from chatlib.data.world.relations import RELATIONS

RULES = {
    "asked": [(r.weight, f"{{asked_{i}}}") for i, r in enumerate(RELATIONS)],
    "exchange": [
        (8, "{asked}"),
        (1, "<n:sum>Question: What is {n.a} + {n.b}?\nAnswer: {n.a} + {n.b} = {n.c}."),
        (1, "<n:difference>Question: What is {n.a} - {n.b}?\nAnswer: {n.a} - {n.b} = {n.c}."),
        (1, "<n:product>Question: What is {n.a} * {n.b}?\nAnswer: {n.a} * {n.b} = {n.c}."),
    ],
    "dialogue": [
        (3, "{exchange}\n{exchange}\n{exchange}"),
        (2, "{exchange}\n{exchange}\n{exchange}\n{exchange}"),
        (2, "<c:cast>{meeting}\n{small_talk}\n{parting}"),
        (8, "{scene}"),
    ],
    "meeting": [
        '"[Good morning|Good evening|Hello], {c.friend}," said {c.name}. "How are you?"\n"[Very '
        'well|Quite well|A little tired], thank you," said {c.friend}.',
        '"[Good morning|Good evening|Hello]. My name is {c.name}," said the {c.child}.\n"Nice to '
        'meet you, {c.name}. I am {c.friend}."',
    ],
    "small_talk": [
        '<o:object>"What are you [looking for|carrying|hiding]?" asked {c.name}.\n"[My|Only my] '
        '{o.thing}," said {c.friend}.',
        '<p:place>"Where are you going?" asked {c.name}.\n"To the {p.place}," said {c.friend}. '
        '"[Come with me|It is a fine day for it|Somebody is waiting for me]."',
        '<a:animal>"Did you see the {a.animal}?" asked {c.name}.\n"[Yes, {a.adjective} as '
        'always|Only its tracks|No, it is asleep in the barn]," said {c.friend}.',
        '<f:food>"Are you hungry?" asked {c.name}. "I have {f.food}."\n"[Always|I could eat a '
        'horse|Not any more]," said {c.friend}.',
    ],
    "parting": [
        '"Goodbye, {c.friend}."\n"[See you tomorrow|Until Sunday|Take care], {c.name}."',
        '"[It is late|It is getting dark|I hear the bell]," said {c.friend}. "Good night, '
        '{c.name}."',
    ],
}
for _i, _relation in enumerate(RELATIONS):
    RULES[f"asked_{_i}"] = [
        f"<x:question-{_i}-{_q}>Question: {_question}\nAnswer: {_relation.statements[0]}"
        for _q, (_question, _) in enumerate(_relation.questions)
    ]
