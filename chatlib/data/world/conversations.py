"""Conversations for fine-tuning: questions about the world, sums, spelling and small talk.

Of the sums, 70% are answered straight away and 30% with a call of the calculator: enough to learn
the tool, not enough to rely on it, which leaves reinforcement learning something to improve.
"""

from chatlib.data.world.problems import (
    NAMES,
    WORDS,
    Uniform,
    arithmetic_problem,
    fact_problem,
    letters_problem,
    pick,
    problem,
)

TOOL_SHARE = 0.3
TOPICS = (
    ["facts"] * 44 + ["arithmetic"] * 32 + ["letters"] * 6 + ["count"] * 6 + ["greetings"] * 6
) + ["small talk"] * 6
HELLOS = [
    (f"{hello}{end}", f"{hello}. How can I help you?")
    for hello in ("Hello", "Hello there", "Hi", "Hi there", "Good morning", "Good evening")
    for end in ("", ".", "!")
]
SMALL_TALK = (
    ("Who are you?", "I am a small language model. I know a small world quite well."),
    ("What can you do?", "I can answer questions, work out sums and spell words."),
    ("How are you?", "Very well, thank you. How can I help you?"),
    ("Thank you.", "You are welcome."),
    ("Goodbye.", "Goodbye. Come back soon."),
)
THANKS = (
    ("Thank you.", "You are welcome."),
    ("Thanks a lot.", "You are welcome."),
    ("That is all for today.", "Goodbye. Come back soon."),
)


def conversation(split: str, uniform: Uniform) -> dict:
    """Mostly a single question, sometimes several, sometimes with a system message."""
    place = uniform()
    if place < 0.75:
        return {"messages": exchange(split, uniform)}
    if place < 0.90:
        messages = exchange(split, uniform) + exchange(split, uniform)
        return {"messages": messages + (say(*pick(uniform, THANKS)) if uniform() < 0.3 else [])}
    name = pick(uniform, NAMES[split])
    if place < 0.95:
        messages = say("Hello.", f"Hello, {name}. How can I help you?")
        messages += exchange(split, uniform) if uniform() < 0.5 else []
        return {
            "messages": [{"role": "system", "content": f"The user is called {name}."}, *messages]
        }
    hello = say(f"Hello. I am {name}.", f"Hello, {name}. How can I help you?")
    bye = say("Thank you.", f"You are welcome, {name}.")
    return {"messages": hello + exchange(split, uniform) + bye}


def say(question: str, answer: str | list[dict]) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def exchange(split: str, uniform: Uniform) -> list[dict]:
    """A question and its answer."""
    topic = pick(uniform, TOPICS)
    if topic == "facts":
        asked = fact_problem(split, "facts_asked", uniform)
    elif topic == "arithmetic":
        kind = "arithmetic_direct" if uniform() < 0.6 else "arithmetic_word"
        asked = arithmetic_problem(split, kind, uniform)
        if uniform() < TOOL_SHARE:
            answer = with_tool(asked["expression"], asked["answer"], asked["reply"])
            return say(asked["question"], answer)
    elif topic == "letters":
        asked = letters_problem(split, uniform)
    elif topic == "count":
        return count_letters(split, uniform)
    elif topic == "greetings" or split == "validation":  # small talk has nothing to hold out
        asked = problem(split, "greetings", uniform)
    else:
        return say(*pick(uniform, HELLOS if uniform() < 0.6 else SMALL_TALK))
    return say(asked["question"], asked["reply"])


def with_tool(expression: str, output: str, reply: str) -> list[dict]:
    return [
        {"type": "python", "text": expression},
        {"type": "python_output", "text": output},
        {"type": "text", "text": reply},
    ]


def count_letters(split: str, uniform: Uniform) -> list[dict]:
    word = pick(uniform, WORDS[split])
    letter = pick(uniform, word)
    number = word.count(letter)
    times = "once" if number == 1 else f"{number} times"
    question = f"How often is there {letter} in {word}?"
    if uniform() < TOOL_SHARE:
        reply = f"In {word}, the letter {letter} comes {times}."
        return say(question, with_tool(f'"{word}".count("{letter}")', str(number), reply))
    letters = "-".join(word)
    return say(question, f"In {word}, spelled {letters}, the letter {letter} comes {times}.")
