"""The chat template of a processor: text of users and models becomes a rendered, tokenized conversation.

Text is escaped first, so that no word in it becomes a special token.
"""

import copy
import functools
import re
from collections.abc import Sequence
from typing import Any

from tempo.core.files import replace_surrogates

#: Inserted into special words in text from users and models, so that neither processor nor tokenizer
#: recognizes them; the tokenizer removes it. A Unicode noncharacter, which ordinary text does not contain.
ESCAPE = "\ufdd0"

#: Placeholder for a text in a rendered conversation.
MARK = "\ufdd1"

_NONCHARACTERS = re.compile(f"[{ESCAPE}{MARK}]")


class Template:
    """A chat template with the tokenizer and the special words of its processor.

    A word is special if its token is marked as special, if the processor replaces it with media tokens, or if
    it is an added token that appears in the chat template.
    """

    def __init__(self, processor: Any) -> None:
        from tokenizers import normalizers, pre_tokenizers

        #: A copy of the processor whose tokenizer removes ESCAPE.
        self.processor = copy.deepcopy(processor)
        tokenizer = self.processor.tokenizer
        self.processor.chat_template = self.processor.chat_template or tokenizer.chat_template
        # For example `image_token`, `video_token`, `fake_image_token`.
        media = {v for n, v in vars(processor).items() if n.endswith("_token") and isinstance(v, str) and v}
        added = tokenizer.added_tokens_decoder.values()
        words = media | {
            token.content
            for token in added
            if token.special
            or (token.content in str(self.processor.chat_template) and not token.content.isspace())
        }
        self._words = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")
        vocabulary = tokenizer.get_vocab()
        self.special_ids = {vocabulary[word] for word in words if word in vocabulary}
        #: The tokens that stand for videos and images in a prompt.
        self.media_ids = {vocabulary[word] for word in media if word in vocabulary}
        backend = tokenizer.backend_tokenizer
        plain = backend.normalizer, backend.pre_tokenizer
        backend.normalizer = normalizers.Sequence([
            normalizers.Replace(ESCAPE, ""), *([plain[0]] if plain[0] else [])
        ])  # fmt: skip
        escaped = tokenizer([*map(self.escape, words)], add_special_tokens=False)["input_ids"]
        if any(self.special_ids & {*ids} for ids in escaped):
            # This tokenizer still merges the letters into the special token, so split the word at ESCAPE.
            backend.normalizer = plain[0]
            split = pre_tokenizers.Split(ESCAPE, behavior="removed")
            backend.pre_tokenizer = pre_tokenizers.Sequence([split, *([plain[1]] if plain[1] else [])])
        # Templates expect the content of a turn either as a list of parts or as one string.
        self._takes_text = set[str]()
        question, system = ("user", "?", False), ("system", MARK, False)
        for turns in ([("user", MARK, False)], [question, ("assistant", MARK, False)], [system, question]):
            probe = self._try(turns)
            if MARK not in probe or re.search("['\"]type['\"]", probe):
                self._takes_text |= {role for role, text, _ in turns if text == MARK}
        self._has_system_turn = MARK in self._try([system, question])
        #: The text after an answer, by whether the prompt has a video.
        self.after_answer = {
            with_video: self._render([("user", "?", with_video), ("assistant", MARK, False)]).rpartition(
                MARK
            )[2]
            for with_video in (False, True)
        }

    def escape(self, text: str) -> str:
        """The text with special words broken up; lone surrogates become U+FFFD."""
        text = replace_surrogates(_NONCHARACTERS.sub("", text))
        return self._words.sub(lambda word: word[0][0] + ESCAPE + word[0][1:], text)

    def render(
        self, prompt: str, *, answer: str | None = None, system: str = "", with_video: bool = True
    ) -> str:
        """The conversation rendered by the chat template; it ends before the answer if `answer` is None.

        Special words in the texts are escaped, so pass the result only to `tokenize` or `VideoLM.inputs`.
        """
        turns = [("user", self.escape(prompt), with_video)]
        if answer is not None:
            turns.append(("assistant", self.escape(answer), False))
        if system and self._has_system_turn:
            turns.insert(0, ("system", self.escape(system), False))
        elif system:
            turns[0] = ("user", f"{self.escape(system)}\n\n{turns[0][1]}", with_video)
        return self._render(turns, add_generation_prompt=answer is None)

    def tokenize(self, text: str) -> Any:
        """`input_ids` and `offset_mapping` of a rendered text, as transformers tokenizes a conversation."""
        adds = self.adds_special_tokens(text)
        return self.processor.tokenizer(text, return_offsets_mapping=True, add_special_tokens=adds)

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer should add special tokens: not if the template has added the first one."""
        bos = self.processor.tokenizer.bos_token
        return bos is None or not text.startswith(bos)

    def _render(self, turns: Sequence[tuple[str, str, bool]], **options: Any) -> str:
        """Renders turns (role, text, whether a video precedes the text)."""
        messages = []
        for role, text, has_video in turns:
            content: Any = [{"type": "text", "text": text}]
            if has_video:
                content.insert(0, {"type": "video"})
            if role in self._takes_text:
                start, end = (getattr(self.processor, f"vision_{n}_token", "") for n in ("start", "end"))
                content = f"{start}{self.processor.video_token}{end}\n{text}" if has_video else text
            messages.append({"role": role, "content": content})
        return str(self.processor.apply_chat_template(messages, **options))

    def _try(self, turns: Sequence[tuple[str, str, bool]]) -> str:
        """The rendered conversation; empty if the template cannot render it."""
        from jinja2 import TemplateError

        try:
            return self._render(turns)
        except (TemplateError, TypeError, IndexError, KeyError):
            return ""


@functools.lru_cache(maxsize=4)
def template_of(processor: Any) -> Template:
    return Template(processor)
