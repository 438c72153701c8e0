"""The chat page in a real browser and on a real server, with models that recite a script."""

import pytest

from chatlib.engine import Engine
from ci.tests.browsing import complaints, shot
from ci.tests.serving import serving, until
from ci.tests.tiny_models import byte_tokenizer, ids, random_model, reciting_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("browser")]
EVIL = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "[click](javascript:alert(3))",
    "`<b>bold</b>`",
    "\n\n# <svg onload='window.hacked = 4'>",
    "\n\n```html\n<iframe src='javascript:parent.hacked=5'></iframe>\n```\n",
]
MARKDOWN = [
    "## Bees\n\nA hive is **one** family:\n\n",
    "- the *queen*\n- her workers\n- a few drones\n\n",
    "They speak in `dances`:\n\n",
    "```python\nfor bee in hive:\n    bee.dance()\n```\n\n",
    "So 12 * 34 is ",
    " cells. See [a book](https://example.org/bees).",
]


@pytest.fixture
def page(browser):
    """A page that fails its test on any script error or blocked resource."""
    context = browser.new_context(viewport={"width": 1000, "height": 760})
    page = context.new_page()
    page.troubles = complaints(page)
    yield page
    context.close()
    assert not page.troubles


def ask(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Send").wait_for()


def test_a_reply_with_markdown_a_tool_call_and_a_look_inside(page):
    tokenizer = byte_tokenizer(*MARKDOWN, "12*34")
    items = [*MARKDOWN[:5], "<|python_start|>", "12*34", "<|python_end|>"]
    script = ids(tokenizer, "<|assistant_start|>", *items)
    script += ids(tokenizer, "<|output_end|>", MARKDOWN[5], "<|assistant_end|>")
    engine = Engine(reciting_model(tokenizer, script, context=256), tokenizer)
    with serving(engine, "bees") as (address, *_):
        page.goto(address)
        page.get_by_role("heading", name="What would you like to ask?").wait_for()
        assert page.locator("#model").inner_text() == "bees"
        shot(page, "welcome")
        ask(page, "Tell me about bees")
        reply = page.get_by_role("article", name="Model")
        assert reply.locator("h4").inner_text() == "Bees"
        assert reply.locator("li").count() == 3 and reply.locator("strong").inner_text() == "one"
        assert "bee.dance()" in reply.locator("pre code").inner_text()
        assert reply.locator(".tool code").inner_text() == "12*34"
        assert reply.locator(".tool output").inner_text() == "408"
        assert reply.locator("a").get_attribute("href") == "https://example.org/bees"
        assert "tokens/s" in page.locator("#speed").inner_text()
        assert "of 256 tokens" in page.locator("#cache-text").inner_text()
        shot(page, "reply")
        look_inside(page)
        page.emulate_media(color_scheme="dark")
        shot(page, "inside-dark")
        page.set_viewport_size({"width": 390, "height": 780})
        shot(page, "inside-phone-dark")
        page.get_by_role("button", name="Look inside").click()
        shot(page, "reply-phone-dark")
        page.emulate_media(color_scheme="light")
        shot(page, "reply-phone")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, "nothing sticks out on a phone"
        page.get_by_role("button", name="Settings").click()
        shot(page, "settings-phone")


def look_inside(page):
    page.get_by_role("button", name="Look inside").click()
    tokens = page.locator(".token")
    assert tokens.count() == 15 and page.locator(".token.forced").count() == 5
    tokens.nth(3).hover()
    peek = page.get_by_role("tooltip")
    assert peek.locator("li").count() == 6 and "%" in peek.locator("li").first.inner_text()
    shot(page, "inside")
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.token')[1]")
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert "tool" in peek.inner_text()


def test_text_of_a_model_never_runs(page):
    tokenizer = byte_tokenizer(*EVIL)
    engine = Engine(
        reciting_model(
            tokenizer,
            ids(tokenizer, "<|assistant_start|>", *EVIL, "<|assistant_end|>"),
            context=512,
        ),
        tokenizer,
    )
    with serving(engine) as (address, *_):
        page.goto(address)
        ask(page, "<script>window.hacked = 9</script>")
        page.get_by_role("button", name="Look inside").click()
        page.get_by_role("button", name="Look inside").click()
        body = page.get_by_role("article", name="Model").locator(".body")
        assert EVIL[0] in body.inner_text() and "<iframe" in body.inner_text()
        assert page.evaluate("window.hacked") is None
        tags = "script, img, svg, iframe, b, a[href^='javascript']"
        assert page.locator("article").locator(tags).count() == 0
        shot(page, "evil")
        page.reload()  # the conversation is kept for this tab, and drawn again
        assert page.get_by_role("article").count() == 2
        assert page.evaluate("window.hacked") is None


def test_stop_regenerate_edit_copy_and_new_chat(page):
    tokenizer = byte_tokenizer()
    script = ids(tokenizer, "<|assistant_start|>", "a", "b", "a")  # and so on without end
    engine = Engine(reciting_model(tokenizer, script, context=8192), tokenizer)
    with serving(engine, rows=2) as (address, scheduler, _):
        page.goto(address)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Longest reply").fill("4000")
        page.get_by_label("Temperature").fill("1.5")
        shot(page, "settings")
        page.get_by_role("button", name="Done").click()
        page.get_by_label("Message", exact=True).fill("Talk")
        page.keyboard.press("Enter")
        page.locator(".writing").wait_for()
        until(lambda: len(page.locator("article .body").last.inner_text()) > 20)
        shot(page, "writing")
        page.get_by_role("button", name="Stop").click()
        page.locator(".note", has_text="Stopped.").wait_for()
        until(lambda: not scheduler.live)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Longest reply").fill("8")
        page.get_by_role("button", name="Done").click()
        first = page.get_by_role("article", name="Model").inner_text()
        page.get_by_role("button", name="Regenerate").click()
        page.get_by_role("button", name="Regenerate").wait_for()
        assert page.get_by_role("article", name="Model").inner_text() != first
        ask(page, "Again")
        assert page.get_by_role("article").count() == 4
        page.get_by_role("button", name="Edit").first.click()
        page.get_by_label("Edit your message").fill("Talk less")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Regenerate").wait_for()
        assert page.get_by_role("article").count() == 2
        assert "Talk less" in page.get_by_role("article", name="You").inner_text()
        page.get_by_role("article", name="You").get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        page.get_by_role("button", name="New chat").click()
        assert page.get_by_role("article").count() == 0


def test_an_error_is_told_and_the_keyboard_is_enough(page):
    tokenizer = byte_tokenizer()
    with serving(Engine(random_model(tokenizer), tokenizer), api_key="sesame") as (address, *_):
        page.goto(address)
        ask(page, "Hello")
        page.get_by_role("alert").get_by_text("API key").wait_for()
        page.troubles.clear()  # the browser reports each 401
        page.keyboard.press("Shift+Tab")
        for _ in range(30):  # to the Settings button, backwards through the page
            if page.evaluate("document.activeElement.id") == "open-settings":
                break
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.get_by_label("API key").fill("sesame")
        page.get_by_label("Longest reply").fill("4")
        page.get_by_role("button", name="Done").press("Enter")
        page.get_by_role("button", name="Regenerate").press("Enter")
        page.locator("#speed", has_text="tokens/s").wait_for()
        assert page.get_by_role("alert").count() == 0


def test_a_long_conversation_loses_its_start_and_says_so(page):
    tokenizer = byte_tokenizer("Four words are enough.")
    script = ids(tokenizer, "<|assistant_start|>", "Four words are enough.", "<|assistant_end|>")
    engine = Engine(reciting_model(tokenizer, script, context=128), tokenizer)
    with serving(engine) as (address, *_):
        page.goto(address)
        left_out = page.get_by_text("no longer fits and was left out")
        ask(page, "a" * 70)
        assert left_out.count() == 0
        ask(page, "b" * 70)
        assert left_out.count() == 1 and page.get_by_role("alert").count() == 0
        assert page.get_by_text("Four words are enough.").count() == 2
        ask(page, "c" * 200)  # alone too long: that stays an error
        page.get_by_role("alert").get_by_text("shorten the conversation").wait_for()
        page.troubles.clear()  # the browser reports the 400


def test_controls_have_names_and_contrast(page):
    """Every control is named, and text stands out from its ground, in both color schemes."""
    tokenizer = byte_tokenizer()
    with serving(Engine(random_model(tokenizer), tokenizer)) as (address, *_):
        page.goto(address)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            low = page.evaluate(CONTRAST)
            assert low == [], scheme
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input, textarea')].filter(e => "
            "!(e.innerText || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert unnamed == []


CONTRAST = """() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.querySelectorAll('h1, h2, p, button, label, span')) {
    if (!e.offsetParent || !e.innerText.trim() || e.closest('.hidden')) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.innerText}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""
