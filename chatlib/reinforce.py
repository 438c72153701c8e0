"""Reinforcement learning with verifiable rewards: try, check, and make what worked more likely.

REINFORCE (Williams 1992) with the group's mean reward as baseline, the core of GRPO (arXiv
2402.03300) without its ratio, clipping, KL term or division by the standard deviation (arXiv
2503.20783). To the training loop it is one more loader: the model's own answers as targets, each
token weighted by its answer's advantage.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from chatlib.chat_evaluation import reply_text
from chatlib.conversation import render_prompt
from chatlib.distributed import Distributed, setup
from chatlib.engine import Reply, fast_engine
from chatlib.errors import ChatlibError
from chatlib.finetuning import require_finished
from chatlib.model import GPT
from chatlib.pretraining import load_model, load_tokenizer, optimizer_for
from chatlib.runs import Run
from chatlib.scaling import Scale, make_plan
from chatlib.tasks import Problem, rl_problems
from chatlib.tokenizer import Tokenizer
from chatlib.training import Job, Schedule, train


def advantages(rewards: Tensor) -> Tensor:
    """How much better each answer did than the average answer to its question: (Q, n) -> (Q, n)."""
    return rewards - rewards.mean(1, keepdim=True)


class Rollouts:
    """Batches that the model writes itself.

    Yields (inputs, targets, weights), each (questions x samples, T): targets are -1 outside what
    the model sampled (the question, and everything a tool wrote), weights are the advantages.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        problems: list[Problem],
        scale: Scale,
        dist: Distributed,
    ):
        self.engine = fast_engine(model, tokenizer)
        self.tokenizer, self.scale, self.dist = tokenizer, scale, dist
        room = scale.sequence_len - scale.rl_max_tokens
        self.problems = [p for p in problems if len(self.prompt(p)) <= room]
        if not self.problems:
            raise ChatlibError(
                f"No problem leaves room for {scale.rl_max_tokens} tokens of answer in a context "
                f"of {scale.sequence_len}; use shorter problems or a smaller rl_max_tokens."
            )
        self.step = 0
        self.stats: dict[str, float] = {}

    def prompt(self, problem: Problem) -> list[int]:
        return render_prompt(self.tokenizer, problem.conversation)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            yield self.next_batch()

    def next_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ask the next questions, sample answers, and turn rewards into advantages."""
        problems, replies = self.ask()
        right = [
            float(problem.check(reply_text(self.tokenizer, reply.tokens)))
            for problem, reply in zip(problems, replies, strict=True)
        ]
        rewards = torch.tensor(right).view(-1, self.scale.rl_samples)
        self.step += 1
        self.stats = {
            "reward": rewards.mean().item(),
            "mixed": ((rewards > 0).any(1) & (rewards < 1).any(1)).float().mean().item(),
            "length": sum(len(reply.tokens) for reply in replies) / len(replies),
            "finished": sum(reply.finish == "stop" for reply in replies) / len(replies),
        }
        return self.pack(replies, advantages(rewards).flatten())

    def ask(self) -> tuple[list[Problem], list[Reply]]:
        """This step's answers, and beside each the problem that it answers."""
        asked, n = self.scale.rl_questions // self.dist.world_size, self.scale.rl_samples
        first = (self.step * self.dist.world_size + self.dist.rank) * asked
        chosen = [self.problems[(first + i) % len(self.problems)] for i in range(asked)]
        replies = self.engine.generate_batch(
            [self.prompt(problem) for problem in chosen], n, seed=first, rows=asked * n,
            max_tokens=self.scale.rl_max_tokens, temperature=1.0,
        )  # fmt: skip
        return [problem for problem in chosen for _ in range(n)], replies

    def pack(self, replies: list[Reply], advantages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows padded to one length, a multiple of 32 so that few shapes occur."""
        longest = max(reply.length for reply in replies) - 1
        width = min(-(-longest // 32) * 32, self.scale.sequence_len)
        inputs = torch.full((len(replies), width), self.tokenizer.bos)
        targets = torch.full((len(replies), width), -1)
        for row, reply in enumerate(replies):
            ids = torch.tensor([*reply.prompt, *reply.tokens])[: width + 1]
            sampled = torch.tensor([0] * len(reply.prompt) + reply.mask)[: width + 1]
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = torch.where(sampled == 1, ids, -1)[1:]
        weights = advantages[:, None].expand(-1, width)
        return tuple(t.to(self.dist.device) for t in (inputs, targets, weights))

    def close(self) -> None:
        """Nothing works ahead here, so nothing has to be stopped."""

    def state_dict(self) -> dict:
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]


def reinforce(run: Run, scale: Scale, data: str | None = None) -> dict:
    """Reinforce the run's fine-tuned model; carries on from its newest checkpoint."""
    with setup() as dist, run.lock("rl") if dist.is_main else nullcontext():
        return _reinforce(run, scale, data, dist)


def _reinforce(run: Run, scale: Scale, data: str | None, dist: Distributed) -> dict:
    tokenizer = load_tokenizer(run)
    require_finished(run, "sft")
    model, _ = load_model(run, "sft", dist.device)
    plan = make_plan(scale, tokenizer.vocab_size)
    rollouts = Rollouts(model, tokenizer, rl_problems(scale, data), scale, dist)
    job = Job(
        run=run,
        stage="rl",
        model=model,
        optimizer=optimizer_for(model, plan, dist, rate=scale.rl_lr),
        loader=rollouts,
        schedule=Schedule(scale.rl_steps, warmup=5, warmdown=1.0),
        micro_batches=1,
        flops_per_token=plan.flops_per_token,
        checkpoint_every=max(scale.checkpoint_every // 20, 5),
        stats=lambda: rollouts.stats,
        meta={"config": plan.config.to_dict(), "tokenizer": tokenizer.fingerprint},
        compile=dist.device.type == "cuda",  # a CPU is done before it has compiled both widths
    )
    result = train(job, dist)
    if dist.is_main:
        run.update_manifest(rl=result)
    return result
