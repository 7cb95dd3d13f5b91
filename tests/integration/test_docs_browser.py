"""The page of the API in a browser: it shows every route, and asks nobody but this machine."""

import os
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from api import catalogue
from tests.integration.test_api_processes import serving
from tests.provision_browser import find

BROWSER = find()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not BROWSER and os.environ.get("CI") != "true", reason="no Chromium here")
def test_the_page_works_without_a_network(redis_url: str) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    with serving(redis_url) as (_, port), sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))

        page.goto(f"http://127.0.0.1:{port}/docs")

        shown = page.locator(".opblock-summary-path")
        expect(shown).to_have_count(len(catalogue.ROUTES))
        paths = [text.replace("\u200b", "") for text in shown.all_inner_texts()]
        page.locator("#operations-Jobs-submit_job").click()
        expect(page.locator("#operations-Jobs-submit_job")).to_contain_text("12+30=")
        health = page.locator("#operations-Operations-health")
        health.click()
        health.get_by_role("button", name="Try it out").click()
        health.get_by_role("button", name="Execute").click()
        expect(health.locator(".live-responses-table")).to_contain_text('"status": "ok"')
        browser.close()

    assert sorted(paths) == sorted(route.path for route in catalogue.ROUTES)
    assert complaints == []
    assert {urlsplit(url).hostname for url in asked if not url.startswith("data:")} == {"127.0.0.1"}
