"""A memory and the questions about its video in, what the model says to each out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lit_hour.errors import QuestionError
from lit_hour.evaluation.item import Item
from lit_hour.serving.likelihood import weigh_answers
from lit_hour.serving.session import Memory, Session
from lit_hour.types import Conversation


def ask_items(session: Session, memory: Memory, items: Sequence[Item]) -> Iterator[tuple[Item, str | QuestionError]]:
    """Each question with the answer, or with the error of one that does not fit beside the video."""
    settings = session.config.evaluation
    weighed = [item for item in items if item.options and settings.scoring == "likelihood"]
    for item in weighed:
        yield item, _weigh(session, memory, item)
    generated = [item for item in items if item not in weighed]
    for start in range(0, len(generated), settings.questions_at_once):
        yield from _generate(session, memory, generated[start : start + settings.questions_at_once])


def answer_texts(item: Item, session: Session) -> list[str]:
    """For each option what the model says to choose it: its label, or its words if the run answers own questions in words."""
    says_words = session.config.evaluation.benchmark == "own" and session.config.text.choice_answer == "words"
    return list(item.options.values() if says_words else item.options)


def _weigh(session: Session, memory: Memory, item: Item) -> str | QuestionError:
    """The answer that the model would most likely give; of equal ones the first."""
    answers = answer_texts(item, session)
    try:
        weights = [each.log_probability for each in weigh_answers(session, memory, _converse(session, item), answers)]
    except QuestionError as error:
        return error
    return answers[weights.index(max(weights))]


def _generate(session: Session, memory: Memory, items: Sequence[Item]) -> Iterator[tuple[Item, str | QuestionError]]:
    """What the model says to several questions; if they do not all fit, each is asked alone."""
    try:
        said = session.answer(memory, [_converse(session, item) for item in items])
        yield from zip(items, map(str.strip, said), strict=True)
    except QuestionError as error:
        if len(items) == 1:
            yield items[0], error
            return
        for item in items:
            yield from _generate(session, memory, [item])


def _converse(session: Session, item: Item) -> Conversation:
    return session.processor.ask(item.prompt, system_prompt=item.system, answer_start=item.answer_start)
