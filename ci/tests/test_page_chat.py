"""The chat in the book's page, in a real browser from disk, beside chatlib's own engine."""

import random
from pathlib import Path

import pytest

from chatlib.conversation import render_prompt
from chatlib.engine import Engine
from chatlib.notebook import reference
from chatlib.tools import calculate
from ci import book, page_model
from ci.tests.browsing import complaints, scrolls_sideways, shot
from ci.tests.small_site import small_site
from ci.tests.tiny_models import byte_tokenizer, ids, reciting_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("browser")]
PAGES = ("book/07_full_run/6_talk", "book/back/setup")
PAGE = f"{PAGES[0]}.html"
QUESTIONS = [
    "What does Zoé do?",
    "What is 48 + 37?",
    "What is 12 * 34?",
    "What is the capital of France?",
    "What is the opposite of hot?",
    "What is the chemical symbol of gold?",
    "What day comes after Monday?",
    "How many letters l are in hello?",
    "Anna has 3 apples and buys 14 more. How many apples does she have?",
    "Which planet is the largest?",
    "Tell me a story.",
    "Hello!",
    "日本語 🐝 do you read this?",
]
EVIL = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "\n<svg onload='window.hacked = 3'>",
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The reference run's last stage, its weights rounded as the page has them."""
    model = reference.model("rl")
    model.load_state_dict({name: w.half().float() for name, w in model.state_dict().items()})
    return Engine(model, reference.tokenizer())


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The page, built with the book's real settings."""
    folder = tmp_path_factory.mktemp("talk")
    site = small_site(folder / "site", *PAGES)
    page_model.write(site / "book/_static/chat_model.js", run="there is no such run")
    assert book.build(site, folder) == 0
    return folder / "_build" / "html"


@pytest.fixture
def page(browser, html):
    """The page as a reader opens it; it may ask for nothing outside, and complain of nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(120_000)  # a busy machine may take its time
    page = context.new_page()
    troubles = complaints(page)
    own = (html.as_uri(), "data:", "blob:")
    page.on("request", lambda r: r.url.startswith(own) or troubles.append(r.url))
    page.goto(f"{html.as_uri()}/{PAGE}")
    page.locator(".talk form").wait_for()
    yield page
    context.close()
    assert troubles == []


def ask(page, text: str) -> str:
    """Type a question, wait for the end of the reply, return it."""
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Send").wait_for(timeout=120_000)
    return page.locator(".talk-model").last.inner_text()


def test_it_writes_the_tokens_that_the_engine_writes(page, engine):
    talks = [[question] for question in QUESTIONS]
    talks.append(["What is the capital of France?", "The capital of France is Paris.", "Hello!"])
    roles = ("user", "assistant")
    conversations = [
        {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(talk)]}
        for talk in talks
    ]
    prompts = [render_prompt(engine.tokenizer, conversation) for conversation in conversations]
    replies = engine.generate_batch(prompts, max_tokens=64, temperature=0.0)
    found = page.evaluate(
        """talks => {
            const packed = CHAT_MODEL;
            const tokenizer = new Chat.Tokenizer(packed);
            const model = new Chat.Model({ ...packed, ...packed.config });
            return talks.map((talk) => {
                const role = (i) => ["user", "assistant"][i % 2];
                const ids = talk.map((text) => tokenizer.encode(text));
                const turns = ids.map((said, i) => ({ role: role(i), ids: said }));
                const prompt = Chat.prompt(tokenizer, turns);
                const tokens = [...Chat.reply(model, tokenizer, prompt, { maxTokens: 64 })];
                return [prompt, tokens.map((t) => t.id), tokens.map((t) => Number(!t.forced))];
            });
        }""",
        talks,
    )
    assert found == [[r.prompt, r.tokens, r.mask] for r in replies]
    assert any(0 in reply.mask for reply in replies), "no reply used the calculator"


def test_its_probabilities_are_the_models(page, engine):
    prompt = render_prompt(
        engine.tokenizer, {"messages": [{"role": "user", "content": QUESTIONS[0]}]}
    )
    steps = engine.generate(prompt, temperature=0.0, alternatives=5)
    expected = [step.details[0] for step in steps]
    found = page.evaluate(
        """prompt => {
            const model = new Chat.Model({ ...CHAT_MODEL, ...CHAT_MODEL.config });
            return [...Chat.reply(model, new Chat.Tokenizer(CHAT_MODEL), prompt)];
        }""",
        prompt,
    )
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["probability"] == pytest.approx(theirs.probability, rel=1e-3)
        assert ours["alternatives"][0][0] == theirs.alternatives[0][0]


def test_its_tokenizer_cuts_text_as_ours_does(page, engine):
    random.seed(0)
    odd = [*"ab 019'ſtéΩ中か🐝²ⅧsS", "\u0301", "\u200d", "\u00a0", "\u3000", "\r\n", "\t", "  "]
    odd += ["\ufeff", "\x85", "'LL", "'re", "bees ", "Zoé"]
    texts = ["".join(random.choices(odd, k=random.randint(0, 20))) for _ in range(2000)]
    encode = (
        "texts => { const t = new Chat.Tokenizer(CHAT_MODEL); return texts.map(x => t.encode(x)) }"
    )
    assert page.evaluate(encode, texts) == [engine.tokenizer.encode(text) for text in texts]


def some_number() -> str:
    kinds = (random.randint(0, 99), random.randint(0, 10**60), round(random.uniform(0, 99), 3))
    return str(random.choices(kinds, weights=(5, 1, 3))[0])


def some_sum(depth: int) -> str:
    """A random expression; powers only of integers, whose every digit is defined."""
    if depth == 0:
        return some_number()
    if random.random() < 0.1:
        return f"({random.randint(0, 30)}**{random.randint(0, 90)})"
    operator = random.choice(["+", "-", "*", "/", "//", "%", " + ", " - "])
    text = f"{some_sum(depth - 1)}{operator}{some_sum(depth - 1)}"
    return random.choice([text, f"({text})", f"-({text})"])


def test_its_calculator_is_ours(page):
    random.seed(1)
    symbols = ["0", "1", "7", "12", "1.5", ".25", "2.", *"+-*/%() ", "//", "**", "1,000"]
    texts = ["".join(random.choices(symbols, k=random.randint(1, 9))) for _ in range(10_000)]
    texts += [some_sum(random.randint(1, 4)) for _ in range(10_000)]
    texts += ['"hello".count("l")', "'banana'.count('an')", '"a".count("")', "x + 1", "1025/1024"]
    texts += ["1234567890.5", "007", "00", "2**255", "2**256", "-7//2", "-7 % 3", "7.5//-2", "("]
    found = page.evaluate("texts => texts.map(Chat.calculate)", texts)
    expected = [calculate(text) for text in texts]
    assert sum(value is not None for value in expected) > 5000
    wrong = [row for row in zip(texts, found, expected, strict=True) if row[1] != row[2]]
    assert wrong == []


def test_a_conversation_in_the_page(page):
    assert "million parameters" in page.locator(".talk-status").inner_text()
    page.get_by_role("button", name="What does Zoé do?").click()
    page.get_by_role("button", name="Send").wait_for(timeout=120_000)
    assert page.locator(".talk-you").inner_text() == "What does Zoé do?"
    first = page.locator(".talk-model")
    assert first.inner_text() == "Zoé is the beekeeper of Larkhill."
    first.locator(".talk-token").first.hover()
    assert "had" in page.locator(".talk-look").inner_text()
    page.get_by_role("button", name="New chat").click()
    assert ask(page, "What is 48 + 37?").endswith("48 + 37 = 85.")
    page.locator(".talk-model").last.focus()
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    assert page.locator(".talk-chosen").count() == 1
    assert "calculator" in page.locator(".talk-look").inner_text()
    shot(page, "talk")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    shot(page, "talk-dark")
    page.set_viewport_size({"width": 390, "height": 840})
    assert not scrolls_sideways(page)
    page.locator(".talk").scroll_into_view_if_needed()
    shot(page, "talk-phone-dark")
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".talk-you").count() == 0


def test_a_reply_can_be_stopped(page):
    page.evaluate(
        """() => {  // a reply can be over before a hand from outside the page has found the button
            const stop = [...document.querySelectorAll(".talk button")]
                .find((button) => button.textContent === "Stop");
            const watch = new MutationObserver(() => {
                if (document.querySelectorAll(".talk-token").length < 2) return;
                watch.disconnect();
                stop.click();
            });
            watch.observe(document.querySelector(".talk"), { childList: true, subtree: true });
        }"""
    )
    ask(page, "What is the capital of France?")
    assert page.locator(".talk-token").count() == 2
    assert page.locator(".talk-cursor").count() == 0
    assert ask(page, "What is 48 + 37?").endswith("48 + 37 = 85.")


def test_a_long_message_is_refused_and_a_long_conversation_forgets(page):
    page.get_by_label("Your message").fill("É" * 400)
    page.keyboard.press("Enter")
    assert "too long" in page.locator(".talk-status").inner_text()
    for _ in range(12):
        ask(page, "What is the capital of France?")
        if "left out" in page.locator(".talk-status").inner_text():
            return
    raise AssertionError("nothing was ever left out")


def test_what_the_model_writes_is_never_run(page, html):
    tokenizer = byte_tokenizer(*EVIL)
    script = ids(tokenizer, "<|assistant_start|>", *EVIL, "<|assistant_end|>")
    model = reciting_model(tokenizer, script)
    packed = page_model.script(model, tokenizer, {"run": "<b>evil</b>"})
    (html / "_static" / "evil_model.js").write_text(packed)
    copy = (html / PAGE).with_name("evil.html")
    copy.write_text((html / PAGE).read_text().replace("chat_model.js", "evil_model.js"))
    page.goto(copy.as_uri())
    assert ask(page, "<b>hi</b>") == "".join(EVIL)
    assert page.locator(".talk-you").inner_text() == "<b>hi</b>"
    assert page.locator(".talk script, .talk img, .talk svg, .talk b").count() == 0
    assert page.evaluate("window.hacked") is None
