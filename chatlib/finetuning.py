"""From completion to conversation: the same loop, fed by conversations with a loss mask."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import torch

from chatlib import checkpoint
from chatlib.conversation import render
from chatlib.data.loader import ConversationLoader
from chatlib.data.sources import open_source
from chatlib.distributed import Distributed, setup
from chatlib.errors import ChatlibError
from chatlib.model import GPT
from chatlib.precision import is_slow
from chatlib.pretraining import (
    load_model,
    load_tokenizer,
    optimizer_for,
    split_batch,
    validation,
)
from chatlib.runs import Run
from chatlib.scaling import Plan, Scale, make_plan
from chatlib.tasks import sft_mixture
from chatlib.tokenizer import SPECIAL_TOKENS, Tokenizer
from chatlib.training import Job, Schedule, train


def finetune(run: Run, scale: Scale, data: list[str] | None = None) -> dict:
    """Fine-tune the run's base model on conversations; carries on from the newest checkpoint.

    `data` are local files in the SmolTalk or GSM8K schema, instead of the scale's own mixture.
    """
    with setup() as dist, run.lock("sft") if dist.is_main else nullcontext():
        return _finetune(run, scale, data, dist)


def _finetune(run: Run, scale: Scale, data: list[str] | None, dist: Distributed) -> dict:
    tokenizer = load_tokenizer(run)
    require_finished(run, "base")
    if is_slow(dist.device) and scale.sft_conversations_slow:
        fewer = min(scale.sft_conversations, scale.sft_conversations_slow)
        scale = replace(scale, sft_conversations=fewer)
    conversations, count = sft_mixture(scale, data)
    model, _ = load_model(run, "base", dist.device)
    reset_specials(model, tokenizer)
    plan = sft_plan(scale, tokenizer, conversations, count)
    optimizer = optimizer_for(model, plan, dist, rate=scale.sft_lr)
    moments = checkpoint.load_model(run.stage_dir("base"))
    optimizer.load_state_dict(moments.optimizer_tensors)  # carry the moments over, not the rates
    rows, micro_batches = split_batch(plan, dist)
    job = Job(
        run=run,
        stage="sft",
        model=model,
        optimizer=optimizer,
        loader=ConversationLoader(
            conversations, tokenizer, rows, scale.sequence_len,
            rank=dist.rank, world_size=dist.world_size,
            micro_batches=micro_batches, device=dist.device,
        ),
        schedule=Schedule(plan.steps, scale.sft_warmup, warmdown=0.5, final_lr=0.0),
        micro_batches=micro_batches,
        flops_per_token=plan.flops_per_token,
        checkpoint_every=scale.checkpoint_every,
        evaluate=validation(model, tokenizer, open_source(scale.corpus), scale, dist),
        evaluate_at={plan.steps // 4, plan.steps // 2},
        meta={"config": plan.config.to_dict(), "tokenizer": tokenizer.fingerprint},
    )  # fmt: skip
    if dist.is_main:
        print(
            f"Fine-tuning on {count:,} conversations: "
            f"{plan.steps:,} steps of {plan.batch_tokens:,} tokens.",
            flush=True,
        )
    result = train(job, dist)
    if dist.is_main:
        run.update_manifest(sft=result | {"conversations": count})
    return result


@torch.no_grad()
def reset_specials(model: GPT, tokenizer: Tokenizer) -> None:
    """Let the special tokens of a conversation begin anew in the head, with scores of 0.

    No document contains one, so every step of pretraining pushed them further down, and
    fine-tuning would first have to bring them back.
    """
    unseen = [tokenizer.special(name) for name in SPECIAL_TOKENS if name != "<|bos|>"]
    model.head.weight[unseen] = 0.0


def require_finished(run: Run, stage: str) -> None:
    """Refuse to build on a stage that has not come to its end."""
    if stage not in run.manifest:
        command = {"base": "pretrain", "sft": "sft"}[stage]
        raise ChatlibError(
            f"Stage {stage!r} of run {run.name!r} is not finished; "
            f"finish it with `python -m chatlib {command} --run {run.name}`."
        )


def sft_plan(scale: Scale, tokenizer: Tokenizer, conversations, count: int) -> Plan:
    """One pass over the conversations; their number of tokens is estimated from the first
    thousand."""
    lengths = [
        min(len(render(tokenizer, c, scale.sequence_len + 1)[0]), scale.sequence_len)
        for c in islice(conversations(0), min(count, 1000))
    ]
    tokens = int(count * sum(lengths) / len(lengths))
    batch = scale.sft_batch_tokens
    plan = make_plan(scale, tokenizer.vocab_size)
    return replace(
        plan, tokens=tokens, batch_tokens=batch, steps=max(tokens // batch, 1), weight_decay=0.0
    )
