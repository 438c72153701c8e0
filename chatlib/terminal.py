"""Chat in the terminal: `python -m chatlib chat`, or one answer with `-p "question"`."""

from chatlib.conversation import parse_assistant, recent, render_prompt
from chatlib.engine import Engine, Writer
from chatlib.errors import ChatlibError
from chatlib.sampling import Sampling

HELP = """/temperature 0.7   how daring to be, 0 to 2
/clear             forget the conversation
/help              this list
/quit              leave (so does Ctrl-D); Ctrl-C stops a reply"""
MARKS = {"python": "\n  [calculator] ", "python_output": " = "}


def chat(run: str | None = None, stage: str | None = None, *, prompt: str | None = None) -> None:
    """Talk to the newest model, or that of a run and stage; `prompt` asks once and returns."""
    from chatlib.report import last_stage, load_engine
    from chatlib.runs import Run

    which = Run.open(run) if run else Run.latest()
    stage = stage or last_stage(which)
    engine = load_engine(which, stage)
    if prompt is not None:
        reply(engine, [{"role": "user", "content": prompt}], 0.0)
        return
    print(f"{which.name} ({stage}), {engine.context} tokens of context. /help lists commands.")
    converse(engine)


def converse(engine: Engine, temperature: float = 0.7) -> None:
    """Read lines and answer them until the input ends."""
    messages: list[dict] = []
    while True:
        try:
            line = input("\nyou> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/clear":
            messages = []
            print("The conversation is forgotten.")
        elif command == "/temperature":
            temperature = _temperature(rest, temperature)
        elif command.startswith("/"):
            print(HELP)
        elif line:
            messages.append({"role": "user", "content": line})
            messages = _answer(engine, messages, temperature)


def _temperature(text: str, before: float) -> float:
    try:
        temperature = Sampling(temperature=float(text)).temperature
    except (ValueError, ChatlibError):
        print(f"A temperature is a number from 0 to 2; it stays at {before}.")
        return before
    print(f"The temperature is {temperature}.")
    return temperature


def _answer(engine: Engine, messages: list[dict], temperature: float) -> list[dict]:
    """Print the answer; return the conversation with it, or without the question if none fits."""
    kept = recent(engine.tokenizer, messages, engine.comfortable)
    if len(kept) < len(messages):
        print("(The start of the conversation no longer fits and was left out.)")
    print("bot> ", end="", flush=True)
    try:
        return [*kept, {"role": "assistant", "content": reply(engine, kept, temperature)}]
    except ChatlibError as error:
        print(error)
        return messages[:-1]


def reply(engine: Engine, messages: list[dict], temperature: float) -> list[dict]:
    """Write one reply to the screen as it comes; Ctrl-C ends it. Returns its parts."""
    prompt = render_prompt(engine.tokenizer, {"messages": messages})
    writer, tokens, kind = Writer(engine.tokenizer), [], "text"
    try:
        for step in engine.generate(
            prompt, max_tokens=1024, temperature=temperature, top_k=50, seed=None
        ):
            tokens.append(step.tokens[0])
            for new, text in writer.push(tokens[-1]):
                mark = MARKS.get(new, "\n" if kind != "text" else "") if new != kind else ""
                print(mark + text, end="", flush=True)
                kind = new
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    print("".join(text for _, text in writer.finish()))
    return parse_assistant(engine.tokenizer, tokens)
