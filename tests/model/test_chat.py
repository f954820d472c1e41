"""From frames and text to tokens, and the public log-probabilities."""

import copy
import functools
import importlib.util
import itertools
import re
from pathlib import Path

import jinja2
import numpy as np
import pytest
import torch
from families import PROCESSORS, make_frames, make_processor
from test_families import REJECTED

from tempo import Continuation, Prefix, log_probs
from tempo.model.chat import VideoLM
from tempo.model.support import duplicated_log_probs

FRAMES = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
START_OF_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


def decode(lm, tokens):
    return lm.tokenizer.decode(tokens)


def test_a_prefix_is_video_and_prompt_and_answers_end_their_turn(lm):
    group = lm.group(Prefix(FRAMES, "Describe."), ["One.", "Two words."])
    text = decode(lm, group.inputs["input_ids"][0])
    assert text.startswith("<|im_start|>user\n<|vision_start|><|video_pad|>")
    assert text.endswith(f"<|vision_end|>Describe.{START_OF_ANSWER}")
    answers = [decode(lm, c.token_ids) for c in group.continuations]
    assert answers == ["One.<|im_end|>", "Two words.<|im_end|>"]
    assert [c.num_context for c in group.continuations] == [0, 0]


def test_questions_share_the_video_and_are_not_scored(lm):
    rows = [Continuation("So.", "Why?"), Continuation("Here.", "Where?")]
    first, second = lm.group(Prefix(FRAMES, ""), rows).continuations
    assert decode(lm, first.token_ids[: first.num_context]).endswith(f"hy?{START_OF_ANSWER}")
    assert decode(lm, first.token_ids[first.num_context :]) == "So.<|im_end|>"
    assert decode(lm, second.token_ids[second.num_context :]) == "Here.<|im_end|>"


def whole(group, index=0):
    """All tokens of a conversation: prefix and one continuation."""
    return [*group.inputs["input_ids"][0].tolist(), *group.continuations[index].token_ids]


def test_prompt_and_question_give_the_same_sequence(lm):
    """What is trained as a question and an answer is, token for token, what is asked in generation."""
    prompt = lm.group(Prefix(FRAMES, "Why is it so?"), ["So."])
    question = lm.group(
        Prefix(FRAMES, ""), [Continuation("So.", "Why is it so?"), Continuation("No.", "If?")]
    )
    assert whole(prompt) == whole(question)


def templates():
    """The chat templates that TRL's package carries."""
    directory = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
    return sorted(directory.glob("*.jinja"))


TEXTS = [("What is seen?", "A red wall."), ("  Is it red? ", " In the end,\n\nred. "), ("1. Why?", "\n- so")]


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("template", templates(), ids=lambda path: path.stem)
def test_tokens_are_those_of_the_whole_conversation(template, system):
    """Prompt and answer are the ids that transformers gives for the rendered conversation, also where the
    template writes something before the answer, such as an empty thought."""
    processor = copy.deepcopy(make_processor("qwen2_5_vl", bytes_=True))
    processor.chat_template = processor.tokenizer.chat_template = template.read_text()
    marks = sorted({*re.findall(r"<[^<>\s'\"]+>|\[/?[A-Z_]+\]", template.read_text())})
    processor.tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": marks})
    lm = VideoLM(None, processor)
    for question, answer in TEXTS:
        group = lm.group(Prefix(None, question, system=system), [answer, "Another."])
        expected = reference(processor, question, answer, system)
        tokens = whole(group)
        if len(tokens) > len(expected):  # this template leaves the end of the turn to the model
            expected.append(processor.tokenizer.eos_token_id)
        assert tokens == expected[: len(tokens)]
        assert not processor.tokenizer.decode(expected[len(tokens) :]).strip()
        scored = group.continuations[0].token_ids[group.continuations[0].num_context :]
        assert processor.tokenizer.decode(scored).strip().startswith(answer.strip())


def reference(processor, question, answer, system):
    """The tokens of a whole conversation by transformers alone."""
    turns = [("system", system)] * bool(system) + [("user", question), ("assistant", answer)]
    for as_parts in itertools.product([True, False], repeat=len(turns)):
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
            for parts, (role, text) in zip(as_parts, turns, strict=True)
        ]
        try:
            text = processor.tokenizer.apply_chat_template(messages, tokenize=False)
        except (TypeError, jinja2.TemplateError):
            continue
        if (
            question.strip() in text
            and answer.strip() in text
            and not re.search("['\"]type['\"]", text)
            and system in text
        ):
            return processor.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    pytest.skip("this template has no system turn")


@pytest.mark.parametrize("family", sorted(PROCESSORS.keys() - REJECTED.keys()))
def test_no_word_of_a_text_becomes_a_special_token(family):
    """Each special token of the tokenizer and of the processor, in every place where text comes in."""
    lm = VideoLM(None, make_processor(family, bytes_=True))
    frames = make_frames(family, 3, np.random.default_rng(0))
    plain = functools.partial(lm.tokenizer, add_special_tokens=False, split_special_tokens=True)
    words = {*lm.tokenizer.all_special_tokens, *lm.tokenizer.get_added_vocab(), "<video>", "<image>"}
    special = {*lm.tokenizer.get_added_vocab().values()}
    usual = lm.group(Prefix(frames, "What?", system="Be brief."), [Continuation("Red.", "Why?"), "Blue."])
    num_special = sum(token in special for token in whole(usual))
    for word in sorted(words):
        text = f"A page: {word} opens it.{word}"
        group = lm.group(
            Prefix(frames, text, system=text), [Continuation(text, text), Continuation("Blue.", text)]
        )
        assert sum(token in special for token in whole(group)) == num_special, word
        answer = group.continuations[0]
        scored = list(answer.token_ids[answer.num_context :])
        assert scored[-1] in special
        # The templates write a space before a text, and some write one after it.
        assert scored[:-1] in (plain(f" {text} ")["input_ids"], plain(f" {text}")["input_ids"]), word


def test_special_words_of_a_vocabulary_of_whole_words_are_split():
    """A tokenizer that finds the token by the word's letters too gets the word in two pieces."""
    lm = VideoLM(None, make_processor("llava_onevision"))
    group = lm.group(Prefix(None, "3 <video> 4"), ["5 <|im_end|> 6"])
    video, end = lm.tokenizer.convert_tokens_to_ids(["<video>", "<|im_end|>"])
    assert video not in whole(group)
    assert whole(group).count(end) == 2  # of the question and of the answer


def test_a_lone_surrogate_is_replaced(lm):
    (answer,) = lm.group(Prefix(None, "?"), ["A \ud83d wall."]).continuations
    assert decode(lm, answer.token_ids) == "A \ufffd wall.<|im_end|>"


def test_a_sentencepiece_like_tokenizer_adds_no_space_before_a_question():
    from tokenizers import decoders, pre_tokenizers

    processor = copy.deepcopy(make_processor("qwen2_5_vl", bytes_=True))
    backend = processor.tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    lm = VideoLM(None, processor)
    rows = [Continuation("Red.", "Why?"), Continuation("Blue.", "Why?")]
    tokens = whole(lm.group(Prefix(None, "What? "), rows))
    text = lm.template.render("What? Why?", answer="Red.", with_video=False)
    assert tokens == processor.tokenizer(text)["input_ids"][: len(tokens)]


def test_a_template_that_writes_the_first_token_gets_no_second_one():
    processor = copy.deepcopy(make_processor("qwen2_5_vl", bytes_=True))
    processor.tokenizer.add_special_tokens({"bos_token": "<s>"})
    processor.tokenizer.add_bos_token = True
    processor.chat_template = "{{ bos_token }}" + processor.chat_template
    lm = VideoLM(None, processor)
    first = processor.tokenizer.bos_token_id
    assert whole(lm.group(Prefix(None, "What?"), ["Red."])).count(first) == 1
    assert (
        lm.inputs([lm.template.render("What?", with_video=False)])["input_ids"][0].tolist().count(first) == 1
    )


@pytest.mark.parametrize("in_tokenizer", [True, False])
def test_a_template_that_takes_a_string_gets_one(in_tokenizer):
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    processor = copy.deepcopy(make_processor("qwen2_5_vl", bytes_=True))
    processor.chat_template = None if in_tokenizer else template
    processor.tokenizer.chat_template = template
    frames = make_frames("qwen2_5_vl", 2, np.random.default_rng(0))
    group = VideoLM(None, processor).group(Prefix(frames, "What?"), ["Red."])
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert "pixel_values_videos" in group.inputs
    assert video in whole(group)
    assert processor.tokenizer.decode(whole(group)).endswith("Red.<|im_end|>")


def test_the_rate_of_the_frames_reaches_the_positions(lm):
    seconds = [
        lm.group(Prefix(FRAMES, "?", fps=fps), ["x"]).inputs["second_per_grid_ts"] for fps in (1.0, 4.0)
    ]
    assert [float(s[0]) for s in seconds] == [2.0, 0.5]


def test_a_text_needs_no_frames(lm):
    group = lm.group(Prefix(None, "Describe."), ["x"])
    assert "pixel_values_videos" not in group.inputs
    assert "video_pad" not in decode(lm, group.inputs["input_ids"][0])


@pytest.mark.parametrize(
    ("reduction", "reduce"), [("sum", torch.sum), ("mean", torch.mean), ("none", lambda logp: logp)]
)
def test_log_probs_are_those_of_full_sequences(lm, reduction, reduce):
    prefix, texts = Prefix(FRAMES, "Describe the video in order."), ["A ring turns.", "No."]
    with torch.no_grad():
        found = log_probs(lm, prefix, texts, reduction=reduction)
        (expected,) = duplicated_log_probs(lm.model, [lm.group(prefix, texts)])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours, reduce(theirs), rtol=1e-4, atol=1e-4)


def test_a_text_for_which_the_model_has_no_positions_is_refused(lm):
    with pytest.raises(ValueError, match=r"'Describe\.': .* from frames and \d{4,} from text.* Shorten its"):
        log_probs(lm, Prefix(FRAMES, "Describe."), ["A.", "<|im_end|> " * 900])


def test_the_video_is_encoded_once_whatever_the_number_of_texts(lm):
    passes = []
    hook = lm.model.model.visual.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        log_probs(lm, Prefix(FRAMES, "Describe."), ["a", "b", "c"])
    hook.remove()
    assert len(passes) == 1
