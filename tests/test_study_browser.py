"""The labeling page in headless Chromium: by keyboard, on a phone, with lost connections and a second tab."""

import pytest
from study_helpers import QUALITY, Labeler, opened, served, submission

from alignbench.labels.table import read_labels

pytest.importorskip("starlette", reason="no starlette: pip install 'alignbench[labels]'")
pytest_plugins = ("browser",)
pytestmark = pytest.mark.needs_browser


@pytest.fixture
def study(tmp_path):
    made, made.secrets = opened(tmp_path / "s.db", 4)
    with served(made) as made.address:
        yield made


@pytest.fixture
def page(chromium, study):
    """A labeler's page, that must not have requested anything from elsewhere, nor run what a text contains."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page, requests, errors = context.new_page(), [], []
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security" in said.text else None)
    context.on("request", lambda request: requests.append(request.url))
    visit(page, study)
    yield page
    assert errors == []
    assert all(url.startswith((study.address, "data:", "about:")) for url in requests)
    assert page.evaluate("window.hacked") is None
    context.close()


def visit(page, study, labeler="ada"):
    page.goto(f"{study.address}/{'' if labeler else 'admin'}#{study.secrets[labeler]}")
    page.wait_for_selector("html[data-ready]" if not labeler else "html[data-item]")


def item_of(page):
    return page.get_attribute("html", "data-item")


def qualities(page):
    return [int(QUALITY.search(text)[1]) for text in page.locator(".card .text").all_inner_texts()]


def rate(page, found):
    for output, quality in enumerate(found):
        page.locator(f"input[name=likert-{output}][value='{quality}']").check(force=True)


def rank(page, found):
    for output in sorted(range(len(found)), key=lambda output: -found[output]):
        page.click(f".pool [data-output='{output}'] button")


def label(page):
    """Judge the item as a person does, and return what was judged."""
    before, found = item_of(page), qualities(page)
    rate(page, found)
    rank(page, found)
    page.click("button[type=submit]")
    page.wait_for_selector(f"html[data-item]:not([data-item='{before}'])")
    return found


def ranks(page):
    rows = page.locator(".level").all()
    return ["".join(row.locator(".grip").all_inner_texts()) for row in rows]


def test_an_item_is_judged_by_mouse_and_stored_as_it_was_shown(page, study):
    page.locator("details summary").first.click()
    page.check("input[name=flags-0][value=hallucination]")
    page.fill("#note", "a note")
    text = page.locator(".card .text").first.inner_text()
    label(page)
    assert page.inner_text("#count") == "1 of about 4 done"
    labels = read_labels(str(study.path))
    assert [own.output for own in labels if own.flags["hallucination"]] == [text]
    for own in labels:
        assert own.likert == int(QUALITY.search(own.output)[1])
    best_first = [own.likert for own in sorted(labels, key=lambda own: own.rank)]
    assert best_first == sorted(best_first, reverse=True)
    assert study.table("select note, seconds > 0 from submissions") == [("a note", 1)]


def test_an_item_is_judged_by_keyboard_alone(page, study):
    keys, before = page.keyboard, item_of(page)
    assert page.evaluate("document.activeElement.id") == "title"
    keys.press("Tab")  # the prompt, which may scroll
    for quality in qualities(page):
        keys.press("Tab")
        keys.press("Space")  # the first radio button
        for _ in range(quality - 1):
            keys.press("ArrowRight")
        keys.press("Tab")  # the flags
    for _ in range(3):
        keys.press("Tab")
        keys.press("Enter")  # rank next: the focus follows the output
        page.wait_for_selector("[data-move]:focus")
        if page.locator(".pool").count():
            page.locator(".pool button").first.focus()
            keys.press("Shift+Tab")
    assert ranks(page) == ["A", "B", "C"]
    page.focus("[data-output='2'] button")
    for expected in (["A", "BC"], ["A", "C", "B"], ["AC", "B"], ["C", "A", "B"]):
        keys.press("ArrowUp")
        assert ranks(page) == expected
    assert page.inner_text("#moved") == "Output C: rank 1 of 3"
    keys.press("ArrowDown")
    assert page.inner_text("#moved") == "Output C: rank 1 of 2, tied with A"
    keys.press("Control+Enter")
    page.wait_for_selector(f"html[data-item]:not([data-item='{before}'])")
    assert sorted(own.rank for own in read_labels(str(study.path))) == [1, 1, 2]


@pytest.mark.parametrize("touch", [False, True])
def test_outputs_are_ranked_by_drag(chromium, page, study, touch):
    if touch:
        page = chromium.new_context(viewport={"width": 375, "height": 800}, has_touch=True, is_mobile=True).new_page()
        visit(page, study)
    for _ in range(3):
        page.locator(".pool button").first.click()
    page.locator("#ranking").scroll_into_view_if_needed()

    def drag(output, target):
        boxes = (page.locator(own).bounding_box() for own in (f"[data-output='{output}'] .grip", target))
        (x, y), (to_x, to_y) = ((box["x"] + 10, box["y"] + box["height"] / 2) for box in boxes)
        if touch:
            session = page.context.new_cdp_session(page)
            for kind, points in (("touchStart", [(x, y)]), ("touchMove", [(to_x, to_y)]), ("touchEnd", [])):
                points = [{"x": a, "y": b} for a, b in points]
                session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        else:
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(to_x, to_y, steps=4)
            page.mouse.up()

    drag(2, ".level[data-at='0']")
    assert ranks(page) == ["AC", "B"]
    drag(1, ".gap[data-at='0']")
    assert ranks(page) == ["B", "AC"]


def test_an_incomplete_answer_is_not_sent_and_the_first_gap_has_the_focus(page, study):
    page.click("button[type=submit]")
    assert page.inner_text("#message") == "Rate output A."
    assert page.evaluate("document.activeElement.name") == "likert-0"
    rate(page, qualities(page))
    page.click("button[type=submit]")
    assert page.inner_text("#message") == "Rank output A."
    assert study.table("select count(*) from submissions") == [(0,)]


@pytest.mark.parametrize("width", [1280, 375])
def test_messages_are_in_view_below_long_outputs(page, study, width):
    page.set_viewport_size({"width": width, "height": 700})
    page.evaluate("document.querySelectorAll('.card .text').forEach(own => own.textContent += 'word '.repeat(3000))")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")

    def in_view(selector):
        shown = page.eval_on_selector(selector, "own => own.getBoundingClientRect().toJSON()")
        return shown["height"] > 0 and shown["top"] >= 0 and shown["bottom"] <= 700

    rank(page, qualities(page))
    page.click("button[type=submit]")
    assert page.inner_text("#message") == "Rate output A."
    assert in_view("#message")
    header = page.eval_on_selector("header", "own => own.getBoundingClientRect().bottom")
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") > header
    rate(page, qualities(page))
    page.route("**/api/submit", lambda route: route.fulfill(status=422, json={"error": "it is wrong"}))
    page.focus("button[type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Not saved. It is wrong.")
    assert in_view("#message")
    assert page.evaluate("document.activeElement.type") == "submit"


def test_enter_on_a_radio_button_or_checkbox_does_not_submit(page, study):
    rate(page, found := qualities(page))
    rank(page, found)
    page.locator("details summary").first.click()
    page.focus("input[name=flags-0][value=hallucination]")
    page.keyboard.press("Enter")
    assert page.is_checked("input[name=flags-0][value=hallucination]")
    page.focus("input[name=likert-0][value='7']")
    page.keyboard.press("Enter")
    assert page.is_checked("input[name=likert-0][value='7']")
    assert study.table("select count(*) from submissions") == [(0,)]
    before = item_of(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(f"html[data-item]:not([data-item='{before}'])")


@pytest.mark.parametrize("blocked", ["getItem", "setItem"])
def test_the_page_works_without_storage(page, study, blocked):
    page.add_init_script(f"Storage.prototype.{blocked} = () => {{ throw new DOMException('no', 'SecurityError') }}")
    page.reload()
    page.wait_for_selector("html[data-item]")
    label(page)
    assert study.table("select count(*) from submissions") == [(1,)]


def test_the_page_goes_on_after_a_conflict_without_an_answer(page, study):
    rate(page, found := qualities(page))
    rank(page, found)
    before, lost = item_of(page), []
    other = Labeler(study.address, study.secrets["ada"])
    other.post("submit", submission(other.state())).raise_for_status()

    def lose(route):
        lost.append(route)
        return route.abort() if len(lost) == 1 else route.continue_()

    page.route("**/api/state", lose)
    page.click("button[type=submit]")
    page.wait_for_selector("text=The server does not answer. Trying again in 5 s.")
    page.wait_for_selector(f"html[data-item]:not([data-item='{before}'])")
    assert page.inner_text("#message") == "Not saved. You have judged this item already, in another tab."
    label(page)


def test_skip_needs_a_reason_and_undo_brings_the_answer_back(page, study):
    page.click("#skip")
    page.click("#skip-now")
    assert page.inner_text("#skip-message") == "Choose a reason."
    page.check("input[name=reason][value=other]")
    page.click("#skip-now")
    assert page.inner_text("#skip-message") == "Describe the reason in the note."
    page.fill("#why", "twice the same")
    before = item_of(page)
    page.click("#skip-now")
    page.wait_for_selector(f"html[data-item]:not([data-item='{before}'])")
    assert study.table("select reason, note from submissions") == [("other", "twice the same")]
    second = item_of(page)
    found = label(page)
    page.click("#undo")
    page.wait_for_selector(f"html[data-item='{second}']")
    page.wait_for_selector(".level")
    checked = [int(own.get_attribute("value")) for own in page.locator(".likert :checked").all()]
    assert checked == found
    assert len(ranks(page)) == 3


def test_nothing_is_lost_by_a_reload_or_without_a_connection(page, study):
    rate(page, found := qualities(page))
    rank(page, found)
    page.fill("#note", "kept")
    page.reload()
    page.wait_for_selector(".level")
    assert page.input_value("#note") == "kept"
    before = item_of(page)
    page.route("**/api/submit", lambda route: route.abort())
    page.click("button[type=submit]")
    page.wait_for_selector("text=Not saved yet")
    assert page.locator("button[type=submit]").is_disabled()
    # the server stores it, but the answer is lost
    page.unroute("**/api/submit")
    page.route("**/api/submit", lambda route: (route.fetch(), route.abort()))
    page.wait_for_selector("text=Trying again in 2 s")
    page.unroute("**/api/submit")
    page.reload()
    page.wait_for_selector(f"html[data-item]:not([data-item='{before}'])")
    assert study.table("select note from submissions") == [("kept",)]


def test_a_second_tab_is_told_that_the_item_is_judged(page, study):
    other = page.context.new_page()
    visit(other, study)
    rate(other, found := qualities(other))
    rank(other, found)
    before = item_of(page)
    label(page)
    other.click("button[type=submit]")
    other.wait_for_selector("text=in another tab")
    other.wait_for_selector(f"html[data-item]:not([data-item='{before}'])")
    assert item_of(other) == item_of(page) != before
    assert study.table("select count(*) from submissions") == [(1,)]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
@pytest.mark.parametrize("labeler", ["ada", ""])
def test_axe_finds_no_serious_violation_and_nothing_is_wider_than_the_window(
    page, study, scheme, width, labeler, serious_violations
):
    client = Labeler(study.address, study.secrets["bob"])
    client.label_all()
    if labeler:
        label(page)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("about:blank")
    visit(page, study, labeler)
    if labeler:
        page.locator(".pool button").first.click()
        page.locator("details summary").first.click()
    assert serious_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = "elements => elements.map(element => element.offsetHeight).filter(height => height && height < 40)"
    assert page.locator("button, .likert label, .grip").evaluate_all(heights) == []
    if labeler:
        page.click("#skip")
        assert serious_violations(page) == []


def test_the_admin_view_keeps_the_focus_and_says_when_prompts_are_used_up(page, study):
    for name in ("ada", "bob"):
        Labeler(study.address, study.secrets[name]).label_all()
    page.clock.install()
    page.goto("about:blank")
    visit(page, study, "")
    assert page.inner_text("#message").startswith("All prompts are labelled, but not every win rate has an interval of")
    page.locator(".scroll").last.focus()
    with page.expect_response("**/api/admin"):
        page.clock.run_for(16_000)
    page.wait_for_timeout(300)
    assert page.evaluate("document.activeElement.className") == "scroll"


def test_a_labeler_who_waits_gets_the_item_that_another_gives_back(page, study):
    content = []
    for name in ("ada", "bob"):
        client = Labeler(study.address, study.secrets[name])
        content.append((client, client.label_all()))
    page.clock.install()
    page.reload()
    page.wait_for_selector("text=The study is complete. Thank you.")
    study.table("update submissions set withdrawn = 1 where labeler = 'ada' and id = ?", content[0][1][-1])
    study.table("delete from claims where labeler = 'ada' and item not in (select item from submissions s where "
                "s.labeler = 'ada' and s.withdrawn is null)")  # fmt: skip
    holder = study.table("select item from submissions where withdrawn is not null")[0][0]
    study.table("insert into labelers values ('eve', null, 'x', 1)")
    study.table("insert into claims values ('eve', ?, 1e12)", holder)
    page.reload()
    page.wait_for_selector("text=are with other labelers")
    study.table("delete from claims where labeler = 'eve'")
    page.clock.run_for(61_000)
    page.wait_for_selector(f"html[data-item='{holder}']")
    assert page.inner_text("#message") == ""


def test_a_wrong_link_says_so(page, study):
    page.goto("about:blank")
    page.goto(f"{study.address}/#guess")
    page.wait_for_selector("text=This link is not valid")
