"""What came of a run: each stage evaluated, and everything gathered into one report.

`report.json` is for programs, `report.md` for people; both stand in the run's folder.
"""

import json
import time

from chatlib.baselines import baselines
from chatlib.chat_evaluation import evaluate_chat, reply_text, write_replies
from chatlib.conversation import render_prompt
from chatlib.data.sources import open_source
from chatlib.data.world import RL_KINDS, THREAD_QUESTION, World, entropy_floor
from chatlib.distributed import setup
from chatlib.engine import Engine, fast_engine
from chatlib.errors import ChatlibError
from chatlib.evaluation import (
    document_bits,
    evaluate_core,
    load_core_tasks,
    ratio_interval,
    world_core_tasks,
)
from chatlib.model import GPT
from chatlib.pretraining import load_model, load_tokenizer
from chatlib.runs import STAGES, Metrics, Run, atomic_write
from chatlib.scaling import Scale, get_scale
from chatlib.tasks import chat_tasks
from chatlib.tasks.world import world_task
from chatlib.tokenizer import Tokenizer

BASELINE_BYTES = 4_000_000  # of training text for the n-grams

NOTEBOOK_STAGES = {"2_pretrain": "base", "3_finetune": "sft", "4_reinforce": "rl"}


def run_scale(run: Run) -> Scale:
    """The scale a run was made with."""
    return get_scale(run.manifest["scale"], **run.manifest.get("settings", {}))


def last_stage(run: Run) -> str:
    """The furthest stage that has finished."""
    done = [stage for stage in STAGES if stage in run.manifest]
    if not done:
        raise ChatlibError(f"Run {run.name!r} has no finished stage yet; pretrain it first.")
    return done[-1]


def load_engine(run: Run, stage: str | None = None, int8: bool = False) -> Engine:
    """The model of a stage (the last one by default), ready to write."""
    model, _ = load_model(run, stage or last_stage(run), setup().device)
    return fast_engine(model, load_tokenizer(run), int8)


def evaluate_stage(
    run: Run, stage: str | None = None, core_folder: str | None = None, max_items: int = 0
) -> dict:
    """Evaluate a stage, print what came of it and keep it as `eval/<stage>.json`.

    core_folder : a folder of CORE tasks as JSONL files, for a base model trained on real text.
    max_items : items a task; 0 for all.
    """
    stage = stage or last_stage(run)
    scale, tokenizer = run_scale(run), load_tokenizer(run)
    engine = load_engine(run, stage)
    began = time.perf_counter()
    result = compression(engine.model, tokenizer, scale, with_baselines=stage == "base")
    if scale.corpus == "world":
        result["core_world"] = evaluate_core(
            engine.model, tokenizer, world_core_tasks(World(), 120)
        )
    if core_folder:
        tasks = load_core_tasks(core_folder)
        result["core"] = evaluate_core(engine.model, tokenizer, tasks, max_items or None)
    if scale.corpus == "world" or stage != "base":
        result["chat"] = evaluate_chat(engine, chat_tasks(scale), max_items or None, max_tokens=64)
    if scale.corpus == "world" and stage != "base":
        result["reward_sampled"] = sampled_reward(engine)
        result["conversation"] = converse(engine, [THREAD_QUESTION])
    result["seconds"] = round(time.perf_counter() - began, 1)
    atomic_write(run.path / "eval" / f"{stage}.json", json.dumps(result, indent=2) + "\n")
    print(summary(stage, result), flush=True)
    return result


def compression(model: GPT, tokenizer: Tokenizer, scale: Scale, with_baselines: bool) -> dict:
    """Bits per byte of whole validation documents, ends included; the world knows the floor."""
    source = open_source(scale.corpus)
    texts, tokens = [], 0
    for _, text in source.documents("validation"):
        texts.append(text)
        tokens += len(tokenizer.encode(text)) + 1
        if tokens >= scale.eval_tokens // 2:
            break
    bits, sizes = document_bits(model, tokenizer, texts), [len(t.encode()) for t in texts]
    low, high = ratio_interval(bits, sizes)
    result = {"val_bpb": bits.sum() / sum(sizes), "val_bpb_interval": [low, high]}
    if scale.corpus == "world":
        world = World()
        floor = entropy_floor(world.document("validation", i) for i in range(len(texts)))
        result["entropy_floor_bpb"] = floor
    if with_baselines:
        shown, size = [], 0
        for _, text in source.documents("train"):
            shown.append(text)
            size += len(text.encode())
            if size >= min(BASELINE_BYTES, scale.tokenizer_chars):
                break
        result["baselines_bpb"] = baselines(shown, texts, tokenizer)
    return result


def sampled_reward(engine: Engine, problems: int = 240) -> float:
    """The share of right answers on held-out sums when answers are sampled at temperature 1."""
    task = world_task(problems, "validation", RL_KINDS)
    chosen = [task[i] for i in range(problems)]
    replies = write_replies(engine, chosen, max_tokens=64, temperature=1.0)
    return sum(p.check(r) for p, r in zip(chosen, replies, strict=True)) / problems


def converse(engine: Engine, questions: list[str]) -> list[dict]:
    """A conversation: each question asked in turn, each answered greedily.

    What no longer fits the context is forgotten by the model, the oldest question first.
    """
    messages, first = [], 0
    for question in questions:
        messages.append({"role": "user", "content": question})
        while True:
            prompt = render_prompt(engine.tokenizer, {"messages": messages[first:]})
            if len(prompt) < engine.context or first == len(messages) - 1:
                break
            first += 2
        (reply,) = engine.generate_batch([prompt], max_tokens=64, temperature=0.0)
        answer = reply_text(engine.tokenizer, reply.tokens)
        messages.append({"role": "assistant", "content": answer})
    return messages


def summary(stage: str, result: dict) -> str:
    """An evaluation in a few lines."""
    lines = [f"{stage}: {result['val_bpb']:.4f} bits per byte"]
    if "entropy_floor_bpb" in result:
        ratio = result["val_bpb"] / result["entropy_floor_bpb"]
        lines[0] += f", {ratio:.3f} of the entropy floor ({result['entropy_floor_bpb']:.4f})"
    for name in ("core_world", "core"):
        if name in result:
            low, high = result[name]["interval"]
            lines.append(f"  {name} {result[name]['core']:.3f} (95%: {low:.3f} to {high:.3f})")
            lines += [
                f"    {task} {score['accuracy']:.3f} ({score['items']} items)"
                for task, score in result[name]["tasks"].items()
            ]
    for name, task in result.get("chat", {}).get("tasks", {}).items():
        kinds = "  ".join(f"{k} {v['accuracy']:.3f}" for k, v in task["kinds"].items())
        lines.append(f"  {name} {task['accuracy']:.3f}  {kinds}")
    if "reward_sampled" in result:
        lines.append(f"  sampled reward {result['reward_sampled']:.3f}")
    return "\n".join(lines)


def load_evaluations(run: Run) -> dict[str, dict]:
    """What `evaluate_stage` kept, by stage."""
    files = {stage: run.path / "eval" / f"{stage}.json" for stage in STAGES}
    return {s: json.loads(f.read_text(encoding="utf-8")) for s, f in files.items() if f.exists()}


def write_report(run: Run) -> dict:
    """Gather everything a run left behind into `report.json` and `report.md`."""
    manifest, evaluations = run.manifest, load_evaluations(run)
    if "base" not in evaluations:
        raise ChatlibError(
            f"Run {run.name!r} has not been evaluated; run `python -m chatlib eval`."
        )
    seconds = {s: manifest[s]["seconds"] for s in STAGES if s in manifest}
    spent = seconds  # without notebooks: the training alone
    if "notebooks" in manifest:  # one that carried on after a stop timed only the rest
        whole = {s: seconds[s] + evaluations[s]["seconds"] for s in seconds if s in evaluations}
        spent = {
            n: max(took, whole.get(NOTEBOOK_STAGES.get(n), 0.0))
            for n, took in manifest["notebooks"].items()
        }
    base = evaluations["base"]
    report = {
        "run": run.name,
        "scale": manifest["scale"],
        "config": manifest["config"],
        "system": manifest["system"],
        "minutes": {k: v / 60 for k, v in spent.items()},
        "minutes_total": sum(spent.values()) / 60,
        "training_seconds": seconds,
        "tokens_per_s": manifest["base"]["tokens_per_s"],
        "val_bpb": base["val_bpb"],
        "entropy_floor_bpb": base.get("entropy_floor_bpb"),
        "baselines_bpb": base.get("baselines_bpb"),
        "core_world": base.get("core_world", {}).get("core"),
        "core": base.get("core", {}).get("core"),
        "accuracy": {s: accuracies(e) for s, e in evaluations.items() if "chat" in e},
        "reward_sampled": {
            s: e["reward_sampled"] for s, e in evaluations.items() if "reward_sampled" in e
        },
        "samples": [
            {"step": row["step"], "text": row["sample"]}
            for row in Metrics(run.metrics_path("base")).rows()
            if "sample" in row
        ],
    }
    atomic_write(run.path / "report.json", json.dumps(report, indent=2) + "\n")
    atomic_write(run.path / "report.md", markdown(report))
    return report


def accuracies(evaluation: dict) -> dict[str, float]:
    """Accuracy by kind of question, or by task where a task has no kinds."""
    scores = {}
    for name, task in evaluation["chat"]["tasks"].items():
        scores |= {k: v["accuracy"] for k, v in task["kinds"].items()} or {name: task["accuracy"]}
    return scores


def markdown(report: dict) -> str:
    """The report for people."""
    config, system = report["config"], report["system"]
    lines = [
        f"# Report: run {report['run']}",
        "",
        f"Scale {report['scale']}, depth {config['depth']}, on {system['gpu'] or system['cpu']} "
        f"({system['cores']} cores, torch {system['torch']}), commit {system['git_commit']}.",
        "",
        "| stage | minutes |",
        "|---|---|",
        *(f"| {name} | {minutes:.1f} |" for name, minutes in report["minutes"].items()),
        f"| **total** | **{report['minutes_total']:.1f}** |",
        "",
        "## Compression",
        "",
        "| | bits per byte |",
        "|---|---|",
    ]
    rivals = dict(report["baselines_bpb"] or {}) | {"this model": report["val_bpb"]}
    if report["entropy_floor_bpb"]:
        rivals["entropy floor"] = report["entropy_floor_bpb"]
    ranked = sorted(rivals.items(), key=lambda item: -item[1])
    lines += [f"| {name.replace('_', ' ')} | {bpb:.4f} |" for name, bpb in ranked]
    stages = list(report["accuracy"])
    if stages:
        lines += [
            "",
            "## Answers",
            "",
            f"| | {' | '.join(stages)} |",
            "|---" * (len(stages) + 1) + "|",
        ]
        for kind in report["accuracy"][stages[-1]]:
            cells = (f"{report['accuracy'][s].get(kind, float('nan')):.3f}" for s in stages)
            lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |")
    if report["core_world"] is not None:
        lines += ["", f"CORE-world of the base model: {report['core_world']:.3f}."]
    return "\n".join(lines) + "\n"
