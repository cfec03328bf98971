"""Models by their names on the Hugging Face Hub, in the cache its tools share.

    folder = fetch_model("sentence-transformers/all-MiniLM-L6-v2")
    folder = fetch_model("bert-base-uncased@refs/pr/1")  # branch, tag or commit
    origin(folder)  # {"name": …, "revision": commit, "files": {file: sha256}}

`huggingface_hub` resolves them, offline too: then from its cache alone. Only
files that are read here are fetched, which no pickle is.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odqa_jax.runtime.files import Damage, file_hash

# REPOSITORY or OWNER/REPOSITORY, and perhaps @REVISION.
_NAME = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(\w[\w./-]*))?")
# What a name that is none ends with: somebody meant a file.
_NO_NAME = re.compile(r"\.(txt|json|safetensors|bin|pt|pth|npy|py|gz)$")
_WEIGHTS = ("*.safetensors",)
_TEXTS = ("*.json", "*.txt", "*.model")
# The same weights for other runtimes.
_COPIES = ("onnx/*", "openvino/*")
_CACHED = "models--"
# Large files lie there under their sha256.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_name(name: str) -> bool:
  """Whether a name that is no path here can be one of the Hub.

  `work/sup` is none where there is a folder `work`: what was meant lies here,
  and no server is asked for it.
  """
  found = _NAME.fullmatch(name)
  if found is None or _NO_NAME.search(found[1]):
    return False
  owner, slash, _ = found[1].partition("/")
  return not (slash and Path(owner).exists())


def fetch_model(name: str, *, weights: bool = True) -> Path:
  """The folder of a model in the Hub's cache; asked for once in a process.

  Args:
    name: `REPOSITORY` or `OWNER/REPOSITORY`, perhaps with `@REVISION`: a
      branch, a tag or a commit; by default `main`.
    weights: whether they are needed, and not the tokenizer alone.

  Raises:
    ImportError: without `huggingface_hub`.
    ValueError: there is no such model or revision; or it is not in the cache,
      and the Hub cannot be reached; or it has no weights in safetensors.
  """
  return _fetched(name, weights)


@functools.cache
def _fetched(name: str, weights: bool) -> Path:
  found = _NAME.fullmatch(name)
  assert found is not None, "the caller has asked is_hub_name"
  repository, revision = found.groups()
  folder = _snapshot(name, repository, revision, weights)
  if weights and not _has_weights(folder):
    raise ValueError(
      f"{name}: {folder} has no weights in safetensors, and no others are "
      "fetched or read; name a revision that has them (NAME@refs/pr/N), fetch "
      f"the rest of what is there in part (hf download {repository}), or "
      "convert pickled ones where you trust them: AutoModel.from_pretrained("
      "NAME).save_pretrained(DIR) of transformers."
    )
  return folder


def _has_weights(folder: Path) -> bool:
  return any(folder.rglob(_WEIGHTS[0]))


def _cached_commit(
  repository: str, revision: str | None, weights: bool
) -> Path | None:
  """A commit in the cache, which no server can know more of."""
  from huggingface_hub import constants

  if revision is None or not _COMMIT.fullmatch(revision):
    return None
  name = _CACHED + repository.replace("/", "--")
  folder = Path(constants.HF_HUB_CACHE, name, "snapshots", revision)
  whole = _has_weights(folder) if weights else folder.is_dir()
  return folder if whole else None


def _snapshot(
  name: str, repository: str, revision: str | None, weights: bool
) -> Path:
  """`snapshot_download`, with its errors in one line that says what to do."""
  try:
    from huggingface_hub import constants, errors, snapshot_download
  except ModuleNotFoundError as error:
    raise ImportError(
      f"{name}: no such folder; as a name of the Hugging Face Hub it needs "
      f"{error.name}: pip install 'odqa_jax[hub]'."
    ) from error
  # Of the library below, which has had two names.
  http_error: Any = errors.HfHubHTTPError.__bases__[0]
  try:
    return Path(
      snapshot_download(
        repository,
        revision=revision,
        allow_patterns=[*_TEXTS, *(_WEIGHTS if weights else ())],
        ignore_patterns=list(_COPIES),
        library_name="odqa_jax",
      )
    )
  except errors.LocalEntryNotFoundError as error:
    # The cache has a part of it, which may be all that is needed.
    partial = getattr(error, "snapshot_path", None)
    partial = partial or _cached_commit(repository, revision, weights)
    if partial is not None:
      return Path(partial)
    raise ValueError(
      f"{name}: neither a folder, nor a model in the cache of the Hugging Face "
      f"Hub ({constants.HF_HUB_CACHE}), and the Hub is not reached "
      f"({_why(error)}); check the spelling, or fetch it where there is a "
      f"network: hf download {repository}"
      + (f" --revision {revision}." if revision else ".")
    ) from error
  except errors.RevisionNotFoundError as error:
    raise ValueError(
      f"{name}: the model has no revision {revision!r}; name a branch, a tag "
      "or a commit of it."
    ) from error
  except errors.GatedRepoError as error:
    raise ValueError(
      f"{name}: its owner lets only some read it; ask for access on its page, "
      "then `hf auth login`."
    ) from error
  except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
    raise ValueError(
      f"{name}: neither a folder, nor a model of the Hugging Face Hub; check "
      "the spelling, or, of a private one, `hf auth login`."
    ) from error
  except http_error as error:
    if isinstance(error, OSError):
      raise
    raise ValueError(
      f"{name}: the Hub is not reached ({_why(error)}); mend the network or "
      f"its proxy, or fetch it elsewhere: hf download {repository}."
    ) from error


def _why(error: Exception) -> str:
  """Why the Hub was not reached, in a few words."""
  from huggingface_hub import constants

  if constants.HF_HUB_OFFLINE:
    return "HF_HUB_OFFLINE is set"
  cause = error.__cause__ or error
  return f"{type(cause).__name__}: {cause}".splitlines()[0][:120]


def model_files(folder: Path) -> Iterator[Path]:
  """The files of a model in the cache that are read here, in order.

  Others may come to lie there when another tool asks for them.
  """
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder)
    known = any(name.match(pattern) for pattern in (*_WEIGHTS, *_TEXTS))
    copied = any(name.as_posix().startswith(p[:-1]) for p in _COPIES)
    if known and not copied and path.is_file():
      yield path


def in_cache(path: str | Path) -> bool:
  """Whether a folder is that of a model in the Hub's cache."""
  folder = Path(path).absolute()
  repository = folder.parent.parent.name
  return folder.parent.name == "snapshots" and repository.startswith(_CACHED)


def origin(path: str | Path) -> dict[str, Any] | None:
  """Which model, of which revision, a folder of the Hub's cache holds.

  Args:
    path: a folder; of another kind of it nothing is known.

  Returns:
    `name`, `revision` (the commit), and `files`: the sha256 (hex) of each that
    is read here. It is what a manifest says of what was made from the folder.

  Raises:
    Damage: a file is not what the cache says that it is.
  """
  if not in_cache(path):
    return None
  folder = Path(path).absolute()
  files = {}
  for file in model_files(folder):
    digest, stored = file_hash(file), file.resolve().name
    if _SHA256.fullmatch(stored) and stored != digest:
      raise Damage(
        f"{file}: its sha256 is {digest}, and the cache has it as {stored}; "
        "delete the file, and fetch it again."
      )
    files[file.relative_to(folder).as_posix()] = digest
  owner, _, rest = folder.parent.parent.name.removeprefix(_CACHED).partition(
    "--"
  )
  name = f"{owner}/{rest}" if rest else owner
  return {"name": name, "revision": folder.name, "files": files}
