"""Sources: the same documents in the same order everywhere, none shared, none lost."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlib.data.hub import CORPORA
from chatlib.data.sources import _passages, open_source
from chatlib.data.world import VALIDATION_DOCUMENTS, World
from chatlib.errors import ChatlibError

NOVELS = Path(__file__).parents[2].parent / "shared" / "data" / "text"


class NoDigest:
    def update(self, data):
        pass


def story(number, paragraphs=30):
    return "\n\n".join(
        f"Paragraph {p} of story {number}: é" + " word" * 40 for p in range(paragraphs)
    )


def write_parquet(path, texts, row_group_size=None, column="text"):
    table = pa.table({"other": range(len(texts)), column: texts})
    pq.write_table(table, path, row_group_size=row_group_size)


@pytest.fixture
def corpora(tmp_path):
    """One corpus of every kind, and how many documents it holds (None: not known beforehand)."""
    (tmp_path / "one.txt").write_text(story(0, 400))
    for number in range(12):
        (tmp_path / "many" / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "many" / str(number % 3) / f"{number}.txt").write_text(story(number))
    lines = [json.dumps({"text": f"line {i}", "n": i}) for i in range(50)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines) + "\n\n")
    write_parquet(tmp_path / "rows.parquet", [f"row {i}" for i in range(5000)], 700)
    (tmp_path / "shards").mkdir()
    for shard in range(8):
        texts = [f"shard {shard} row {i}" for i in range(3000)]
        write_parquet(tmp_path / "shards" / f"{shard}.parquet", texts, 1024)
    return {
        "world": None,
        str(tmp_path / "one.txt"): None,
        str(tmp_path / "many"): None,
        str(tmp_path / "lines.jsonl"): 50,
        str(tmp_path / "rows.parquet"): 5000,
        str(tmp_path / "shards"): 24000,
    }


def read(source, split, *share, most=3000):
    return list(islice(source.documents(split, *share), most))


def test_splits_are_disjoint_and_nothing_is_lost(corpora):
    for corpus, count in corpora.items():
        source = open_source(corpus)
        train, held_out = (
            read(source, "train", most=30_000 if count else 3000),
            read(source, "validation", most=30_000),
        )
        assert train and held_out, corpus
        assert not {text for _, text in train} & {text for _, text in held_out}, corpus
        if count:
            assert len(train) + len(held_out) == count
            assert 0.03 < len(held_out) / count < 0.21
        for documents in (train, held_out):
            numbers = [number for number, _ in documents]
            assert numbers == sorted(set(numbers)), corpus


def test_readers_share_and_go_on_from_any_number(corpora):
    for corpus in corpora:
        source = open_source(corpus)
        for split in ("train", "validation"):
            whole = read(source, split, most=200)
            last = whole[-1][0]
            for world_size in (2, 3, 8):
                shares = [
                    [d for d in read(source, split, rank, world_size, most=200) if d[0] <= last]
                    for rank in range(world_size)
                ]
                assert sorted(d for share in shares for d in share) == whole, corpus
                share = shares[1]
                for at in {0, 1, len(share) // 2, len(share) - 1} & set(range(len(share))):
                    following = read(source, split, 1, world_size, share[at][0] + 1, most=200)
                    assert [d for d in following if d[0] <= last] == share[at + 1 :], corpus


def test_a_text_is_cut_at_paragraphs_and_keeps_every_word(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("\ufeff" + story(0, 400).replace("\n", "\r\n"), newline="")
    source = open_source(str(path))
    documents = [text for split in ("train", "validation") for _, text in source.documents(split)]
    assert all(text.startswith("Paragraph") and len(text.encode()) <= 8000 for text in documents)
    words = " ".join(documents).split()
    assert sorted(words) == sorted(story(0, 400).split())
    assert "\r" not in "".join(documents)


@given(st.text(max_size=300), st.integers(4, 40))
def test_passages_cover_any_text_and_never_split_a_character(tmp_path_factory, text, longest):
    path = tmp_path_factory.mktemp("passages") / "a.txt"
    path.write_text(text.replace("\0", ""), newline="", encoding="utf-8")
    data = path.read_bytes()
    covered = 0
    for _, start, end in _passages(path, longest, NoDigest()):
        assert start < end <= start + longest
        assert not data[covered:start].strip()
        data[start:end].decode()
        covered = end
    assert not data[covered:].strip()


def test_held_out_files_do_not_depend_on_contents_or_place(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for number in range(20):
            (tmp_path / place / f"{number}.txt").write_text(story(f"{place} {number}"))
    here, there = (open_source(str(tmp_path / p)).describe() for p in ("here", "there"))
    assert here["held_out"] == there["held_out"] and 1 <= len(here["held_out"]) <= 4
    assert here["sha256"] != there["sha256"]


def test_a_file_too_large_to_spare_is_not_held_out(tmp_path):
    (tmp_path / "large.txt").write_text(story(0, 1000))
    (tmp_path / "small.txt").write_text(story(1, 100))
    assert open_source(str(tmp_path)).describe()["held_out"] == ["small.txt"]
    (tmp_path / "small.txt").write_text(story(1, 600))
    source = open_source(str(tmp_path))
    assert source.describe()["held_out"] == "the last tenth of the documents"
    counts = source.describe()["documents"]
    assert counts["validation"] == (counts["train"] + counts["validation"]) // 10


def test_training_text_is_shuffled_the_same_way_in_every_process(tmp_path):
    (tmp_path / "one.txt").write_text(story(0, 400))
    show = "import sys; from chatlib.data.sources import open_source as o; " \
        "print([t[:20] for _, t in o(sys.argv[1]).documents('train')])"  # fmt: skip
    command = [sys.executable, "-c", show, str(tmp_path / "one.txt")]
    seen = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(seen) == 1
    first = [text for _, text in open_source(command[-1]).documents("train")]
    assert first != sorted(first, key=lambda text: int(text.split()[1]))


def test_the_world_is_its_own_documents():
    source = open_source("world")
    assert read(source, "train", 1, 4, 10)[:2] == [
        (i, World().document("train", i).text) for i in (13, 17)
    ]
    assert len(read(source, "validation")) == VALIDATION_DOCUMENTS


def test_row_groups_are_read_by_one_reader_each(tmp_path):
    """As in the reference recipe: reader r of W takes row groups r, r + W, … of a file."""
    write_parquet(tmp_path / "a.parquet", [f"{i}" for i in range(64 * 1024)], 1024)
    source = open_source(str(tmp_path / "a.parquet"))
    rows = [number for number, _ in read(source, "train", 3, 8, most=2048)]
    assert rows == [*range(3 * 1024, 4 * 1024), *range(11 * 1024, 12 * 1024)]


def test_nothing_is_read_before_its_turn(tmp_path):
    """A damaged second shard is no obstacle to reading the first."""
    for shard in range(8):
        write_parquet(tmp_path / f"{shard}.parquet", [f"{shard}"] * 100)
    source = open_source(str(tmp_path))
    second = Path(source.files["train"][1])
    second.write_bytes(second.read_bytes()[:-20])
    documents = source.documents("train")
    assert len(list(islice(documents, 100))) == 100
    with pytest.raises(ChatlibError, match="damaged"):
        next(documents)


def test_every_hub_corpus_pins_its_validation_files():
    for corpus, (repo, files) in CORPORA.items():
        source = open_source(corpus)  # asks nothing of the network
        assert source.describe()["held_out"] == files["validation"]
        assert not set(files["train"]) & set(files["validation"])
        assert repo.count("/") == 1
    assert CORPORA["climbmix"][1]["train"][0] == "shard_00000.parquet"
    assert len(CORPORA["climbmix"][1]["train"]) == 6542
    assert CORPORA["climbmix"][1]["validation"] == ["shard_06542.parquet"]


# Bad input


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def bad_corpora(folder):
    write_parquet(write(folder / "column" / "a.parquet", b""), ["a", "b"], column="body")
    write_parquet(write(folder / "number" / "a.parquet", b""), [1, 2])
    write(folder / "mixed" / "a.txt", b"text")
    write_parquet(folder / "mixed" / "b.parquet", ["a", "b"])
    return {
        "nonsense": "There is no corpus 'nonsense': use world, climbmix, fineweb-edu, tinystories",
        folder / "empty" / "": "holds no .txt",
        write(folder / "no text" / "a.csv", b"1,2").parent: "holds no .txt",
        write(folder / "empty.txt", b""): "empty.txt is empty",
        write(folder / "blank.txt", b" \n\n "): "too little text",
        write(folder / "short.txt", b"Once"): "too little text",
        write(folder / "binary.txt", b"a\0b" * 100): "not text in UTF-8",
        write(folder / "latin.txt", "Zoé".encode("latin-1") * 100): "not text in UTF-8",
        write(folder / "a.jsonl", b'{"body": "a"}\n{"text": "b"}'): 'at byte 0, .* string "text"',
        write(folder / "b.jsonl", b'{"text": "a"}\n[1]\n{"text": 3}'): "at byte 1",
        write(folder / "c.jsonl", b'{"text": "a"}\nnot json\n' * 3): "at byte 14",
        folder / "column": 'no column "text" .* body: string',
        folder / "number": 'no column "text" of strings',
        write(folder / "c.parquet", b"PAR1 not at all"): "no parquet file, or a damaged one",
        folder / "mixed": r"mixes parquet with other text \(a\.txt\)",
    }


def test_bad_input_gets_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    for corpus, message in bad_corpora(tmp_path).items():
        with pytest.raises(ChatlibError, match=message) as caught:
            source = open_source(str(corpus))
            list(source.documents("train"))
            list(source.documents("validation"))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not NOVELS.is_dir(), reason="the novels in ../shared/data/text are not here")
def test_novels():
    source = open_source(str(NOVELS))
    assert len(source.describe()["held_out"]) == 1
    documents = [text for _, text in source.documents("train")]
    assert sum(map(len, documents)) > 7_000_000
    assert 4000 < sum(map(len, documents)) / len(documents) < 8000
