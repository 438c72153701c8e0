"""The command line: `python -m chatlib COMMAND --help`.

A run is a folder; every command works on one run, and each stage starts from the one before it:

    tokenizer  ->  pretrain  ->  sft  ->  rl        eval, chat, serve look at any of them
"""

import argparse
import sys

from chatlib.errors import ChatlibError
from chatlib.runs import STAGES


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 misused, 130 interrupted)."""
    args = _parser().parse_args(argv)
    try:
        args.command(args)
        return 0
    except ChatlibError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(stop or "Stopped.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chatlib",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=function)
        sub.add_argument(
            "--run", help="the run's name (default: the newest run; a stage: its scale's name)"
        )
        return sub

    def trains(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--scale", help="tiny, laptop, gpu or node (default: the run's own, else laptop)"
        )
        sub.add_argument(
            "--corpus", help="world, climbmix, fineweb-edu, tinystories, or a path to your own text"
        )
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="replace one setting of the scale",
        )

    trains(add("tokenizer", _tokenizer, "Train the tokenizer of a run on its corpus."))
    trains(
        add(
            "pretrain", _pretrain, "Pretrain the base model; carries on from the newest checkpoint."
        )
    )
    sft = add("sft", _sft, "Fine-tune the base model on conversations.")
    trains(sft)
    sft.add_argument(
        "--data", action="append", help="conversations: a local file (SmolTalk or GSM8K schema)"
    )
    rl = add("rl", _rl, "Reinforce the fine-tuned model on problems with checkable answers.")
    trains(rl)
    rl.add_argument("--data", help="problems: a local file in the GSM8K schema")
    evaluate = add("eval", _eval, "Evaluate a stage: bits per byte, CORE tasks, chat accuracy.")
    evaluate.add_argument("--stage", choices=STAGES, help="default: the last stage there is")
    evaluate.add_argument("--core", metavar="FOLDER", help="a folder of CORE tasks as JSONL files")
    evaluate.add_argument("--max-items", type=int, default=0, help="items a task, 0 for all")
    chat = add("chat", _chat, "Talk to a model in the terminal.")
    chat.add_argument("--stage", choices=STAGES, help="default: the last stage there is")
    chat.add_argument("-p", "--prompt", help="answer one message and exit")
    serve = add("serve", _serve, "Serve a model: a web chat and an OpenAI-compatible API.")
    serve.add_argument("--stage", choices=STAGES, help="default: the last stage there is")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to bind to (default: this machine only)"
    )
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--api-key", help="ask clients for this key")
    serve.add_argument(
        "--int8", action="store_true", help="read the matrices in 8 bits: faster, a little rougher"
    )
    plan = add("plan", _plan, "Print what a scale comes to: shape, tokens, memory, hours, dollars.")
    trains(plan)
    plan.add_argument("--device", help="one of the devices in chatlib.planner (default: all)")
    plan.add_argument("--gpus", type=int, help="how many (default: the scale's)")
    return parser


def _settings(args: argparse.Namespace) -> dict:
    settings = dict(_pair(text) for text in args.set)
    return settings | ({"corpus": args.corpus} if args.corpus else {})


def _pair(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ChatlibError(f"--set {text!r} is not of the form NAME=VALUE.")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _stage(args: argparse.Namespace):
    from chatlib.pretraining import open_run

    return open_run(args.run, args.scale, _settings(args))


def _tokenizer(args: argparse.Namespace) -> None:
    from chatlib.pretraining import train_tokenizer

    train_tokenizer(*_stage(args))


def _pretrain(args: argparse.Namespace) -> None:
    from chatlib.pretraining import pretrain

    pretrain(*_stage(args))


def _sft(args: argparse.Namespace) -> None:
    from chatlib.finetuning import finetune

    finetune(*_stage(args), data=args.data)


def _rl(args: argparse.Namespace) -> None:
    from chatlib.reinforce import reinforce

    reinforce(*_stage(args), data=args.data)


def _eval(args: argparse.Namespace) -> None:
    from chatlib.report import evaluate_stage
    from chatlib.runs import Run

    run = Run.open(args.run) if args.run else Run.latest()
    evaluate_stage(run, args.stage, core_folder=args.core, max_items=args.max_items)


def _chat(args: argparse.Namespace) -> None:
    from chatlib.terminal import chat

    chat(args.run, args.stage, prompt=args.prompt)


def _serve(args: argparse.Namespace) -> None:
    from chatlib.server import serve

    where = {"host": args.host, "port": args.port, "api_key": args.api_key}
    serve(args.run, args.stage, **where, int8=args.int8)


def _plan(args: argparse.Namespace) -> None:
    from chatlib.planner import describe
    from chatlib.scaling import get_scale

    print(describe(get_scale(args.scale or "laptop", **_settings(args)), args.device, args.gpus))


if __name__ == "__main__":
    sys.exit(main())
