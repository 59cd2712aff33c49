"""Decide whether a response is correct: one rule for training's accuracy and for evaluation.

`is_correct` judges a response to a `Question`. Benchmarks that publish no rule of their own use
`match_option` and `same_words` through `lit_hour.evaluation.scoring`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from string import ascii_uppercase

from lit_hour.text.time_intervals import MIN_IOU, best_iou, parse_intervals, true_intervals
from lit_hour.types import Question

# Latin letters and digits continue a word; "答案是B" has a letter of its own after Chinese text.
_IN_WORD = r"A-Za-z0-9À-ɏ_'’"
_LETTER = rf"(?<![{_IN_WORD}])([A-Z])(?![{_IN_WORD}])"
_ANSWER = (  # "the answer" in the languages of common models
    r"answer|(?:correct|best|right|my) (?:option|choice)|respuesta|opción correcta|réponse|antwort"
    r"|risposta|resposta|antwoord|svaret?|odpowiedź|cevap|jawaban(?:nya)?|đáp án|ответ|答案|答え"
    r"|正解|정답|답|الإجابة|उत्तर"
)
_LINK = (  # between "answer" and the letter
    r"is|would be|should be|must be|to the question|option|choice|letter|es|est|ist|lautet|è|é|är"
    r"|er|to|adalah|là|la|die|das|correcta?|correcte|corrett[ao]|corret[ao]|opción|opção|opzione"
    r"|это|вариант"
)
_LINK_WITHOUT_SPACES = r"은|는|선택지|应该是|是|为|為|選項|选项|选择|选|は|هي|है"
_BETWEEN = rf"[\s:=>→\-–—\"“”«»(\[]|{_LINK_WITHOUT_SPACES}|(?i:{_LINK})(?![{_IN_WORD}])"
_STATEMENT = re.compile(rf"(?i:{_ANSWER})(?:{_BETWEEN}){{0,12}}{_LETTER}")
_LEAD_IN = re.compile(
    rf"\A(?:so,? |therefore,? )?(?:the |my )?(?:best |correct |right )?"
    rf"(?:{_ANSWER}|option)(?: is|\b)?[:\s]\s*",
    re.IGNORECASE,
)
_LINE = re.compile(rf"[(\[]?{_LETTER}[.):\],\s-]*(.*)")
_MENTION = re.compile(_LETTER)
# An "A" before another word of its line is an article, in "A blue car" and "A resposta".
_ARTICLE = re.compile(r"\A[^\S\n]+(?!(?:or|and|nor|is|was|because|since|as|but|also)\b)[^\W\d]")
_CUE_BEFORE = re.compile(
    r"(?:\A|[(\[\"“]|[,:]\s*|(?i:\b(?:option|choice|letter|choose|chose|pick|select|is|it's|be"
    r"|with|opción|option|opção|opzione|вариант))\s+|选|选项|選項)[(\[\"“*]*\Z"
)
_CUE_AFTER = re.compile(
    r"\A\W*(?i:is|seems|looks) (?i:the |most )?(?i:correct|right|best|likely)\b"
)
_NEGATION = re.compile(
    r"\A\W*(?i:is|was|are|can|could|would|does)?\s?(?i:n't|not|never|wrong|false|incorrect)\b"
)
_NEGATION_BEFORE = re.compile(r"(?i:n't|\bnot|\bnever|\bneither)(?:\s+\w+){0,2}\W*\Z")
_SENTENCE_END = re.compile(r"[.!?;。！？；\n]")
_WINDOW = 80  # characters before and behind a letter that are read
_THINKING = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)
_FORMATTING = (
    (re.compile(r"<answer>|\\boxed\s*\{|\\boxed"), "\nAnswer: "),
    (re.compile(r"</?answer>|\\text(?:bf)?|\*+|__|[`#{}$]|</?[bi]>|<\|\w+\|>|</s>"), " "),
)


def is_correct(question: Question, response: str) -> bool:
    """Return whether a response gives the true answer.

    A response to a multiple-choice question is correct if `match_option` finds the true option in
    it. If the true answer is a list of time intervals, the first interval of the response must have
    an IoU of at least `MIN_IOU` with one of them. Any other response is correct if it has the words
    of the true answer, in order.
    """
    if intervals := true_intervals("" if question.options else question.answer):
        return best_iou(parse_intervals(response), intervals) >= MIN_IOU
    if not question.options:
        return same_words(question.answer, response)
    answer = question.answer_letter
    return match_option(response, label_options(question.options), answer) == answer


def label_options(options: tuple[str, ...]) -> dict[str, str]:
    """Return the options under their letters: "A" for the first."""
    return dict(zip(ascii_uppercase, options, strict=False))


def match_option(response: str, options: Mapping[str, str], answer: str) -> str | None:
    """Return the label of the option that a response chooses.

    The first of these that the response contains decides; it decides nothing if it names two
    options:

    1. The text of an option alone, with or without a lead-in: "red", "The answer is red".
    2. "The answer is B", in many languages; a reason may stand before or below.
    3. A line with a letter alone, or with a letter and the text of its option: "**B**", "B. red".
    4. A letter inside a sentence, where no other option is named: "I would choose (B)",
       "B, because it is red".

    "A red car" is not the letter A, and "B. red" chooses nothing where "red" is the text of another
    option. Case, punctuation and spaces do not count in texts. Markdown, LaTeX and the thoughts
    before `</think>` are left out.

    Args:
        response: text that the model generated.
        options: label -> text.
        answer: label of the true option, which is returned where options of equal text match.

    Returns:
        A label, or None if the response chooses no option.
    """
    stripped = response.strip()
    text = _plain_text(response)
    for candidate in (stripped, _LEAD_IN.sub("", stripped, count=1), text):
        if labels := _labels_with_text(candidate, options):
            return answer if answer in labels else labels[0]
    for find in (_stated_labels, _line_labels, _mentioned_labels):
        if found := find(text, options, answer):
            return found.pop() if len(found) == 1 else None
    return None


def same_words(first: str, second: str) -> bool:
    """Return whether two texts have the same words in the same order.

    Case, punctuation and spaces do not count, except in a text without words such as "+".
    """
    words = _words(first)
    return first.strip() == second.strip() or (bool(words) and words == _words(second))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _labels_with_text(text: str, options: Mapping[str, str]) -> list[str]:
    """Return the labels of the options with this text; several if options are alike."""
    return [label for label, option in options.items() if same_words(option, text)]


def _plain_text(response: str) -> str:
    """Return a response without thoughts, Markdown and LaTeX, and with letters of one width."""
    text = _THINKING.sub("", unicodedata.normalize("NFKC", response))
    for pattern, replacement in _FORMATTING:
        text = pattern.sub(replacement, text)
    return text.strip()


def _stated_labels(text: str, options: Mapping[str, str], answer: str) -> set[str]:
    """Return the labels in sentences such as "The answer is B" and "Answer: blue"."""
    labels = set()
    for match in _STATEMENT.finditer(text):
        rest = text[match.end() : match.end() + _WINDOW]
        if match[1] in options and not _NEGATION.match(rest):
            labels |= {match[1], *_named_after(match[1], rest, options)}
    for line in text.splitlines():
        remainder = _LEAD_IN.sub("", line.strip(), count=1)
        if remainder != line.strip() and (found := _labels_with_text(remainder, options)):
            labels.add(answer if answer in found else found[0])
    return labels


def _line_labels(text: str, options: Mapping[str, str], _: str) -> set[str]:
    """Return the labels in lines that have nothing else, or the text of their option as well."""
    labels = set()
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match and match[1] in options:
            remainder = match[2].strip(" .!)]")
            if not remainder or match[1] in _labels_with_text(remainder, options):
                labels.add(match[1])
    return labels


def _mentioned_labels(text: str, options: Mapping[str, str], _: str) -> set[str]:
    """Return all labels in the sentences of a response if one of them stands as an answer."""
    mentioned, chosen = set(), set()
    for match in _MENTION.finditer(text):
        start, rest = match.start(), text[match.end() : match.end() + _WINDOW]
        is_bracketed = text[max(start - 1, 0) : start] in ("(", "[")
        is_article = match[1] in "AI" and not is_bracketed and _ARTICLE.match(rest)
        if match[1] not in options or is_article:
            continue
        mentioned.add(match[1])
        window = (text, max(start - _WINDOW, 0), start)
        if _NEGATION.match(rest) or _NEGATION_BEFORE.search(*window):
            continue
        if _CUE_BEFORE.search(*window) or _CUE_AFTER.match(rest):
            chosen |= {match[1], *_named_after(match[1], rest, options)}
    return mentioned | chosen if chosen else set()


def _named_after(label: str, rest: str, options: Mapping[str, str]) -> Iterable[str]:
    """Return the other options that the sentence of a letter names after it.

    Args:
        label: of the option whose letter was found.
        rest: text behind the letter.
        options: label -> text.
    """
    ends_sentence = re.match(r"[\])]?[.!?。][\s]", rest)
    sentence = _SENTENCE_END.split(rest.lstrip(" .:)]}-,"), maxsplit=1)[0]
    others = {other: text for other, text in options.items() if other != label}
    own, words = _words(options[label]), _words(sentence)
    named = set()
    if own and words[: len(own)] == own:
        words = words[len(own) :]
    elif ends_sentence:  # "B. red" names two options, "B. The red car ..." gives a reason
        return _labels_with_text(sentence, others)
    named |= {other for other, text in others.items() if _contains(words, _words(text))}
    for match in _MENTION.finditer(sentence):
        is_article = match[1] in "AI" and _ARTICLE.match(sentence[match.end() :])
        if match[1] in others and not is_article and _words(match[1])[0] in words:
            named.add(match[1])
    return named


def _contains(words: list[str], part: list[str]) -> bool:
    """Return whether a list of words has another one in a row."""
    starts = range(len(words) - len(part) + 1) if part else ()
    return any(words[start : start + len(part)] == part for start in starts)
