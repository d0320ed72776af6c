"""What setup.cfg cannot say: README.md as the package index shows it."""

import configparser
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRST = "examples/01_your_tutorial_faster.ipynb"


def colab(address, path):
    """A badge that opens the notebook `path` of the repository at `address` in Colab; the docs take it from here."""
    page = address.replace("https://github.com/", "https://colab.research.google.com/github/")
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page}/blob/main/{path})"


def absolute(text, address):
    """`text` with addresses of its own repository, `address` at GitHub, in the place of relative ones."""
    raw = address.replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    relative = r"(?![a-z]+:|#)"
    text = re.sub(rf"(!\[[^\]]*\]\(){relative}", rf"\1{raw}", text)
    text = re.sub(rf"((?:src|srcset)=\"){relative}", rf"\1{raw}", text)
    return re.sub(rf"(?<!!)(\[[^\]]*\]\(){relative}", rf"\1{address}/blob/main/", text)


def on_the_index(text, address):
    """`text` with whole addresses, and a badge of the first lesson below its heading."""
    heading, rest = text.split("\n", 1)
    return f"{heading}\n\n{colab(address, FIRST)}\n{absolute(rest, address)}"


def description():
    settings = configparser.ConfigParser()
    settings.read(HERE / "setup.cfg", encoding="utf-8")
    text, address = (HERE / "README.md").read_text(encoding="utf-8"), settings.get("metadata", "url", fallback="")
    return on_the_index(text, address) if address else text


if __name__ == "__main__":
    import setuptools  # the docs, which take a badge, have none

    setuptools.setup(long_description=description())
