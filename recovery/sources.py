"""Where training data comes from: one name, five kinds.

- `testbed`, `testbed:KIND,KIND`: training problems with the expert's chains, never the test split;
- `word-problems`: questions that are made here, with gold answers and without chains (self, distill
  and rl have them written), never those that a study asks;
- `s1k`: s1K of the Hub (simplescaling/s1K, arXiv 2501.19393);
- FILE (.jsonl, .json, .parquet): s1K's schema or a chat format, recognised by their fields;
- FOLDER: the right chains of the dense model in a finished study.

s1K's schema: question, solution (gold), thinking_trajectories, attempt (in s1K-1.1 the last two
are deepseek_thinking_trajectory and deepseek_attempt, or gemini_...). Chat formats: `messages`
(role, content; thinking is in the content between the model's delimiters, or in reasoning_content),
`conversations` (from, value), or `prompt` and `completion` (text or messages). The last assistant
turn is learnt. `gold` (or `answer` beside messages) is the gold answer; without a `grader` such as
"math" or "numeric", examples can be imitated but not verified.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.errors import UserError, check_known, did_you_mean
from interp.model.chat import content_text
from interp.model.delimiters import FORMATS
from interp.model.reasoning_model import ReasoningModel
from recovery.examples import Example, TrainingSet, gold
from scaling.records import Hub, Record, read_file, read_hub

S1K = Hub("simplescaling/s1K", "train")
USUAL_EXAMPLES = 2000  # of what is made here
WORDS = "word-problems"
TRAINING = 2**40  # added to the seed of what a study may ask as well: its seeds end at 2**32
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
ROLES |= {"system": "system"}


def training_set(
    data: str | Path | Sequence[Example] | TrainingSet,
    model: ReasoningModel,
    *,
    limit: int | None = None,
    seed: int = 0,
    grader: str = "",
) -> TrainingSet:
    """Read the training examples that `data` names.

    Args:
        data: a name (see the module), examples, or a training set, which is returned as it is.
        model: its delimiters separate thinking from answer, and its tokenizer writes the testbed.
        limit: the largest number of examples. Default: all; 2000 of what is made here.
        seed: the seed of the choice of examples.
        grader: the grader for gold answers. Default: none.

    Returns:
        The examples.

    Raises:
        UserError: the data cannot be read, or holds no example.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: expected at least 1 example.")
    if isinstance(data, TrainingSet):
        return data
    if not isinstance(data, (str, Path)):
        return TrainingSet("examples", tuple(data))
    if grader:
        from scaling.grading import get_grader

        get_grader(grader)
    name = str(data)
    if name.partition(":")[0] == "testbed":
        return testbed_set(model, name.partition(":")[2], limit or USUAL_EXAMPLES, seed)
    if name == WORDS:
        return words_set(limit or USUAL_EXAMPLES, seed)
    if Path(name).is_dir():
        found = study_set(Path(name), model)
    else:
        records = read_hub("s1k", S1K) if name == "s1k" else read_file(name)
        found = TrainingSet(
            Path(name).name, tuple(_example(record, model, grader) for record in records)
        )
    if limit is None or limit >= len(found):
        return found
    chosen = random.Random(f"{found.name}/{seed}").sample(range(len(found)), limit)
    return found.with_examples([found.examples[i] for i in sorted(chosen)])


# ------------------------------------------------------------------------- records of a file


def _example(record: Record, model: ReasoningModel, grader: str) -> Example:
    """One record, read by the schema that its fields show."""
    fields = set(record.fields)
    if fields & {"messages", "conversations"} or {"prompt", "completion"} <= fields:
        return _chat(record, model, grader)
    if "question" in fields:
        return _s1k(record, grader)
    has = ", ".join(sorted(map(str, fields))) or "no fields"
    raise UserError(
        f"{record.where}: unknown schema (it has {has}); expected messages, conversations, prompt "
        "and completion, or s1K's question, thinking_trajectories and attempt."
    )


def _s1k(record: Record, grader: str) -> Example:
    question = record.text("question")
    thinking = _first(record, "thinking_trajectories", "deepseek_thinking_trajectory",
                      "gemini_thinking_trajectory", "thinking")  # fmt: skip
    attempt = _first(record, "attempt", "deepseek_attempt", "gemini_attempt", "response")
    identity = str(record.fields.get("id") or f"s1k/{record.index}")
    solution = str(record.fields.get("solution") or "").strip()
    return Example(
        id=identity,
        question=question,
        reasoning=thinking,
        answer=attempt or "",
        **_judged(identity, question, solution, grader),
    )


def _first(record: Record, *names: str) -> str | None:
    """The first non-empty text among some fields; of a list, its first text."""
    for name in names:
        value = record.fields.get(name)
        if hasattr(value, "tolist"):
            value = value.tolist()  # type: ignore[union-attr]
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
        if isinstance(value, str) and value.strip():
            return value
        if value is not None and not isinstance(value, str):
            raise record.wrong(name, f"expected a text or a list of texts, got {value!r:.60}.")
    return None


def _chat(record: Record, model: ReasoningModel, grader: str) -> Example:
    turns = _turns(record)
    last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=None)
    said: Mapping[str, str] = {} if last is None else turns[last]
    asked = turns if last is None else turns[:last]
    question = [{"role": t["role"], "content": t["content"]} for t in asked]
    if not question or question[-1]["role"] != "user" or not question[-1]["content"].strip():
        raise UserError(
            f"{record.where}: no user turn before the assistant's; expected a question there."
        )
    reasoning, answer = _parted(said, model)
    identity = str(record.fields.get("id") or f"chat/{record.index}")
    solution = record.fields.get("gold", record.fields.get("answer", ""))
    return Example(
        id=identity,
        question=question,
        reasoning=reasoning,
        answer=answer,
        **_judged(identity, question[-1]["content"], str(solution or "").strip(), grader),
    )


def _turns(record: Record) -> list[dict[str, str]]:
    """The record's turns as role, content and reasoning_content."""
    given: Any
    if "messages" in record.fields or "conversations" in record.fields:
        given = record.get("messages", "conversations")
    else:
        given = (*_as_turns(record.get("prompt"), "user"),
                 *_as_turns(record.get("completion"), "assistant"))  # fmt: skip
    if hasattr(given, "tolist"):
        given = given.tolist()
    if not isinstance(given, (list, tuple)) or not given:
        raise record.wrong("messages", "expected a list of turns with role and content.")
    found = []
    for turn in given:
        if not isinstance(turn, Mapping):
            raise record.wrong(
                "messages", f"expected turns with role and content, got {turn!r:.60}."
            )
        role = ROLES.get(str(turn.get("role", turn.get("from"))))
        content = turn.get("content", turn.get("value"))
        if role is None:
            raise record.wrong(
                "messages", did_you_mean(str(turn.get("role", turn.get("from"))), ROLES, "role")
            )
        try:
            content = content_text(content, "a turn")
        except UserError as error:
            raise record.wrong("messages", str(error)) from None
        thought = turn.get("reasoning_content") or ""
        found.append({"role": role, "content": content or "", "reasoning_content": str(thought)})
    return found


def _as_turns(value: Any, role: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return list(value.tolist() if hasattr(value, "tolist") else value)


def _parted(said: Mapping[str, str], model: ReasoningModel) -> tuple[str | None, str]:
    """(thinking, answer) of an assistant's turn."""
    text, thought = said.get("content", ""), said.get("reasoning_content", "")
    if thought.strip():
        return thought, text
    words = model.delimiters
    marks = [(words.think_start, words.think_end)] if not words.is_plain else []
    for start, end in (*marks, *(f.marks for f in FORMATS)):  # or as another model wrote it
        before, closed, after = text.partition(end)
        if closed:
            return before.replace(start, "", 1).strip(), after.strip()
    return None, text


def _judged(identity: str, question: str, solution: str, grader: str) -> dict[str, Any]:
    """The fields `problem` and `grader`, if there is a gold answer that the grader can read."""
    if not grader or not solution:
        return {}
    from scaling.grading import get_grader

    problem = gold(identity, question, solution)
    try:
        get_grader(grader).check_gold(problem)
    except UserError:
        return {}  # it can be imitated and not verified
    return {"problem": problem, "grader": grader}


# ------------------------------------------------------------------------- what is made here


def words_set(limit: int, seed: int) -> TrainingSet:
    """Make word problems, asked as a study asks them.

    Args:
        limit: how many.
        seed: the seed.

    Returns:
        The examples, without answers.
    """
    from scaling.benchmarks import load_benchmark
    from scaling.benchmarks.word_problems import word_problems

    bench = load_benchmark(WORDS, limit=1)
    made = (
        Example(p.id, bench.prompt(p), thinks=bench.thinking, problem=p, grader=bench.grader)
        for p in word_problems(limit, TRAINING + seed)
    )
    return TrainingSet(WORDS, tuple(made))


def testbed_set(model: ReasoningModel, kinds: str, limit: int, seed: int) -> TrainingSet:
    """Draw training problems of the testbed, with the expert's chains.

    A slip that the expert corrects is read and not learnt, as in the reasoner's own training.

    Args:
        model: its tokenizer must have the testbed's words.
        kinds: kinds separated by commas, drawn by their shares of the reasoner's recipe; "" for
            all.
        limit: how many problems.
        seed: the seed.

    Returns:
        The examples.

    Raises:
        UserError: unknown kind, or another tokenizer.
    """
    from testbed.problems import KINDS, stream
    from testbed.training import Recipe

    names = tuple(k for k in kinds.split(",") if k)
    for name in names:
        check_known(name, KINDS, "testbed kind")
    shares = {k: s for k, s in Recipe().shares if not names or k in names}
    rng = random.Random(f"recovery/{seed}")
    order = rng.choices(list(shares), weights=list(shares.values()), k=limit * 3)
    streams: dict[str, Iterator[Any]] = {k: stream(k, f"recovery/{seed}", "train") for k in shares}
    found: dict[str, Example] = {}
    for kind in order:
        problem = next(streams[kind])
        found.setdefault(problem.id, _testbed_example(problem, model, rng))
        if len(found) == limit:
            break
    note = () if len(found) == limit else (f"{len(found)} different problems of {limit} asked for",)
    return TrainingSet("testbed", tuple(found.values()), note)


def check_words(data: Any, model: Any, trust_remote_code: bool = False) -> None:
    """Refuse the testbed's data for a model without its words, before a weight is read.

    Args:
        data: the data, as for `training_set`; anything but the testbed's passes.
        model: a folder, file or Hub name; a model that is loaded passes, it is asked later.
        trust_remote_code: whether the checkpoint's own code may run.

    Raises:
        UserError: the tokenizer lacks the words, or cannot be read.
    """
    name, _, kinds = str(data).partition(":")
    if isinstance(data, str) and name == "testbed" and isinstance(model, (str, Path)):
        from scaling.engines.served_model import weightless

        testbed_set(weightless(model, trust_remote_code=trust_remote_code), kinds, 1, 0)


def _testbed_example(problem: Any, model: ReasoningModel, rng: random.Random) -> Example:
    from scaling.problem import Problem
    from testbed.expert import write
    from testbed.vocabulary import prompt_words

    document = write(problem, rng)
    thinks = problem.kind != "recall"
    n_prompt = len(prompt_words(problem.question, thinking=thinks))
    words, weights = document.words[n_prompt:], document.weights[n_prompt:]
    ids = tuple(model.encode(" ".join(words)))
    unknown = model.tokenizer.unk_token_id
    if len(ids) != len(words) or unknown in ids:
        raise UserError(
            f"The testbed's data is in the words of the bundled reasoner; the tokenizer of "
            f"{model.name!r} does not have them. Give data of your own (--data)."
        )
    return Example(
        id=problem.id,
        question=problem.question,
        thinks=thinks,
        ids=ids,
        silent=frozenset(i for i, weight in enumerate(weights) if weight == 0),
        problem=Problem(
            id=problem.id,
            question=problem.question,
            answer=problem.answer,
            choices=tuple(problem.choices),
            metadata={
                "kind": problem.kind,
                "numbers": list(problem.numbers),
                "target": problem.target,
            },
        ),
        grader="testbed",
    )


# ------------------------------------------------------------------------- chains of a study


def study_set(folder: Path, model: ReasoningModel) -> TrainingSet:
    """Read the dense model's right chains in a study, one per problem.

    It takes each problem's first right sample, at the smallest budget that it ended within. Chains
    that
    a budget or a loop ended are left out, because the end was not the model's. These problems were
    measured, so evaluating on them afterwards is refused (`recovery.overlap`).

    Args:
        folder: the study's folder.
        model: the model to train; it must ask the questions with the same tokens.

    Returns:
        The examples.

    Raises:
        UserError: the study is of a model with another tokenizer, or has no such chain.
    """
    import json

    from scaling.benchmarks import benchmarks
    from scaling.problem import Problem
    from scaling.store.stored_benchmark import PROMPTING
    from scaling.store.study_store import Store

    with Store(folder, read_only=True) as store:
        rows, problems, meta = store.rows(ids=True), store.frame("problems"), store.meta()
    rows = rows[(rows["variant"] == "dense") & (rows["scoring"] == "generate")]
    rows = rows[(rows["waits_allowed"] == 0) & (rows["outcome"] == "correct")]
    rows = rows[(rows["finish"] == "stop") & (rows["forced_tokens"] == 0)]
    rows = rows.sort_values(["benchmark", "position", "sample", "thinking_budget"])
    rows = rows.drop_duplicates(["benchmark", "problem"], keep="first")
    known = problems.set_index(["benchmark", "problem"])
    found = []
    for row in rows.to_dict("records"):
        entry = benchmarks().get(str(row["benchmark"]).partition(":")[0])
        if entry is None:
            continue
        stored = known.loc[(row["benchmark"], row["problem"])]
        question = str(stored["question"])
        if f"{PROMPTING}{row['benchmark']}" in meta:
            raise UserError(
                f"The study in {str(folder)!r} asked {row['benchmark']!r} with worked examples or "
                "without the chat template; training reads a question in the chat template. Give "
                "a study that asks so."
            )
        if entry.instruction:
            question = f"{question}\n\n{entry.instruction}"
        if len(model.prompt_ids(question, thinking=entry.thinking)) != row["prompt_tokens"]:
            raise UserError(
                f"The study in {str(folder)!r} asked {row['problem']!r} in another way than "
                f"{model.name!r} would: it is of a model with another tokenizer. Give a study of "
                "the dense model that this one comes from."
            )
        found.append(
            Example(
                id=str(row["problem"]),
                question=question,
                thinks=entry.thinking,
                ids=tuple(int(i) for i in row["ids"]),
                problem=Problem(
                    str(row["problem"]),
                    str(stored["question"]),
                    str(stored["answer"]),
                    tuple(json.loads(stored["choices"])),
                    json.loads(stored["metadata"]),
                ),
                grader=entry.grader,
            )
        )
    if not found:
        raise UserError(
            f"The study in {str(folder)!r} has no right chain of the dense model that ended by "
            "itself: nothing to learn from."
        )
    return TrainingSet(folder.name, tuple(found), answers_from="the dense model")
