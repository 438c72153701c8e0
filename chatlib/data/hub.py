"""Files of datasets on the Hugging Face hub: downloaded once, checked, kept.

`huggingface_hub` does the transport: it honors HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE,
takes up a cut transfer where it broke off, waits as long as Retry-After asks, and moves a file
into its cache only when it is complete. Added here: the content's checksum is compared, what the
library gives up on is tried a few times more, files come ahead of their use, and every failure
ends in one sentence.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import disable_progress_bars

from chatlib.errors import ChatlibError
from chatlib.runs import writing

ATTEMPTS = 3  # each with several of the library's own
LONGEST_WAIT = 60.0  # seconds


def _shards(last: int) -> dict[str, list[str]]:
    names = [f"shard_{i:05d}.parquet" for i in range(last + 1)]
    return {"train": names[:-1], "validation": names[-1:]}


# Corpora on the hub: repository, and the files of each split. Validation is fixed by name, so that
# it does not depend on how much has been downloaded.
CORPORA = {
    "climbmix": ("karpathy/climbmix-400b-shuffle", _shards(6542)),
    "fineweb-edu": ("karpathy/fineweb-edu-100b-shuffle", _shards(1822)),
    "tinystories": (
        "roneneldan/TinyStories",
        {
            "train": [
                "data/train-00000-of-00004-2d5a1467fff1081b.parquet",
                "data/train-00001-of-00004-5852b56a2bd28fd9.parquet",
                "data/train-00002-of-00004-a26307300439e943.parquet",
                "data/train-00003-of-00004-d243063613e5a057.parquet",
            ],
            "validation": ["data/validation-00000-of-00001-869c898b519ad725.parquet"],
        },
    ),
}


class DamagedFile(Exception):
    """What arrived is not what the hub says it holds."""


def fetch(repo: str, name: str) -> Path:
    """The local copy of file `name` of dataset `repo`; without a question to the hub if cached.

    Example: `fetch("karpathy/climbmix-400b-shuffle", "shard_00000.parquet")`. Safe to call from
    several threads and processes at once: one downloads, the others wait for it.
    """
    cached = huggingface_hub.try_to_load_from_cache(repo, name, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    for attempt in range(ATTEMPTS):
        try:
            with writing(Path(constants.HF_HUB_CACHE), setting="HF_HOME"):
                return _download(repo, name)
        except Exception as error:  # the library raises dozens of kinds
            _refuse_if_lasting(error, repo, name)
            problem = error
        if attempt < ATTEMPTS - 1:
            time.sleep(_pause(problem, attempt))
    raise ChatlibError(
        f"Could not get {name} of {repo} in {ATTEMPTS} attempts ({_first_line(problem)}): check "
        "the network and HF_ENDPOINT and give the same command again; whole files are kept."
    ) from problem


def stream(repo: str, names: Sequence[str], ahead: int = 3) -> Iterator[Path]:
    """Local copies of `names` in order, while the next `ahead` files are on their way."""
    pool = ThreadPoolExecutor(max_workers=ahead + 1, thread_name_prefix="hub")
    try:
        coming = deque(pool.submit(fetch, repo, name) for name in names[: ahead + 1])
        for name in [*names[ahead + 1 :], *[None] * len(coming)]:
            yield coming.popleft().result()
            if name is not None:
                coming.append(pool.submit(fetch, repo, name))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _download(repo: str, name: str) -> Path:
    disable_progress_bars()  # several files at once would overwrite each other's bars
    path = Path(huggingface_hub.hf_hub_download(repo, name, repo_type="dataset"))
    blob = path.resolve()
    if not _matches(blob, checksum=blob.name):
        path.unlink()
        blob.unlink(missing_ok=True)
        raise DamagedFile(f"the content of {name} differs from its checksum")
    return path


def _matches(blob: Path, checksum: str) -> bool:
    """Whether a cached file has the content it is named after.

    Its name is the hub's etag: a sha256 for large files, git's sha1 of header and content for
    small ones. Where the cache has no symbolic links the name says nothing, and size must do.
    """
    if len(checksum) == 64:
        digest = hashlib.sha256()
    elif len(checksum) == 40:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    else:
        return True
    with open(blob, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == checksum


def _refuse_if_lasting(error: Exception, repo: str, name: str) -> None:
    """Raise one sentence for what no repetition will mend."""
    if isinstance(error, ChatlibError):
        raise error
    if isinstance(error, errors.GatedRepoError):
        problem = "its owner must grant you access: ask on its page, then set HF_TOKEN"
    elif isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        problem = "there is no such dataset, or HF_TOKEN does not open it"
    elif isinstance(error, errors.RemoteEntryNotFoundError):
        problem = "the dataset has no such file"
    elif constants.is_offline_mode():
        problem = "it is not in the cache, and HF_HUB_OFFLINE forbids asking the hub"
    else:
        return
    raise ChatlibError(f"Could not get {name} of {repo}: {problem}.") from error


def _pause(error: Exception, attempt: int) -> float:
    """Seconds to wait: what the hub asks for, or twice as long each time."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = headers.get("Retry-After", "")
    return min(float(asked) if asked.isdigit() else 2.0**attempt, LONGEST_WAIT)


def _first_line(error: Exception) -> str:
    said = str(error.__cause__ or error).strip() or type(error).__name__
    return said.splitlines()[0][:200]
