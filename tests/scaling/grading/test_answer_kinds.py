"""Kinds of answers that graders get wrong: each kind as right, wrong and missing answers."""

from __future__ import annotations

import pytest

from scaling.grading import grade_text
from scaling.grading._boxes import boxed_answer
from scaling.grading._compare import same_answer
from scaling.grading._reader import read, understood
from scaling.grading._tokens import NotUnderstoodError
from scaling.grading.numbers import read_number
from scaling.grading.voting import candidate, candidates_of
from scaling.problem import Benchmark, Problem

C, W, N = "correct", "wrong", "no answer"
LETTERS = ("A", "B", "C", "D")


def strict(grader: str, gold: str, text: str) -> str:
    choices = LETTERS if grader == "choice" else ()
    problem = Problem("p", "q", gold, choices)
    return grade_text(Benchmark("b", "1", (problem,), grader=grader), problem, text).strict_outcome


# ------------------------------------------------------------------ junk, boxes, announcements


@pytest.mark.parametrize("grader", ["numeric", "math", "integer"])
@pytest.mark.parametrize(
    "text",
    [
        "I cannot tell.",
        "Let me think, let me think, let me think",
        r"\boxed{}",
        r"\boxed{ }",
        r"\boxed{23",
        r"It is \boxed{23}. Hmm, once more: \boxed{",
        r"It is \boxed{23}, or rather \boxed{2",
        r"The answer is 23, in a box: \boxed{\frac{2",
        "The answer is unclear.",
        "The answer is not 23.",
        "If the answer is 23, then both sides agree",
        "So if there are 23 of them, the total is 46",
        "Therefore, perhaps the sum is 23.",
        "Answer: Tom has more than 23 coins.",
        "A common wrong answer is 23.",
        "The answer is 23? Let me see",
    ],
)
def test_junk_is_no_answer_and_a_cut_box_credits_no_earlier_one(grader: str, text: str) -> None:
    assert strict(grader, "23", text) == N


@pytest.mark.parametrize("grader", ["numeric", "math", "integer"])
@pytest.mark.parametrize(
    "text",
    [
        "**Final Answer**\n\n23",
        "### Answer\n23",
        "Final answer:\n\n\\[\n23\n\\]",
        "The answer is $$\n23\n$$",
        "Answer: $23$",
        "Answer: **23**",
        "**Answer:** 23",
        "<answer>23</answer>",
        "The answer is therefore 23.",
        "The answer must be 23.",
        "The answer is 23 because 20 + 3 = 23.",
        "The answer is 23, since 20 + 3 = 23.",
        "The answer is 23 (not 32).",
        "The answer is 23 coins.",
        "The answer is 23 coins per week.",
        "Then $20 + 3 = 23$. The final answer is \\(23\\).",
        "The answer is 20+3, which is 23.",
        r"\boxed{21}. No: \boxed{23}",
        "Thus $23$ is our answer.",
        "The answer is 23!",
        "The answer, then, is 23",
        "Ans: 23",
        'The answer is "23".',
        "The answer is about 23.",
        "The answer is x = 23, as shown.",
        "The answer is <b>23</b>",
        "23<|im_end|>",
        "Therefore, 23.",
        "**23** is the final answer.",
        "So the answer's 23",
        "The answer is 23 coins and that is all.",
        "The answer is 20 + 3 = 23 coins for the week.",
        r"\fbox{23}",
        "The result is 23.",
        "**Result:** 23",
        "It's 23.",
        "We add them up. Therefore, the number of coins is 23.",
        "Final Answer: The number of coins is 23. I hope it is correct.",
        "Final Answer: Tom has 23 coins. I hope it is correct.",
        "Answer: There are 23 ways.",
        "The answer to this problem is $23$.",
        "That gives an answer of 23.",
        "The answer comes to 23.",
        "Answer - 23",
        "<ANSWER>23</ANSWER>",
        "[ANSWER]23[/ANSWER]",
        '{"answer": "23"}',
        "答案是 $23$。",
        "The answer is 46 / 2 = <<46/2=23>>23.",
        "The answer is 23; the other root fails.",
        "<|begin_of_box|>23<|end_of_box|>",
        r"\boxed{\text{The answer is } 23}",
        r"\boxed{Answer: 23}",
        r"\boxed{\textbf{(C) }23}",
        r"\boxed{\text{about } 23}",
        r"\boxed{100m + n = 23}",
        r"\boxed{|S| = 23}",
        r"\boxed{\text{23 coins}}",
        r"\boxed{\text{Total: } 23}",
        r"\boxed{\text{Total: 23}}",
        r"\boxed{23 \text{ more coins}}",
        r"\boxed{\Large 23}",
        r"\boxed{\{23\}}",
        r"\boxed{N \equiv 23 \pmod{100}}",
        r"\boxed{2.3 x 10^1}",
        r"\boxed{23 \text{ or } 23.0}",
    ],
)
def test_ways_to_announce(grader: str, text: str) -> None:
    assert strict(grader, "23", text) == C
    assert strict(grader, "24", text) == W


@pytest.mark.parametrize("grader", ["numeric", "math"])
@pytest.mark.parametrize("begin", ["Answer: 23", "A: 23", "The answer is 23.", r"\boxed{23}"])
@pytest.mark.parametrize(
    "then",
    [
        "\n\nQuestion: What is 5 + 4?\nAnswer: 9",
        "\n\nQ: What is 5 + 4?\nA: 9",
        "\n\nProblem: What is 5 + 4?\nThe answer is 9.",
        "\n\n### Question 2: What is 5 + 4?\n\\boxed{9}",
        "<|im_end|>\n<|im_start|>user\nAnswer: 9",
    ],
)
def test_a_base_model_that_runs_on_is_judged_by_its_first_answer(
    grader: str, begin: str, then: str
) -> None:
    assert strict(grader, "23", begin + then) == C
    assert strict(grader, "9", begin + then) == W


def test_a_repeated_question_before_the_answer_is_no_run_on() -> None:
    assert strict("numeric", "9", "Question: What is 5 + 4?\nAnswer: 9") == C


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("4,-3", r"$\boxed{-3}$ and $\boxed{4}$", C),
        ("4,-3", r"$\boxed{-3} \quad \text{or} \quad \boxed{4}$", C),
        ("4,-3", r"\boxed{4}, \boxed{-3}", C),
        ("4", r"$\boxed{x=-3} \text{ or } \boxed{x=4}$", W),
        ("4", r"\boxed{4} and \boxed{4}", C),
        ("4", r"\boxed{3} and then \boxed{4}", C),
        ("4", "\\boxed{3}\n\n\\boxed{4}", C),
        ("4", r"\boxed{\boxed{4}}", C),
        ("5", r"$-\boxed{5}$", W),
        ("-5", r"so $x = -\boxed{5}$", C),
        ("-5", r"so we get -\boxed{5}", C),
        ("5", "\n- \\boxed{5}", C),
        ("10", r"$2 \cdot \boxed{5}$", C),
        ("5", r"$\boxed{5}\pi$", W),
        ("5", r"$\boxed{5}^2$", W),
        ("5", r"\boxed{5} million", W),
        ("5", r"$x \in \boxed{5}$", C),
        ("5", r"N \equiv \boxed{5} \pmod{9}", C),
        ("4,-3", r"$x=\boxed{4}$ or $x=\boxed{-3}$", C),
        ("(4,-3)", r"$x=\boxed{4}$ and $y=\boxed{-3}$", C),
        ("(4,-3)", "The answer is $x=4$ and $y=-3$.", C),
        ("4,-3", "The answers are $4$ and $-3$.", C),
        ("4,-3", "The possible values are 4 and -3.", C),
        ("4", "The answer is $x=4$ or $x=-3$.", W),
        (r"2\sqrt3", r"$2\boxed{\sqrt3}$", C),
        ("5", r"$\boxed{5}x$", W),
        ("5", r"$\boxed{5}/2$", W),
        ("5", r"$\boxed{5}+1$", W),
        ("5", r"$\boxed{5},000$", W),
        ("5", r"\boxed{5}, and we are done", C),
    ],
)
def test_several_boxes_and_what_stands_beside_them(gold: str, text: str, expected: str) -> None:
    assert strict("math", gold, text) == expected


# ------------------------------------------------------------------ choice


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A. iron\nB. gold\nC. lead\nD. zinc", N),
        ("A. iron\nB. gold\nC. lead\n" * 30, N),
        ("A) iron\nB) gold\nC) lead\nHence it must be (C).", C),
        ("A) is wrong because iron rusts. So it must be (C).", C),
        ("A is incorrect.", N),
        ("Not C.", N),
        ("The answer is not C.", N),
        ("The answer is a little unclear.", N),
        ("The answer is B or C.", N),
        ("The answer is B, C", N),
        ("C\nD\nA", N),
        ("C C C C", N),
        ("The answer is C, not A.", C),
        ("The answer is lead (C).", C),
        ("answer=C", C),
        (r"\boxed{\text{Option C}}", C),
        (r"\boxed{\text{The answer is C}}", C),
        ("A and B are wrong, so C", C),
        ("It's C.", C),
        ("A. iron B. gold C. lead D. zinc", N),
        ("I would say this is hard.", N),
        (r"\boxed{CD}", N),
        (r"\boxed{C", N),
        (r"\boxed{C} or rather \boxed{", N),
        (r"\boxed{c}", C),
        (r"\boxed{C) lead}", C),
        (r"\boxed{\text{C) } 4.1 \text{ g}}", C),
        (r"\boxed{\mathrm{(C)}\ 9}", C),
        ("C lead", C),
        ("Option C because A rusts.", C),
        ("C is the right choice.", C),
        ("It is either B or C; I choose C.", C),
        ("The answer is C and not A.", C),
        ("The answer must be option C.", C),
        ("The correct answer is **C. lead**", C),
        ("Answer: C\nA: iron is too light", C),
        ("Answer: C\n\nQuestion: And now?\nAnswer: D", C),
        ("Therefore, C.", C),
        ("* C", C),
        (r"\boxed{\textsf{C}}", C),
        ("\\boxed{C}\n\nA: too light", C),
        ("The correct statement is C.", C),
        ("The answer is B.", W),
    ],
)
def test_a_letter_is_chosen_and_not_only_written(text: str, expected: str) -> None:
    assert strict("choice", "C", text) == expected


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("24", r"\boxed{24\ \text{euros}}", C),
        ("24", r"\boxed{24^\circ}", C),
        ("24", r"\boxed{p + q = 24}", C),
        ("24", r"\boxed{6 \times 4 = 24}", C),
        ("24", r"\boxed{5 \times 4 = 24}", W),
        ("24", r"\boxed{\text{USD } 24}", C),
        ("24", r"\boxed{24\text{ cm}^{2}}", C),
        ("24", r"\boxed{24 \text{ bags/day}}", C),
        ("24", r"\boxed{4!}", C),
        ("4.5", r"\boxed{4\frac12}", C),
        ("4.5", r"\boxed{4 \tfrac{1}{2}}", C),
        ("4.5", "The answer is 4 1/2.", C),
        ("3200", r"\boxed{3.2 \times 10^3}", C),
        ("3200", r"\boxed{3.2 \cdot 10^{3}}", C),
        ("3200", r"\boxed{3\,200}", C),
        ("3200", "The answer is 3\u2009200.", C),
        ("3200", "The answer is 3\u202f200.", C),
        ("3200", r"\boxed{3{,}200}", C),
        ("-6", r"\boxed{\text{-}6}", C),
        ("-6", r"\boxed{(-6)}", C),
        ("24", r"\boxed{24x}", W),
        ("24", r"\boxed{24\pi}", W),
        ("24", r"\boxed{24 \text{ million}}", W),
        ("24000000", r"\boxed{24 \text{ million}}", C),
        ("24", "The answer is 24 thousand.", W),
        ("24", r"\boxed{x > 24}", W),
        ("24", r"\boxed{24_7}", W),
        ("24", r"\boxed{24, 25}", W),
        ("24", r"\boxed{20 \text{ pens and } 4 \text{ cups}}", W),
        ("24", r"First 24. But \boxed{24y}", W),
        ("24", r"If the answer is 20, fine. But the sum is \boxed{24^\circ}", C),
        ("60", r"\boxed{0.6}", W),
        ("145", r"\boxed{1:45}", W),
    ],
)
def test_numbers(gold: str, text: str, expected: str) -> None:
    assert strict("numeric", gold, text) == expected
    if "." not in gold:
        assert strict("integer", gold, text) == expected


def test_what_is_no_single_number() -> None:
    for text in ("2k", "y = -2x", "x^2 = 9", r"\ge 9", "9 and 3", "3:2", "9%9", "x2", "1,23,4", ""):
        assert read_number(text) is None, text


# ------------------------------------------------------------------ mathematics


RIGHT = [
    # equivalent roots, powers and fractions
    (r"\frac{3}{\sqrt{m}}", r"3\sqrt{1/m}"),
    (r"\frac{\sqrt{6}}{2}", r"\sqrt{\frac32}"),
    (r"\sqrt[3]{9}", r"9^{1/3}"),
    ("-3", r"\sqrt[3]{-27}"),
    ("9", r"\{9\}"),
    (r"7\sqrt3", r"\sqrt{147}"),
    (r"\frac{t+2}{t-2}", r"1 + \frac{4}{t-2}"),
    (r"2 \sin u \cos u", r"\sin 2u"),
    (r"\frac{k(k-1)}{2}", r"\binom{k}{2}"),
    (r"|w|", r"\sqrt{w^2}"),
    (r"\log_3 81", "4"),
    (r"e^{i\pi/4}", r"\frac{\sqrt2}{2} + \frac{\sqrt2}{2}i"),
    # the text of algebra systems
    (r"5\cos(\frac{\pi}{3}t)-2", "5*cos(pi*t/3)-2"),
    (r"\frac{\sqrt{7}}{3}", "sqrt(7)/3"),
    (r"e^{3}", "exp(3)"),
    (r"t^4", "t**4"),
    # notation
    (r"\frac{3}{\pi}", r"\frac3\pi"),
    (r"6\pi", "6π"),
    (r"\frac34", "¾"),
    (r"\frac{4}{9}", r"0.\overline{4}"),
    (r"\frac{7}{30}", r"0.2\overline{3}"),
    ("96400", r"96\,400"),
    ("96400", r"96{,}400"),
    ("9", r"\color{red}{9}"),
    ("9", r"\textcolor{blue}{9}"),
    ("9", r"\mathbf{9}"),
    (r"\frac29", r"{2 \over 9}"),
    (r"\tan x", r"\tanx"),
    (r"2\frac{3}{4}", "11/4"),
    (r"0.000031", r"3.1 \times 10^{-5}"),
    (r"\frac{1}{6}", "0.166666666666667"),
    ("9", r"9\text{ square inches}"),
    (r"9\text{ cm}", "9"),
    ("9.8", r"9.8\ \mathrm{m/s^2}"),
    (r"70^\circ", r"70\text{ degrees}"),
    (r"70^\circ", r"\angle PQR = 70^\circ"),
    (r"45\%", "45.0\\%"),
    ("45", r"45\%"),
    (r"45\%", "0.45"),
    (r"45\%", "45 pct"),
    # lists, tuples and sets
    ("1,7", r"4 \pm 3"),
    (r"\{2, 5\}", "5, 2"),
    ("6,-2", r"x=-2 \text{ or } x=6"),
    (r"p=4,q=9", "(4,9)"),
    (r"a=3,\ b=\frac12", r"3, \frac{1}{2}"),
    ("(2,3),(4,1)", r"(4,1) \text{ and } (2,3)"),
    ("(u,v)=(2,3)", "(2,3)"),
    ("8:12", "2:3"),
    (r"R_1:R_2=2:3", "2:3"),
    (r"\frac14", r"\frac14 \text{ or } 0.25"),
    # intervals and inequalities
    (r"(3,\infty)", "x>3"),
    ("[-2,5)", r"-2 \le y < 5"),
    (r"(-\infty,1)\cup(4,\infty)", r"x < 1 \text{ or } x > 4"),
    (r"(-\infty,-2]\cup[2,\infty)", r"|x| \ge 2"),
    ("(-1,3)", "|x-1|<2"),
    ("(0,6)", r"\{x : 0 < x < 6\}"),
    (r"x \le 4", r"4 \geq x"),
    (r"x \ne 2", r"(-\infty,2)\cup(2,\infty)"),
    (r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"(0,2)\cup(2,5)", r"(0,5)\setminus\{2\}"),
    (r"t \in [1,8]", "[1,8]"),
    # equations
    ("x=9", "9"),
    ("9", "9 = x"),
    ("9", "g(2) = 9"),
    ("9", r"\text{Area} = 9"),
    ("9", r"\frac{u}{v} = 9"),
    ("y=3x-1", "y = -1 + 3x"),
    (r"\frac15", r"P(X > 2) = \frac15"),
    (r"\frac15", r"\mathbb{E}[X] = \frac15"),
    (r"\frac15", r"\lim_{n \to \infty} a_n = 0.2"),
    (r"\frac15", r"\sum_{k=1}^{\infty} a_k = \frac15"),
    (r"\frac15", r"\int_0^1 x^4\,dx = \frac15"),
    (r"\frac15", r"\text{Area of } PQR = \frac15"),
    ("5", "|z| = 5"),
    ("3x", "f'(x) = 3x"),
    ("3x", r"\frac{dy}{dx} = 3x"),
    (r"f^{-1}(x) = x - 4", "x - 4"),
    ("1,7", r"x \in \{1, 7\}"),
    (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R} - \{2\}"),
    (r"(-\infty,2)\cup(2,\infty)", r"(-\infty,2) U (2,\infty)"),
    (r"\max(a,b)", r"\max\{a,b\}"),
    ("15", "15^o"),
    ("y=3x-1", "3x - 1"),
    ("2x-4y+6=0", "x - 2y + 3 = 0"),
    ("2x-4y+6=0", "x = 2y - 3"),
    # other
    (r"36_7", "36_{7}"),
    (r"\text{Monday}", r"\text{monday.}"),
    (r"\text{(D)}", "D"),
    (r"\text{(D)}", r"\text{(D) } 12"),
    (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{bmatrix} \frac12 \\ 3 \end{bmatrix}"),
    ("12,144", "12, 144"),
    # units, money, percent, degrees
    ("8", "8 m/s"),
    ("8", r"8 \frac{\text{km}}{\text{h}}"),
    ("8", r"8\text{ kg}\cdot\text{m}"),
    ("8", "8°C"),
    ("8", r"8^\circ\text{F}"),
    ("8", "8 kWh"),
    ("8k", "8k"),
    ("8m", "8 m"),
    ("0.3", "0.30000000000000004"),
    ("8", r"8 \pmod{11}"),
    ("8", r"8\text{ (mod 11)}"),
    ("8", r"\frac35 \implies 3 + 5 = 8"),
    ("8", "8_{10}"),
    ("-8", r"\text{negative } 8"),
    ("8", r"\$8/\text{hour}"),
    ("8", r"8\,\text{kg}\,\text{m}^{-3}"),
    ("2 < x < 6", "x > 2, x < 6"),
    ("8", "8 times"),
    ("8", "US$8"),
    ("8", r"\textdollar 8"),
    (r"8\text{ cents}", "8¢"),
    (r"37\frac12\%", r"37.5\%"),
    (r"37.5\%", r"\frac{75}{2}\%"),
    (r"\frac38", "37.5%"),
    (r"20^\circ", "20{}^\\circ"),
    (r"20^\circ", r"20^{\text{o}}"),
    (r"\frac{\sqrt2}{2}", r"\sin 45^\circ"),
    (r"\frac{\sqrt2}{2}", r"\cos(45°)"),
    (r"\text{cis } 50^\circ", r"e^{5\pi i/18}"),
    # separators, fractions, decimals
    ("2345678", "2'345'678"),
    ("2345678", "2.345.678"),
    ("2345678", "2{,}345,678"),
    ("2345678", "2_345_678"),
    ("2345.5", "2.345,50"),
    ("2.75", "2{,}75"),
    ("2.4", "2⅖"),
    (r"\frac{4}{11}", r".\overline{36}"),
    (r"\frac{4}{11}", r"0.\dot{3}\dot{6}"),
    (r"\frac{4}{11}", "0.(36)"),
    (r"\frac{4}{11}", r"\frac{4}{11} \approx 0.364"),
    (r"\sqrt7", r"x = \sqrt{7} \approx 2.65"),
    (r"7.1\times10^{9}", "7.1X10^9"),
    (r"7.1\times10^{9}", r"7.1 \text{ x } 10^{9}"),
    ("９", "9"),
    # signs around an answer
    ("9", r"\Rightarrow 9"),
    ("9", r"\therefore x = 9"),
    ("9", r"9 \blacksquare"),
    ("9", r"9\\\\"),
    ("9", r"\colorbox{yellow}{9}"),
    ("9", r"x \equiv 9 \pmod 11"),
    ("9", r"x \equiv 9 \bmod 11"),
    ("9", r"\deg p = 9"),
    ("9", r"\min_{x} p(x) = 9"),
    ("9", r"\frac{1}{u}+\frac{1}{v} = 9"),
    # lists, sets, vectors, matrices
    ("2,5,8", "[2, 5, 8]"),
    ("2,5,8", r"\text{2, 5, and 8}"),
    (r"\text{B, D}", r"\text{B and D}"),
    (r"\text{B, D}", "D, B"),
    ("(4,-1)", r"\{(4,-1)\}"),
    ("(4,-1)", "Q(4,-1)"),
    ("(4,-1)", r"\begin{cases} x=4 \\ y=-1 \end{cases}"),
    (r"\begin{pmatrix}4\\-1\end{pmatrix}", "(4,-1)"),
    (r"\begin{pmatrix}4\\-1\end{pmatrix}", r"\begin{pmatrix}4\cr-1\end{pmatrix}"),
    (r"\begin{pmatrix}4&6\\8&2\end{pmatrix}", r"2\begin{pmatrix}2&3\\4&1\end{pmatrix}"),
    (r"\begin{pmatrix}4&6\\8&2\end{pmatrix}", "[[4,6],[8,2]]"),
    (r"4\mathbf{i}-\mathbf{j}", r"4\hat{i}-\hat{\jmath}"),
    # intervals
    (r"[5,\infty)", r"\text{all } x \ge 5"),
    (r"(-\infty,1)\cup(4,\infty)", r"(-\infty,1) \text{ U } (4,\infty)"),
    (r"(-\infty,1)\cup(4,\infty)", r"(-\infty,1) \text{ and } (4,\infty)"),
    (r"t \ne 6", r"t \in \mathbb{R}, t \ne 6"),
    (r"t \ne 6", r"t \not= 6"),
    (r"\emptyset", r"\text{the empty set}"),
    # functions, counting
    ("y=5x^2-1", "f(x) = 5x^2 - 1"),
    (r"e^{3k}", r"\exp\{3k\}"),
    (r"\tan u", r"\tg u"),
    (r"\sqrt[3]{5}", "∛5"),
    ("56", "C(8,3)"),
    ("56", "P(8,2)"),
    ("56", r"\frac{8!}{5!3!}"),
    # bases
    ("210_3", r"210 \text{ base } 3"),
    ("210_3", "210 (base 3)"),
    ("210_3", "(210)_{3}"),
    ("210_3", "{210}_3"),
    ("3B9_{12}", r"\text{3B9}_{12}"),
    # times and words
    (r"4\!:\!15\text{ p.m.}", "4:15 PM"),
    (r"4\!:\!15\text{ p.m.}", "4:15"),
    (r"3\text{ hours }10\text{ minutes}", r"3 \text{ hours } 10 \text{ min}"),
    (r"\text{June 9}", "June 9"),
    (r"\text{Friday}", r"\text{on Friday}"),
    (r"\text{Yes}", "YES"),
    (r"\text{does not exist}", "DNE"),
    (r"\text{no real solutions}", r"\text{No real solution.}"),
    (r"\text{(D)}", r"\text{Option D}"),
    (r"\text{(D)}", "D) 12"),
    ("D", r"\textbf{(D) }12"),
    (r"\text{(D)}", r"(\text{D})"),
]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right_answers_are_accepted(gold: str, answer: str) -> None:
    assert strict("math", gold, rf"So \boxed{{{answer}}}.") == C


WRONG = [
    # a number fished out of an expression that says more
    ("9", r"\ge 9"),
    ("9", "x^2 = 9"),
    ("9", "1/x = 9"),
    ("9", r"9 \text{ million}"),
    ("9", "9 + C"),
    ("9", "9!"),
    ("9", "a_9"),
    ("9", r"9 \bmod 4"),
    ("9", r"9 \text{ to } 12"),
    ("9", r"9 \text{ if } n \text{ is odd}"),
    ("9", r"9\ 8"),
    ("9", r"9\cdots"),
    ("9", "(9, 8)"),
    ("9", r"9\text{ and }8"),
    ("9", r"9\sqrt(3)"),
    ("9", "1, 9"),
    ("9", "-[0,9)"),
    ("19", "1,9"),
    (r"\frac15", r"P(X > 2) > \frac15"),
    (r"\frac15", r"\sum_{k=1}^{\infty} a_k = \frac15 + C"),
    (r"\sum_{k=1}^{n} k = 9", r"\sum_{k=1}^{m} k = 9"),
    ("19", r"1\ 9"),
    ("204", r"20\,4"),
    ("2,2,3", "2,3"),
    ("a=3, b=8", "8, 3"),
    (r"\frac12", r"\sin x = \frac12"),
    (r"90^\circ", r"90\%"),
    ("12345", "12,34,5"),
    (r"\frac{1}{900!}", r"\frac{1}{902!}"),
    (r"2, 4, \ldots, 2n", r"1, 3, \ldots, 2n-1"),
    ("g(x) = 5", r"\forall x>0, g(x) = 5"),
    ("b + 4c = 0", "0"),
    # tolerance
    ("10^{-9}", "0"),
    ("10^{-9}", r"2 \cdot 10^{-9}"),
    (r"1 - \frac{1}{3^{90}}", "1"),
    (r"e^{-200}", "0"),
    (r"\pi", "3.1416"),
    (r"\frac23", "0.667"),
    ("0.00012", "0.0001"),
    (r"1 + \frac{2}{\mathrm{e}}", r"1 - \frac{2}{\mathrm{e}}"),
    ("(x+1)^{12}(x+2)^{12}(x+9)^{12}", "(x+1)^{12}(x+2)^{12}(x+9)^{12}+1"),
    ("e^x", r"e^x + 10^{-40}"),
    # case and names of variables
    ("5k^2", "5K^2"),
    ("n", "N"),
    ("y=-3x", "x=-3y"),
    (r"\tan x", r"\tan y"),
    (r"|w|", "w"),
    # bases
    ("36_7", "36"),
    ("36_7", "36_8"),
    ("36", "36_7"),
    # collections
    ("4,-3", "4"),
    ("4,-3", "4,-3,1"),
    (r"\pm 5", "5"),
    (r"2 \pm \sqrt3", r"2 + \sqrt3"),
    ("(2,3)", "(3,2)"),
    ("(2,3)", "[2,3]"),
    ("(2,3,4)", "2,3"),
    # intervals
    ("(1,5]", r"1 \le x \le 5"),
    (r"x \in [1,5]", "1 < x < 5"),
    (r"(-\infty,1)\cup(4,\infty)", "(1,4)"),
    (r"(-\infty,1)\cup(4,\infty)", r"(-\infty,1)\cap(4,\infty)"),
    ("x < 2", "y < 2"),
    # other
    (r"9\text{ cm}", r"9\text{ km}"),
    (r"\text{odd}", r"\text{even}"),
    (r"\emptyset", "0"),
    ("6:30", "6:03"),
    ("x^2+y^2=9", "x^2+y^2=3"),
    (r"9\text{ cm}^2", r"9\text{ m}^2"),
    (r"9\text{ cm}^2", r"9\text{ square meters}"),
    (r"9\text{ miles per hour}", r"9\text{ km/h}"),
    (r"\$9.50", r"9.50\%"),
    (r"9\text{ squared}", "9"),
    (r"\sin 45^\circ", r"\sin 45"),
    ("4:15 p.m.", "4:15 a.m."),
    (r"3\text{ hours }10\text{ minutes}", r"3\text{ hours }20\text{ minutes}"),
    (r"3\text{ hours }10\text{ minutes}", "13"),
    (r"\emptyset", r"(1,2)\text{ and }(3,4)"),
    ("210_3", r"210 \text{ base } 4"),
    ("3B9_{12}", "3B9_{16}"),
    (r"\begin{pmatrix}4\\-1\end{pmatrix}", "(-1,4)"),
    (r"\begin{pmatrix}4&6\\8&2\end{pmatrix}", "[[4,8],[6,2]]"),
    ("56", "C(8,2)"),
    (r"\frac{4}{11}", "0.36"),
    (r"\frac{4}{11}", r"\frac{4}{12} \approx 0.364"),
    ("y=5x^2-1", "f(x) = 5x^2 + 1"),
    (r"\text{(D)}", r"\text{(D) and (E)}"),
    (r"\text{B, D}", r"\text{B and C}"),
    ("D", "12"),
    (r"\text{Yes}", "NO"),
    ("8", "8m + 1"),
    ("1", "0.999999999999"),
    ("9", r"9\text{ tenths}"),
    ("9", r"9\text{ degrees below zero}"),
    (r"9 \pmod{11}", r"9 \pmod{12}"),
    ("2 < x < 6", "x > 2"),
    (r"\frac{4}{11}", "x = 4, y = 11"),
]


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong_answers_are_refused(gold: str, answer: str) -> None:
    assert strict("math", gold, rf"So \boxed{{{answer}}}.") == W


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_equality_does_not_depend_on_the_box(gold: str, answer: str) -> None:
    problem = Problem("p", "q", gold)
    from scaling.grading import get_grader

    assert get_grader("math").equal(answer, problem)
    assert get_grader("math").equal(gold, problem)


@pytest.mark.parametrize(
    "text",
    [
        r"9 \bmod 4", r"1, 2, \ldots, n", r"\forall x, x", r"\sum_{k=1}^n k", r"\frac{1}{", "9 8",
        "x2", "(1", "1)", "[1,(2,3]", "|x", "2 +", "^2", "a__b", r"\begin{cases} 1 \end{cases}", "",
        "(" * 60 + "1" + ")" * 60, "1" * 2001,
    ],
)  # fmt: skip
def test_what_is_not_understood_as_a_whole_gives_no_verdict(text: str) -> None:
    with pytest.raises(NotUnderstoodError):
        read(text)
    assert understood(text) is None
    assert same_answer(text, text) is None
    assert same_answer("9", text) is None


def test_text_that_is_not_understood_still_equals_itself() -> None:
    assert strict("math", r"1, 2, \ldots, n", r"\boxed{1,2,\ldots,n}") == C


# ------------------------------------------------------------------ votes


def test_equal_answers_vote_together() -> None:
    assert candidate("2k") != candidate("2")
    assert candidate(r"90^\circ") == candidate("90") == candidate(r"\$90")
    assert candidate(r"\frac43") == candidate(r"\frac{4}{3}") == candidate("4/3")
    assert candidate(r"\text{(C)}") == candidate("C")
    assert candidate("y=-2x") != candidate("x=-2y")
    answers = ["(x+1)^2", "x^2+2x+1", "x^2+1", r"\sqrt{12}", r"2\sqrt3", "7", "7.0", r"\bad{7"]
    found = candidates_of(answers)
    assert [found.index(one) for one in found] == [0, 0, 2, 3, 3, 5, 5, 7]
    assert candidates_of([]) == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\frac{\boxed{5}}{2}$", None),
        (r"so $\frac{1}{\boxed{4}}$", None),
        (r"so $\sqrt{\boxed{9}}$", None),
        (r"so $\sqrt[3]{2 + \boxed{6}}$", None),
        (r"so $2^{\boxed{3}}$", None),
        (r"so ${\boxed{5}}$", "5"),
        (r"so $\color{red}{\boxed{5}}$", "5"),
        (r"so $\boxed{\frac{5}{2}}$", r"\frac{5}{2}"),
        (r"$\frac{\boxed{1}}{2}$, at last $\boxed{7}$", "7"),
    ],
)
def test_a_box_that_is_part_of_an_expression_is_no_answer(text: str, answer: str | None) -> None:
    assert boxed_answer(text) == (True, answer)
