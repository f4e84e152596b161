"""How each kind of server is asked for a completion, and how its answer is read.

| kind | prompt | completion tokens | log-probability of each token |
|---|---|---|---|
| vllm | token ids | `token_ids` (from 0.10.2), else `token_id:N` names | the model's own (raw) |
| sglang | token ids | `token_ids` | after the temperature: kept only at 1 or greedy |
| transformers | text | text, tokenised again here | none |

`recognise` tells the kind from the server's behaviour, so a proxy in front changes nothing. Every
request states all sampling settings: the servers fill in missing ones from the checkpoint's
generation_config.json. docs/internals.md lists the limits of `transformers serve`.
"""

from __future__ import annotations

import copy
import json
import math
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from interp.decoding.sampling import Sampling
from interp.decoding.thinking_marks import ThinkingMarks
from interp.errors import NonFiniteError, UserError
from interp.json_reader import short
from interp.model.reasoning_model import ReasoningModel
from scaling.engines.endpoint import Endpoint, EndpointError, Retry

__all__ = ["Ask", "Dialect", "Kind", "RetokenisedWarning", "Said", "recognise"]

Kind = Literal["vllm", "sglang", "transformers"]
PROBE = "1 + 1 ="
ROUNDING = 1e-3  # nats by which a log-probability may be above 0
MOST_NATS = 1e6  # below its negative no float32 softmax gets


class RetokenisedWarning(UserWarning):
    """Tokens were read back from text, so they may differ from those that the model chose."""


@dataclass(frozen=True)
class Ask:
    """One request: continue after `ids` for at most `limit` tokens.

    Attributes:
        ids: token ids of the prompt and of the chain so far.
        limit: most tokens to generate.
        ends: token ids that close the thinking, at which the server must stop; () in an answer.
        seed: seed of this request.
        sampling: sampling settings.
    """

    ids: tuple[int, ...]
    limit: int
    ends: tuple[int, ...]
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Said:
    """The server's reply: at most `limit` tokens, including the token that ended them.

    Attributes:
        ids: token ids.
        logprob: log-probability of each token in nats, nan where unknown: [S].
        prompt_tokens: prompt tokens as the server counts them; None where it does not say.
        tokens: completion tokens as the server counts them; None where it does not say.
    """

    ids: list[int]
    logprob: Float[np.ndarray, " S"]
    prompt_tokens: int | None = None
    tokens: int | None = None


@runtime_checkable
class Dialect(Protocol):
    """One kind of server.

    Attributes:
        kind: name of the kind.
        exact: whether token ids go in and come out.
        parallel: whether several requests may run at once.
    """

    kind: Kind
    exact: bool  # token ids in and out
    parallel: bool  # may be asked several things at once

    def body(self, ask: Ask) -> dict[str, Any]:
        """The JSON body of a request."""
        ...

    def read(self, ask: Ask, reply: dict[str, Any]) -> Said:
        """Read a reply.

        Args:
            ask: the request.
            reply: the server's JSON.

        Returns:
            The tokens.

        Raises:
            EndpointError: the reply is not a valid completion.
        """
        ...


# ------------------------------------------------------------------------- token ids in and out


class TokenDialect:
    """vLLM and SGLang: token ids in and out."""

    exact = parallel = True

    def __init__(self, kind: Kind, served: str, model: ReasoningModel) -> None:
        self.kind: Kind = kind
        self.served, self.model = served, model
        # Threads must not share this fast tokenizer with the grader.
        reader = copy.copy(model)
        reader.tokenizer = copy.deepcopy(model.tokenizer)
        self.marks = ThinkingMarks(reader)

    def body(self, ask: Ask) -> dict[str, Any]:
        """The JSON body of a request; the end of thinking stops it like an end of sequence."""
        how = ask.sampling
        body: dict[str, Any] = {
            "model": self.served,
            "prompt": list(ask.ids),
            "max_tokens": ask.limit,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "top_k": how.top_k or -1,
            "min_p": how.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": ask.seed,
            "stop_token_ids": list(self.model.stop_ids),
            "skip_special_tokens": False,
            "logprobs": 1,
            "return_token_ids": True,
        }
        if self.kind == "vllm":
            body["return_tokens_as_token_ids"] = True
        if len(ask.ends) == 1:
            body["stop_token_ids"] += list(ask.ends)
        elif ask.ends:
            body["stop"] = [self.model.delimiters.think_end.strip()]
            body["no_stop_trim" if self.kind == "sglang" else "include_stop_str_in_output"] = True
        return body

    def read(self, ask: Ask, reply: dict[str, Any]) -> Said:
        """The tokens and their log-probabilities."""
        choice = _choice(reply)
        ids = _token_ids(choice)
        if ids is None:
            raise EndpointError("nonsense", "The server sent no token ids.")
        prompt_tokens, tokens = _usage(reply)
        if len(ids) > ask.limit:
            raise EndpointError(
                "nonsense", f"The server sent {len(ids)} tokens where {ask.limit} were requested."
            )
        if any(not 0 <= i < self.model.vocab_size for i in ids):
            raise EndpointError(
                "nonsense",
                f"The server sent token ids outside 0..{self.model.vocab_size - 1}: it serves "
                f"another model than {self.model.name}.",
            )
        logprob = self._logprobs(choice, ids, ask)
        if choice["finish_reason"] == "stop":
            ids = self._ended(choice, ids, ask)[: ask.limit]
        elif not ids:
            raise EndpointError("nonsense", "The server sent no token.")
        logprob = np.concatenate([logprob, np.full(max(0, len(ids) - len(logprob)), np.nan)])
        return Said(ids, logprob[: len(ids)], prompt_tokens, tokens)

    def _ended(self, choice: dict[str, Any], ids: list[int], ask: Ask) -> list[int]:
        """Add the token that ended the completion, where the server leaves it out."""
        if ids and ids[-1] in self.model.stop_ids:
            return ids
        if ask.ends and self.marks.before_end(np.asarray(ids, np.int64)) is not None:
            return ids
        why = choice.get("stop_reason", choice.get("matched_stop"))
        text = self.model.delimiters.think_end.strip()
        if ask.ends and (why == text or [why] == list(ask.ends)):
            return ids + list(ask.ends)
        if type(why) is int and why in self.model.stop_ids:
            return [*ids, why]
        return [*ids, self.model.stop_ids[0]]

    def _logprobs(
        self, choice: dict[str, Any], ids: list[int], ask: Ask
    ) -> Float[np.ndarray, " S"]:
        if self.kind == "sglang" and ask.sampling.temperature not in (0, 1):
            return np.full(len(ids), np.nan)  # the server scales them by the temperature
        return _token_logprobs(choice, len(ids))


# ----------------------------------------------------------------------------- text in and out


class TextDialect:
    """`transformers serve`: text in and out, one request at a time."""

    kind: Kind = "transformers"
    exact = parallel = False

    def __init__(self, served: str, model: ReasoningModel) -> None:
        end = model.delimiters.think_end
        if model.text(model.delimiter_ids.think_end).strip() != end.strip():
            raise UserError(
                f"transformers serve leaves special tokens out of its text, and {end!r} is one in "
                f"the tokenizer of {model.name}, so the end of thinking would be lost. Serve it "
                f"with vLLM or SGLang, or run it locally."
            )
        self.served, self.model = served, model
        # Threads must not share this fast tokenizer with the grader.
        self._tokenizer, self._lock = copy.deepcopy(model.tokenizer), threading.Lock()
        self._told: set[str] = set()
        self._tell(
            "kind",
            "transformers serve takes and gives text: tokens are read back from it with the "
            "tokenizer here, and have no log-probabilities.",
        )

    def body(self, ask: Ask) -> dict[str, Any]:
        """The JSON body of a request, with all sampling settings in its generation_config."""
        how, model = ask.sampling, self.model
        config: dict[str, Any] = {
            "max_new_tokens": ask.limit + 1,
            "do_sample": not how.greedy,
            "eos_token_id": [*model.stop_ids, *(ask.ends if len(ask.ends) == 1 else ())],
            "pad_token_id": model.stop_ids[0],
            "repetition_penalty": 1.0,
        }
        if not how.greedy:
            config |= {"temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p}
            config["min_p"] = how.min_p
        body = {
            "model": self.served,
            "prompt": self._text(ask.ids),
            "generation_config": json.dumps(config),
            "seed": ask.seed,
        }
        if len(ask.ends) > 1:
            body["stop"] = [model.delimiters.think_end.strip()]
        return body

    def read(self, ask: Ask, reply: dict[str, Any]) -> Said:
        """Read the text of a reply back as tokens.

        Args:
            ask: the request.
            reply: the server's JSON.

        Returns:
            The tokens; their log-probabilities are nan.

        Raises:
            EndpointError: the reply has no text or no token count.
        """
        choice = _choice(reply)
        text = choice.get("text")
        prompt_tokens, tokens = _usage(reply)
        if not isinstance(text, str) or tokens is None:
            raise EndpointError("nonsense", "The server sent no text, or no count of its tokens.")
        if any("\ud800" <= c <= "\udfff" for c in text):  # JSON may hold half a character
            raise EndpointError("nonsense", f"The server's text is not Unicode: {short(text)}.")
        with self._lock:
            ids = list(self._tokenizer.encode(text, add_special_tokens=False))
        if prompt_tokens is not None and prompt_tokens != len(ask.ids):
            self._tell(
                "prompt",
                f"A prompt of {len(ask.ids)} tokens was read as {prompt_tokens} by the server.",
            )
        if tokens > ask.limit:  # the limit cut the completion
            counted = len(ids) in (tokens, tokens - 1)
            ids = ids[: ask.limit]
        elif _closes(ids, ask.ends):
            counted = len(ids) == tokens
        else:
            ids.append(self.model.stop_ids[0])
            counted = len(ids) == tokens
        if not counted:
            self._tell(
                "answer", f"{tokens} tokens of the server's text are {len(ids)} when read back."
            )
        if not ids:
            raise EndpointError("nonsense", "The server sent no token that can be read.")
        ids = ids[: ask.limit]
        return Said(ids, np.full(len(ids), np.nan), prompt_tokens, tokens)

    def _text(self, ids: Sequence[int]) -> str:
        """Text that the server reads as `ids` (it puts its own special tokens in front)."""
        with self._lock:
            text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
            first = str(self._tokenizer.bos_token or "")
            for candidate in (text, text.removeprefix(first)):
                if list(self._tokenizer(candidate)["input_ids"]) == list(ids):
                    return candidate
        self._tell("spelling", f"A prompt of {len(ids)} tokens has no text that gives them back.")
        return text

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(message, RetokenisedWarning, stacklevel=4)


# ------------------------------------------------------------------------------- which is it?


def recognise(endpoint: Endpoint, served: str, model: ReasoningModel, retry: Retry) -> Dialect:
    """Tell the dialect of a server from its reply to a request for one token.

    Args:
        endpoint: the server.
        served: name of the model at the server.
        model: the served model's tokenizer and delimiters (no weights needed).
        retry: how long to wait for a server that is down or busy.

    Returns:
        The dialect.

    Raises:
        UserError: the server does not serve the model, or is none of the three kinds.
        EndpointError: the server gives no usable answer.
    """
    ids = model.encode(PROBE)
    ask: dict[str, Any] = {"model": served, "prompt": ids, "max_tokens": 1, "temperature": 0}
    ask |= {"logprobs": 1, "return_token_ids": True, "return_tokens_as_token_ids": True}
    try:
        choice = endpoint.post("completions", ask, retry=retry, read=_choice)
    except EndpointError as error:
        if error.kind != "refused" or error.status in (401, 403):
            raise
        _not_there(error, served)
    else:
        if _token_ids(choice) is not None:
            kind: Kind = "sglang" if "matched_stop" in choice else "vllm"
            return TokenDialect(kind, served, model)
    # Only the generation configuration says one token: other servers generate their default.
    config = json.dumps({"max_new_tokens": 1, "do_sample": False})
    probe = {"model": served, "prompt": PROBE, "generation_config": config}
    made = None
    try:
        made = endpoint.post("completions", probe, retry=retry, read=_usage)[1]
    except EndpointError as error:
        if error.kind != "refused":
            raise
        _not_there(error, served)
    if made == 1:
        return TextDialect(served, model)
    raise UserError(
        f"The server at {endpoint.url} gives no token ids (as vLLM and SGLang do) and takes no "
        f"generation_config (as transformers serve does): its tokens could not be counted. Serve "
        f"the model with one of the three."
    )


def _not_there(error: EndpointError, served: str) -> None:
    """Raise UserError if the server refused because it does not have the model."""
    text = str(error).lower()
    named = any(word in text for word in ("pinned", "does not exist", "not found", "no model"))
    if error.status == 404 or named:
        raise UserError(f"The endpoint has no model {served!r}: {error}") from None


# ------------------------------------------------------------------------- reading an answer


def _choice(reply: dict[str, Any]) -> dict[str, Any]:
    """The single completion of a reply."""
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, dict):
        raise EndpointError("nonsense", f"Expected one choice, not {short(choices, 80)}.")
    if choice.get("finish_reason") not in ("stop", "length"):
        raise EndpointError(
            "server error", f"A completion ended as {short(choice.get('finish_reason'))}."
        )
    return choice


def _token_ids(choice: dict[str, Any]) -> list[int] | None:
    found: Any = choice.get("token_ids")
    if found is None:
        tokens = logprobs_of(choice).get("tokens")
        if not isinstance(tokens, list) or not all(str(t).startswith("token_id:") for t in tokens):
            return None
        names = [str(t).removeprefix("token_id:") for t in tokens]
        # at most nine digits: any id fits, and none is too long to be read as a number
        found = [int(n) if n.isascii() and n.isdecimal() and len(n) < 10 else n for n in names]
    if not isinstance(found, list) or any(type(i) is not int for i in found):
        raise EndpointError("nonsense", f"Not token ids: {short(found, 80)}.")
    return found


def logprobs_of(choice: dict[str, Any]) -> dict[str, Any]:
    """The `logprobs` object of a completion; empty where the server sends none.

    Args:
        choice: the completion.

    Returns:
        The object.

    Raises:
        EndpointError: it is something else.
    """
    found = choice.get("logprobs")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise EndpointError("nonsense", f"Expected logprobs to be an object, not {short(found)}.")
    return found


def checked_logprob(value: Any) -> float:
    """A log-probability in nats as a server sends it.

    Args:
        value: the JSON value.

    Returns:
        The number, at most 0; nan for null.

    Raises:
        EndpointError: it is no finite number, or above 0 by more than rounding.
        NonFiniteError: it is NaN, which says that the model's logits are.
    """
    if value is None:
        return math.nan
    if isinstance(value, float) and math.isnan(value):
        raise NonFiniteError("The server sent a log-probability that is not a number.")
    if type(value) not in (int, float) or not -MOST_NATS <= value <= ROUNDING:
        raise EndpointError("nonsense", f"Not a log-probability: {short(value)}.")
    return min(float(value), 0.0)


def _token_logprobs(choice: dict[str, Any], n: int) -> Float[np.ndarray, " S"]:
    """The log-probability of each of `n` tokens; nan where the server gives none."""
    values = logprobs_of(choice).get("token_logprobs")
    if values is not None and not isinstance(values, list):
        raise EndpointError("nonsense", f"Expected a list of log-probabilities: {short(values)}.")
    if values is None or len(values) != n:
        return np.full(n, np.nan)
    return np.array([checked_logprob(v) for v in values], dtype=np.float64)


def _usage(reply: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the completion, as the server counts them."""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (
        prompt if type(prompt) is int and prompt >= 0 else None,
        made if type(made) is int and made >= 0 else None,
    )


def _closes(ids: Sequence[int], ends: tuple[int, ...]) -> bool:
    return bool(ends) and tuple(ids[-len(ends) :]) == ends
