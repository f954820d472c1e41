"""The questions of public benchmarks: reading them, prompts that list options, and written answers."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase as LETTERS
from typing import Any, Literal, TypeAlias

from pydantic import Field

from tempo.core.records import Outcome, Sample, Skipped
from tempo.evaluation.evaluate import ANSWER_WITH_LETTER
from tempo.evaluation.public.data import Data
from tempo.evaluation.public.data import Row as Row

#: The label of an option on a line of its own, such as "A." or "Option 1:".
_LABEL = re.compile(r"\(?((?:Option |Sentence |Caption )?([A-Z]|\d))[.:)]\s*(.*)")


class Question(Sample):
    """A question about the part of a video between two times.

    `prompt` is the text that the model gets, with the options, and `replies` has the answer that stands for
    each option, such as its letter; `question` and `options` have no letters. `format` is the name of the
    table. `units` maps figures to units: a unit is right if all its questions are right.
    """

    prompt: str
    replies: tuple[str, ...]
    aspect: str = ""
    units: dict[str, str] = Field({})
    start_seconds: float = 0.0
    end_seconds: float = math.inf

    @property
    def part(self) -> tuple[str, float, float]:
        """The video, and the bounds of the part of it that is shown."""
        return self.video, self.start_seconds, self.end_seconds

    def sample(self, scoring: str) -> Sample:
        """The sample to score: the replies to the prompt (`letter`), or the options after the question."""
        if scoring != "letter":
            return self
        return self.model_copy(
            update={"question": self.prompt, "options": self.replies, "lists_options": True}
        )

    def written(self, text: str) -> Outcome:
        choice, about = self.read_reply(text), self.model_dump(include={*Outcome.model_fields})
        scores = tuple(-float(index != choice) for index in range(len(self.options)))
        return Outcome(**about, log_likelihoods=scores, text=text)

    def read_reply(self, text: str) -> int | None:
        """The index of the option that a written answer names at its beginning; None if it is unclear.

        The whole answer may be the text of an option. A letter must be upper case and followed by a mark or
        the end, because "A" and "a" are also articles.
        """
        text = text.strip()
        for names in (self.replies, self.options):
            bare = [name.casefold().strip(".( ") for name in names]
            if (found := text.casefold().strip(".() ")) in bare:
                return bare.index(found)
        start = r"(?:(?:the )?(?:best |correct )?(?:option|answer)(?: is)?:? *)?\(?"
        for index, reply in enumerate(self.replies):
            label = re.escape(reply.rpartition("(")[2])
            is_word = len(label) > 1
            pattern = rf"(?i:{start}{label})\b" if is_word else rf"(?i:{start}){label}(?:[).:,\n]|$)"
            if re.match(pattern, text):
                return index
        return None


#: The questions of one row.
Questions: TypeAlias = Iterator[Question]


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is published and scored.

    `read` maps a row to its questions; if it raises a ValueError, the row is left out. `group` may set the
    units of all questions. `mean` is over questions, over tasks (aspects), or `none` as with some authors.
    """

    hub: str  #: Name of the data set on the Hugging Face hub.
    tables: tuple[str, ...]  #: Patterns of file names; the first that matches counts.
    read: Callable[[Row], Questions]
    num_frames: int | None = 16  #: Evenly spaced frames; None samples at the rate frames.fps.
    mean: Literal["questions", "tasks", "none"] = "questions"
    #: The rows in the content of a table, which is a list of rows or an object of rows by their names.
    rows: Callable[[Any], Iterable[Any]] = lambda data: data.values() if isinstance(data, dict) else data
    group: Callable[[list[Question]], list[Question]] = list
    needs_whole_units: bool = False  #: Whether a unit with a missing video is wrong instead of left out.

    def questions(self, data: Data) -> tuple[list[Question], list[Skipped]]:
        """All questions, and the rows that were left out; raises ValueError for a missing column."""
        questions, left_out = list[Question](), list[Skipped]()
        for row in data.rows(self.tables, self.rows):
            try:
                questions += self.read(row)
            except LookupError as error:
                raise ValueError(f"{row.table} row {row.number}: {error}") from None
            except ValueError as error:
                left_out.append(Skipped(id=row.id, stage="evaluation", reason="bad row", detail=str(error)))
        return self.group(questions), left_out


def benchmark(hub: str, *tables: str, **settings: Any) -> Callable[[Callable[[Row], Questions]], Benchmark]:
    """Makes the benchmark whose rows the decorated function reads, from the other fields of a Benchmark."""
    return lambda read: Benchmark(hub, tables, read, **settings)


def question_of(row: Row, video: str, answer: int, *, number: int = 0, **fields: Any) -> Question:
    """A question of a row, of which it may have several; its id is unique in the benchmark."""
    name = f"{row.id}/{number}" if number else row.id
    return Question(**{"id": name, "video": video, "answer": answer, "format": row.name, **fields})


def list_options(
    question: str,
    options: Sequence[Any],
    *,
    head: str = "{}",
    line: str = "{}. {}",
    end: str = ANSWER_WITH_LETTER,
    reply: str = "{}",
) -> dict[str, Any]:
    """The fields of a Question whose prompt lists options under letters."""
    texts, letters = [str(option) for option in options], LETTERS[: len(options)]
    lines = [line.format(letter, text) for letter, text in zip(letters, texts, strict=True)]
    return {
        "question": question,
        "options": texts,
        "prompt": "\n".join((head.format(question), *lines, end)),
        "replies": [reply.format(letter) for letter in letters],
    }


def options_in(text: str, end: str = "") -> dict[str, Any]:
    """The fields of a Question whose text lists options, each on a line under A, B, ... or 1, 2, ...

    Raises ValueError if it lists fewer than two.
    """
    rest, found = list[str](), list[re.Match[str]]()
    for line in text.split("\n"):
        match = _LABEL.fullmatch(line.strip())
        if match and match[2] in (LETTERS[len(found) : len(found) + 1], str(len(found) + 1)):
            found.append(match)
        else:
            rest.append(line)
    return {
        "question": "\n".join(rest).strip(),
        "options": [match[3] for match in found],
        "prompt": "\n".join(part for part in (text, end) if part),
        "replies": [match[1] for match in found],
    }


def yes_or_no(question: str, prompt: str, replies: Sequence[str] = ("yes", "no")) -> dict[str, Any]:
    return {"question": question, "options": replies, "prompt": prompt, "replies": replies}


def without_label(option: str) -> str:
    """The text of an option without its letter."""
    match = _LABEL.fullmatch(option.strip())
    return match[3] if match else option


def index_of(answer: Any, options: Sequence[Any]) -> int:
    """The index of an answer among the options; raises ValueError if it is not one of them."""
    names = [str(option).strip() for option in options]
    if str(answer).strip() not in names:
        raise ValueError(f"the answer {answer!r} is not among the options {names}")
    return names.index(str(answer).strip())


def letter_index(letter: str) -> int:
    """The index of the option under a letter; raises ValueError if it is not a letter."""
    return index_of(letter.strip("( )").upper()[:1], LETTERS)
