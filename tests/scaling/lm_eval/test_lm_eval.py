"""lm-evaluation-harness logs: out and in again keeps every verdict; a bad line is said."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from interp.errors import UserError
from scaling.engines.local import LocalEngine
from scaling.lm_eval.exporter import export_samples
from scaling.lm_eval.importer import import_samples
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study
from tests import models


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study on a file of its own and on facts scored by likelihood."""
    folder = tmp_path_factory.mktemp("study")
    own = folder / "own.jsonl"
    lines = [
        json.dumps({"id": f"q{i}", "question": f"what is {i} + {i} ?", "answer": str(2 * i)})
        for i in range(4)
    ]
    own.write_text("\n".join(lines), encoding="utf-8")
    name = "jsonl:integer:own"
    run_study(
        StudyConfig(
            benchmarks=(name, "recall"),
            data={name: str(own)},
            limit=4,
            budgets=(6, 40),
            answer=6,
            samples=2,
            waits=(),
            remove=(1,),
            methods=("shortgpt",),
            blocks=False,
            out=folder / "out",
        ),
        engine=LocalEngine(models.tiny(n_blocks=3), slots=9),
    )
    return folder / "out"


def line(number: int, text: str, right: float, **changes: Any) -> dict[str, Any]:
    """A line as the harness writes it for GSM8K."""
    return {
        "doc_id": number,
        "doc": {
            "question": f"Tom has {number} apples and buys 3. How many?",
            "answer": f"He has {number} + 3.\n#### {number + 3}",
        },
        "target": str(number + 3),
        "arguments": {"gen_args_0": {"arg_0": f"Q{number} <think>", "arg_1": {"until": ["Q:"]}}},
        "resps": [[text]],
        "filtered_resps": [text],
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "exact_match": right,
        "doc_hash": "d",
        "prompt_hash": "p",
        "target_hash": "t",
    } | changes


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_out_and_in_again_keeps_problems_verdicts_and_how_chains_ended(
    study: Path, tmp_path: Path
) -> None:
    model = models.tiny(n_blocks=3)
    files = export_samples(study, tmp_path / "logs", model)
    with Store(study, read_only=True) as store:
        before, asked = store.rows(), store.frame("problems")
    assert len(files) == len(before.groupby(["variant", "benchmark", "budget"]))
    for variant, removed in (("dense", ()), ("shortgpt-1", (1,))):
        for benchmark in ("jsonl:integer:own", "recall"):
            name = f"samples_{benchmark[:5]}"
            own = [f for f in files if f.parent.name == variant and f.name.startswith(name)]
            for file in own:
                import_samples(
                    [file], tmp_path / "in", model, benchmark, variant=variant, removed=removed
                )
    with Store(tmp_path / "in", read_only=True) as store:
        after, again = store.rows(), store.frame("problems")
        assert set(store.rows("accuracy")["variant"]) == {"dense", "shortgpt-1"}
        assert len(store.rows("parallel"))
    keys = ["benchmark", "problem", "variant", "budget", "sample"]
    same = [*keys, "outcome", "extracted", "finish", "thinking_finish", "position"]
    left, right = (f.sort_values(keys).reset_index(drop=True) for f in (before, after))
    for name in same:
        assert left[name].fillna("").tolist() == right[name].fillna("").tolist(), name
    # Special tokens inside an answer are no text, so they do not come back.
    assert (right["answer_tokens"] <= left["answer_tokens"]).all()
    assert right["answer_tokens"].sum() > left["answer_tokens"].sum() / 2
    assert (
        asked.sort_values(["benchmark", "problem"])
        .reset_index(drop=True)
        .equals(again.sort_values(["benchmark", "problem"]).reset_index(drop=True))
    )


def test_a_line_is_what_the_harness_writes(study: Path, tmp_path: Path) -> None:
    files = export_samples(study, tmp_path, models.tiny(n_blocks=3))
    for file in files:
        for text in file.read_text(encoding="utf-8").splitlines():
            found = json.loads(text)
            assert {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps"} <= set(found)
            metric = found["metrics"][0]
            assert found[metric] == (found["prunescope"]["outcomes"][0] == "correct")
            if metric == "acc":
                assert (
                    len(found["resps"]) == len(found["arguments"]) == len(found["doc"]["choices"])
                )
            else:
                assert len(found["resps"]) == 1
                assert found["arguments"]["gen_args_0"]["arg_0"].rstrip().endswith("<think>")


def test_a_log_of_the_harness_is_graded_and_compared(tmp_path: Path) -> None:
    texts = [
        "3 + 0 = 3 </think> 3",
        "4 wait 5 </think> 5",  # wrong, and the log calls it right
        "6 7 8 9",  # thinking that never ends: no answer, whatever number is in it
    ]
    lines = [line(i, text, float(i != 2)) for i, text in enumerate(texts)]
    flexible = [{**one, "filter": "flexible-extract", "exact_match": 0.0} for one in lines]
    file = write(tmp_path / "samples_gsm8k.jsonl", lines + flexible)
    found = import_samples([file], tmp_path / "in", models.tiny(n_blocks=3), "gsm8k")
    assert (found.chains, found.agree, found.differ) == (3, 2, 1)
    with Store(tmp_path / "in", read_only=True) as store:
        rows = store.rows()
    assert rows["outcome"].tolist() == ["correct", "wrong", "no answer"]
    assert rows["lm_eval_exact_match_strict-match"].tolist() == [1, 1, 0]
    assert rows["lm_eval_exact_match_flexible-extract"].tolist() == [0, 0, 0]
    assert rows["thinking_tokens"].tolist()[2] == 4
    assert rows["problem"].tolist() == ["gsm8k/0", "gsm8k/1", "gsm8k/2"]


def test_a_response_at_the_length_limit_is_cut(tmp_path: Path) -> None:
    arguments = [["Q <think>", {"max_gen_toks": 4}]]  # as older versions wrote them
    lines = [
        line(0, "6 7 8 9", 0.0, arguments=arguments),
        line(1, "</think> \\boxed{4}", 1.0, arguments=arguments),
    ]
    import_samples(
        [write(tmp_path / "s.jsonl", lines)], tmp_path / "in", models.tiny(n_blocks=3), "gsm8k"
    )
    with Store(tmp_path / "in", read_only=True) as store:
        rows = store.rows()
    assert rows["finish"].tolist() == ["cut", "stop"]
    assert rows["thinking_finish"].tolist() == ["forced", "end"]
    assert set(rows["thinking_budget"]) == {4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"doc_id": "x"}, r"line 2, field 'doc_id'"),
        ({"doc": "text"}, r"line 2, field 'doc'"),
        ({"doc": {"question": "?"}}, r"line 2, doc.*answer"),
        ({"resps": [["a"], ["b"]]}, r"line 2, field 'resps'"),
        ({"resps": [[1]]}, r"line 2, field 'resps'"),
        ({"resps": None}, r"line 2, field 'resps'"),
        ({"doc_id": 0, "resps": [["a"]]}, r"line 2, field 'doc_id'.*twice"),
        ({"doc_id": 0, "resps": [["b"]]}, r"line 2, field 'resps'.*other responses"),
    ],
)
def test_a_bad_line_is_said_with_file_line_and_field(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    first = line(0, "a", 1.0)
    file = write(tmp_path / "samples.jsonl", [first, line(1, "b", 1.0, **changes)])
    with pytest.raises(UserError, match=rf"(?s)samples.jsonl, {said}"):
        import_samples([file], tmp_path / "in", models.tiny(n_blocks=3), "gsm8k")
    assert not (tmp_path / "in").exists()


def test_what_does_not_fit_the_folder_is_refused(study: Path, tmp_path: Path) -> None:
    model = models.tiny(n_blocks=3)
    file = write(tmp_path / "s.jsonl", [line(0, "</think> \\boxed{3}", 1.0)])
    import_samples([file], tmp_path / "in", model, "gsm8k")
    with pytest.raises(UserError, match="already"):
        import_samples([file], tmp_path / "in", model, "gsm8k")
    other = write(tmp_path / "t.jsonl", [line(7, "</think> \\boxed{3}", 1.0)])
    with pytest.raises(UserError, match="other problems"):
        import_samples([other], tmp_path / "in", model, "gsm8k", variant="cut", removed=[1])
    with pytest.raises(UserError, match="name the blocks"):
        import_samples([file], tmp_path / "in", model, "gsm8k", variant="cut")
    with pytest.raises(UserError, match="another configuration"):
        import_samples([file], study, model, "gsm8k")
    with pytest.raises(UserError, match="Did you mean 'gsm8k'"):
        import_samples([file], tmp_path / "in", model, "gsm9k")


# ------------------------------------------------------------------ odd logs

ODD: list[Any] = [
    None, True, -1, 0, 1.7, 10**400, 10**30, math.nan, math.inf, "", "a", "\ud800", "\x1b[31m", [],
    [1], [[]], [[[]]], [["\ud800"]], [None], {}, {"gen_args_0": [1]}, {"gen_args_0": {"arg_0": 5}},
    {"gen_args_0": {"arg_0": ["\ud800"], "arg_1": {"max_gen_toks": 10**30}}},
    {"gen_args_0": {"arg_0": "q", "arg_1": {"max_gen_toks": True}}}, {"budget": 5}, {"budget": [1]},
    {"budget": [1, 2, 3, 4]}, {"budget": [0, 1, 0]}, {"budget": [10**30, 1, 0]}, {"finish": []},
    {"budget": ["1", "2", "3"]}, {"finish": ["stop", "stop"]}, {"finish": ["no"]}, {"finish": [[]]},
    {"finish": "stop"}, {"thinking_finish": [None]}, {"question": "q", "answer": 5},
    {"id": 1, "question": [], "answer": "5", "choices": [], "metadata": {}},
    {"id": "1", "question": "q", "answer": "5", "choices": 7, "metadata": {}},
    {"id": "1", "question": "q", "answer": "5", "choices": [], "metadata": 3},
    {"id": "1", "question": "q", "answer": "\ud800", "choices": [], "metadata": {}},
]  # fmt: skip
FIELDS = ["doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"]


@pytest.mark.parametrize("field", [*FIELDS, "exact_match", "prunescope"])
def test_an_odd_field_is_read_or_said_with_its_line(field: str, tmp_path: Path) -> None:
    """Each field of a log is anything that JSON can hold."""
    model, said = models.tiny(n_blocks=1), list[str]()
    for number, value in enumerate(ODD):
        file = write(tmp_path / "samples.jsonl", [line(1, "4 </think> 4", 1.0), line(2, "5", 0.0)])
        text = file.read_text(encoding="utf-8").splitlines()
        text[1] = json.dumps({**json.loads(text[1]), field: value})
        file.write_text("\n".join(text), encoding="utf-8")
        out = tmp_path / f"out-{number}"
        try:
            import_samples([file], out, model, "gsm8k")
        except UserError as error:
            said.append(str(error))
        else:
            with Store(out, read_only=True) as store:  # what was taken can be read
                assert len(store.rows(ids=True)) >= 1
    assert all("\x1b" not in text and len(text) < 500 for text in said)
    if field not in ("target", "filtered_resps", "metrics"):
        assert said


@pytest.mark.parametrize("value", ODD)
def test_an_odd_log_likelihood_is_read_or_said(value: Any, tmp_path: Path) -> None:
    doc = {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 1, "subject": "s"}
    good = [[[-1.0, False]], [["-2.5", "True"]], [[-3, False]], [[-4.0, False]]]
    record = {"doc_id": 0, "doc": doc, "resps": [*good[:3], value], "arguments": {}, "acc": 1.0}
    file = write(tmp_path / "samples.jsonl", [record])
    model = models.tiny(n_blocks=1)
    if type(value) is int and value in (-1, 0):
        assert import_samples([file], tmp_path / "out", model, "mmlu").chains == 1
        return
    with pytest.raises(UserError, match=r"resps.*expected a log-likelihood"):
        import_samples([file], tmp_path / "out", model, "mmlu")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"doc_id": 0, "doc": "\xe9"}', "not UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"doc_id": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"doc_id": 0, "doc_id": 1}', "there twice"),
        (b"\x00\x01", "not JSON"),
        (b"", "no records"),
        (b"5", "expected an object"),
    ],
)
def test_a_file_that_is_no_log_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"samples_\xe9.jsonl")  # nor is its name UTF-8
    file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        import_samples([file], tmp_path / "out", models.tiny(n_blocks=1), "gsm8k")
