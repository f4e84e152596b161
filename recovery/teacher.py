"""The teacher: the dense model, which must read and write the student's tokens."""

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
    """The teacher that is named, or the dense model that the student was pruned from.

    Raises UserError where there is none, or where its tokens are others.
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
    """The dense model that a pruned checkpoint says it comes from."""
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
    """Refuse a teacher whose tokens mean something else, or whose logits have another width."""
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    if ours != theirs:
        differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        raise UserError(
            f"The teacher {teacher.name!r} has another tokenizer than {student.name!r}: "
            f"{len(differing)} tokens differ (such as {', '.join(map(repr, differing[:3]))}). Its "
            "answers and its probabilities would be of other tokens; give the model that was "
            "pruned as the teacher."
        )
    if student.vocab_size != teacher.vocab_size:
        raise UserError(
            f"The teacher {teacher.name!r} has logits of width {teacher.vocab_size}, "
            f"{student.name!r} of {student.vocab_size}: no distribution over the same tokens."
        )
