"""A page on screen, in the system's Chromium."""

from pathlib import Path
from urllib.parse import quote

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Visit:
    """A page on screen, its console messages and its requests."""

    def __init__(self, sheet, path: Path) -> None:
        self.sheet, self.path = sheet, path
        self.complaints: list[str] = []
        self.requests: list[str] = []
        sheet.on("console", lambda message: self.complaints.append(message.text))
        sheet.on("pageerror", lambda error: self.complaints.append(str(error)))
        sheet.on("request", lambda request: self.requests.append(request.url))

    def open(self, task: str = "", node: str = "") -> None:
        self.sheet.goto(f"{self.path.as_uri()}#task={quote(task)}&node={quote(node)}")
        self.sheet.reload()
        self.sheet.wait_for_selector(".panel h2")

    def texts(self, selector: str) -> list[str]:
        return self.sheet.locator(selector).all_text_contents()

    def node(self, name: str):
        return self.sheet.locator(f'.item[data-id="{name}"]')
