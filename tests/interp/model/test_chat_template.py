"""A stranger's chat template renders as transformers renders it, or ends soon with a reason."""

from __future__ import annotations

import copy
import sys
import time
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from interp.errors import UserError
from interp.model import chat_template
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny

TURNS = [
    {"role": "system", "content": "Be brief. {%"},
    {"role": "user", "content": "what is 3 + 4 ?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n7", "tool_calls": None},
    {"role": "user", "content": "and 5 * 6 ?\n" * 2000},
]
LOOP = "{% for i in range(99999) %}"
DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = ns.x OP ns.x %}"
ORDINARY = """\
{%- macro said(text) %}{{ text | trim | replace('\\n\\n', '\\n') }}{% endmacro -%}
{%- set ns = namespace(last=-1, all='') -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' %}{% generation %}
{{- m.content.split('</think>')[-1].lstrip('\\n') }}{% endgeneration %}
{%- elif '{%' in m.content %}{{ '-' * 20 ~ '%5d' % loop.index ~ '{:>8}'.format(loop.index0 * 2) }}
{%- else %}{{ said(m.content) + '<|end|>' + bos }}{% set ns.last = loop.index0 + 2 ** 3 %}
{%- endif %}{% if loop.last %}{% continue %}{% endif %}{% set ns.all = ns.all ~ m.role %}
{%- endfor %}{{ ns.last }}{{ ns.all | center(40) }}{{ range(5) | list | tojson(indent=2) }}
{{- messages[:1] | map(attribute='role') | join(', ') }}
{%- if add_generation_prompt %}<|a|>{% endif %}"""

LONG = {
    "loops": f"{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}",
    "loops that write": f"{LOOP}{LOOP}abcd{{% endfor %}}{{% endfor %}}",
    "loops over text": "{% for a in 'x' * 9999 %}{% for b in 'x' * 9999 %}{% endfor %}{% endfor %}",
    "words": "{{ lipsum(n=900000) }}",
    "recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
}
HUGE = {
    "product": "{{ 'a' * 10**10 }}",
    "product of a name": "{% set n = 99999 %}{{ 'a' * (n * n) }}",
    "product from the left": "{{ 10000000000 * 'a' }}",
    "list": "{{ ([0] * 10**10) | length }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "number by products": DOUBLING.replace("START", "2").replace("OP", "*") + "{% endfor %}",
    "text joined": DOUBLING.replace("START", "'ab'").replace("OP", "~") + "{% endfor %}",
    "text added": DOUBLING.replace("START", "'ab'").replace("OP", "+") + "{% endfor %}",
    "list added": DOUBLING.replace("START", "[1]").replace("OP", "+") + "{% endfor %}",
    "width by percent": "{{ '%09999999999d' % 1 }}",
    "width of an argument": "{{ '%*d' % (9999999999, 1) }}",
    "width by format": "{{ '{:>9999999999}'.format(1) }}",
    "width by an argument of a format": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "center, a filter": "{{ 'a' | center(9999999999) }}",
    "center, a method": "{{ 'a'.center(9999999999) }}",
    "left side": "{{ 'a'.ljust(9999999999) }}",
    "zeros": "{{ 'a'.zfill(9999999999) }}",
    "tabs": "{{ 'a'.expandtabs(9999999999) }}",
    "indent": "{{ messages | tojson(indent=9999999999) }}",
    "replaced": "{% set t = 'a' * 9999999 %}{{ t.replace('a', t) | length }}",
    "replaced, a filter": "{% set t = 'a' * 9999999 %}{{ t | replace('a', t) | length }}",
    "joined": "{% set t = 'a' * 9999999 %}{{ t.join('b' * 9999) | length }}",
    "written": "{% set t = 'a' * 999999 %}" + LOOP + "{{ t }}{% endfor %}",
    "written by a macro": "{% set t = 'a' * 999999 %}{% macro f() %}"
    "{% for i in range(99) %}{{ t }}{% endfor %}{% endmacro %}{{ f() }}",
}


def with_template(template: str) -> ReasoningModel:
    model = copy.copy(tiny(n_blocks=1))
    model.tokenizer = copy.deepcopy(model.tokenizer)  # the tests share one
    model.tokenizer.chat_template = template
    return model


@pytest.mark.parametrize("prompt", [True, False])
def test_an_ordinary_template_renders_as_in_transformers(prompt: bool) -> None:
    tokenizer: Any = with_template(ORDINARY).tokenizer
    options: dict[str, Any] = {"add_generation_prompt": prompt, "bos": "<s>"}
    before = chat_template_utils._compile_jinja_template, sys.gettrace()
    text = chat_template.render(tokenizer, TURNS, **options)
    assert (chat_template_utils._compile_jinja_template, sys.gettrace()) == before
    assert text == tokenizer.apply_chat_template(TURNS, tokenize=False, **options)
    assert "assistant" in text and "-" * 20 + "    1" in text


@pytest.mark.parametrize("kind", LONG)
def test_a_template_without_end_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_template(LONG[kind])
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    before, began = sys.gettrace(), time.monotonic()
    with pytest.raises(UserError, match="hat template"):
        model.prompt_ids("what ?")
    assert time.monotonic() - began < 3
    assert sys.gettrace() is before
    model.tokenizer.chat_template = "{{ messages[0].content }}"  # the next one has its own time
    assert model.prompt_ids("what ?")


@pytest.mark.parametrize("kind", HUGE)
def test_a_template_that_makes_something_huge_is_refused(kind: str) -> None:
    model = with_template(HUGE[kind])
    began = time.monotonic()
    with pytest.raises(UserError, match=r"chat template makes.*Repair chat_template"):
        model.prompt_ids("what ?")
    assert time.monotonic() - began < 3


def test_a_broken_template_says_why() -> None:
    for template in ("{{ messages[0].nothing.more }}", "{% if %}", "{{ raise_exception('no') }}"):
        with pytest.raises(UserError, match="cannot render the question"):
            with_template(template).prompt_ids("what ?")
