"""What is fuzzed: every reader of a file, a reply or a text that a stranger wrote.

A target is made once in a process, in a folder of its own, and then tries one mutation at a time:
`attempt` mutates a healthy original, reads the result, and checks what was let in. It raises what
the reader raises. Whatever is not of the target's `refusals` is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np

from interp.errors import NonFiniteError, UserError
from tests import models
from tests.fuzz.checkpoint_targets import (
    CaptureFolder,
    CheckpointFolder,
    ConfigFile,
    IndexFile,
    TokenizerFiles,
    WeightsHeader,
)
from tests.fuzz.gguf_targets import GgufHeader, GgufTokenizer
from tests.fuzz.mutators import Mutator
from tests.fuzz.study_targets import DerivedFrame, HarnessLog, JudgeCacheFile, StudyStore
from tests.fuzz.target import (
    DELIMITERS,
    MOST,
    PLAN,
    PRUNING,
    RECORDS,
    Target,
    check,
    tiny_model,
)


class PlanFile(Target):
    """A plan (--plan), or the pruning.json of a pruned checkpoint as one."""

    share = 3

    def attempt(self, m: Mutator) -> None:
        from pruning.plan import LayerPlan

        file = self.folder / "plan.json"
        file.write_bytes(m.json_bytes(m.rng.choice((PLAN, PRUNING))))
        plan = LayerPlan.named(str(file))
        check(set(plan.removed) < set(plan.base), f"removed {plan.removed} of {plan.base}")
        check(len(plan.kept) + len(plan.removed) == plan.n_blocks <= MOST, "kept and removed")
        check(LayerPlan.from_json(plan.to_json()).kept == plan.kept, "another plan when read again")


class PruningFile(Target):
    """pruning.json beside weights: layer map, number of blocks, provenance."""

    share = 3

    def attempt(self, m: Mutator) -> None:
        from interp.model.checkpoint_files import checked_layer_map, folder_blocks, provenance_of

        (self.folder / "pruning.json").write_bytes(m.json_bytes(PRUNING))
        layer_map, n_dense = folder_blocks(str(self.folder))
        check(n_dense is None or 0 <= n_dense <= MOST, f"n_blocks is {n_dense}")
        found = checked_layer_map(layer_map, 2)
        check(len(set(found)) == 2 and found[0] < found[1], f"layer_map is {found}")
        json.dumps(provenance_of(str(self.folder)))


class DelimitersFile(Target):
    """delimiters.json, as far as token ids."""

    share = 2

    def attempt(self, m: Mutator) -> None:
        from interp.model.checkpoint_files import folder_delimiters

        (self.folder / "delimiters.json").write_bytes(m.json_bytes(DELIMITERS))
        found = folder_delimiters(str(self.folder))
        if found is not None:
            ids = found.resolve(models.tokenizer())
            check(bool(ids.think_start) == bool(ids.think_end), "one delimiter without the other")
            found.fitted(models.tokenizer()).described.encode()


class DataFile(Target):
    """A benchmark's records (--data), JSON and JSONL, for every benchmark that reads records."""

    share = 4

    def attempt(self, m: Mutator) -> None:
        from scaling.benchmarks import load_benchmark

        name = m.rng.choice(list(RECORDS))
        lines = []
        for i in range(3):
            record = {k: f"{v} {i}" if k.lower() in ASKED else v for k, v in RECORDS[name].items()}
            lines.append(json.dumps(record))
        lines[1] = m.json(lines[1])
        listed = m.rng.random() < 0.3
        text = f"[{', '.join(lines)}]" if listed else "\n".join(lines)
        data = text.encode()
        file = self.folder / ("data.json" if listed else "data.jsonl")
        file.write_bytes(m.bytes(data) if m.rng.random() < 0.2 else data)
        limit = m.rng.choice((None, 1, 2))
        bench = load_benchmark(name, file, limit=limit, seed=1)
        check(1 <= len(bench) <= (limit or 10_000), f"{len(bench)} problems")
        check(len(bench.fingerprint) == 16, "no fingerprint")
        for problem in bench.problems:
            json.dumps(problem.as_dict()).encode()
            str(bench.prompt(problem)).encode()


ASKED = ("question", "problem", "id", "record id")


class ParquetFile(Target):
    """A benchmark's records as Parquet."""

    share = 0.3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"question": f"q {i}", "answer": f"#### {i}"} for i in range(20)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet")
        self.whole = (folder / "whole.parquet").read_bytes()

    def attempt(self, m: Mutator) -> None:
        from scaling.benchmarks import load_benchmark

        file = self.folder / "data.parquet"
        file.write_bytes(m.bytes(self.whole))
        for problem in load_benchmark("gsm8k", file).problems:
            problem.question.encode()


class TextFile(Target):
    """Texts to calibrate on, or chains to diagnose: lines, paragraphs, or JSON objects."""

    share = 2

    def attempt(self, m: Mutator) -> None:
        from pruning.calibration import read_texts

        draw = m.rng.random()
        if draw < 0.6:
            lines = [json.dumps({"text": f"line {i}", "other": [i]}) for i in range(3)]
            lines[1] = m.json(lines[1])
            file, data = self.folder / "texts.jsonl", "\n".join(lines).encode()
        else:
            text = "one line\n\nanother: naïve 中文\r\n \nthe last"
            file, data = self.folder / "texts.txt", m.text(text).encode(errors="surrogatepass")
        file.write_bytes(m.bytes(data) if m.rng.random() < 0.3 else data)
        field = m.rng.choice((None, None, "text", "other"))
        for text in read_texts(file, field, paragraphs=m.rng.random() < 0.3):
            text.encode()


def _replies() -> dict[str, str]:
    text = {"index": 0, "text": "1 + 2 </think>", "finish_reason": "stop"}
    ids = [12, 40, 12, 5]
    lp = {"token_logprobs": [-0.5, -1.0, -0.25, -0.125], "tokens": [f"token_id:{i}" for i in ids]}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    token = {**text, "token_ids": ids, "logprobs": lp, "stop_reason": 5}
    chat = {"message": {"role": "assistant", "content": '{"verdict": "same"}'}}
    return {
        "vllm": json.dumps({"choices": [token], "usage": usage}),
        "sglang": json.dumps({"choices": [{**text, "logprobs": lp}], "usage": usage}),
        "transformers": json.dumps({"choices": [text], "usage": usage}),
        "chat": json.dumps({"choices": [chat], "usage": usage}),
        "models": json.dumps({"object": "list", "data": [{"id": "m"}, {"id": "n"}]}),
        "error": json.dumps({"error": {"message": "no", "type": "t", "code": 404}}),
    }


class ServerReply(Target):
    """A completion as vLLM, SGLang and transformers send it, an error's body, a list of models."""

    share = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.engines.dialects import TextDialect, TokenDialect
        from scaling.engines.endpoint import EndpointError, _Failed

        type(self).refusals = (EndpointError, _Failed, NonFiniteError)
        served = tiny_model()
        self.replies = _replies()
        self.dialects = {
            "vllm": TokenDialect("vllm", "m", served),
            "sglang": TokenDialect("sglang", "m", served),
        }
        try:
            self.dialects["transformers"] = TextDialect("m", served)  # type: ignore[assignment]
        except UserError:  # its delimiters are special tokens, which a server of text leaves out
            self.replies.pop("transformers")

    def attempt(self, m: Mutator) -> None:
        from interp.decoding.sampling import Sampling
        from scaling.engines.dialects import Ask
        from scaling.engines.endpoint import Blot, _message, _object

        kind = m.rng.choice([*self.dialects, "models", "error"])
        body = m.json_bytes(self.replies[kind])
        blot = Blot("sk-0123456789abcdef")
        if kind == "error":
            check(isinstance(_message(body, blot), str), "no message")
            return
        found = _object(body, blot)
        if kind == "models":
            return
        ask = Ask(ids=(3, 4, 5), limit=4, seed=0, sampling=Sampling(temperature=0.0), ends=(5,))
        said = self.dialects[kind].read(ask, found)
        check(0 < len(said.ids) <= 4 and len(said.logprob) == len(said.ids), f"{said}")
        in_range = all(type(i) is int and 0 <= i < tiny_model().vocab_size for i in said.ids)
        check(in_range, f"ids {said.ids}")
        known = said.logprob[~np.isnan(said.logprob)]
        check(bool(np.all(np.isfinite(known) & (known <= 1e-3))), f"log-probabilities {known}")


class OneReply:
    """In the place of an endpoint: any request gets the same body."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def post(self, path: str, body: Any, *, read: Callable[[dict[str, Any]], Any]) -> Any:
        """Read the body as an endpoint reads it."""
        from scaling.engines.endpoint import Blot, _object

        return read(_object(self.body, Blot(None)))


class JudgeReply(Target):
    """A judge's chat completion, and the verdict or counts in its text."""

    share = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.engines.endpoint import EndpointError, _Failed
        from scaling.judging.llm_judge import Judge

        type(self).refusals = (EndpointError, _Failed)
        self.judge = Judge("http://localhost:1", "m")
        self.question = SimpleNamespace(messages=[])

    def attempt(self, m: Mutator) -> None:
        from scaling.judging.prompts import KINDS, JudgedVerdict, read_counts, read_verdict

        if m.rng.random() < 0.3:
            reply: Any = OneReply(m.json_bytes(_replies()["chat"]))
            question: Any = self.question
            said = self.judge._ask(reply, question, read_verdict)
            check(said in get_args(JudgedVerdict), f"the verdict {said!r}")
        counts = json.dumps(dict.fromkeys(KINDS, 2))
        inner = m.rng.choice(('{"verdict": "same"}', counts))
        text = f"<think> maybe {inner} hmm </think> So: {m.json(inner)} {m.rng.choice(('', inner))}"
        text = m.text(text) if m.rng.random() < 0.5 else text
        verdict, found = read_verdict(text), read_counts(text)
        check(verdict is None or verdict in get_args(JudgedVerdict), f"the verdict {verdict!r}")
        good = found is None or (
            set(found) == set(KINDS) and all(type(n) is int and n >= 0 for n in found.values())
        )
        check(good, f"the counts {found!r}")


TARGETS: dict[str, Callable[[Path], Target]] = {
    "plan": PlanFile,
    "pruning": PruningFile,
    "delimiters": DelimitersFile,
    "data": DataFile,
    "parquet": ParquetFile,
    "texts": TextFile,
    "weights": WeightsHeader,
    "index": IndexFile,
    "gguf": GgufHeader,
    "gguf-tokenizer": GgufTokenizer,
    "config": ConfigFile,
    "tokenizer": TokenizerFiles,
    "checkpoint": CheckpointFolder,
    "capture": CaptureFolder,
    "server": ServerReply,
    "judge": JudgeReply,
    "log": HarnessLog,
    "store": StudyStore,
    "derived": DerivedFrame,
    "judge-cache": JudgeCacheFile,
}
