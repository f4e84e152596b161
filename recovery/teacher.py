"""The teacher: the dense model, which must have the student's tokens."""

from __future__ import annotations

from pathlib import Path

import torch

from interp.errors import UserError
from interp.model.checkpoint_files import PRUNING_FILE, locate, side_file
from interp.model.reasoning_model import ReasoningModel


def load_teacher(
    student: ReasoningModel,
    named: str | Path | ReasoningModel | None,
    device: torch.device,
    trust_remote_code: bool = False,
) -> ReasoningModel:
    """Load the teacher that is named, or the dense model that the student was pruned from.

    Args:
        student: the model to train.
        named: the teacher; None for the source that the student's checkpoint names.
        device: where to load it.
        trust_remote_code: whether Python code from the checkpoint may run.

    Returns:
        The teacher.

    Raises:
        UserError: no teacher is known, or its tokens differ.
    """
    source = source_of(student) if named is None else named
    if isinstance(source, ReasoningModel):
        teacher = source
    else:
        teacher = ReasoningModel.load(
            str(source), device=device, trust_remote_code=trust_remote_code
        )
    same_tokenizer(student, teacher)
    return teacher


def source_of(student: ReasoningModel) -> str:
    """The dense model that a pruned checkpoint comes from.

    Args:
        student: the pruned model.

    Returns:
        Its folder or name.

    Raises:
        UserError: the checkpoint does not name one that can be found.
    """
    pruning = side_file(locate(student.name), PRUNING_FILE) or {}
    source = str(pruning.get("source") or "")
    try:
        place = locate(source) if source else ""
    except UserError:
        place = ""
    if not place:
        raise UserError(
            f"This method needs the dense model as its teacher, and {student.name!r} does not say "
            "where it is: name it (--teacher)."
        )
    return source


def same_tokenizer(student: ReasoningModel, teacher: ReasoningModel) -> None:
    """Refuse a teacher with another vocabulary or another width of logits.

    Args:
        student: the model to train.
        teacher: the dense model.

    Raises:
        UserError: they differ.
    """
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    if ours != theirs:
        differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        raise UserError(
            f"The teacher {teacher.name!r} has another tokenizer than {student.name!r}: "
            f"{len(differing)} tokens differ (such as {', '.join(map(repr, differing[:3]))}), so "
            "its answers and probabilities would be of other tokens. Give the model that was "
            "pruned as the teacher."
        )
    if student.vocab_size != teacher.vocab_size:
        raise UserError(
            f"The teacher {teacher.name!r} has logits of width {teacher.vocab_size}, "
            f"{student.name!r} of {student.vocab_size}: no distribution over the same tokens. Give "
            "the model that was pruned as the teacher."
        )
