"""What the five run notebooks share: start a stage, read what it left, draw it."""

import json

import matplotlib.pyplot as plt

from chatlib.distributed import launch
from chatlib.errors import ChatlibError
from chatlib.notebook.plots import BLUE, GRAY, PALETTE, TEAL, figure, finding, label_line
from chatlib.planner import describe
from chatlib.pretraining import load_tokenizer, open_run
from chatlib.report import accuracies, load_evaluations
from chatlib.runs import Metrics
from chatlib.tokenizer import Tokenizer


class Stage:
    """One run, as a notebook sees it. Training happens in child processes, one a GPU."""

    def __init__(self, scale: str, run: str = "", corpus: str = ""):
        settings = {"corpus": corpus} if corpus else {}
        self.run, self.scale = open_run(run or scale, scale, settings)

    def plan(self) -> None:
        """Say what this scale comes to."""
        print(f"Run {self.run.name}")
        print(describe(self.scale))

    def launch(self, command: str, *arguments: str) -> None:
        """Run `python -m chatlib COMMAND`, under torchrun where there are GPUs; show its log."""
        processes = max(self.scale.gpus, 1) if command in ("pretrain", "sft", "rl") else 1
        launch(["-m", "chatlib", command, "--run", self.run.name, *arguments], nproc=processes)

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.run)

    def metrics(self, stage: str) -> list[dict]:
        return Metrics(self.run.metrics_path(stage)).rows()

    def evaluation(self, stage: str) -> dict:
        """What `chatlib eval` found."""
        found = load_evaluations(self.run)
        if stage not in found:
            raise ChatlibError(f"Stage {stage!r} of run {self.run.name!r} is not evaluated yet.")
        return json.loads(json.dumps(found[stage]))


def draw_rivals(evaluation: dict) -> None:
    """Bits per byte of the model, of compressors and of n-grams, and the floor."""
    rivals = {name.replace("_", " "): v for name, v in evaluation["baselines_bpb"].items()}
    rivals["this model"] = evaluation["val_bpb"]
    if "entropy_floor_bpb" in evaluation:
        rivals["entropy floor"] = evaluation["entropy_floor_bpb"]
    names = sorted(rivals, key=rivals.get, reverse=True)
    colors = [{"this model": BLUE, "entropy floor": TEAL}.get(name, GRAY) for name in names]
    fig, ax = plt.subplots(figsize=(7.2, 0.38 * len(names) + 0.8))
    bars = ax.barh(names, [rivals[name] for name in names], color=colors)
    ax.bar_label(bars, fmt=" {:.3f}")
    ax.set_xlabel("bits per byte of validation text (lower is better)")
    ax.grid(axis="y", visible=False)
    best = min((n for n in names if n not in ("this model", "entropy floor")), key=rivals.get)
    finding(f"The model needs {rivals['this model'] / rivals[best]:.2f} times the bits of {best}")
    figure(
        fig,
        caption="Bits per byte on whole validation documents, the end of each included.",
        alt="Bar chart: " + ", ".join(f"{name} {rivals[name]:.3f}" for name in names),
    )


def draw_accuracies(stage: Stage, stages: tuple[str, ...]) -> None:
    """Accuracy by kind of question after each of some stages, side by side."""
    scores = {
        s: accuracies(stage.evaluation(s)) for s in stages if s in load_evaluations(stage.run)
    }
    kinds = list(scores[stages[-1]])
    fig, ax = plt.subplots(figsize=(7.2, 0.55 * len(kinds) + 1))
    height = 0.8 / len(scores)
    for i, (name, by_kind) in enumerate(scores.items()):
        places = [k + (i - (len(scores) - 1) / 2) * height for k in range(len(kinds))]
        values = [by_kind.get(kind, 0.0) for kind in kinds]
        bars = ax.barh(places, values, height, color=PALETTE[i], label=name)
        ax.bar_label(bars, fmt=" {:.2f}", fontsize=8)
    ax.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12)
    ax.set_xlabel("share of right answers, greedy")
    ax.legend(loc="upper right", bbox_to_anchor=(1, 1.16), ncols=len(scores))
    ax.grid(axis="y", visible=False)
    first, last = (sum(scores[s].values()) / len(kinds) for s in (stages[0], stages[-1]))
    finding(f"From {first:.0%} right to {last:.0%}")
    figure(
        fig,
        caption="Questions in wordings that training never used, by kind.",
        alt="Bar chart of accuracies: "
        + "; ".join(
            f"{s}: " + ", ".join(f"{k} {v:.2f}" for k, v in scores[s].items()) for s in scores
        ),
    )


def draw_reward(rows: list[dict]) -> None:
    """Reward and the share of mixed questions, step by step."""
    rows = [row for row in rows if "reward" in row]
    steps = [row["step"] for row in rows]
    fig, ax = plt.subplots()
    for key, text in (("reward", "mean reward"), ("mixed", "share of mixed questions")):
        values = smooth([row[key] for row in rows])
        (line,) = ax.plot(steps, values, color=BLUE if key == "reward" else GRAY)
        label_line(line, text, dx=-4, dy=10)
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("step")
    ends = smooth([row["reward"] for row in rows])
    finding(f"Reward goes from {ends[0]:.2f} to {ends[-1]:.2f}")
    figure(
        fig,
        caption="Averages over up to nine neighboring steps; answers sampled at temperature 1.",
        alt=f"Line chart: mean reward goes from {ends[0]:.2f} to {ends[-1]:.2f}.",
    )


def smooth(values: list[float], reach: int = 4) -> list[float]:
    """Each value averaged with up to `reach` neighbors on either side."""
    windows = (values[max(i - reach, 0) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
