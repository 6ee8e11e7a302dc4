"""The pages in Chromium: served, static, hostile, small."""

import json
import re
import shutil

import pytest

pytest.importorskip("starlette", reason="pip install 'sae-lens-poly[explorer]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

from sae_lens_poly.explorer.command import prepare  # noqa: E402
from sae_lens_poly.explorer.data_files import read_data, write_data  # noqa: E402
from sae_lens_poly.explorer.server import make_app  # noqa: E402
from sae_lens_poly.explorer.settings import CollectionSettings  # noqa: E402
from sae_lens_poly.explorer.site import write_site  # noqa: E402
from tests.explorer.browser import SCREENSHOTS, SIZES, Page, chromium, serving_app, serving_folder  # noqa: E402
from tests.explorer.dictionaries import save, two_models  # noqa: E402

expect = sync_api.expect
expect.set_options(timeout=30_000)  # machines that run tests are busy
pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no chromium here")

#: What sticks out of the window, but for tables that scroll by themselves.
WIDE = """[...document.querySelectorAll("main *")]
    .filter((e) => !e.closest(".scroll, svg, .latent-link, .piece"))
    .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map((e) => `${e.tagName} ${e.getAttribute("class")} ${e.textContent.slice(0, 40)}`)"""
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        yield playwright.chromium.launch(executable_path=chromium(), args=arguments)


@pytest.fixture(scope="module")
def served(explored):
    folder, writer = explored
    app = make_app(writer, folder / "explorer" / "data", folder / "explanations.json")
    with serving_app(app) as address:
        yield address


@pytest.fixture(scope="module")
def site(explored, tmp_path_factory):
    """A static site, with hostile strings where strings are."""
    folder, _ = explored
    explanations = tmp_path_factory.mktemp("explanations") / "explanations.json"
    score = {"balanced_accuracy": 0.8, "interval": [0.6, 0.9]}
    entry = {"explanation": HOSTILE, "detection": score, "fuzzing": score}
    explanations.write_text(json.dumps({"latents": {"5": entry}}))
    target = tmp_path_factory.mktemp("site")
    write_site(folder / "explorer" / "data", explanations, target)
    for path in target.glob("data/**/*.json.gz"):
        data = read_data(path)
        if "strings" in data:
            data["strings"] = [HOSTILE + s for s in data["strings"]]
        if "hooks" in data:
            data["name"] = HOSTILE
        write_data(path, data)
    return target


@pytest.fixture(scope="module")
def static(site):
    with serving_folder(site) as address:
        yield address


def places(explored):
    """Every page."""
    _, writer = explored
    i = 9
    j = writer.pairs.partners(slice(i, i + 1), writer.pairs.together(slice(i, i + 1)).phi)[0][0]
    return {"overview": "", "latent": f"#/latent/{i}", "pair": f"#/pair/{i}/{j}"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["served", "static"])
def test_every_page_renders_without_an_error(request, browser, explored, kind, size):
    address = request.getfixturevalue(kind)
    pages = places(explored) | ({"try": "#/try?edits=clamp.9.200"} if kind == "served" else {})
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with Page(browser, address, size) as view:
        for name, place in pages.items():
            page = view.open(place)
            expect(page.locator("main section").first).to_be_visible()
            expect(page.locator(".chart svg").first).to_be_visible()
            wide = page.evaluate(WIDE)
            assert not wide, name
            page.screenshot(path=SCREENSHOTS / f"{kind}-{name}-{size}.png")
        assert not view.wrong
        # Neither a font nor a library from elsewhere.
        assert all(url.startswith((address, "data:", "about:")) for url in view.asked)


def test_hostile_strings_stay_text(browser, static):
    with Page(browser, static) as view:
        for place in ("", "#/latent/5", "#/latent/9", "#/latent/5?examples=quantiles"):
            page = view.open(place)
            expect(page.locator("main")).to_contain_text("<script>window.hacked=1</script>")
            assert page.evaluate("window.hacked") is None
            assert page.locator("main img, main script").count() == 0
        assert not view.wrong


def test_shares_below_zero_keep_their_sign(browser, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    path = tmp_path / "site" / "data" / "overview.json.gz"
    data = read_data(path)
    names = ("explained_variance", "explained_variance_linear", "cosine", "ce_recovered")
    figures = dict.fromkeys((*names, "l0", "n_dead"), 0.5)
    figures["degree_shares"] = {"1": 1.005, "2": -0.0046, "3": -0.00001}
    per_hook = dict.fromkeys(data["hook_names"], figures)
    write_data(path, data | {"evaluation": {"per_hook": per_hook, "pooled": figures}})
    with serving_folder(tmp_path / "site") as address, Page(browser, address) as view:
        cells = view.open("").locator(".figures-table .total td").all_text_contents()
        minus = "\N{MINUS SIGN}"
        assert cells[5:7] == [f"{minus}0.46 %", f"> {minus}0.01 %"]
        assert not view.wrong


def test_search_sort_and_filter_are_in_the_address(browser, served):
    with Page(browser, served) as view:
        page = view.open("")
        rows = page.locator(".latents tbody tr")
        expect(page.get_by_role("status")).to_have_text("63 of 64")
        page.get_by_role("button", name="density").click()
        expect(rows.first.locator("a")).to_have_text("0")  # it is always active
        expect(page).to_have_url(re.compile("sort=-density"))
        page.get_by_label("Which latents").select_option("dead")
        expect(rows).to_have_count(1)
        page.get_by_label("Which latents").select_option("all")
        page.get_by_label("Search the latents").fill("42")
        expect(rows.first.locator("a")).to_have_text("42")
        expect(page).to_have_url(re.compile("42"))
        again = view.open(page.url.removeprefix(served))
        expect(again.get_by_label("Search the latents")).to_have_value("42")
        rows.first.locator("a").click()
        expect(page.locator("h1")).to_have_text("Latent 42")


def test_keys(browser, served):
    with Page(browser, served) as view:
        page = view.open("#/latent/7")
        expect(page.locator("h1")).to_have_text("Latent 7")
        page.keyboard.press("j")
        expect(page.locator("h1")).to_have_text("Latent 8")
        page.keyboard.press("k")
        expect(page.locator("h1")).to_have_text("Latent 7")
        page.keyboard.press("g")
        page.keyboard.type("12 9")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Pair")
        page.keyboard.press("/")
        expect(page.locator("#search")).to_be_focused()
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()


def test_a_clamp_changes_what_comes_next(browser, served):
    with Page(browser, served) as view:
        page = view.open("#/try?text=import%20os%0A")
        expect(page.locator("main")).not_to_contain_text("divergence")
        page.get_by_role("button", name="Add an edit").click()
        page.get_by_label("Latent", exact=True).fill("9")
        page.get_by_label("Value").fill("300")
        page.get_by_label("Value").blur()
        expect(page).to_have_url(re.compile(r"edits=clamp\.9\.300"))
        divergence = page.get_by_test_id("divergence")
        expect(divergence).not_to_contain_text("divergence 0 nats")
        page.get_by_label("Latent", exact=True).fill("4000")
        page.get_by_label("Latent", exact=True).blur()
        expect(page.get_by_role("alert")).to_contain_text("latent 4000 does not exist")


def test_an_answer_that_comes_late_does_not_replace_the_one_to_a_later_question(browser, served):
    with Page(browser, served) as view:
        page = view.open("#/try?text=import%20os%0A&edits=clamp.9.0")
        late = []

        def hold(route):
            if '"value":300' in route.request.post_data:
                late.append(route)
            else:
                route.continue_()

        page.route("**/api/try", hold)
        page.get_by_label("Value").fill("300")
        page.get_by_label("Value").blur()
        expect(page).to_have_url(re.compile(r"edits=clamp\.9\.300"))
        page.get_by_label("Value").fill("0")
        page.get_by_label("Value").blur()
        page.get_by_label("Latent", exact=True).fill("4000")
        page.get_by_label("Latent", exact=True).blur()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("latent 4000 does not exist")
        with page.expect_response("**/api/try"):
            late.pop().continue_()
        page.wait_for_timeout(300)  # what must not come cannot be waited for
        expect(alert).to_contain_text("latent 4000 does not exist")


def test_addresses_that_lead_nowhere_say_so(browser, static, served):
    with Page(browser, static) as view:
        expect(view.open("#/latent/4000").locator("main")).to_contain_text(
            "There is no latent 4000"
        )
        expect(view.open("#/pair/1/5").locator("main")).to_contain_text("these pages are static")
        expect(view.open("#/models").locator("main")).to_contain_text("of one model")
    with Page(browser, served) as view:
        expect(view.open("#/pair/1/5").locator("main")).to_contain_text("On no token")


def test_the_dark_is_dark(browser, served):
    with Page(browser, served, color_scheme="dark") as view:
        page = view.open("#/latent/9")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, ground.strip("rgb()").split(", "))) < 50
        page.screenshot(path=SCREENSHOTS / "served-latent-dark.png")


def test_two_models_beside_each_other(browser, tmp_path):
    folder = save(two_models(), tmp_path / "diff")
    settings = CollectionSettings(n_tokens=3000, n_top=3, n_drawn=5, n_coherence_tokens=256)
    prepare(folder, folder / "explorer", settings)
    write_site(folder / "explorer" / "data", folder / "explanations.json", tmp_path / "site")
    for size in SIZES:
        with serving_folder(tmp_path / "site") as address, Page(browser, address, size) as view:
            page = view.open("#/models")
            expect(page.locator(".card").first).to_be_visible()
            expect(page.locator(".chart figure > svg")).to_have_count(2)
            assert not page.evaluate(WIDE)
            page.screenshot(path=SCREENSHOTS / f"static-models-{size}.png")
            assert not view.wrong


def test_a_zip_of_the_site_is_the_site(browser, site, tmp_path):
    shutil.unpack_archive(
        shutil.make_archive(str(tmp_path / "site"), "zip", site), tmp_path / "out"
    )
    with serving_folder(tmp_path) as address, Page(browser, address + "out/") as view:
        expect(view.open("#/latent/9").locator("h1")).to_have_text("Latent 9")
