"""Put a checkpoint on the Hugging Face Hub, privately unless asked otherwise.

Nothing else in the package writes to the Hub, and nothing here is called unless a repository is
named. The token is that of `huggingface_hub` (`hf auth login`, or HF_TOKEN).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.errors import PruneScopeError, UserError
from interp.json_reader import read_json_object
from interp.model.checkpoint_files import locate
from interp.plumbing.arguments import checked
from pruning.model_card import shared_name

#: Keys whose values say where something came from.
PLACES = ("source", "data", "teacher", "_name_or_path", "base_model_name_or_path")
TOKENIZER = "tokenizer.json"  # the text of tokens may look like a path


@checked
def check_push(name: str, *, public: bool = False) -> None:
    """Find out whether a checkpoint could be pushed, before hours of work.

    Args:
        name: the repository, OWNER/NAME.
        public: whether everyone may see it.

    Raises:
        UserError: the name is none of the Hub's, there is no valid token, or the repository exists
            and is public though `public` is False.
        PruneScopeError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    wrong = f"{name!r} cannot be a repository of the Hub: expected OWNER/NAME."
    if name.count("/") != 1:
        raise UserError(wrong)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{wrong} {error}") from error
    api = HfApi()
    with _said(name):
        api.whoami()
        try:
            private = api.repo_info(name).private
        except RepositoryNotFoundError:
            private = True  # as it will be made
    if not public and not private:
        raise UserError(
            f"{name} is there already, and everyone can see it. Name another repository, or say "
            "that everyone may see what is pushed (--public, public=True)."
        )


@checked
def push_to_hub(folder: str | Path, name: str, *, public: bool = False) -> str:
    """Upload a checkpoint with its model card; the repository is made if it is not there.

    Its JSON files may say where on this machine the model came from. What is uploaded says the
    folder's name instead; the files here stay as they are.

    Args:
        folder: the checkpoint.
        name: the repository, OWNER/NAME.
        public: whether everyone may see it. A repository that exists keeps its visibility.

    Returns:
        The address of the repository.

    Raises:
        UserError: the folder is no checkpoint, or `check_push` refuses the name.
        PruneScopeError: the Hub cannot be reached, or refuses the upload.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    place = Path(folder)
    if not place.is_dir():
        raise UserError(f"{str(folder)!r} is no folder: expected the checkpoint to be pushed.")
    locate(str(place))
    check_push(name, public=public)
    api = HfApi()
    with _said(name):
        url = api.create_repo(name, private=not public, exist_ok=True)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        operations = [
            CommitOperationAdd(path.relative_to(place).as_posix(), _without_paths(path))
            for path in files
        ]
        api.create_commit(url.repo_id, operations, commit_message="Upload by PruneScope")
    return str(url)


def _without_paths(file: Path) -> str | bytes:
    """What is uploaded for a file: its path, or the bytes of a JSON object that names paths."""
    if file.suffix != ".json" or file.name == TOKENIZER:
        return str(file)
    content = read_json_object(file)
    shared = _shared("", content)
    return str(file) if shared == content else (json.dumps(shared, indent=2) + "\n").encode()


def _shared(key: str, value: Any) -> Any:
    """A JSON value in which every path on this machine is the name of what is there."""
    if isinstance(value, dict):
        return {name: _shared(name, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shared(key, inner) for inner in value]
    if isinstance(value, str) and (key in PLACES or value.startswith(("~/", "./", "../"))
                                   or Path(value).is_absolute()):  # fmt: skip
        return shared_name(value)
    return value


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Turn the Hub's many errors into one that says what to do."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError(
            "There is no token of the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN."
        ) from error
    except Exception as error:  # offline, timeouts, refusals: the Hub's client has many kinds
        first = (str(error).strip().splitlines() or [repr(error)])[0]
        raise PruneScopeError(
            f"The Hub does not take {name}: {first} A checkpoint that was written is complete on "
            "this machine; `prunescope.pruning.push_to_hub(FOLDER, NAME)` pushes it."
        ) from error
