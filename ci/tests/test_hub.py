"""Downloads over real HTTP from a hub on loopback that does everything a bad network does."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ci.tests.hub_mirror import File, Mirror

REPO = "owner/data"

# Runs in a process of its own, because the library reads its settings when it is imported. Waits
# are twenty times shorter than asked for, and noted.
SCRIPT = """
import hashlib, json, sys, time
waits, sleep = [], time.sleep
def brief(seconds):
    waits.append(seconds)
    sleep(seconds / 20)
time.sleep = brief
from chatlib.data import hub
from chatlib.errors import ChatlibError
results = {}
for name in sys.argv[2:]:
    waits.clear()
    try:
        path = hub.fetch(*name.rsplit(":", 1)) if ":" in name else hub.fetch(sys.argv[1], name)
        got = hashlib.sha256(path.read_bytes()).hexdigest()
    except ChatlibError as error:
        got = str(error)
    results[name] = [got, waits[:]]
print(json.dumps(results))
"""


def environment(home, url, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    ours = {
        "HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip
    return kept | ours | more


def fetch(home, url, names, **more):
    command = [sys.executable, "-c", SCRIPT, REPO, *names]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(home, url, **more), timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def some_bytes(seed, size=200_000):
    return random.Random(seed).randbytes(size)


CHUNK = 10 * 2**20  # bytes: the library's grain, below which a broken transfer keeps nothing
LARGE = CHUNK * 5 // 2
FAULTS = {
    "good": File(some_bytes(0)),
    "small": File(some_bytes(1, 500), large=False),
    "cut": File(some_bytes(2, LARGE), "cut"),
    "cut often": File(some_bytes(3, LARGE), "cut", times=3),
    "cut, no ranges": File(some_bytes(4), "cut, no ranges"),
    "short": File(some_bytes(5), "short"),
    "long": File(some_bytes(6), "long"),
    "get 429": File(some_bytes(7), "get 429", times=2),
    "get 500": File(some_bytes(8), "get 500"),
    "get 503": File(some_bytes(9), "get 503", times=2),
    "head 429": File(some_bytes(10), "head 429", times=2),
    "head 503": File(some_bytes(11), "head 503", times=3),
    "corrupt": File(some_bytes(12), "corrupt"),
    "corrupt small": File(some_bytes(13, 500), "corrupt", large=False),
    "stall": File(some_bytes(14, LARGE), "stall"),
    "drip": File(some_bytes(15), "drip"),
}
HOPELESS = {
    "always corrupt": File(some_bytes(20), "corrupt", times=99),
    "always short": File(some_bytes(21), "short", times=99),
    "always 500": File(some_bytes(22), "get 500", times=99),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """One process that fetches everything from one mirror: results, mirror, home."""
    home = tmp_path_factory.mktemp("hub")
    files = {f"{REPO}/{name}": file for name, file in (FAULTS | HOPELESS).items()}
    with Mirror(files) as mirror:
        names = [*FAULTS, *HOPELESS, "none", "no/such:a", "gated/dataset:a"]
        return fetch(home, mirror.url, names), mirror, home


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_ends_with_the_right_bytes(session, name):
    results, _, _ = session
    assert results[name][0] == hashlib.sha256(FAULTS[name].data).hexdigest()
    assert FAULTS[name].happened == (FAULTS[name].times if FAULTS[name].trouble else 0)


@pytest.mark.parametrize("name", ["cut", "cut often", "stall"])
def test_a_broken_transfer_goes_on_where_it_stopped(session, name):
    _, mirror, _ = session
    asked = mirror.gets(f"{REPO}/{name}")
    assert asked == [None] + [f"bytes={CHUNK}-"] * FAULTS[name].times


@pytest.mark.parametrize("name", ["get 429", "head 429", "get 500", "get 503"])
def test_waits_as_long_as_the_hub_asks(session, name):
    results, _, _ = session
    at_once = name.startswith("head")  # the library asks twice before it waits
    assert sum(wait >= 2 for wait in results[name][1]) == FAULTS[name].times - at_once


@pytest.mark.parametrize("name", HOPELESS)
def test_gives_up_in_one_sentence_and_keeps_nothing_bad(session, name):
    results, mirror, home = session
    said, _ = results[name]
    assert said.startswith(f"Could not get {name} of owner/data in 3 attempts (")
    assert "\n" not in said and said.endswith("whole files are kept.")
    assert len(mirror.gets(f"{REPO}/{name}")) == 3
    kept = [p for p in home.rglob("*") if p.is_file() and p.name == HOPELESS[name].etag]
    assert not kept


def test_what_no_repetition_mends_is_said_at_once(session):
    results, _, _ = session
    assert results["none"] == [
        "Could not get none of owner/data: the dataset has no such file.",
        [],
    ]
    assert results["no/such:a"][0].startswith(
        "Could not get a of no/such: there is no such dataset"
    )
    assert "its owner must grant you access" in results["gated/dataset:a"][0]


def test_the_cache_is_used_without_asking_even_offline(session):
    results, mirror, home = session
    before = len(mirror.requests)
    nowhere = "http://127.0.0.1:9"  # the mirror is gone by now
    again = fetch(home, nowhere, ["good", "cut"])
    assert again == {name: [results[name][0], []] for name in ("good", "cut")}
    offline = fetch(home, nowhere, ["good", "never seen"], HF_HUB_OFFLINE="1")
    assert offline["good"] == again["good"]
    assert "HF_HUB_OFFLINE forbids asking the hub" in offline["never seen"][0]
    assert len(mirror.requests) == before


def test_no_hub_at_all(tmp_path):
    [[said, _]] = fetch(tmp_path, "http://127.0.0.1:9", ["a"]).values()
    assert said.startswith("Could not get a of owner/data in 3 attempts (")
    assert "check the network and HF_ENDPOINT" in said


IN_ORDER = """
import sys, time
from chatlib.data import hub
for path in hub.stream(sys.argv[1], sys.argv[2:], ahead=2):
    print(path.name, flush=True)
"""


def test_a_few_files_come_at_once_and_in_order(tmp_path):
    names = [f"{i}.bin" for i in range(8)]
    files = {f"{REPO}/{n}": File(some_bytes(i), "slow") for i, n in enumerate(names)}
    with Mirror(files) as mirror:
        command = [sys.executable, "-c", IN_ORDER, REPO, *names]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(tmp_path, mirror.url)
        )
    assert done.stdout.split() == names, done.stderr
    assert 2 <= mirror.most_at_once <= 3
    assert all(len(mirror.gets(path)) == 1 for path in files)


def test_two_processes_share_one_download(tmp_path):
    with Mirror({f"{REPO}/a": File(some_bytes(0), "slow")}) as mirror:
        command = [sys.executable, "-c", IN_ORDER, REPO, "a"]
        both = [
            subprocess.Popen(command, env=environment(tmp_path, mirror.url), stdout=-1)
            for _ in range(2)
        ]
        assert [p.communicate(timeout=60)[0].split() for p in both] == [[b"a"], [b"a"]]
    assert len(mirror.gets(f"{REPO}/a")) == 1


def can_unshare():
    try_it = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") and subprocess.run(try_it, capture_output=True).returncode == 0


def test_a_full_disk_is_one_sentence(tmp_path):
    if not can_unshare():
        pytest.skip("no tiny disk can be mounted here")
    mount = 'mount -t tmpfs -o size=100k tmpfs "$0" && exec "$@"'
    with Mirror({f"{REPO}/a": File(some_bytes(0))}) as mirror:
        command = ["unshare", "-Urm", "sh", "-c", mount, str(tmp_path)]
        command += [sys.executable, "-c", SCRIPT, REPO, "a"]
        env = environment(tmp_path, mirror.url)
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    [[said, waits]] = json.loads(done.stdout).values()
    assert said.startswith("No space is left for") and "HF_HOME" in said
    assert not waits and len(mirror.gets(f"{REPO}/a")) == 1, "a full disk is no reason to try again"


CORPUS = """
from itertools import islice
from chatlib.data.sources import open_source
source = open_source("climbmix")
print([text for _, text in islice(source.documents("train", 1, 2), 25)])
print([text for _, text in islice(source.documents("validation"), 2)])
"""


def shard(number):
    table = pa.table({"text": [f"shard {number} row {i}" for i in range(20)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_a_corpus_on_the_hub_through_a_bad_network(tmp_path):
    """Documents come in order while shards break, and only what is read is downloaded."""
    repo, troubles = "karpathy/climbmix-400b-shuffle", ["cut", "corrupt", "", "short", "", "", ""]
    files = {
        f"{repo}/shard_{i:05d}.parquet": File(shard(i), trouble)
        for i, trouble in [*enumerate(troubles), (6542, "drip")]
    }
    with Mirror(files) as mirror:
        done = subprocess.run(
            [sys.executable, "-c", CORPUS],
            capture_output=True, text=True, env=environment(tmp_path, mirror.url), timeout=120,
        )  # fmt: skip
    train, validation = map(eval, done.stdout.splitlines())
    assert train == [f"shard {s} row {i}" for s in range(3) for i in range(1, 20, 2)][:25]
    assert validation == ["shard 6542 row 0", "shard 6542 row 1"]
    assert mirror.gets(f"{repo}/shard_00006.parquet") == []
