"""A finished run becomes the one that the chapters read."""

import json

import torch

from chatlib import checkpoint
from chatlib.notebook import reference as book_reference
from chatlib.runs import STAGES, Metrics, Run
from ci import reference
from ci.tests.tiny_models import byte_tokenizer, random_model


def test_the_chapters_find_all_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path / "home"))
    run, tokenizer = Run.create_or_open("mine", "tiny"), byte_tokenizer("the")
    tokenizer.save(run.tokenizer_path)
    (run.path / "eval").mkdir()
    (run.path / "report.json").write_text(json.dumps({"run": "mine", "val_bpb": 0.5}))
    models = {stage: random_model(tokenizer, seed=i) for i, stage in enumerate(STAGES)}
    for stage, model in models.items():
        checkpoint.save(
            run.stage_dir(stage), 3, model_tensors=model.state_dict(), optimizer_tensors={},
            rank_meta={}, rank=0, world_size=1,
            meta={"config": model.config.to_dict(), "tokenizer": tokenizer.fingerprint},
        )  # fmt: skip
        Metrics(run.metrics_path(stage)).log(step=1, loss=2.5)
        (run.path / "eval" / f"{stage}.json").write_text(json.dumps({"stage": stage}))

    folder = tmp_path / "reference_run"
    folder.mkdir()
    for module in (reference, book_reference):
        monkeypatch.setattr(module, "FOLDER", folder)
    book_reference.report.cache_clear()
    book_reference.tokenizer.cache_clear()
    try:
        reference.main(["mine"])
        for stage, model in models.items():
            found = book_reference.model(stage).state_dict()
            assert all(
                torch.equal(found[k], w.half().float()) for k, w in model.state_dict().items()
            )
            assert book_reference.metrics(stage) == [{"step": 1, "loss": 2.5}]
        assert book_reference.tokenizer().fingerprint == tokenizer.fingerprint
        assert book_reference.report()["evaluations"]["rl"] == {"stage": "rl"}
        assert book_reference.report()["val_bpb"] == 0.5
    finally:
        book_reference.report.cache_clear()
        book_reference.tokenizer.cache_clear()
