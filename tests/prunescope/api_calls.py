"""Every public function and constructor, and one right call of each, on a tiny model and study.

The list is that of `public_api`. A required argument takes its value from
`World.calls` (by function), or by the name of the parameter (`World.by_name`). A new function with
parameters of known names is so covered by itself; another one fails the test until it is told how
to call it.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import prunescope as ps
from interp.counterfactuals.answer_commitment import Commitment
from pruning.cost import Cost
from pruning.criteria.block_influence import influence
from scaling.store.chain_row import Key
from tests import models
from tests.analyses.fake import write_study
from tests.prunescope.public_api import Api
from tests.recovery.small import config as quick_recovery
from tests.recovery.small import examples
from tests.scaling.engines.fake_endpoint import FakeEndpoint, FakeModel


class World:
    """A tiny model, its chains, a study, and what is made of them.

    Args:
        folder: where files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = itertools.count()
        self.stack = contextlib.ExitStack()

    def fresh(self) -> Path:
        """A path that does not exist yet."""
        return self.folder / f"new-{next(self.count)}"

    @cached_property
    def model(self) -> Any:
        return models.tiny(n_blocks=4, ends=False)

    @cached_property
    def saved(self) -> Path:
        """The tiny model as a checkpoint."""
        out = self.folder / "saved"
        # not the shared model: saving writes the name of the class into its configuration
        models.tiny(n_blocks=4, ends=False).hf.save_pretrained(out)
        self.model.tokenizer.save_pretrained(out)
        (out / "delimiters.json").write_text(json.dumps(self.model.delimiters.to_dict()))
        return out

    @cached_property
    def carded(self) -> Path:
        """The same with a model card."""
        out = Path(shutil.copytree(self.saved, self.folder / "carded"))
        (out / "README.md").write_text("---\ntags: [prunescope]\n---\n# A model\n")
        return out

    @cached_property
    def loaded(self) -> Any:
        """The checkpoint, read again."""
        return ps.ReasoningModel.load(self.saved)

    @cached_property
    def chains(self) -> Any:
        prompts = ["what is 2 + 3 ?", "compute 4 - 1", "what is 9 x 2 ?", "try 5 + 5"]
        made = self.model.generate(prompts, budget=ps.Budget(20, 6), samples=2, record=True)
        return made

    @cached_property
    def committed(self) -> Any:
        chain = self.chains[0]
        ends = np.array([0, len(chain.thinking) // 2, len(chain.thinking)])
        return Commitment(
            variants=("dense",), problems=(chain.problem,), samples=(0,), seed=0,
            layer_map=(0, 1, 2, 3), numbers=(0,), ends=(ends,), finals=((int(chain.ids[0]),),),
            probability=(np.array([[0.1, 0.9, 0.9]]),),
        )  # fmt: skip

    @cached_property
    def without(self) -> Any:
        prompts = ["what is 2 + 3 ?", "compute 4 - 1", "what is 9 x 2 ?", "try 5 + 5"]
        return self.model.generate(prompts, [self.plan], budget=ps.Budget(20, 6), samples=2)

    @cached_property
    def plan(self) -> Any:
        return ps.LayerPlan((1,), 4)

    @cached_property
    def texts(self) -> Any:
        return ps.Calibration.of(self.model, ["what is 2 + 3 ?", "try 4 x 5 = 20 . yes"])

    @cached_property
    def scores(self) -> Any:
        return ps.score("shortgpt", self.model, self.texts)

    @cached_property
    def sublayer_scores(self) -> Any:
        return ps.score("finercut", self.model, self.texts, remove=1)

    @cached_property
    def masks(self) -> Any:
        half = {i: np.arange(len(c.ids)) % 3 == i % 2 for i, c in enumerate(self.chains)}
        return {"first": list(half.values()), "rest": [~one for one in half.values()]}

    @cached_property
    def some(self) -> Any:
        return [np.arange(len(c.ids)) % 5 == 1 for c in self.chains]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Rows of a fake study, by purpose."""
        return self.study_data.rows("sequential")

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        rows = [
            {"benchmark": "b", "problem": f"p{i}", "sample": 0, "variant": v, "block": block,
             "correct": float(rng.random() < 0.6)}
            for i in range(8) for v, block in (("dense", None), ("s0", 0), ("s1", 1), ("s2", 2),
                                               ("s3", 3))
        ]  # fmt: skip
        return pd.DataFrame(rows)

    @cached_property
    def effects(self) -> Any:
        return ps.effects.block_effects(self.outcomes, "correct")

    @cached_property
    def study(self) -> Path:
        return write_study(self.folder / "study")

    @cached_property
    def other_study(self) -> Path:
        return write_study(self.folder / "other", seed=1)

    @cached_property
    def compared(self) -> Any:
        return ps.compare_studies([self.study, self.other_study])

    @cached_property
    def study_data(self) -> Any:
        return ps.analyses.StudyData.read(self.study)

    @cached_property
    def real_study(self) -> Path:
        """A study of the saved model, which can be read again."""
        out = self.folder / "real"
        ps.run_study(self.config(out))
        return out

    def config(self, out: Path, **changes: Any) -> Any:
        small: dict[str, Any] = {
            "model": str(self.saved), "benchmarks": ("arithmetic",), "limit": 2, "budgets": (4,),
            "answer": 2, "samples": 1, "waits": (), "remove": (), "methods": (), "blocks": False,
            "out": out,
        }  # fmt: skip
        return ps.StudyConfig(**(small | changes))

    @cached_property
    def server(self) -> Any:
        return self.stack.enter_context(FakeEndpoint(FakeModel(self.model)))

    @cached_property
    def judge_server(self) -> Any:
        said = {"choices": [{"message": {"content": '{"verdict": "correct"}'}}]}
        return self.stack.enter_context(FakeEndpoint(lambda *_: (200, said)))

    @cached_property
    def engine(self) -> Any:
        from scaling.engines.endpoint import Retry

        quick = Retry(tries=1, patience=1.0, first=0.01, longest=0.05)
        return ps.scaling.ServerEngine(self.server.url, self.saved, retry=quick)

    @cached_property
    def judge(self) -> Any:
        from scaling.engines.endpoint import Retry

        return ps.judging.Judge(self.judge_server.url, "m", retry=Retry(tries=1, patience=1.0))

    @cached_property
    def heads(self) -> Any:
        return ps.heads.HeadLens(self.model)

    @cached_property
    def patterns(self) -> Any:
        return self.heads.patterns(self.chains[0])

    @cached_property
    def head_scores(self) -> Any:
        return self.heads.scores(self.chains, self.some)

    @cached_property
    def head_effects(self) -> Any:
        return self.heads.ablate(list(self.chains)[:2], self.some[:2])

    @cached_property
    def lens(self) -> Any:
        return ps.lens(self.model, self.chains)

    @cached_property
    def contributions(self) -> Any:
        return ps.contributions(self.model, self.chains)

    @cached_property
    def examples(self) -> Any:
        return ps.probes.foretell(self.some, 1, [c.problem for c in self.chains], folds=2)

    @cached_property
    def probes(self) -> Any:
        rng = np.random.default_rng(0)
        return ps.probes.probe(
            rng.normal(size=(40, 2, 3)), np.arange(40) % 2 == 0, np.arange(40) // 4,
            permutations=10, draws=100,
        )  # fmt: skip

    @cached_property
    def horizons(self) -> Any:
        return ps.probes.Horizons((1,), (self.probes,), (self.examples,))

    @cached_property
    def named_cache(self) -> Any:
        return self.model.run_with_cache("what is 2 + 3 ?")

    @cached_property
    def patching_grid(self) -> Any:
        return ps.counterfactuals.patching_grid(self.model, [6, 7, 8], [6, 9, 8], answers=(10, 11))

    @cached_property
    def deltas(self) -> Any:
        return ps.effects.Deltas.of(self.model, self.chains, pool=8)

    @cached_property
    def opener_mass(self) -> Any:
        return ps.diagnosis.opener_mass(self.model, self.chains, words=("wait", "check"))

    @cached_property
    def per_text(self) -> Any:
        return influence(self.model, self.texts)

    @cached_property
    def benchmark(self) -> Any:
        return ps.load_benchmark("arithmetic", limit=3)

    @cached_property
    def repaired(self) -> Any:
        return ps.pruning.mend("prune-comp", self.model, self.plan, self.texts)

    @cached_property
    def raw(self) -> Any:
        """Residual streams, stored."""
        out = self.folder / "raw"
        ps.replay(self.model, [[5, 6, 7, 8]], [ps.RawCapture(out)])
        return ps.activations.load_raw(out)

    @cached_property
    def recovered(self) -> Any:
        return ps.recovery.Recovered(
            self.folder, self.saved, "distill", (0, 1, 2, 3), 0.1, 1, 2, 0.5, 3, None, (), ()
        )

    @property
    def store(self) -> Any:
        """A new store with a claimed configuration."""
        store = ps.scaling.Store(self.fresh())
        store.claim({"model": "m"}, {"model fingerprint": "f"})
        return self.stack.enter_context(contextlib.closing(store))

    @cached_property
    def cost(self) -> Any:
        return ps.scaling.ModelCost.of(self.model.hf.config)

    @cached_property
    def plan_file(self) -> Path:
        file = self.folder / "plan.json"
        file.write_text(self.plan.to_json())
        return file

    @cached_property
    def text_file(self) -> Path:
        file = self.folder / "texts.txt"
        file.write_text("one text\nanother text\n")
        return file

    @cached_property
    def by_name(self) -> Mapping[str, Callable[[], Any]]:
        """Values of required parameters that mean the same in most functions."""
        numbers, pair = np.array([0.1, 0.2, 0.3, 0.4]), np.array([[0.1, 0.2], [0.3, 0.1]] * 2)
        return {
            "a": lambda: self.chains[0],
            "ahead": lambda: 1,
            "b": lambda: self.chains[1],
            "benchmark": lambda: self.benchmark,
            "block": lambda: 1,
            "blocks": lambda: (0, 1, 2, 3),
            "calibration": lambda: self.texts,
            "chain": lambda: self.chains[0],
            "chains": lambda: self.chains,
            "config": lambda: self.config(self.fresh()),
            "dense": lambda: numbers,
            "dense_chains": lambda: self.chains,
            "effects": lambda: self.effects,
            "events": lambda: self.some,
            "folder": lambda: self.study,
            "high": lambda: numbers,
            "ids": lambda: (5, 6, 7),
            "index": lambda: 0,
            "judge": lambda: lambda chain: {"long": float(len(chain.ids) > 5)},
            "k": lambda: 2,
            "layer_map": lambda: (0, 1, 2, 3),
            "low": lambda: numbers,
            "masks": lambda: self.some,
            "model": lambda: self.model,
            "n": lambda: 1,
            "prompt": lambda: "what is 2 + 3 ?",
            "name": lambda: "name",
            "out_dir": self.fresh,
            "p": lambda: numbers,
            "plan": lambda: self.plan,
            "problem": lambda: self.benchmark.problems[0],
            "problems": lambda: [c.problem for c in self.chains],
            "prompts": lambda: ["what is 2 + 3 ?"],
            "question": lambda: "what is 2 + 3 ?",
            "remove": lambda: 1,
            "scores": lambda: self.scores,
            "seed": lambda: 0,
            "source": lambda: self.saved,
            "text": lambda: "what is 2 + 3 ?",
            "texts": lambda: self.texts,
            "tokenizer": lambda: self.model.tokenizer,
            "trials": lambda: 10,
            "path": lambda: self.fresh().with_suffix(".svg"),
            "values": lambda: pair,
            "variant": lambda: self.plan,
            "variant_chains": lambda: self.without,
        }

    def fields(self, value: Any) -> dict[str, Any]:
        """The arguments that a dataclass was made with."""
        return {name: getattr(value, name) for name in inspect.signature(type(value)).parameters}

    @cached_property
    def calls(self) -> Mapping[str, Callable[[], dict[str, Any]]]:
        """Arguments by function, where they do not follow from the parameters' names."""
        numbers = np.array([0.1, 0.2, 0.3, 0.4])
        chain = self.chains[0]
        by_fields: dict[str, Callable[[], dict[str, Any]]] = {
            "BlockScores": lambda: {"name": "s", "values": numbers, "layer_map": (0, 1, 2, 3)},
            "Calibration": lambda: self.fields(self.texts),
            "Chain": lambda: self.fields(chain),
            "Comparison": lambda: self.fields(ps.pruning.compare([self.scores, self.scores])),
            "Contributions": lambda: self.fields(self.contributions),
            "Deltas": lambda: self.fields(self.deltas),
            "HeadEffects": lambda: self.fields(self.head_effects),
            "HeadScores": lambda: self.fields(self.head_scores),
            "Horizons": lambda: self.fields(self.horizons),
            "JudgedStudy": lambda: {"rows": pd.DataFrame(), "agreements": {}},
            "Lens": lambda: self.fields(self.lens),
            "ModelCost": lambda: self.fields(self.cost),
            "Patterns": lambda: self.fields(self.patterns),
            "Probes": lambda: self.fields(self.probes),
            "RawStreams": lambda: self.fields(self.raw),
            "Recovered": lambda: self.fields(self.recovered),
            "Scores": lambda: self.fields(self.scores),
            "StudyData": lambda: self.fields(self.study_data),
            "SublayerScores": lambda: self.fields(self.sublayer_scores),
        }
        vector = torch.ones(32)
        return {
            **by_fields,
            "CalibrationSource.graded_problems": lambda: {"model": self.model},
            "Deltas.of": lambda: {"model": self.model, "texts": self.chains, "pool": 8},
            "PruneConfig": lambda: {"blocks": (1,)},
            "block_influence": lambda: {"model": self.model, "texts": self.texts},
            "cov_at_k": lambda: {"values": np.array([[1.0, 0.0], [0.0, 0.0]]), "k": 2},
            "divergence_table": lambda: {"chains": [*self.chains, *self.without]},
            "AblateHeads": lambda: {"block": 1, "heads": (0, 1), "means": torch.ones(4, 16)},
            "AtTokens.of": lambda: {"model": self.model, "words": ("wait",)},
            "Benchmark": lambda: {
                "name": "b", "version": "1", "problems": self.benchmark.problems,
            },
            "BlockScores.of_chains": lambda: {"name": "s", "chains": self.chains},
            "BlockScores.of_interval": lambda: {
                "name": "s", "values": numbers, "low": numbers, "high": numbers,
                "layer_map": (0, 1, 2, 3),
            },
            "BlockScores.of_texts": lambda: {"name": "s", "result": self.per_text},
            "Delimiters": lambda: {"think_start": "<think>", "think_end": "</think>"},
            "Delimiters.from_dict": lambda: {"content": self.model.delimiters.to_dict()},
            "Judge": lambda: {"url": self.judge_server.url, "model": "m"},
            "Judge.compare": lambda: {"items": []},
            "Judge.count": lambda: {"texts": []},
            "Judge.planned": lambda: {"items": []},
            "JudgedStudy.write": lambda: {"folder": self.fresh()},
            "LayerPlan": lambda: {"removed": (1,), "n_blocks": 4},
            "LayerPlan.check": lambda: {"model": self.model},
            "LayerPlan.from_json": lambda: {"text": self.plan.to_json()},
            "LayerPlan.named": lambda: {"plan": str(self.plan_file)},
            "LayerPlan.published": lambda: {"name": next(iter(ps.published_plans()))},
            "LayerPlan.read": lambda: {"file": self.plan_file},
            "LayerPlan.without": lambda: {"model": self.model},
            "Lens.values": lambda: {"quantity": "entropy"},
            "MeanDelta": lambda: {"block": 1, "mean": vector},
            "ModelCost.chain": lambda: {"prompt": 3, "new": 5},
            "ModelCost.of": lambda: {"config": self.model.hf.config},
            "ModelCost.token": lambda: {"keys": 3},
            "ModelCost.without": lambda: {"removed": (1,)},
            "EditDelta": lambda: {"block": 1, "function": lambda delta, at: delta},
            "EditStream": lambda: {"block": 1, "function": lambda stream, at: stream},
            "NamedCache": lambda: self.fields(self.named_cache),
            "PatchingGrid": lambda: self.fields(self.patching_grid),
            "patching_grid": lambda: {
                "model": self.model, "clean": [6, 7, 8], "corrupt": [6, 9, 8], "answers": (10, 11),
            },
            "Neurons": lambda: {"block": 1, "indices": (0, 5)},
            "Steer": lambda: {"block": 1, "direction": vector},
            "Patch": lambda: {"block": 1, "stream": torch.ones(3, 32)},
            "Patch.from_chains": lambda: {
                "model": self.model, "block": 1, "chains": list(self.chains)[:1],
            },
            "Patch.chains": lambda: {
                "block": 1, "chains": list(self.chains)[:1],
                "deltas": [torch.ones(len(chain.ids), 32)],
            },
            "Patterns.plot": lambda: {"block": 1, "head": 0},
            "Problem": lambda: {"id": "1", "question": "q", "answer": "a"},
            "RawCapture": lambda: {"directory": self.fresh()},
            "RawStreams.positions": lambda: {"text": 0, "block": 1},
            "RawStreams.stream": lambda: {"text": 0, "block": 1},
            "ReasoningModel": lambda: {
                "hf": self.model.hf, "tokenizer": self.model.tokenizer, "name": "m",
            },
            "ReasoningModel.around": lambda: {"hf": self.model.hf},
            "ReasoningModel.from_parts": lambda: {
                "hf": self.model.hf, "tokenizer": self.model.tokenizer, "place": str(self.saved),
                "name": "m",
            },
            "ReasoningModel.generate": lambda: {
                "prompts": ["what is 2 + 3 ?"], "budget": ps.Budget(4, 2),
            },
            "ReasoningModel.load": lambda: {"source": self.saved},
            "ReasoningModel.run_with_cache": lambda: {"prompt": "what is 2 + 3 ?"},
            "RecoveryConfig": lambda: {"method": "full"},
            "RecoveryConfig.preset": lambda: {"name": "paper", "method": "full"},
            "RecoveryConfig.with_rate": lambda: {"rate": 0.1},
            "Request": lambda: {"problem": "p", "prompt_ids": (5, 6)},
            "ResampleDelta": lambda: {"block": 1, "pool": torch.ones(3, 32)},
            "Scores.plain": lambda: {
                "criterion": "c", "values": [1, 2, 3, 4], "layer_map": (0, 1, 2, 3),
            },
            "ServerEngine": lambda: {"url": self.server.url, "source": self.saved},
            "ServerEngine.ask": lambda: {"ask": self.ask},
            "ServerEngine.decode": lambda: {
                "requests": self.requests, "sampling": ps.Sampling(),
            },
            "ServerEngine.choose": lambda: {"repair": "prune-comp"},
            "ServerEngine.score": lambda: {
                "criterion": "shortgpt", "chains": self.chains, "seed": 0, "remove": 1,
            },
            "ServerEngine.option_logprobs": lambda: {
                "prompts": [[5, 6]], "options": [[[7], [8]]], "variants": [ps.dense],
            },
            "ServerEngine.prompt_ids": lambda: {"question": "what is 2 ?", "thinking": True},
            "Span": lambda: {"start": 0, "stop": 1},
            "Store": lambda: {"folder": self.fresh()},
            "Store.add_chains": lambda: {"rows": []},
            "Store.claim": lambda: {
                "config": {"model": "m"}, "identity": {"model fingerprint": "f"},
            },
            "Store.columns": lambda: {"names": ("outcome", "looped")},
            "Store.differences": lambda: {
                "config": {"model": "m"}, "identity": {"model fingerprint": "f"},
            },
            "Store.frame": lambda: {"table": "chains"},
            "Store.ids_of": lambda: {"key": Key("b", "p", "dense", "64", 0)},
            "Store.put": lambda: {
                "table": "problems",
                "rows": [{"benchmark": "b", "problem": "p", "position": 0, "question": "q",
                          "answer": "a", "choices": "[]", "metadata": "{}"}],
            },
            "Store.samples_of": lambda: {
                "benchmark": "recall", "problem": "recall/1", "variant": "dense", "budget": "64",
            },
            "StudyConfig.workload": lambda: {"benchmark": "arithmetic"},
            "StudyData.rows": lambda: {"purpose": "sequential"},
            "StudyResult": lambda: {
                "folder": self.real_study, "chains": 1, "chains_added": 1, "tokens": 1,
                "seconds": 1.0,
            },
            "SublayerPlan": lambda: {
                "removed": self.sublayer_scores.lowest_sublayers(1), "base": (0, 1, 2, 3),
            },
            "SublayerPlan.check": lambda: {"model": self.model},
            "SublayerPlan.lowest": lambda: {"scores": self.sublayer_scores, "remove": 1},
            "SublayerPlan.without": lambda: {"model": self.model},
            "against_chance": lambda: {
                "plan": self.plan, "quality": lambda plan: float(len(plan.kept)),
                "spare_first": 0, "spare_last": 0,
            },
            "along": lambda: {"chains": self.chains},
            "around_loops": lambda: {"loops": [None, None]},
            "block_effects": lambda: {"frame": self.outcomes, "outcome": "correct"},
            "by_event": lambda: {"chains": self.chains, "events": self.masks},
            "by_step": lambda: {"chains": self.chains, "edges": (0, 5, 10)},
            "check_budget": lambda: {"engine": self.engine, "budgets": (1, 4)},
            "choose_plan": lambda: {"model": self.model, "remove": 1, "method": "reverse-order"},
            "clopper_pearson": lambda: {"successes": 3, "trials": 10},
            "compare": lambda: {"scores": [self.scores, self.scores]},
            "compare_criteria": lambda: {
                "model": self.model, "texts": self.texts, "names": ("shortgpt", "magnitude"),
            },
            "compare_openers": lambda: {"one": self.opener_mass, "other": self.opener_mass},
            "criterion": lambda: {"name": "c", "paper": "p", "cost": Cost()},
            "decode": lambda: {"model": self.model, "requests": self.requests},
            "diagnose_texts": lambda: {"texts": ["wait , no", "yes"]},
            "diversity": lambda: {"samples": [[1, 2, 3], [1, 2, 4]]},
            "diversity_beside": lambda: {
                "samples": {v: {"p": [[*range(9)], [*range(1, 10)]]} for v in ("dense", "x")},
                "correct": {v: {"p": [True, False]} for v in ("dense", "x")},
            },
            "early_warning": lambda: {
                "series": list(np.random.default_rng(0).normal(size=(24, 12))),
                "onsets": [6, 6, *[None] * 22], "problems": [str(i) for i in range(24)],
            },
            "hidden_recurrence": lambda: {"streams": np.eye(40, 3)},
            "perturbed_steps": lambda: {
                "model": self.model, "chains": list(self.chains)[:1], "found": self.committed,
            },
            "line_importance": lambda: {
                "model": self.model, "chains": list(self.chains)[:1],
                "answer": lambda chain: str(len(chain.ids) % 3), "n": 4, "most": 2,
                "regroupings": 19, "patience": 1.0,
            },
            "effect_agreement": lambda: {
                "first": self.effects, "second": self.effects, "draws": 20,
            },
            "explain": lambda: {"effects": self.effects, "scores": {"s": numbers}, "draws": 20},
            "equal_cost": lambda: {"rows": self.frame, "draws": 100},
            "find_episodes": lambda: {"ids": [1, 2, 3] * 30},
            "find_loop": lambda: {"ids": [1, 2, 3] * 30},
            "foretell": lambda: {
                "masks": self.some, "ahead": 1, "problems": [c.problem for c in self.chains],
                "folds": 2,
            },
            "fork": lambda: {"chain": chain, "at": 3},
            "gather": lambda: {
                "model": self.model, "chains": self.chains, "picks": [[1]] * len(self.chains),
            },
            "generate": lambda: {
                "model": self.model, "prompts": ["what is 2 + 3 ?"], "budget": ps.Budget(4, 2),
            },
            "grade": lambda: {
                "benchmark": self.benchmark, "problem": self.benchmark.problems[0],
                "chain": chain, "model": self.model,
            },
            "handover": lambda: {
                "model": self.model, "chains": list(self.chains)[::2],
                "points": {"half": [5] * 4}, "judge": lambda chain: {"long": 1.0},
            },
            "holm": lambda: {"p": numbers},
            "jeffreys": lambda: {"successes": 3, "trials": 10},
            "judge_at": lambda: {
                "folder": self.real_study, "url": self.judge_server.url, "model": "m",
            },
            "judge_study": lambda: {"folder": self.real_study, "judge": self.judge},
            "load_benchmark": lambda: {"name": "arithmetic"},
            "load_raw": lambda: {"directory": self.raw.directory},
            "maj_at_k": lambda: {"answers": ["1", "2", "1"], "correct": [1, 0, 1], "k": 2},
            "match_latency": lambda: {
                "model": self.model, "plan": self.plan, "zeros": self.model, "rounds": 2,
                "steps": 1, "prompt_tokens": 4,
            },
            "measure_effects": lambda: {
                "model": self.model, "prompts": ["what is 2 ?", "compute 3"],
                "trials": ps.effects.ablations(self.model, blocks=(1,)),
                "budget": ps.Budget(6, 2),
            },
            "mend": lambda: {
                "name": "prune-comp", "model": self.model, "plan": self.plan,
                "texts": self.texts,
            },
            "noise_at_kl": lambda: {
                "model": self.model, "texts": self.texts, "like": 0.01, "most": 20,
                "tolerance": 0.9,
            },
            "Order": lambda: {"blocks": (0, 1, 1, 3)},
            "Repeat": lambda: {"block": 1},
            "program_model": lambda: {
                "model": self.model, "program": ps.interventions.Order((0, 2, 1, 3)),
            },
            "save_program": lambda: {
                "model": self.model, "program": ps.interventions.Repeat(1), "out_dir": self.fresh(),
            },
            "outcome": lambda: {
                "chains": self.chains, "labels": [i % 2 == 0 for i in range(len(self.chains))],
                "fraction": 0.5, "folds": 2,
            },
            "paired_difference": lambda: {
                "dense": np.array([[1.0], [0.0], [1.0]]),
                "variant": np.array([[0.0], [0.0], [1.0]]),
            },
            "pass_at_k": lambda: {"n": 5, "correct": 2, "k": 2},
            "probe": lambda: {
                "features": np.random.default_rng(0).normal(size=(40, 2, 3)),
                "labels": np.arange(40) % 2 == 0, "groups": np.arange(40) // 4,
                "permutations": 10, "draws": 100,
            },
            "probe_ahead": lambda: {
                "model": self.model, "chains": self.chains, "masks": self.some, "ahead": (1,),
                "folds": 2, "permutations": 10, "draws": 100,
            },
            "add_results": lambda: {"checkpoint": self.carded, "study": self.real_study},
            "prune_model": lambda: {"config": self.prune_config, "out": self.fresh()},
            "read_texts": lambda: {"file": self.text_file},
            "recover": lambda: {
                "model": self.saved, "config": self.recovery, "out": self.fresh(),
                "data": examples(8),
            },
            "reflection_benefit": lambda: {
                "model": self.model, "chains": list(self.chains)[:2], "verify": lambda chain: True,
                "answer": 2,
            },
            "replay": lambda: {"model": self.model, "sequences": [[5, 6, 7], [8, 9]]},
            "hub_texts": lambda: {"name": "none/such"},
            "push_to_hub": lambda: {"folder": self.folder, "name": "you/name"},  # no checkpoint
            "run_on_cluster": lambda: {"config": self.config(self.fresh()), "address": "auto"},
            "Recovered.read": lambda: {"folder": self.folder},
            "run_on_server": lambda: {"config": self.config(self.fresh()), "url": self.server.url},
            "save_repaired": lambda: {"repaired": self.repaired, "out_dir": self.fresh()},
            "scaling_fits": lambda: {"rows": self.frame, "draws": 100, "forms": ("logistic",)},
            "score": lambda: {"name": "shortgpt", "model": self.model, "texts": self.texts},
            "score_model": lambda: {"model": self.model, "method": "reverse-order"},
            "sign_flip": lambda: {"differences": numbers},
            "sparsify": lambda: {"model": self.model, "sparsity": 0.5, "texts": self.texts},
            "spearman_interval": lambda: {"x": numbers, "y": numbers[::-1].copy(), "draws": 20},
            "study_chains": lambda: {"folder": self.real_study, "model": self.loaded},
            "compare_studies": lambda: {"folders": [self.study, self.other_study]},
            "StudyComparison": lambda: self.fields(self.compared),
            "StudyComparison.decision": lambda: {"label": "other"},
            "StudyComparison.write_html": lambda: {"path": self.fresh() / "page.html"},
            "unpaired_difference": lambda: {"dense": numbers, "variant": numbers[:3]},
            "tie": lambda: {"effects": self.effects, "scores": numbers, "draws": 20,
                            "halvings": 2},
            "time_map": lambda: {
                "model": self.model, "chains": list(self.chains)[:2],
                "windows": {"early": ps.Window(0, 4)}, "judge": lambda chain: {"long": 1.0},
                "blocks": (1,),
            },
            "usual_windows": lambda: {"model": self.model, "thinking": 20},
            "Variant": lambda: {"name": "v"},
            "write_report": lambda: {"folder": self.study, "out": self.fresh()},
        }  # fmt: skip

    @cached_property
    def requests(self) -> Any:
        ids = tuple(self.model.prompt_ids("what is 2 + 3 ?"))
        return [ps.decoding.Request("p", ids, budgets=(ps.Budget(4, 2),))]

    @cached_property
    def ask(self) -> Any:
        from scaling.engines.dialects import Ask

        return Ask((5, 6), 2, (), 0, ps.Sampling())

    @cached_property
    def prune_config(self) -> Any:
        return ps.pruning.PruneConfig(str(self.saved), blocks=(1,))

    @cached_property
    def recovery(self) -> Any:
        return quick_recovery("full", steps=1, save_every=1)

    @cached_property
    def owners(self) -> Mapping[str, Callable[[], Any]]:
        """An instance of every class with methods."""
        return {
            "Benchmark": lambda: self.benchmark,
            "CalibrationSource": lambda: ps.pruning.CalibrationSource(benchmarks=("arithmetic",)),
            "Chains": lambda: self.chains,
            "Comparison": lambda: ps.pruning.compare([self.scores, self.scores]),
            "Contributions": lambda: self.contributions,
            "Delimiters": lambda: self.model.delimiters,
            "HeadLens": lambda: self.heads,
            "Horizons": lambda: self.horizons,
            "Judge": lambda: self.judge,
            "JudgedStudy": lambda: ps.judging.JudgedStudy(pd.DataFrame({"a": [1]}), {}),
            "LayerPlan": lambda: self.plan,
            "Lens": lambda: self.lens,
            "ModelCost": lambda: self.cost,
            "NamedCache": lambda: self.named_cache,
            "PatchingGrid": lambda: self.patching_grid,
            "Patterns": lambda: self.patterns,
            "Probes": lambda: self.probes,
            "RawStreams": lambda: self.raw,
            "ReasoningModel": lambda: self.model,
            "RecoveryConfig": lambda: self.recovery,
            "Scores": lambda: self.scores,
            "ServerEngine": lambda: self.engine,
            "Store": lambda: self.store,
            "StudyComparison": lambda: self.compared,
            "StudyConfig": lambda: self.config(self.folder),
            "StudyData": lambda: self.study_data,
            "SublayerPlan": lambda: ps.pruning.SublayerPlan.lowest(self.sublayer_scores, 1),
            "SublayerScores": lambda: self.sublayer_scores,
        }

    def arguments(self, api: Api) -> dict[str, Any]:
        """The arguments of a right call."""
        given = dict(self.calls[api.label]()) if api.label in self.calls else {}
        for name, parameter in api.parameters.items():
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if name in given or variable or parameter.default is not parameter.empty:
                continue
            if name not in self.by_name:
                raise LookupError(f"World.calls does not say how to call {api.label}({name}=...).")
            given[name] = self.by_name[name]()
        return given

    def call(self, api: Api, given: Mapping[str, Any]) -> Any:
        """Call it, and read what it yields."""
        if api.bound:
            assert api.owner is not None
            function = getattr(self.owners[api.owner.__name__](), api.label.rpartition(".")[2])
        else:
            function = api.function
        named, positional = dict(given), []
        for name, parameter in api.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL and name in named:
                # what stands before *blocks must be given by position
                front = [p.name for p in itertools.takewhile(
                    lambda p: p.kind is not p.VAR_POSITIONAL, api.parameters.values()
                )]  # fmt: skip
                positional = [named.pop(n) for n in front] + [named.pop(name)]
        for name, parameter in api.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD and name in named:
                named["unknown_option"] = named.pop(name)
        result = function(*positional, **named)
        return list(result) if isinstance(result, Iterator) else result

    def close(self) -> None:
        """Stops servers and closes stores."""
        self.stack.close()
